"""From a density problem's specification to the objects that are computed with."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from moe_theory.errors import InputError
from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.mixture import MixtureSpace
from moe_theory.models.density import GaussianGated, GaussianGatedAtom, SoftmaxGated, SoftmaxGatedAtom
from moe_theory.models.measure import MixingMeasure
from moe_theory.precision import require_x64
from moe_theory.sampling.grid import Grid, conditional_grid, draw_counts, joint_grid
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.theory.mixture_losses import Metric, metric_of

COMPACT_SIZE = 10**5
"""Up to this size most cells are empty, and a fit sees the others alone."""
COMPACT_DEVIATIONS, COMPACT_STEP = 10.0, 64
"""The compact form has room for the cells that n draws fill on average and this many standard deviations more, in steps
of as many cells: its shape, and so its compiled code, is that of the problem and the largest n."""


class DensitySetup(NamedTuple):
    """Everything about a density problem that does not depend on n or the replication.

    Attributes:
        model: p_G.
        truth: G*.
        rows: its moment rows.
        grid: cells.
        space: Theta.
        metric: of the losses.
        k_fit: atoms of the fit.
        levels: merges in the coordinates of a step.
    """

    model: GaussianGated | SoftmaxGated
    truth: MixingMeasure
    rows: np.ndarray
    grid: Grid
    space: MixtureSpace
    metric: Metric
    k_fit: int
    levels: int

    def points(self, counts: np.ndarray) -> Points:
        """Counts on the grid as weighted points."""
        grid = self.grid
        if isinstance(self.model, GaussianGated):
            drawn = np.full(1, counts.sum())
        else:
            drawn = np.bincount(grid.input, weights=counts)
        with np.errstate(divide="ignore"):
            log_base = grid.log_volume + np.log(drawn)[grid.input]
        return Points(grid.x, grid.y, counts, log_base, np.zeros(()))  # pyright: ignore[reportArgumentType]

    def compact_cells(self, largest: int) -> int:
        """Room that the compact form needs for samples of at most this size.

        Cell m is filled by n draws with probability q_m = 1 - (1 - p_m)^n; the filled cells have the mean sum q and at
        most the variance sum q (1 - q), because filling one makes the others less likely.
        """
        filled = -np.expm1(largest * np.log1p(-self.grid.probability))
        room = filled.sum() + COMPACT_DEVIATIONS * np.sqrt(np.sum(filled * (1.0 - filled)))
        return min(COMPACT_STEP * int(np.ceil(room / COMPACT_STEP)), len(filled))

    def draw(self, n: int, seed: int, replication: int, compact: int | None = None) -> Points:
        """n i.i.d. draws from the truth on the grid.

        Args:
            n, seed, replication: see ``draw_counts``.
            compact: where given, the cells that were drawn alone, as that many raw points (``compact_cells``); the
                same likelihood but for a constant.
        """
        counts = draw_counts(self.grid, n, seed, replication)
        return self.points(counts) if compact is None else self.drawn_points(counts, compact)

    def drawn_points(self, counts: np.ndarray, room: int) -> Points:
        """The cells with counts as raw points, filled up with points of weight 0.

        Raises:
            InputError: if more cells have counts than there is room for.
        """
        drawn = np.flatnonzero(counts)
        if drawn.size > room:
            raise InputError(f"{drawn.size} cells have counts, more than the {room} of the compact form")
        index = np.concatenate([drawn, np.full(room - drawn.size, drawn[0])])
        weight = np.where(np.arange(room) < drawn.size, counts[index], 0.0)
        mass = np.asarray(counts.sum() if isinstance(self.model, GaussianGated) else 0.0)
        parts = (self.grid.x[index], self.grid.y[index], weight, np.full(room, -np.inf), mass)
        return Points(*parts)  # pyright: ignore[reportArgumentType]


def published_gaussian(setting: str, dimension: int = 1) -> tuple[GaussianGated, MixingMeasure]:
    """The Gaussian-gated truths of theory section 6: 'type-1' and 'type-2', with the same values on each axis of x."""
    second = setting == "type-2"
    alike = np.ones((1, dimension))
    center = np.array([[0.0 if second else -0.1], [0.1], [0.5]]) * alike
    spread = np.array([0.042824, 0.0175, 0.01])[:, None, None] * np.eye(dimension)[None]
    slope = np.array([[0.40453951], [-0.71428571], [0.0]]) * alike
    atoms = GaussianGatedAtom(
        center=jnp.asarray(center),
        spread=jnp.asarray(spread),
        slope=jnp.asarray(slope)[:, None, :],
        intercept=_column([0.3 if second else 0.34045395, -0.32857143, 0.2]),
        noise=_column([0.00887672, 0.02642857, 0.0175])[:, :, None],
    )
    return GaussianGated(dimension), MixingMeasure(jnp.log(jnp.asarray([0.3, 0.4, 0.3])), atoms)


def published_softmax() -> tuple[SoftmaxGated, MixingMeasure]:
    """The softmax-gated truth of theory section 6, d = 1; noise variances, not standard deviations."""
    atoms = SoftmaxGatedAtom(
        gate=_column([25.0, 0.0]),
        slope=_column([-20.0, 20.0])[:, :, None],
        intercept=_column([15.0, -5.0]),
        noise=_column([0.3**2, 0.4**2])[:, :, None],
    )
    return SoftmaxGated(1), MixingMeasure(jnp.asarray([-8.0, 0.0]), atoms)


def published_truth(problem: DensityProblemSpec) -> tuple[GaussianGated | SoftmaxGated, MixingMeasure]:
    """The truth that a problem names."""
    return published_softmax() if problem.setting == "published" else published_gaussian(problem.setting)


def random_truth(problem: DensityProblemSpec, seed: int) -> MixingMeasure:
    """Atoms with every entry between the least and the largest of the published ones: locations and slopes uniform,
    logarithms of variances uniform. A function of the seed alone, d = 1.

    Weights as published; under a softmax gate such that all atoms weigh the same at a point x of the inputs' middle
    half, uniform too: with weights that were made for other gates an atom may have no share anywhere.
    """
    _, published = published_truth(problem)
    rng = np.random.default_rng(seed)

    def drawn(name: str, leaf: jnp.ndarray) -> jnp.ndarray:
        least, most = np.min(leaf, axis=0), np.max(leaf, axis=0)
        if name in ("spread", "noise"):
            return jnp.asarray(np.exp(rng.uniform(np.log(least), np.log(most), leaf.shape)))
        return jnp.asarray(rng.uniform(least, most, leaf.shape))

    atoms = {name: drawn(name, leaf) for name, leaf in published.atoms._asdict().items()}
    weights = published.log_weights
    if isinstance(published.atoms, SoftmaxGatedAtom):
        weights = -atoms["gate"][:, 0] * rng.uniform(0.25, 0.75)
    return MixingMeasure(weights, type(published.atoms)(**atoms), published.common)


def build_density(
    problem: DensityProblemSpec, coarser: float = 1.0, truth: MixingMeasure | None = None
) -> DensitySetup:
    """The fixed, stated instance of a density problem.

    Theta: locations within three largest standard deviations (softmax gate: three ranges) of the truth's, caps on
    variances at four times the truth's largest, floors at (deviation_floor times the truth's least deviation)^2.

    Args:
        problem: which.
        coarser: how much farther apart than for sampling the grid's cells are.
        truth: another one than the problem names.
    """
    require_x64()
    model, published = published_truth(problem)
    truth = published if truth is None else truth
    levels = min(max(1, problem.k_fit - problem.k_true), problem.k_fit - 1)
    rows = np.asarray(model.rows(truth))
    if isinstance(model, GaussianGated):
        space = _joint_space(model, truth, rows, problem)
        grid, inputs = joint_grid(model, truth, coarser * np.sqrt(np.asarray(space.floor))), None
    else:
        inputs = (np.arange(problem.support)[:, None] + 0.5) / problem.support
        space = _conditional_space(model, truth, inputs, problem)
        grid = conditional_grid(model, truth, inputs, coarser * np.sqrt(np.asarray(space.floor))[model.dimension :])
    return DensitySetup(model, truth, rows, grid, space, metric_of(model, truth, inputs), problem.k_fit, levels)


def _column(values: list[float]) -> jnp.ndarray:
    return jnp.asarray(values, jnp.float64)[:, None]


def _joint_space(
    model: GaussianGated, truth: MixingMeasure, rows: np.ndarray, problem: DensityProblemSpec
) -> MixtureSpace:
    means = rows[:, 1 : 1 + model.joint]
    diagonal = np.stack([np.diag(np.asarray(model.matrix(jnp.asarray(row)))) for row in rows])
    reach = 3.0 * np.sqrt(diagonal.max(axis=0))
    own = (truth.atoms.spread, truth.atoms.noise)
    least = np.concatenate([np.diagonal(np.asarray(part), axis1=1, axis2=2).min(axis=0) for part in own])
    return _space(
        problem, means.min(axis=0) - reach, means.max(axis=0) + reach, 4.0 * diagonal.max(axis=0),
        problem.deviation_floor**2 * least, np.sqrt(diagonal.mean(axis=0)), np.zeros((1, model.dimension)),
    )  # fmt: skip


def _conditional_space(
    model: SoftmaxGated, truth: MixingMeasure, inputs: np.ndarray, problem: DensityProblemSpec
) -> MixtureSpace:
    gate, slope, intercept, noise = (np.asarray(part) for part in truth.atoms)
    variance = np.diagonal(noise, axis1=1, axis2=2)
    gate_reach = 3.0 * np.max(np.abs(gate - gate.mean(axis=0)), axis=0)
    reach = 3.0 * np.ptp(intercept, axis=0)
    noise_cap = 4.0 * variance.max(axis=0)
    slope_cap = 3.0 * np.max(np.abs(slope), axis=(0, 1)) / np.sqrt(noise_cap.min())
    deviation = np.sqrt(variance.mean(axis=0))
    return _space(
        problem,
        np.concatenate([-gate_reach, intercept.min(axis=0) - reach]),
        np.concatenate([gate_reach, intercept.max(axis=0) + reach]),
        np.concatenate([slope_cap, noise_cap]),
        problem.deviation_floor**2 * np.concatenate([np.ones_like(slope_cap), variance.min(axis=0)]),
        np.concatenate([1.0 / np.std(inputs, axis=0), deviation]),
        inputs,
    )


def _space(problem: DensityProblemSpec, *arrays: np.ndarray) -> MixtureSpace:
    return MixtureSpace(jnp.asarray(problem.weight_floor), *(jnp.asarray(each) for each in arrays))
