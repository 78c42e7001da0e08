"""A user's arrays as weighted points: checked, made distinct, centred and scaled, and the way back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.estimation.likelihood import Points
from moe_theory.models.measure import MixingMeasure
from moe_theory.precision import require_x64

ALIKE = 1e-9
"""Relative spread below which a column counts as constant."""


class Scaling:
    """Centre and scale by column, and the way back."""

    def __init__(self, points: Points):
        self.x_center, self.x_scale = _robust(np.asarray(points.x), np.asarray(points.weight))
        self.y_center, self.y_scale = _robust(np.asarray(points.y), np.asarray(points.weight))

    def scaled(self, points: Points) -> Points:
        x, y = (np.asarray(points.x) - self.x_center) / self.x_scale, (np.asarray(points.y) - self.y_center)
        return points._replace(x=jnp.asarray(x), y=jnp.asarray(y / self.y_scale))

    def restored(self, measure: MixingMeasure) -> MixingMeasure:
        """The measure in the data's own units (traceable)."""
        atoms = measure.atoms
        slope = atoms.slope * self.y_scale[None, :, None] / self.x_scale[None, None, :]
        shift = self.y_center[None] - jnp.einsum("koi,i->ko", slope, jnp.asarray(self.x_center))
        changed = {
            "slope": slope,
            "intercept": atoms.intercept * self.y_scale[None] + shift,
            "noise": atoms.noise * (self.y_scale[:, None] * self.y_scale[None])[None],
        }
        log_weights = measure.log_weights
        if hasattr(atoms, "center"):
            changed["center"] = atoms.center * self.x_scale[None] + self.x_center[None]
            changed["spread"] = atoms.spread * (self.x_scale[:, None] * self.x_scale[None])[None]
            log_weights = log_weights - jax.nn.logsumexp(log_weights)
        else:
            gate = atoms.gate / self.x_scale[None]
            log_weights = log_weights - gate @ self.x_center
            changed["gate"] = gate - gate[-1:]
            log_weights = log_weights - log_weights[-1]
        return MixingMeasure(log_weights, atoms._replace(**changed))


def points_of(x: Any, y: Any, weights: Any, k: int) -> Points:
    """Checked data as raw points: those of weight zero left out, equal ones made one with the sum of their weights.

    So a weight means what a repetition means, and the order of the rows means nothing.

    Args:
        x, y, weights, k: as `fit.fit_gaussian_gated` takes them.

    Raises:
        InputError: for data that cannot be fitted: shapes, NaN, fewer distinct points than atoms, a constant column.
    """
    require_x64()
    inputs, outputs = (matrix_of(name, value) for name, value in (("x", x), ("y", y)))
    if len(inputs) != len(outputs):
        raise InputError(f"x and y must have the same number of rows, got {len(inputs)} and {len(outputs)}")
    weight = np.ones(len(inputs)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (len(inputs),) or not np.all(np.isfinite(weight)) or np.any(weight < 0):
        raise InputError(f"weights must be {len(inputs)} finite numbers, none negative: one for each row")
    drawn = weight > 0
    both, place = np.unique(np.concatenate([inputs, outputs], axis=1)[drawn], axis=0, return_inverse=True)
    inputs, outputs = both[:, : inputs.shape[1]], both[:, inputs.shape[1] :]
    weight = np.bincount(place.reshape(-1), weights=weight[drawn])
    if k < 1 or k > len(both):
        raise InputError(
            f"k must lie between 1 and the number of distinct points of positive weight, {len(both)}: got {k}"
        )
    if len(both) == 1:
        raise InputError("all rows of positive weight are one sample, no variance can be told: give distinct rows")
    for name, block in (("x", inputs), ("y", outputs)):
        constant = np.flatnonzero(np.ptp(block, axis=0) <= ALIKE * np.max(np.abs(block), axis=0))
        if constant.size:
            raise InputError(f"column {constant[0]} of {name} is constant, its variance is 0: leave it out")
    arrays = (inputs, outputs, weight, np.full(len(weight), -np.inf), 0.0)
    return Points(*(jnp.asarray(array, jnp.float64) for array in arrays))


def matrix_of(name: str, value: Any) -> Float[np.ndarray, "n s"]:
    """A table of finite numbers; one column for a vector.

    Raises:
        InputError: for another shape, NaN or infinity.
    """
    array = np.asarray(value, np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name} must be a table of rows and columns, or one column, got shape {array.shape}")
    bad = np.flatnonzero(~np.all(np.isfinite(array), axis=1))
    if bad.size:
        raise InputError(f"row {bad[0]} of {name} holds NaN or infinity ({bad.size} such rows): remove or fill them")
    return array


def _robust(block: Float[np.ndarray, "n s"], weight: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted median and half the width of the middle 68 %; the standard deviation where that is 0."""
    levels = []
    for column in block.T:
        order = np.argsort(column)
        share = np.cumsum(weight[order]) / weight.sum()
        levels.append([column[order][np.searchsorted(share, level)] for level in (0.16, 0.5, 0.84)])
    low, middle, high = np.array(levels).T
    mean = weight @ block / weight.sum()
    deviation = np.sqrt(weight @ (block - mean) ** 2 / weight.sum())
    width = 0.5 * (high - low)
    return middle, np.where(width > ALIKE * deviation, width, deviation)


def padded(points: Points) -> Points:
    """Filled up with points of weight zero to one of four sizes per octave, so that compiled code is used again."""
    count = points.weight.shape[0]
    step = max(64, 2 ** (int(np.ceil(np.log2(count))) - 3))
    index = np.arange(-(-count // step) * step)
    kept = jnp.asarray(index < count)
    filled = [leaf[np.where(index < count, index, 0)] for leaf in points[:4]]
    return Points(filled[0], filled[1], jnp.where(kept, filled[2], 0.0), filled[3], points.mass)
