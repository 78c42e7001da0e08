"""Fit a Gaussian mixture of experts to data: arrays in; measure, certificate, standard errors, criteria out.

The data are centred and scaled (by half the spread of the middle 68 %, so that an outlier does not set the scale),
several starts that come from the data alone compete, each runs EM and then the trust-region method, and the lowest
certified end is the fit. A likelihood that grows without bound as a variance goes to 0 is stopped by the variance
floor; an end with a variance on its floor is such a degenerate solution, not an estimate, and is never returned as
certified.

Standard errors: H^-1 of the observed information in the rows, carried to the parameters by the delta method; only for
an interior minimum whose information matrix is regular. Source: Louis 1982 for the information; the rest is our
derivation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.estimation.certificate import ACTIVE_SLACK, SPREAD, Certificate, certify, explain
from moe_theory.estimation.em import em
from moe_theory.estimation.likelihood import Points, objective, second_order
from moe_theory.estimation.mixture import MixtureKind, MixtureSpace, slacks
from moe_theory.estimation.mixture_starts import MixturePlan, MixtureStartMaker
from moe_theory.estimation.pool import Lane, Pool
from moe_theory.estimation.trust_region import State
from moe_theory.models.density import AbstractDensity, GaussianGated, SoftmaxGated
from moe_theory.models.measure import MixingMeasure
from moe_theory.precision import require_x64

STARTS = 8
BLOCK = 4
DEVIATION_FLOOR = 0.01
"""Least standard deviation, in units of the data's scale."""
WEIGHT_FLOOR = 0.01
LEAST_EIGENVALUE = 1e-9
"""Of the information matrix scaled to a unit diagonal, from which on it counts as regular."""
ALIKE = 1e-9


@dataclass(frozen=True)
class DensityFit:
    """A maximum-likelihood fit.

    Attributes:
        model: p_G.
        measure: G; for a softmax gate the last atom has (beta0, beta1) = 0.
        certified: whether the fit is a certified minimum of the negative log-likelihood over the parameter space, with
            no variance on its floor.
        reason: why, in English.
        certificate: the numbers behind it.
        log_likelihood: sum of weights times log p.
        n: sum of weights.
        parameters: free ones.
        standard_errors: a measure of the same shape, its log-weights' errors those of the log-weights (a softmax gate's
            relative to the last atom's); None unless the information matrix is regular.
        starts_agreeing: certified starts that ended at the same minimum, of ``starts``.
        starts: how many were tried.
    """

    model: GaussianGated | SoftmaxGated
    measure: MixingMeasure
    certified: bool
    reason: str
    certificate: Certificate
    log_likelihood: float
    n: float
    parameters: int
    standard_errors: MixingMeasure | None
    starts_agreeing: int
    starts: int

    @property
    def aic(self) -> float:
        """2 p - 2 log L."""
        return 2.0 * self.parameters - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """p log n - 2 log L."""
        return self.parameters * float(np.log(self.n)) - 2.0 * self.log_likelihood


def fit_gaussian_gated(
    x: Any,
    y: Any,
    k: int,
    weights: Any = None,
    *,
    gate_covariance: str = "full",
    weight_floor: float = WEIGHT_FLOOR,
    deviation_floor: float = DEVIATION_FLOOR,
    starts: int = STARTS,
    seed: int = 0,
) -> DensityFit:
    """Fit p(x, y) = sum_i w_i N(x; c_i, Gamma_i) N(y; A_i x + b_i, nu_i) by maximum likelihood.

    Args:
        x: inputs, (n, d) or (n,).
        y: outputs, (n, d_out) or (n,).
        k: atoms.
        weights: of the points, non-negative; counts are weights. None for one each.
        gate_covariance: Gamma 'full' or 'diagonal'.
        weight_floor: least share of an atom.
        deviation_floor: least standard deviation of Gamma and nu, in units of the data's scale by column.
        starts: how many compete.
        seed: of the starts.

    Raises:
        InputError: for data that cannot be fitted: shapes, NaN, fewer distinct points than atoms, a constant column.
    """
    points = _points(x, y, weights, k)
    model = GaussianGated(points.x.shape[1], points.y.shape[1], gate_covariance)
    return _fit(model, points, k, weight_floor, deviation_floor, starts, seed)


def fit_softmax_gated(
    x: Any,
    y: Any,
    k: int,
    weights: Any = None,
    *,
    weight_floor: float = WEIGHT_FLOOR,
    deviation_floor: float = DEVIATION_FLOOR,
    starts: int = STARTS,
    seed: int = 0,
) -> DensityFit:
    """Fit p(y | x) = sum_i softmax_i(beta0_i + beta1_i . x) N(y; a_i x + b_i, nu_i) by maximum likelihood.

    Args: as `fit_gaussian_gated`; ``weight_floor`` bounds each atom's mean gate probability, ``deviation_floor`` nu.

    Raises:
        InputError: as `fit_gaussian_gated`.
    """
    points = _points(x, y, weights, k)
    model = SoftmaxGated(points.x.shape[1], points.y.shape[1])
    return _fit(model, points, k, weight_floor, deviation_floor, starts, seed)


def select_k(
    fit: Callable[..., DensityFit], x: Any, y: Any, ks: Sequence[int], criterion: str = "bic", **options: Any
) -> tuple[DensityFit, dict[int, DensityFit]]:
    """Fit every number of atoms and choose by an information criterion among the certified fits.

    Args:
        fit: `fit_gaussian_gated` or `fit_softmax_gated`.
        x, y, options: as it takes them.
        ks: numbers of atoms.
        criterion: 'aic' or 'bic'. Over-fitted mixtures are singular, so both are heuristics here.

    Raises:
        InputError: for another criterion, no k, or if no fit is certified.
    """
    if criterion not in ("aic", "bic"):
        raise InputError(f"criterion must be 'aic' or 'bic', got {criterion!r}")
    fits = {k: fit(x, y, k, **options) for k in ks}
    certified = [made for made in fits.values() if made.certified]
    if not certified:
        told = "; ".join(f"k = {k}: {made.reason}" for k, made in fits.items()) or "no k was given"
        raise InputError(f"no fit is certified ({told}): try other k, or a larger deviation_floor")
    return min(certified, key=lambda made: getattr(made, criterion)), fits


class _Scaling:
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


def _points(x: Any, y: Any, weights: Any, k: int) -> Points:
    """Checked data as raw points, those of weight zero left out."""
    require_x64()
    inputs, outputs = (_matrix(name, value) for name, value in (("x", x), ("y", y)))
    if len(inputs) != len(outputs):
        raise InputError(f"x and y must have the same number of rows, got {len(inputs)} and {len(outputs)}")
    weight = np.ones(len(inputs)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (len(inputs),) or not np.all(np.isfinite(weight)) or np.any(weight < 0):
        raise InputError(f"weights must be {len(inputs)} finite numbers, none negative: one for each row")
    drawn = weight > 0
    inputs, outputs, weight = inputs[drawn], outputs[drawn], weight[drawn]
    both = np.concatenate([inputs, outputs], axis=1)
    distinct = len(np.unique(both, axis=0))
    if k < 1 or k > distinct:
        raise InputError(
            f"k must lie between 1 and the number of distinct points of positive weight, {distinct}: got {k}"
        )
    for name, block in (("x", inputs), ("y", outputs)):
        constant = np.flatnonzero(np.ptp(block, axis=0) <= ALIKE * np.max(np.abs(block), axis=0))
        if constant.size:
            raise InputError(f"column {constant[0]} of {name} is constant, its variance is 0: leave it out")
    arrays = (inputs, outputs, weight, np.full(len(weight), -np.inf), 0.0)
    return Points(*(jnp.asarray(array, jnp.float64) for array in arrays))


def _matrix(name: str, value: Any) -> Float[np.ndarray, "n s"]:
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


def _fit(
    model: GaussianGated | SoftmaxGated,
    raw: Points,
    k: int,
    weight_floor: float,
    deviation_floor: float,
    starts: int,
    seed: int,
) -> DensityFit:
    if not (0 < deviation_floor < 1 and weight_floor > 0 and weight_floor * k < 1 and starts >= 1):
        raise InputError(
            "deviation_floor must lie in (0, 1), weight_floor in (0, 1/k) and starts be 1 or more, got "
            f"{deviation_floor}, {weight_floor} and {starts}"
        )
    scaling = _Scaling(raw)
    points = scaling.scaled(raw)
    n = float(jnp.sum(points.weight))
    if isinstance(model, GaussianGated):
        points = points._replace(mass=jnp.asarray(n))
    space = _space(model, points, weight_floor, deviation_floor)
    kind = MixtureKind(model, min(1, k - 1))
    maker = MixtureStartMaker(model, space, k, None, MixturePlan((), untied=starts, near=0))
    begun = maker.make(max(int(n), 1), seed, 0, points)
    pool = Pool(kind, (space,), min(BLOCK, starts))
    ends = sorted(pool.run(iter(Lane(0, points, z) for z in begun.z)), key=lambda end: end.order)
    ceiling = _one_atom(model, space, points)
    found = [(end.state, _checked(kind, space, points, end.state, jnp.asarray(ceiling))) for end in ends]
    rows = [np.asarray(state.z).reshape(k, -1) for state, _ in found]
    sound = [bool(c.passed) and not _degenerate(model, space, r) for (_, c), r in zip(found, rows, strict=True)]
    level = np.array([float(c.excess) for _, c in found])
    level = np.where(np.isfinite(level), level, np.inf)
    best = int(np.argmin(np.where(sound, level, np.inf))) if any(sound) else int(np.argmin(level))
    measure = scaling.restored(model.measure(jnp.asarray(rows[best])))
    own = jax.tree.map(np.asarray, found[best][1])
    reason = explain(own) if sound[best] or not _degenerate(model, space, rows[best]) else (
        "degenerate: a variance is at its floor, where the likelihood grows only because it may shrink; use fewer "
        "atoms, a larger deviation_floor, or look for repeated points"
    )  # fmt: skip
    errors = _standard_errors(model, scaling, points, space, rows[best]) if sound[best] else None
    return DensityFit(
        model, measure, sound[best], reason, own, _log_likelihood(model, measure, raw), n,
        k * model.row_size - (1 if isinstance(model, GaussianGated) else 1 + model.dimension), errors,
        sum(s and bool(e <= level[best] + SPREAD) for s, e in zip(sound, level, strict=True)), starts,
    )  # fmt: skip


def _log_likelihood(model: AbstractDensity, measure: MixingMeasure, raw: Points) -> float:
    return float(raw.weight @ model.log_densities(model.rows(measure), raw.x, raw.y))


def _one_atom(model: AbstractDensity, space: MixtureSpace, points: Points) -> float:
    """F of the best single atom, which k atoms must not exceed."""
    start = MixtureStartMaker(model, space, 1, None, MixturePlan((), 1, 0))
    rows = start.spread_out(points, np.random.default_rng(0))
    return float(_after_em(model, space, jnp.asarray(rows), points))


@partial(jax.jit, static_argnums=0)
def _after_em(model: AbstractDensity, space: MixtureSpace, rows: jax.Array, points: Points) -> jax.Array:
    return objective(model, em(model, space, rows, points, 2), points)


@partial(jax.jit, static_argnums=0)
def _checked(kind: MixtureKind, space: MixtureSpace, points: Points, state: State, ceiling: jax.Array) -> Certificate:
    return certify(kind(space, points), state, ceiling)


def _space(
    model: GaussianGated | SoftmaxGated, points: Points, weight_floor: float, deviation_floor: float
) -> MixtureSpace:
    """Theta around standardised data: locations in its box and one scale more, variances up to its size squared."""
    x, y = np.asarray(points.x), np.asarray(points.y)
    d, o = model.dimension, model.outputs
    floor = np.full(d + o, deviation_floor**2)
    reach = np.ptp(y, axis=0) + 1.0
    if isinstance(model, GaussianGated):
        z = np.concatenate([x, y], axis=1)
        low, high = z.min(axis=0) - 1.0, z.max(axis=0) + 1.0
        cap = 4.0 * (np.ptp(z, axis=0) + 1.0) ** 2
        scale, nodes = np.ones(d + o), np.zeros((1, d))
    else:
        gate = np.full(d, 200.0)
        low = np.concatenate([-gate, y.min(axis=0) - 10.0 * reach])
        high = np.concatenate([gate, y.max(axis=0) + 10.0 * reach])
        noise = 4.0 * reach**2
        slope = 200.0 * np.max(reach) / np.sqrt(noise.min())
        cap = np.concatenate([np.full(d, slope), noise])
        scale = np.concatenate([np.ones(d), np.ones(o)])
        order = np.argsort(x[:, 0])
        nodes = x[order[np.linspace(0, len(x) - 1, min(len(x), 64)).astype(int)]]
    parts = (np.asarray(weight_floor), low, high, cap, floor, scale, nodes)
    return MixtureSpace(*(jnp.asarray(part, jnp.float64) for part in parts))


def _degenerate(model: GaussianGated | SoftmaxGated, space: MixtureSpace, rows: np.ndarray) -> bool:
    """Whether a variance is within a tenth of its floor."""
    atoms = model.measure(jnp.asarray(rows)).atoms
    d, floor = model.dimension, np.asarray(space.floor)
    blocks = [(np.asarray(atoms.noise), floor[d:])]
    if isinstance(model, GaussianGated):
        blocks.append((np.asarray(atoms.spread), floor[:d]))
    return any(
        float(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(least, least)))[0]) < 1.1
        for covariances, least in blocks
        for matrix in covariances
    )


def _standard_errors(
    model: GaussianGated | SoftmaxGated, scaling: _Scaling, points: Points, space: MixtureSpace, rows: np.ndarray
) -> MixingMeasure | None:
    """Delta method from the observed information; None where it is not regular or a constraint is active."""
    flat = jnp.asarray(rows.reshape(-1))
    if float(jnp.min(slacks(model, space, jnp.asarray(rows)))) < ACTIVE_SLACK:
        return None
    free = jnp.eye(flat.shape[0])
    if not isinstance(model, GaussianGated):
        held = (rows.shape[0] - 1) * rows.shape[1] + np.arange(1 + model.dimension)
        free = jnp.delete(free, held, axis=1)
    information = second_order(model, jnp.asarray(rows), points).hessian(free)
    unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.diagonal(information), 1e-300))
    scaled = information * unit[:, None] * unit[None]
    if not float(jnp.linalg.eigvalsh(scaled)[0]) > LEAST_EIGENVALUE:
        return None
    covariance = free @ (jnp.linalg.inv(scaled) * unit[:, None] * unit[None]) @ free.T

    def parameters(point: Any) -> Any:
        return ravel_pytree(scaling.restored(model.measure(point.reshape(rows.shape))))[0]

    jacobian = jax.jacfwd(parameters)(flat)
    errors = jnp.sqrt(jnp.maximum(jnp.sum((jacobian @ covariance) * jacobian, axis=1), 0.0))
    unravel = ravel_pytree(scaling.restored(model.measure(jnp.asarray(rows))))[1]
    return unravel(errors)
