"""The part of a sweep that every kind of model shares: lanes fitted as places fall free, starts judged, rows made."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from moe_theory.estimation.certificate import SPREAD, Certificate, explain, judge
from moe_theory.estimation.pool import DOMINATED, LONGEST, Finished, Lane, Pool
from moe_theory.estimation.trust_region import CONVERGED, State
from moe_theory.jitting import jitted

Gap = tuple[int, int, int]
"""(n, first replication, how many)."""

COMPILE_SIZE = 10**10
"""Sample size of the replication that is fitted, and forgotten, to compile: large, where models of many parameters are
near their laws too and a fit ends soon (eight heads of LoRA at 10^4 took a quarter of an hour)."""

STATUS = {0: "running", 1: "converged", 2: "iteration_limit", 3: "stalled", 4: "dominated"}


@dataclass
class Replication:
    """One data set and the ends of its lanes."""

    n: int
    number: int
    data: Any
    truth_value: float
    kinds: tuple[str, ...]
    starts: np.ndarray
    ends: list[Finished] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.ends) == len(self.kinds)


class Chosen(NamedTuple):
    """The fits of several replications, one row each, among the ends of all their lanes.

    Attributes:
        frame: what `judge_starts` says.
        data, states: of all lanes.
        best: the lane of each fit.
        far: the best lane that held nothing of the truth; the fit's where there is none.
        starts: where each fit began.
    """

    frame: pd.DataFrame
    data: Any
    states: State
    best: np.ndarray
    far: np.ndarray
    starts: np.ndarray


class AbstractReplicator(ABC):
    """Computes the rows of one sweep; every array shape is compiled once.

    Args:
        pool: fits lanes.
        block: lanes that one compiled call measures together.
        compile_size: sample size of the replication that is fitted, and forgotten, to compile.
    """

    def __init__(self, pool: Pool, block: int, compile_size: int = COMPILE_SIZE):
        self._pool, self._block, self._compile_size = pool, block, compile_size
        self._judge = jitted(jax.vmap(judge))
        self._longest = LONGEST

    @abstractmethod
    def draw(self, n: int, number: int) -> Replication:
        """The data and the starts of one replication."""

    @abstractmethod
    def rows(self, members: list[Replication]) -> pd.DataFrame:
        """One row per replication, all of whose lanes have ended."""

    def compile(self) -> None:
        """Compile (or load from the compilation cache) everything that a cell needs, by one throw-away replication, of
        whose fits the first steps are enough."""
        for _ in self.cells([(self._compile_size, 0, 1)], longest=1):
            pass

    def cells(self, gaps: Iterable[Gap], longest: int = LONGEST) -> Iterator[tuple[Gap, pd.DataFrame]]:
        """Fit the gaps and yield (gap, rows) as each is finished.

        Args:
            gaps: cells to compute; each is taken when there is room for its first lane.
            longest: see ``Pool.run``.
        """
        self._owners: list[Replication] = []
        self._begun = time.monotonic()
        self._longest = longest
        waiting: dict[Gap, list[Replication]] = {}
        lanes = self._lanes(gaps, waiting)
        for end in self._pool.run(lanes, longest):
            owner = self._owners[end.owner]
            owner.ends.append(end)
            for gap, members in list(waiting.items()):
                if len(members) == gap[2] and all(member.finished for member in members):
                    del waiting[gap]
                    yield gap, self._timed(self.rows(members))

    def _timed(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame["seconds"] = time.monotonic() - self._begun
        return frame

    def _lanes(self, gaps: Iterable[Gap], waiting: dict[Gap, list[Replication]]) -> Iterator[Lane]:
        """The first start of every replication of a gap, then the second: the sooner one converges, the sooner others
        of its replication can be seen to be dominated."""
        for gap in gaps:
            n, first, count = gap
            waiting[gap] = []
            for number in range(first, first + count):
                owner = self.draw(n, number)
                self._owners.append(owner)
                waiting[gap].append(owner)
            begun = len(self._owners) - count
            for start in range(max(len(owner.starts) for owner in waiting[gap])):
                for place, owner in enumerate(waiting[gap], begun):
                    if start < len(owner.starts):
                        yield Lane(place, owner.data, owner.starts[start])

    def _certify(self, data: Any, states: State, truth_values: np.ndarray) -> Certificate:
        """The certificates of a block of lanes."""
        return self._judge(self._pool.stand(data, states), truth_values)

    def chosen(self, members: list[Replication]) -> Chosen:
        """Certify the ends of all lanes and choose the fit of every replication, all of whose lanes have ended."""
        lanes = [(member, end) for member in members for end in sorted(member.ends, key=lambda end: end.order)]
        data = stacked([member.data for member, _ in lanes])
        truths = np.array([member.truth_value for member, _ in lanes])
        states, certificates = self._settled(members, data, stacked([end.state for _, end in lanes]), truths)
        rows, best, far, starts = [], [], [], []
        for member, place in _places(members):
            row, own, untied = judge_starts(member, *_taken((certificates, states), place))
            rows.append(row)
            best.append(place[own])
            far.append(place[own if untied is None else untied])
            starts.append(member.starts[own])
        return Chosen(pd.DataFrame(rows), data, states, np.array(best), np.array(far), np.stack(starts))

    def _settled(
        self, members: list[Replication], data: Any, states: State, truths: np.ndarray
    ) -> tuple[State, Certificate]:
        """Ends and certificates of all lanes, after those that keep a fit from being certified had a second chance.

        A lane judges itself with multipliers near mu / s, its certificate with mu / s: where a curvature is all but
        zero the two may differ, and the lane goes on from there. It keeps its first end if the second is higher.
        """
        certificates = self.padded(self._certify, data, states, truths)
        found = [place[doubtful(*_taken((certificates, states), place))[1]] for _, place in _places(members)]
        again = np.concatenate(found)
        if not again.size:
            return states, certificates
        own_data, own_truths = _taken((data, truths), again)
        centred = self.padded(lambda *lane: self._pool.stand(*lane).state, own_data, _taken(states, again))
        ended = self._pool.resume(own_data, centred, self._longest)
        judged = self.padded(self._certify, own_data, ended, own_truths)
        kept = judged.excess <= certificates.excess[again] + SPREAD
        for old, new in zip(jax.tree.leaves((states, certificates)), jax.tree.leaves((ended, judged)), strict=True):
            old[again[kept]] = new[kept]
        return states, certificates

    def padded(self, function: Any, *arguments: Any) -> Any:
        """Apply a vmapped function in blocks of the sweep's size, the last one filled up with its first lane."""
        total = jax.tree.leaves(arguments)[0].shape[0]
        size = self._block
        parts = []
        for first in range(0, total, size):
            index = np.arange(first, first + size)
            index = np.where(index < total, index, first)
            part = function(*jax.tree.map(lambda leaf, at=index: leaf[at], arguments))
            keep = min(size, total - first)
            parts.append(jax.tree.map(lambda leaf, keep=keep: np.asarray(leaf)[:keep], part))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def judge_starts(
    member: Replication, certificates: Certificate, states: State
) -> tuple[dict[str, Any], int, int | None]:
    """Choose the replication's fit among its starts and say how sure that is: (row, best lane, best untied lane)."""
    excess, passed = certificates.excess, certificates.passed
    best, doubts = doubtful(certificates, states)
    lower = doubts[doubts != best]
    certified = doubts.size == 0
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


def doubtful(certificates: Certificate, states: State) -> tuple[int, np.ndarray]:
    """The lane that is a replication's fit, and the lanes for which the fit is not certified: itself, if it did not
    pass, and those that reached a lower objective and did not."""
    excess, passed = certificates.excess, certificates.passed
    best = int(np.argmin(np.where(passed, excess, np.inf))) if passed.any() else int(np.nanargmin(excess))
    lower = ~passed & (excess < excess[best] - SPREAD) & (states.status != DOMINATED)
    lower[best] = not passed[best]
    return best, np.flatnonzero(lower)


def _places(members: list[Replication]) -> Iterator[tuple[Replication, np.ndarray]]:
    """Every replication and where its lanes are among those of all."""
    first = 0
    for member in members:
        yield member, np.arange(first, first + len(member.kinds))
        first += len(member.kinds)


def _taken(tree: Any, place: np.ndarray) -> Any:
    """The same lanes of every leaf."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


def stacked(trees: list[Any]) -> Any:
    """One tree of the trees' leaves, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
