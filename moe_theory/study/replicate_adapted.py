"""Rows of a sweep of low-rank densities: draws on a lattice, fitted by likelihood or by least squares, and measured."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe_theory.estimation.adapted_likelihood import AdaptedProblem
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.likelihood import Points, objective
from moe_theory.estimation.space import Chart
from moe_theory.sampling.statistics import Statistics
from moe_theory.study.adapted_problem import AdaptedSetup, build_adapted
from moe_theory.study.adapted_spec import AdaptedSweepSpec
from moe_theory.study.invisible import farthest_invisible
from moe_theory.study.replicate import AbstractChartReplicator, function_distance, value_of


class AdaptedReplicator(AbstractChartReplicator):
    """Rows of a sweep of low-rank densities; both estimators see the same draws."""

    def __init__(self, sweep: AdaptedSweepSpec, identified_set: bool = False):
        self.adapted: AdaptedSetup = build_adapted(sweep.problem)
        setup = self.adapted.regression
        chart = Chart(setup.model, setup.space, setup.k_fit)
        self._by_mean = sweep.problem.estimator == "least-squares"
        kind, held = (Problem, setup.design) if self._by_mean else (AdaptedProblem, self.adapted.density)
        super().__init__(sweep, setup, chart, kind, (chart, held), identified_set)
        density, true = self.adapted.density, self.adapted.density.rows(setup.truth)
        self._at_truth = jax.jit(lambda points: objective(density.base, true, points))

    def data(self, n: int, number: int) -> tuple[Points | Statistics, float]:
        """Counts of cells, or counts and means at the points of x."""
        points = self.adapted.points(n, self.sweep.seed, number)
        if not self._by_mean:
            return points, float(self._at_truth(points))
        data = self.adapted.statistics(points)
        return data, value_of(self.setup.values, data)

    def invisible(self, splits: Float[np.ndarray, "splits z"]) -> Float[np.ndarray, " z"] | None:
        """That of the mean; a density has none (its second-order margins are positive)."""
        return farthest_invisible(self.setup, self.chart, splits) if self._by_mean else None

    def distance(self, z: jax.Array) -> jax.Array:
        """Hellinger distance on the lattice of a joint density, ||f_G - f_{G*}|| of a conditional one."""
        density, grid, setup = self.adapted.density, self.adapted.grid, self.setup
        if not density.joint:
            return function_distance(setup, self.chart, z)
        x, y = jnp.asarray(grid.x), jnp.asarray(grid.y)
        fitted, true = (
            density.base.log_densities(rows.at[:, 0].divide(jnp.sum(rows[:, 0])), x, y)
            for rows in (density.rows(self.chart.measure(z)), density.rows(setup.truth))
        )
        return jnp.sqrt(0.5 * jnp.sum(jnp.asarray(grid.probability) * jnp.expm1(0.5 * (fitted - true)) ** 2))
