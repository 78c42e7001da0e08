"""Exact sampling of adapted densities: counts on a lattice that is as coarse as the model may be (theory section 5).

Density times volume of *any* cells, and what is left for the outside of all of them, is a probability model as soon as
no atom's cells sum to more than one, from which n i.i.d. draws are one multinomial draw of counts. On a coarse lattice
they may, by at most ``excess`` = prod_axes (1 + 2 sum_j exp(-2 pi^2 j^2 v / spacing^2)) - 1 (Poisson summation, v the
least variance that Theta allows), so all are divided by 1 + excess. With the total mass free, the Poisson likelihood of
the cells and the outside is the multinomial one (``estimation.likelihood``). So sampling and fitting are exact for that
model whatever the spacing; what the spacing and the cells left out decide is how far it is from the continuous one, and
that is what ``Grid.error`` says. It lets four dimensions (x and y in the plane) fit into a few thousand cells. The
outside is what an atom far from all cells is seen by: it would expect n w draws there.

A conditional density has no free mass for each x, and no outside. With an error e its score at the truth is off by
n e de, in standard errors by sqrt(n) e de: a finer lattice, in fewer dimensions, keeps that below 10^-3 at n = 10^15.

Source: our derivation; ``sampling.grid`` has the lattice on which sums equal integrals to rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.models.adapted_density import AdaptedDensity
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.grid import MOST_CELLS, Grid, log_densities_by_input

JOINT_SPACING, JOINT_TAIL = 1.25, 1e-5
"""Spacing in standard deviations of x in an atom and of y given x, and the probability left out: four dimensions."""
CONDITIONAL_SPACING, CONDITIONAL_TAIL = 1.1, 1e-6
"""The same for y given x alone."""
REACH = 7.0
"""Standard deviations that the box extends beyond every atom, before cells are left out."""


def lattice(density: AdaptedDensity, truth: MixingMeasure, support: Float[np.ndarray, "Q d"]) -> Grid:
    """The cells of a truth.

    Args:
        density: p_G.
        truth: G*.
        support: of x, equally likely points, for a conditional density; a joint one has none.

    Raises:
        InputError: for a box of more than ``MOST_CELLS`` cells.
    """
    rows = density.rows(truth)
    if density.joint:
        return _joint(density, rows)
    return _conditional(density, rows, support)


def _joint(density: AdaptedDensity, rows: jax.Array) -> Grid:
    base = density.base
    means = np.asarray(jax.vmap(base.mean)(rows))
    matrices = np.asarray(jax.vmap(base.matrix)(rows))
    atoms = base.measure(rows).atoms
    own = [np.diagonal(np.asarray(part), axis1=1, axis2=2).min(axis=0) for part in (atoms.spread, atoms.noise)]
    spacing = JOINT_SPACING * np.sqrt(np.concatenate(own))
    deviations = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    cells = _box(means - REACH * deviations, means + REACH * deviations, spacing)
    d = base.dimension
    x, y = cells[:, :d], cells[:, d:]
    log_densities = np.asarray(base.log_densities(rows, jnp.asarray(x), jnp.asarray(y)))
    probability, error = _shares(log_densities, spacing, float(jnp.sum(rows[:, 0])))
    kept = _kept(probability, JOINT_TAIL)
    place = np.zeros(int(kept.sum()), int)
    excess = _excess(np.concatenate(own) * density.least_shares, spacing)
    share = probability[kept] / (1.0 + excess)
    whole = _grid(x[kept], y[kept], share, place, spacing, error + excess)
    return whole._replace(probability=share, outside=1.0 - float(share.sum()), excess=excess)


def _excess(least: Float[np.ndarray, " axes"], spacing: Float[np.ndarray, " axes"]) -> float:
    """By how much the values of a Gaussian on a lattice, times a cell's volume, can sum to more than one."""
    order = np.arange(1, 20)[:, None]
    return float(np.prod(1.0 + 2.0 * np.exp(-2.0 * (np.pi * order) ** 2 * least / spacing**2).sum(axis=0)) - 1.0)


def _conditional(density: AdaptedDensity, rows: jax.Array, support: np.ndarray) -> Grid:
    base = density.base
    atoms = base.measure(rows).atoms
    deviation = np.sqrt(np.diagonal(np.asarray(atoms.noise), axis1=1, axis2=2))
    spacing = CONDITIONAL_SPACING * deviation.min(axis=0)
    slopes, parts, error = np.asarray(atoms.slope), [], 0.0
    means = [slopes @ point + np.asarray(atoms.intercept) for point in support]
    cells = [_box(mean - REACH * deviation, mean + REACH * deviation, spacing) for mean in means]
    found = zip(support, cells, log_densities_by_input(base, rows, support, cells), strict=True)
    for place, (point, y, log_densities) in enumerate(found):
        x = np.broadcast_to(point, (len(y), len(point)))
        probability, own = _shares(log_densities, spacing, 1.0)
        kept = _kept(probability, CONDITIONAL_TAIL)
        parts.append((x[kept], y[kept], probability[kept] / len(support), np.full(int(kept.sum()), place)))
        error = max(error, own + CONDITIONAL_TAIL)
    x, y, probability, place = (np.concatenate(each) for each in zip(*parts, strict=True))
    return _grid(x, y, probability, place, spacing, error)


def _box(low: np.ndarray, high: np.ndarray, spacing: np.ndarray) -> Float[np.ndarray, "cells axes"]:
    least, most = low.min(axis=0), high.max(axis=0)
    counts = np.ceil((most - least) / spacing).astype(int) + 1
    if np.prod(counts.astype(float)) > MOST_CELLS:
        raise InputError(f"a box of {' x '.join(map(str, counts))} cells is too large: use fewer dimensions, or larger "
                         "noise")  # fmt: skip
    axes = [start + step * np.arange(count) for start, step, count in zip(least, spacing, counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(spacing))


def _shares(
    log_densities: Float[np.ndarray, " cells"], spacing: np.ndarray, mass: float
) -> tuple[Float[np.ndarray, " cells"], float]:
    """Probability of every cell of a box, and by how much their sum misses the mass."""
    probability = np.exp(log_densities) * float(np.prod(spacing)) / mass
    return probability, abs(float(probability.sum()) - 1.0)


def _kept(probability: Float[np.ndarray, " cells"], tail: float) -> np.ndarray:
    """The fewest cells that leave out at most ``tail``."""
    order = np.argsort(probability)
    return ~np.isin(np.arange(len(order)), order[np.cumsum(probability[order]) <= tail])


def _grid(
    x: np.ndarray, y: np.ndarray, probability: np.ndarray, place: np.ndarray, spacing: np.ndarray, error: float
) -> Grid:
    """Cells whose expected count is n (for a conditional density: that of its input) times density times volume."""
    log_volume = np.full(len(x), float(np.sum(np.log(spacing))))
    return Grid(x, y, log_volume, probability / probability.sum(), place, spacing, error)
