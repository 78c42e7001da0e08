"""Generate, fit and measure the replications of a sweep: the cells of the store, as they are finished."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from moe_theory.estimation.certificate import SPREAD, Certificate, certify, explain
from moe_theory.estimation.identified import CONFIDENCE_LEVEL, Search, begin_search, block_splits, search_step
from moe_theory.estimation.objective import mix, objective
from moe_theory.estimation.pool import Finished, Lane, Pool, until_settled
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.estimation.trust_region import CONVERGED, Problem, State
from moe_theory.sampling.statistics import Statistics, draw_statistics
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import SweepSpec
from moe_theory.theory.voronoi import Losses, effective_losses, factor_losses

Gap = tuple[int, int, int]
"""(n, first replication, how many)."""

COMPILE_SIZE = 10_000
"""Sample size of the replication that is fitted, and forgotten, to compile."""

SEARCHES = {
    "D_12_lowest": (0, -1.0),
    "D_12_highest": (0, 1.0),
    "D_12_confidence_highest": (1, 1.0),
    "D_12_truth_highest": (2, 1.0),
}
"""Columns that hold the least (-1) or largest (+1) D_12 over a set of fits: those with F within ``SPREAD`` of the
minimum (0); within ``CONFIDENCE_LEVEL`` (1); at most the truth's, the set that holds G* for certain (2)."""

ROUNDING = 1e-8
"""Share of F by which two measures with the same f_G may differ at n = 10^15."""

STATUS = {0: "running", 1: "converged", 2: "iteration_limit", 3: "stalled", 4: "dominated"}


@dataclass
class _Replication:
    """One data set and the ends of its lanes."""

    n: int
    number: int
    data: Statistics
    truth_value: float
    kinds: tuple[str, ...]
    starts: np.ndarray
    ends: list[Finished] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.ends) == len(self.kinds)


class Replicator:
    """Computes rows of one sweep; every array shape is compiled once."""

    def __init__(self, sweep: SweepSpec, identified_set: bool = False):
        plan = plan_named(sweep.starts)
        self.sweep = sweep
        self.setup: Setup = build(sweep.problem)
        self.chart = Chart(self.setup.model, self.setup.space, self.setup.k_fit)
        self._maker = StartMaker(self.chart, self.setup.truth, plan)
        self._pool = Pool(self.chart, self.setup.design, sweep.block)
        self._certify = jax.jit(jax.vmap(self._certify_lane))
        self._measure = jax.jit(jax.vmap(self._measure_lane))
        self._end_loss = jax.jit(jax.vmap(self._d_12))
        self._splits = block_splits(self.chart, self.setup.truth) if identified_set else None
        self._begin_search = jax.jit(jax.vmap(self._begin_lane))
        self._search = jax.jit(jax.vmap(self._search_lane))
        self._split_values = jax.jit(jax.vmap(self._split_lane))

    def compile(self) -> None:
        """Compile (or load from the compilation cache) everything that a cell needs, by one throw-away replication."""
        for _ in self.cells([(COMPILE_SIZE, 0, 1)]):
            pass

    def cells(self, gaps: Iterable[Gap]) -> Iterator[tuple[Gap, pd.DataFrame]]:
        """Fit the gaps and yield (gap, rows) as each is finished.

        Args:
            gaps: cells to compute; each is taken when there is room for its first lane.
        """
        self._owners: list[_Replication] = []
        self._begun = time.monotonic()
        waiting: dict[Gap, list[_Replication]] = {}
        lanes = self._lanes(gaps, waiting)
        for end in self._pool.run(lanes):
            owner = self._owners[end.owner]
            owner.ends.append(end)
            for gap, members in list(waiting.items()):
                if len(members) == gap[2] and all(member.finished for member in members):
                    del waiting[gap]
                    yield gap, self._rows(members)

    def _lanes(self, gaps: Iterable[Gap], waiting: dict[Gap, list[_Replication]]) -> Iterator[Lane]:
        """The first start of every replication of a gap, then the second: the sooner one converges, the sooner others
        of its replication can be seen to be dominated."""
        for gap in gaps:
            n, first, count = gap
            waiting[gap] = []
            for number in range(first, first + count):
                data = draw_statistics(self.setup.values, self.setup.sigma, n, self.sweep.seed, number)
                starts = self._maker.make(n, self.sweep.seed, number)
                squares = np.sum((self.setup.values - data.mean) ** 2, axis=0)
                owner = _Replication(n, number, data, 0.5 * float(data.precision @ squares), starts.kinds, starts.z)
                self._owners.append(owner)
                waiting[gap].append(owner)
            begun = len(self._owners) - count
            for start in range(len(waiting[gap][0].starts)):
                for place, owner in enumerate(waiting[gap], begun):
                    yield Lane(place, owner.data, owner.starts[start])

    def _certify_lane(self, data: Statistics, state: State, truth_value: Any) -> Certificate:
        return certify(Problem(self.chart, self.setup.design, data), state, truth_value)

    def _measure_lane(self, z: jax.Array) -> tuple[Losses, Losses, Losses, jax.Array]:
        model, truth, design = self.setup.model, self.setup.truth, self.setup.design
        fitted = self.chart.measure(z)
        prediction = mix(self.chart.coefficients(z), design).prediction
        distance = jnp.sqrt(jnp.mean(jnp.sum((prediction - self.setup.values) ** 2, axis=0)))
        plain = effective_losses(model, fitted, truth, anchored=False)
        return effective_losses(model, fitted, truth), plain, factor_losses(model, fitted, truth), distance

    def _search_lane(self, data: Statistics, search: Search) -> Search:
        return search_step(Problem(self.chart, self.setup.design, data), search, self._d_12)

    def _begin_lane(self, state: State, levels: jax.Array) -> Search:
        """All that `SEARCHES` asks for, in its order."""
        which, signs = (np.array(column) for column in zip(*SEARCHES.values(), strict=True))
        begin = jax.vmap(lambda level, sign: begin_search(state, self._d_12, level, sign))
        return begin(levels[which], jnp.asarray(signs))

    def _ends(self, data: Statistics, states: State, levels: np.ndarray) -> np.ndarray:
        """The end that every search reaches from every fit: (fits, searches)."""
        begun = self._padded(self._begin_search, states, levels)
        searches = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), begun)
        repeated = jax.tree.map(lambda leaf: np.repeat(leaf, len(SEARCHES), axis=0), data)
        size = max(1, self.sweep.block // len(SEARCHES))
        ended: Search = until_settled(self._search, lambda lanes: lanes.left > 0, size, repeated, searches)
        return np.asarray(ended.reached).reshape(-1, len(SEARCHES))

    def _split_lane(self, data: Statistics) -> jax.Array:
        """F at every one of `block_splits`."""

        def value(z: jax.Array) -> jax.Array:
            return objective(self.chart.coefficients(z), self.setup.design, data)

        return jax.vmap(value)(jnp.asarray(self._splits))

    def _d_12(self, z: jax.Array) -> jax.Array:
        return effective_losses(self.setup.model, self.chart.measure(z), self.setup.truth).d_12

    def _rows(self, members: list[_Replication]) -> pd.DataFrame:
        lanes = [(member, end) for member in members for end in sorted(member.ends, key=lambda end: end.order)]
        data = _stack([member.data for member, _ in lanes])
        states = _stack([end.state for _, end in lanes])
        truths = np.array([member.truth_value for member, _ in lanes])
        certificates = self._padded(self._certify, data, states, truths)
        chosen, rows, offset = [], [], 0
        for member in members:
            count = len(member.kinds)
            of_member = jax.tree.map(lambda leaf, o=offset, c=count: leaf[o : o + c], (certificates, states))
            row, best, far = _judge_starts(member, *of_member)
            rows.append(row)
            chosen.append((offset + best, offset + far if far is not None else offset + best, member.starts[best]))
            offset += count
        best_lanes = np.array([best for best, _, _ in chosen])
        measured = self._padded(self._measure, states.z[best_lanes])
        far_measured = self._padded(self._measure, states.z[np.array([far for _, far, _ in chosen])])
        start_measured = self._padded(self._measure, np.stack([start for _, _, start in chosen]))
        frame = pd.DataFrame(rows)
        frame = frame.assign(**_error_columns(*measured))
        frame["start_D_1"], frame["start_D_12"] = start_measured[0].d_1, start_measured[0].d_12
        frame["far_D_12"] = np.where(frame["far_excess"].notna(), far_measured[0].d_12, np.nan)
        frame["far_overfitted_error"] = np.where(frame["far_excess"].notna(), far_measured[0].overfitted, np.nan)
        if self._splits is not None:
            frame = frame.assign(**self._range_columns(members, data, states, best_lanes))
        frame["seconds"] = time.monotonic() - self._begun
        return frame

    def _range_columns(
        self, members: list[_Replication], data: Statistics, states: State, best: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Every column of `SEARCHES`: searched from the fit, among the ends of other starts, and among
        the splits of the truth.

        A point at which F is within the level belongs to the set whether it is a minimum or not.
        """
        owner = np.repeat(np.arange(len(members)), [len(member.kinds) for member in members])
        own_data, own_states = jax.tree.map(lambda leaf: leaf[best], (data, states))
        truths = np.array([member.truth_value for member in members])
        least = own_states.value
        fixed = np.broadcast_to([SPREAD, CONFIDENCE_LEVEL], (len(members), 2))
        above = np.column_stack([fixed, np.maximum(truths - least, 0.0)])
        ends = self._ends(own_data, own_states, above)
        values = np.concatenate([states.value, self._padded(self._split_values, own_data).ravel()])
        at_splits = np.tile(np.asarray(self._padded(self._end_loss, self._splits)), len(members))
        reached = np.concatenate([self._padded(self._end_loss, states.z), at_splits])
        owner = np.concatenate([owner, np.repeat(np.arange(len(members)), len(at_splits) // len(members))])
        columns = {}
        for place, (name, (level, sign)) in enumerate(SEARCHES.items()):
            inside = values <= (least + above[:, level])[owner] + ROUNDING * truths[owner]
            columns[name] = ends[:, place].copy()
            (np.minimum if sign < 0 else np.maximum).at(columns[name], owner[inside], reached[inside])
        return columns

    def _padded(self, function: Any, *arguments: Any) -> Any:
        """Apply a vmapped function in blocks of the sweep's size, the last one filled up with its first lane."""
        total = jax.tree.leaves(arguments)[0].shape[0]
        size = self.sweep.block
        parts = []
        for first in range(0, total, size):
            index = np.arange(first, first + size)
            index = np.where(index < total, index, first)
            part = function(*jax.tree.map(lambda leaf, at=index: leaf[at], arguments))
            keep = min(size, total - first)
            parts.append(jax.tree.map(lambda leaf, keep=keep: np.asarray(leaf)[:keep], part))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _judge_starts(
    member: _Replication, certificates: Certificate, states: State
) -> tuple[dict[str, Any], int, int | None]:
    """Choose the replication's fit among its starts and say how sure that is: (row, best lane, best untied lane)."""
    excess, passed = certificates.excess, certificates.passed
    best = int(np.argmin(np.where(passed, excess, np.inf))) if passed.any() else int(np.nanargmin(excess))
    lower = np.flatnonzero(~passed & (excess < excess[best] - SPREAD) & (states.status != 4))
    certified = bool(passed[best]) and lower.size == 0
    own = jax.tree.map(lambda leaf: leaf[best], certificates)
    reason = explain(own) if lower.size == 0 else f"{lower.size} uncertified starts reached a lower objective"
    status = "converged_at_bound" if certified and own.at_bound else STATUS[int(states.status[best])]
    if not certified and status == "converged":
        status = "not_certified"
    untied = np.array([kind == "untied" for kind in member.kinds]) & passed
    far = int(np.argmin(np.where(untied, excess, np.inf))) if untied.any() else None
    row = {
        "n": member.n,
        "replication": member.number,
        "status": status,
        "certified": certified,
        "reason": reason,
        "excess": float(excess[best]),
        "decrement": float(own.decrement),
        "gap": float(own.gap),
        "at_bound": bool(own.at_bound),
        "iterations": int(states.iterations[best]),
        "total_iterations": int(states.iterations.sum()),
        "start": member.kinds[best],
        "starts": len(member.kinds),
        "starts_certified": int(passed.sum()),
        "starts_agreeing": int((passed & (excess <= excess[best] + SPREAD)).sum()),
        "spread": float(np.max(excess[passed]) - excess[best]) if passed.any() else np.nan,
        "far_excess": float(excess[far] - excess[best]) if far is not None else np.nan,
        "untied_agrees": far is not None and float(excess[far] - excess[best]) <= SPREAD,
        "converged_starts": int((states.status == CONVERGED).sum()),
    }
    return row, best, far


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
