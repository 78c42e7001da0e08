"""Exact sampling of a density at any n: multinomial counts on a grid (theory section 5).

With a spacing of at most ``SPACING`` of the smallest standard deviation that Theta allows, the sum of a Gaussian over
the grid equals its integral to 2 exp(-2 pi^2 / SPACING^2) = 10^-19 per axis (Poisson summation), so every model in
Theta, restricted to the grid and renormalised, is a probability model with p(m) = density x cell volume; n i.i.d. draws
from it are one multinomial draw of counts, which are sufficient. Cells that the truth gives less than
``DROPPED`` / (number of cells) are left out; the grid states the bound on what it neglects. For a softmax gate the
inputs have a finite support and there is a grid of outputs at each of them, with a model renormalised for each x.

Raw draws come from the continuous model. Source: theory section 5.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import erfc

from moe_theory.errors import InputError
from moe_theory.models.density import AbstractDensity, GaussianGated, GaussianGatedAtom, SoftmaxGated, SoftmaxGatedAtom
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.statistics import LARGEST_N, replication_generator

SPACING = 2.0 / 3.0
REACH = 9.5
"""Standard deviations that the grid extends beyond every atom of the truth."""
DROPPED = 1e-18
"""Largest total probability of the cells left out: a thousandth of one draw in 10^15."""
MOST_CELLS = 200_000_000
"""Cells of a tensor grid before any are left out; they are looked at in slabs, so this bounds time."""
MOST_KEPT = 2_000_000
"""Cells that are kept: a fit holds about 40 k q bytes for each, k atoms of q row entries (3 GB for two million, k = 4,
d = 2)."""
SLAB = 2**17
"""Cells looked at together."""
REMEDY = "raise the variance floors, use fewer dimensions, or fit raw draws (draw_joint, draw_conditional) instead"
RAW_STREAM = 3
"""Separates the random stream of raw draws from that of counts."""


class Grid(NamedTuple):
    """Cells and what the truth gives them.

    Attributes:
        x: inputs at the cells, (M, d).
        y: outputs at the cells, (M, d_out).
        log_volume: log of the volume of a cell: of (x, y), or of y for a conditional density, (M,).
        probability: of the truth renormalised on the grid, sum 1 - outside, (M,).
        input: number of the support point of a conditional density; zeros for a joint one, (M,).
        spacing: by axis.
        error: bound on the probability that the grid neglects or counts wrongly.
        outside: probability of the truth outside all cells, where that is drawn too (``sampling.lattice``).
        excess: by how much densities times volumes of an atom may sum to more than one; all are divided by 1 + excess.
    """

    x: Float[np.ndarray, "M d"]
    y: Float[np.ndarray, "M o"]
    log_volume: Float[np.ndarray, " M"]
    probability: Float[np.ndarray, " M"]
    input: Int[np.ndarray, " M"]
    spacing: Float[np.ndarray, " axes"]
    error: float
    outside: float = 0.0
    excess: float = 0.0

    def filled(self, room: int) -> "Grid":
        """The same with as many cells as there is room for, those added at the last one, of probability 0."""
        number = np.arange(room)
        index = np.minimum(number, len(self.x) - 1)
        x, y, log_volume, place = (each[index] for each in (self.x, self.y, self.log_volume, self.input))
        probability = np.where(number < len(self.x), self.probability[index], 0.0)
        return self._replace(x=x, y=y, log_volume=log_volume, input=place, probability=probability)


def joint_grid(model: GaussianGated, truth: MixingMeasure, least_deviation: Float[np.ndarray, " D"]) -> Grid:
    """The grid of a Gaussian-gated model.

    Args:
        model, truth: p_{G*}.
        least_deviation: smallest that Theta allows, sqrt(Gamma) by input and sqrt(nu) by output, (D,).

    Raises:
        InputError: for a tensor grid of more than ``MOST_CELLS`` cells, or ``MOST_KEPT`` after small ones are left out.
    """
    rows = model.rows(truth)
    mean, spread = (np.asarray(part) for part in _mean_and_deviation(model, rows))
    low, high = np.min(mean - REACH * spread, axis=0), np.max(mean + REACH * spread, axis=0)
    axes, spacing = _axes(low, high, least_deviation)
    log_volume = float(np.sum(np.log(spacing)))
    cells, probability, dropped = _worth_keeping(model, rows, axes, log_volume)
    x, y = cells[:, : model.dimension], cells[:, model.dimension :]
    error = dropped + model.joint * (_alias() + erfc(REACH / np.sqrt(2.0)))
    return _grid(x, y, log_volume, probability, np.zeros(len(x), int), spacing, error)


def _worth_keeping(
    model: GaussianGated, rows: Array, axes: list[Float[np.ndarray, " _"]], log_volume: float
) -> tuple[Float[np.ndarray, "M D"], Float[np.ndarray, " M"], float]:
    """Cells of a tensor grid with their probabilities, and the probability of those left out; slab by slab.

    Raises:
        InputError: if more than ``MOST_KEPT`` are worth keeping.
    """
    shape = tuple(map(len, axes))
    total = int(np.prod(shape))
    size = min(SLAB, total)
    least = DROPPED / total
    cells, probabilities, dropped, count = [], [], 0.0, 0
    for first in range(0, total, size):
        place = np.unravel_index(np.minimum(np.arange(first, first + size), total - 1), shape)
        points = np.stack([axis[index] for axis, index in zip(axes, place, strict=True)], axis=1)
        x, y = points[:, : model.dimension], points[:, model.dimension :]
        probability = np.exp(np.asarray(_density(model, rows, x, y)) + log_volume)[: total - first]
        kept = probability >= least
        cells.append(points[: total - first][kept])
        probabilities.append(probability[kept])
        dropped += float(probability[~kept].sum())
        count += int(kept.sum())
        if count > MOST_KEPT:
            raise InputError(
                f"of the grid's {' x '.join(map(str, shape))} cells more than {MOST_KEPT:,} are worth keeping, too "
                f"many for the memory of a fit: {REMEDY}"
            )
    return np.concatenate(cells), np.concatenate(probabilities), dropped


def conditional_grid(
    model: SoftmaxGated,
    truth: MixingMeasure,
    support: Float[np.ndarray, "Q d"],
    least_deviation: Float[np.ndarray, " o"],
) -> Grid:
    """The grids of a softmax-gated model, one over y at each of the Q equally likely support points of x.

    Args:
        model, truth: p_{G*}(y | x).
        support: of x, (Q, d).
        least_deviation: smallest sqrt(nu) that Theta allows, by output.

    Raises:
        InputError: for a tensor grid of more than ``MOST_CELLS`` cells at one support point.
    """
    rows = model.rows(truth)
    atoms = jax.tree.map(np.asarray, truth.atoms)
    spread = np.sqrt(np.diagonal(atoms.noise, axis1=1, axis2=2))
    cells, spacing = [], np.zeros(0)
    for point in support:
        mean = atoms.slope @ point + atoms.intercept
        low, high = np.min(mean - REACH * spread, axis=0), np.max(mean + REACH * spread, axis=0)
        axes, spacing = _axes(low, high, least_deviation)
        cells.append(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, model.outputs))
    parts = []
    found = zip(support, cells, log_densities_by_input(model, rows, support, cells), strict=True)
    for index, (point, y, log_densities) in enumerate(found):
        x = np.broadcast_to(point, (y.shape[0], model.dimension))
        probability = np.exp(log_densities + np.sum(np.log(spacing))) / support.shape[0]
        kept, dropped = _kept(probability)
        parts.append((x[kept], y[kept], probability[kept], np.full(int(kept.sum()), index), dropped))
    x, y, probability, place = (np.concatenate([part[i] for part in parts]) for i in range(4))
    error = sum(part[4] for part in parts) + model.outputs * (_alias() + erfc(REACH / np.sqrt(2.0)))
    return _grid(x, y, float(np.sum(np.log(spacing))), probability, place, spacing, error)


def log_densities_by_input(
    model: AbstractDensity,
    rows: Array,
    support: Float[np.ndarray, "Q d"],
    cells: Sequence[Float[np.ndarray, "_ o"]],
) -> Iterator[Float[np.ndarray, " _"]]:
    """log p_G(y | x) of the cells of y at every input, filled up to one shape: JAX's operations are compiled once.

    Args:
        model, rows: p_G.
        support: of x.
        cells: of y, at every point of x.
    """
    room = max(map(len, cells))
    for point, y in zip(support, cells, strict=True):
        filled = y[np.minimum(np.arange(room), len(y) - 1)]
        x = np.broadcast_to(point, (room, len(point)))
        yield np.asarray(model.log_densities(rows, jnp.asarray(x), jnp.asarray(filled)))[: len(y)]


def draw_counts(grid: Grid, n: int, seed: int, replication: int) -> Float[np.ndarray, " M"]:
    """N ~ Multinomial(n; probability): exactly n i.i.d. draws from the model on the grid.

    Where the grid has an outside, what is missing of n fell there.

    Args:
        grid: its cells.
        n: sample size, 1 to 10^15.
        seed, replication: see ``replication_generator``.

    Raises:
        InputError: for n out of range.
    """
    if not 1 <= n <= LARGEST_N:
        raise InputError(f"n must be between 1 and {LARGEST_N:.0e}, got {n}")
    generator = replication_generator(seed, n, replication)
    probability = np.append(grid.probability, grid.outside) if grid.outside else grid.probability
    return generator.multinomial(n, probability)[: len(grid.probability)].astype(np.float64)


def draw_joint(
    model: GaussianGated, truth: MixingMeasure, n: int, seed: int, replication: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n o"]]:
    """n raw i.i.d. draws (x, y) from the continuous Gaussian-gated model."""
    generator = _raw_generator(seed, n, replication)
    atoms = jax.tree.map(np.asarray, truth.atoms)
    weights = np.exp(np.asarray(truth.log_weights))
    which = generator.choice(len(weights), size=n, p=weights / weights.sum())
    deviates = generator.standard_normal((n, model.dimension))
    x = atoms.center[which] + np.einsum("nij,nj->ni", np.linalg.cholesky(atoms.spread)[which], deviates)
    return x, _outputs(atoms, which, x, generator)


def draw_conditional(
    model: SoftmaxGated,
    truth: MixingMeasure,
    x: Float[np.ndarray, "n d"],
    seed: int,
    replication: int,
) -> Float[np.ndarray, "n o"]:
    """Raw draws of y given the inputs x from the continuous softmax-gated model."""
    generator = _raw_generator(seed, x.shape[0], replication)
    atoms = jax.tree.map(np.asarray, truth.atoms)
    logits = np.asarray(model.log_gate(model.rows(truth), jnp.asarray(x))).T
    gumbel = generator.gumbel(size=logits.shape)
    return _outputs(atoms, np.argmax(logits + gumbel, axis=1), x, generator)


def _outputs(
    atoms: GaussianGatedAtom | SoftmaxGatedAtom,
    which: Int[np.ndarray, " n"],
    x: Float[np.ndarray, "n d"],
    generator: np.random.Generator,
) -> Float[np.ndarray, "n o"]:
    deviates = generator.standard_normal((len(which), atoms.intercept.shape[1]))
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(atoms.noise)[which], deviates)
    return np.einsum("nij,nj->ni", atoms.slope[which], x) + atoms.intercept[which] + noise


def _raw_generator(seed: int, n: int, replication: int) -> np.random.Generator:
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    key = replication_generator(seed, n, replication).integers(2**63, size=4) + RAW_STREAM
    return np.random.default_rng(key)


def _mean_and_deviation(model: GaussianGated, rows: Array) -> tuple[Array, Array]:
    matrices = jax.vmap(model.matrix)(rows)
    return jax.vmap(model.mean)(rows), jnp.sqrt(jnp.diagonal(matrices, axis1=1, axis2=2))


@partial(jax.jit, static_argnums=0)
def _density(model: GaussianGated, rows: Array, x: Array, y: Array) -> Array:
    return model.log_densities(rows, x, y)


def _axes(
    low: Float[np.ndarray, " D"], high: Float[np.ndarray, " D"], least_deviation: Float[np.ndarray, " D"]
) -> tuple[list[Float[np.ndarray, " _"]], Float[np.ndarray, " D"]]:
    spacing = SPACING * np.asarray(least_deviation, np.float64)
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    if np.prod(counts.astype(float)) > MOST_CELLS:
        raise InputError(f"a grid of {' x '.join(map(str, counts))} cells is too large: {REMEDY}")
    return [start + step * np.arange(count) for start, step, count in zip(low, spacing, counts, strict=True)], spacing


def _alias() -> float:
    return 2.0 * float(np.exp(-2.0 * np.pi**2 / SPACING**2))


def _kept(probability: Float[np.ndarray, " M"]) -> tuple[np.ndarray, float]:
    kept = probability >= DROPPED / probability.size
    return kept, float(probability[~kept].sum())


def _grid(
    x: Float[np.ndarray, "M d"],
    y: Float[np.ndarray, "M o"],
    log_volume: float,
    probability: Float[np.ndarray, " M"],
    place: Int[np.ndarray, " M"],
    spacing: Float[np.ndarray, " axes"],
    error: float,
) -> Grid:
    return Grid(x, y, np.full(len(x), log_volume), probability / probability.sum(), place, spacing, float(error))
