"""Generate, fit and measure the replications of a sweep: the cells of the store, as they are finished."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from moe_theory.estimation.certificate import SPREAD
from moe_theory.estimation.charted import AbstractChartProblem
from moe_theory.estimation.identified import CONFIDENCE_LEVEL, Search, begin_search, block_splits, search_step
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import mix
from moe_theory.estimation.pool import Pool, until_settled
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.estimation.trust_region import Standpoint, State
from moe_theory.jitting import jitted
from moe_theory.sampling.statistics import Statistics, draw_statistics
from moe_theory.study.invisible import farthest_invisible
from moe_theory.study.lanes import AbstractReplicator, Replication
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import SweepSpec
from moe_theory.theory.voronoi import Losses, effective_losses, factor_losses

SEARCHES = {
    "D_12_lowest": (0, -1.0),
    "D_12_highest": (0, 1.0),
    "D_12_confidence_highest": (1, 1.0),
    "D_12_truth_highest": (2, 1.0),
}
"""Columns that hold the least (-1) or largest (+1) D_12 over a set of fits: those with F within ``SPREAD`` of the
minimum (0); within ``CONFIDENCE_LEVEL`` (1); at most the truth's, the set that holds G* for certain (2)."""

FROM_TRUTH = "D_12_truth_highest"
"""The search whose set is certain to hold a split that does not move f_G; it starts from that one too."""

ROUNDING = 1e-8
"""Share of F by which two measures with the same f_G may differ at n = 10^15."""


class AbstractChartReplicator(AbstractReplicator):
    """Rows of a sweep of adapted experts, whatever is fitted.

    Args:
        sweep: what is run.
        setup: its problem.
        kind, shared: make a lane's problem of its data, ``kind(*shared, data)`` (see ``Pool``).
        identified_set: whether to search for the range of D_12 over fits that are as good.
    """

    def __init__(
        self,
        sweep: SweepSpec,
        setup: Setup,
        chart: Chart,
        kind: Callable[..., AbstractChartProblem],
        shared: tuple[Any, ...],
        identified_set: bool,
    ):
        self.sweep, self.setup, self.chart = sweep, setup, chart
        self._maker = StartMaker(chart, setup.truth, plan_named(sweep.starts))
        self._make = kind, shared
        super().__init__(Pool(kind, shared, sweep.block), sweep.block)
        self._measure = jitted(jax.vmap(self._measure_lane))
        self._end_loss = jitted(jax.vmap(self._d_12))
        self._splits = block_splits(chart, setup.truth) if identified_set else None
        self._invisible = None if self._splits is None else self.invisible(self._splits)
        self._begin_search = jitted(jax.vmap(self._begin_lane))
        self._one_step = jitted(jax.vmap(self._search_lane), summing=True)
        self._split_values = jitted(jax.vmap(self._split_lane))

    @abstractmethod
    def data(self, n: int, number: int) -> tuple[Any, float]:
        """What a replication's fits see of its n draws, and F at the truth."""

    @abstractmethod
    def distance(self, z: jax.Array) -> jax.Array:
        """How far the fitted function or density is from the true one."""

    @abstractmethod
    def invisible(self, splits: Float[np.ndarray, "splits z"]) -> Float[np.ndarray, " z"] | None:
        """A measure far from the truth that no draw tells from it, where one is to be looked for.

        Args:
            splits: measures that are known already.
        """

    def problem(self, data: Any) -> AbstractChartProblem:
        """The problem of one lane."""
        kind, shared = self._make
        return kind(*shared, data)

    def draw(self, n: int, number: int) -> Replication:
        """The data of n draws, and starts."""
        data, truth_value = self.data(n, number)
        starts = self._maker.make(n, self.sweep.seed, number)
        return Replication(n, number, data, truth_value, starts.kinds, starts.z)

    def _measure_lane(self, z: jax.Array) -> tuple[Losses, Losses, Losses, jax.Array]:
        model, truth = self.setup.model, self.setup.truth
        fitted = self.chart.measure(z)
        plain = effective_losses(model, fitted, truth, anchored=False)
        return effective_losses(model, fitted, truth), plain, factor_losses(model, fitted, truth), self.distance(z)

    def _search_lane(self, data: Any, search: Search, at: Standpoint) -> Search:
        return search_step(self.problem(data), search, at, self._d_12)

    def _search(self, data: Any, search: Search) -> Search:
        """A step of a block of searches."""
        return self._one_step(data, search, self._pool.stand(data, search.state))

    def _begin_lane(self, state: State, levels: jax.Array) -> Search:
        """All that `SEARCHES` asks for, in its order; then one from the invisible split, if there is one."""
        which, signs = (np.array(column) for column in zip(*SEARCHES.values(), strict=True))
        begin = jax.vmap(lambda level, sign: begin_search(state, self._d_12, level, sign))
        begun = begin(levels[which], jnp.asarray(signs))
        if self._invisible is None:
            return begun
        level, sign = SEARCHES[FROM_TRUTH]
        split = state._replace(z=jnp.asarray(self._invisible))
        there = begin_search(split, self._d_12, levels[level], jnp.asarray(sign))
        return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), begun, there)

    def _ends(self, data: Any, states: State, levels: np.ndarray) -> dict[str, np.ndarray]:
        """The end that every search reaches, by its column."""
        begun = self.padded(self._begin_search, states, levels)
        each = begun.sign.shape[1]
        searches = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), begun)
        repeated = jax.tree.map(lambda leaf: np.repeat(leaf, each, axis=0), data)
        ended: Search = until_settled(self._search, lambda lanes: lanes.left > 0, self.sweep.block, repeated, searches)
        reached = np.asarray(ended.reached).reshape(-1, each)
        columns = {name: reached[:, place] for place, name in enumerate(SEARCHES)}
        if self._invisible is not None:
            columns[FROM_TRUTH] = np.maximum(columns[FROM_TRUTH], reached[:, -1])
        return columns

    def _split_lane(self, data: Any) -> jax.Array:
        """F at every one of `block_splits`."""
        return jax.vmap(self.problem(data).value)(jnp.asarray(self._splits))

    def _d_12(self, z: jax.Array) -> jax.Array:
        return effective_losses(self.setup.model, self.chart.measure(z), self.setup.truth).d_12

    def rows(self, members: list[Replication]) -> pd.DataFrame:
        """Choose the fit of every replication, measure it, and search the identified set."""
        frame, data, states, best_lanes, far_lanes, starts = self.chosen(members)
        measured = self.padded(self._measure, states.z[best_lanes])
        far_measured = self.padded(self._measure, states.z[far_lanes])
        start_measured = self.padded(self._measure, starts)
        frame = frame.assign(**_error_columns(*measured))
        frame["start_D_1"], frame["start_D_12"] = start_measured[0].d_1, start_measured[0].d_12
        frame["far_D_12"] = np.where(frame["far_excess"].notna(), far_measured[0].d_12, np.nan)
        frame["far_overfitted_error"] = np.where(frame["far_excess"].notna(), far_measured[0].overfitted, np.nan)
        if self._splits is not None:
            frame = frame.assign(**self._range_columns(members, data, states, best_lanes))
        return frame

    def _range_columns(
        self, members: list[Replication], data: Any, states: State, best: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Every column of `SEARCHES`: searched from the fit, from an invisible split if there is one, among the ends
        of other starts, and among the splits of the truth.

        A point at which F is within the level belongs to the set whether it is a minimum or not.
        """
        owner = np.repeat(np.arange(len(members)), [len(member.kinds) for member in members])
        own_data, own_states = jax.tree.map(lambda leaf: leaf[best], (data, states))
        truths = np.array([member.truth_value for member in members])
        least = own_states.value
        fixed = np.broadcast_to([SPREAD, CONFIDENCE_LEVEL], (len(members), 2))
        above = np.column_stack([fixed, np.maximum(truths - least, 0.0)])
        columns = self._ends(own_data, own_states, above)
        values = np.concatenate([states.value, self.padded(self._split_values, own_data).ravel()])
        at_splits = np.tile(np.asarray(self.padded(self._end_loss, self._splits)), len(members))
        reached = np.concatenate([self.padded(self._end_loss, states.z), at_splits])
        owner = np.concatenate([owner, np.repeat(np.arange(len(members)), len(at_splits) // len(members))])
        for name, (level, sign) in SEARCHES.items():
            inside = values <= (least + above[:, level])[owner] + ROUNDING * truths[owner]
            (np.minimum if sign < 0 else np.maximum).at(columns[name], owner[inside], reached[inside])
        return columns


class Replicator(AbstractChartReplicator):
    """Rows of a sweep of least squares.

    Args:
        sweep: what is swept.
        identified_set: whether to compute the columns of `SEARCHES`.
        setup: the problem, where it is not the sweep's own.
    """

    def __init__(self, sweep: SweepSpec, identified_set: bool = False, setup: Setup | None = None):
        setup = setup or build(sweep.problem)
        chart = Chart(setup.model, setup.space, setup.k_fit)
        super().__init__(sweep, setup, chart, Problem, (chart, setup.design), identified_set)

    def data(self, n: int, number: int) -> tuple[Statistics, float]:
        """The sufficient statistics."""
        data = draw_statistics(self.setup.values, self.setup.sigma, n, self.sweep.seed, number)
        return data, value_of(self.setup.values, data)

    def distance(self, z: jax.Array) -> jax.Array:
        """||f_G - f_{G*}||."""
        return function_distance(self.setup, self.chart, z)

    def invisible(self, splits: Float[np.ndarray, "splits z"]) -> Float[np.ndarray, " z"] | None:
        """That of the mean."""
        return farthest_invisible(self.setup, self.chart, splits)


def value_of(values: Float[np.ndarray, "d_out M"], data: Statistics) -> float:
    """F of least squares at a function."""
    return 0.5 * float(data.precision @ np.sum((values - data.mean) ** 2, axis=0))


def function_distance(setup: Setup, chart: Chart, z: jax.Array) -> jax.Array:
    """||f_G - f_{G*}|| in L2(mu)."""
    prediction = mix(chart.coefficients(z), setup.design).prediction
    return jnp.sqrt(jnp.mean(jnp.sum((prediction - setup.values) ** 2, axis=0)))


def _error_columns(losses: Losses, plain: Losses, factors: Losses, distance: np.ndarray) -> dict[str, Any]:
    return {
        "D_1": losses.d_1,
        "D_2": losses.d_2,
        "D_12": losses.d_12,
        "weight_error": losses.weight,
        "singleton_error": losses.singleton,
        "overfitted_error": losses.overfitted,
        "farthest_error": losses.farthest,
        "frozen_error": losses.frozen,
        "overfitted_query_error": losses.query,
        "overfitted_value_error": losses.value,
        "cells": losses.pattern,
        "function_error": distance,
        "plain_D_12": plain.d_12,
        "factors_D_1": factors.d_1,
        "factors_D_12": factors.d_12,
    }
