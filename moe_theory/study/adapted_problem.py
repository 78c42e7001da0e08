"""From the specification of a low-rank density to the objects that are computed with."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from moe_theory.estimation.likelihood import Points
from moe_theory.models.adapted_density import AdaptedDensity
from moe_theory.models.free_moments import FreeNoise, FreeSpread, SpreadAtom
from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.grid import Grid, draw_counts
from moe_theory.sampling.inputs import finite_support
from moe_theory.sampling.lattice import lattice
from moe_theory.sampling.statistics import Statistics
from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.problem import Setup, build


class AdaptedSetup(NamedTuple):
    """Everything about a low-rank density that does not depend on n or the replication.

    Attributes:
        regression: atoms, truth, Theta and f_{G*}, as for least squares.
        density: p_G.
        grid: cells.
        support: points of x of a conditional density.
    """

    regression: Setup
    density: AdaptedDensity
    grid: Grid
    support: np.ndarray

    def points(self, n: int, seed: int, replication: int) -> Points:
        """n i.i.d. draws from the truth, as counts of cells; the truth expects n p(m) in cell m.

        Args:
            n, seed, replication: see ``draw_counts``.
        """
        return self.points_of(n, draw_counts(self.grid, n, seed, replication))

    def points_of(self, n: float, counts: np.ndarray) -> Points:
        """Counts of cells as the likelihood sees them; of a joint density the rest of n lies outside."""
        grid, outside = self.grid, None
        if self.density.joint:
            capacity = n / float(np.sum(np.exp(np.asarray(self.regression.truth.log_weights))))
            log_base = grid.log_volume + np.log(capacity / (1.0 + grid.excess))
            outside = np.array([n - counts.sum(), capacity])
        else:
            with np.errstate(divide="ignore"):
                log_base = grid.log_volume + np.log(np.bincount(grid.input, weights=counts))[grid.input]
        return Points(grid.x, grid.y, counts, log_base, np.zeros(()), outside)  # pyright: ignore[reportArgumentType]

    def statistics(self, points: Points) -> Statistics:
        """What least squares sees of the same draws: counts and means of y at every point of x, sigma^2 = nu.

        The cells' mean of y under the truth differs from f_{G*} by about 10^-6, at n = 10^15 several standard errors;
        that known difference is taken off every mean.
        """
        grid, values = self.grid, self.regression.values
        total, mean = _means(grid.input, np.asarray(points.weight), grid.y)
        _, true = _means(grid.input, grid.probability, grid.y)
        mean = np.where(total > 0, mean - true + values, values)
        return Statistics(total / self.regression.sigma**2, mean)


def _means(
    place: Int[np.ndarray, " M"], weight: Float[np.ndarray, " M"], y: Float[np.ndarray, "M o"]
) -> tuple[Float[np.ndarray, " Q"], Float[np.ndarray, "o Q"]]:
    """Weight at every point of x, and the weighted mean of y there; 0 where there is none."""
    total = np.bincount(place, weights=weight)
    sums = np.stack([np.bincount(place, weights=weight * column) for column in y.T])
    return total, sums / np.where(total > 0, total, 1.0)


def _freed(setup: Setup, problem: AdaptedProblemSpec) -> Setup:
    """The same truth with nu or the Gamma_i among the parameters."""
    model, truth = setup.model, setup.truth

    def wrapped(model: Any, wrap: Any) -> Any:
        def where(tree: Any) -> Any:
            return tree.heads.adapter if isinstance(tree, HierarchicalModel) else tree.adapter

        return eqx.tree_at(where, model, wrap(where(model)))

    if problem.spread == "free":
        heads = model.heads if isinstance(model, HierarchicalModel) else model
        FreeSpread(heads.adapter).check(heads.pretrained)
        model = wrapped(model, FreeSpread)
        q = problem.dimension
        atoms = SpreadAtom(truth.atoms, jnp.zeros((problem.k_true, q * (q + 1) // 2), jnp.float64))
        truth = MixingMeasure(truth.log_weights, atoms, truth.common)
    if problem.noise == "free":
        known = problem.sigma**2
        model = wrapped(model, lambda inner: FreeNoise(inner, known))
        truth = MixingMeasure(truth.log_weights, truth.atoms, (truth.common, jnp.asarray(known)))
    return setup._replace(model=model, truth=truth)


def build_adapted(problem: AdaptedProblemSpec, truth_seed: int | None = None) -> AdaptedSetup:
    """The fixed, stated instance of a problem: that of ``build``, read as a density with nu = sigma^2.

    Args:
        problem: which.
        truth_seed: as for ``build``.

    Raises:
        InputError: as ``build``, or for a lattice that is too large.
    """
    setup = _freed(build(problem, truth_seed), problem)
    density = AdaptedDensity(setup.model, jnp.asarray(problem.sigma**2), problem.density == "joint")
    support = finite_support(problem.input_law, problem.support, problem.dimension, problem.problem_seed)
    return AdaptedSetup(setup, density, lattice(density, setup.truth, support), support)
