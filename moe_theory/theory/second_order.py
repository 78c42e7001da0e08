"""Second-order margins: whether several atoms in one cell hide at second order too (theory section 8).

The second-order margin of atom j is min || (I - P) 1/2 <S, D^2 H_j> || over S >= 0, trace 1, in the lifts of
``margins``, with P the projection on the first-order span (``spectrahedron``). It is zero if a feasible S has a value
below

    rounding = 100 eps cond(A) max_uv || 1/2 D^2 H[u, v] ||,

what computing the projection may leave of a vector in the span; it is positive if its certified *lower* bound is above
100 times that; otherwise it is undecided. It is invariant under gauge motions, because the lifts are taken in phi and
Hessian terms with a gauge leg lie in the span of A (differentiate H(g theta) = H(theta) twice), which is checked.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from moe_theory.theory.low_rank import convex, rank_limited
from moe_theory.theory.margins import Cell, Decision, FirstOrder, off_span
from moe_theory.theory.spectrahedron import Minimum, Problem, problem_of

ROUNDING = 100.0 * np.finfo(np.float64).eps
POSITIVE = 100.0
GAUGE_LEG = 1e-7
"""Largest part of a Hessian term with a gauge leg, relative to its size, that may lie off the first-order span."""
STARTS = 12


class SecondOrder(NamedTuple):
    """The second-order margin of some cells together.

    Attributes:
        minimum: of the convex problem, S of any rank.
        limited: of the problem for a cell of m atoms, by m, from 2 on.
        rounding: what rounding may leave of zero.
        decision: whether the convex minimum is zero.
        null: the mean of the minimisers with value zero that were found (the set of these is convex), one matrix per
            cell; where the margin is not zero, the minimiser.
    """

    minimum: Minimum
    limited: dict[int, Minimum]
    rounding: float
    decision: Decision
    null: list[Float[np.ndarray, "_ _"]]

    @property
    def fewest(self) -> int | None:
        """The fewest atoms in the cell for which a minimiser with value zero was found; None if there is none."""
        return min((atoms for atoms, best in self.limited.items() if best.value <= self.rounding), default=None)


def gauge_leg_residual(first: FirstOrder, cells: Sequence[Cell]) -> float:
    """The largest part of a Hessian term with a gauge leg off the first-order span, relative to the largest Hessian.

    It is zero but for rounding; ``second_order`` asserts that.
    """
    worst = 0.0
    for cell in cells:
        if cell.gauge_legs.shape[1]:
            size = max(float(np.max(np.linalg.norm(cell.gauge_legs, axis=0))), 1e-300)
            worst = max(worst, float(np.max(np.linalg.norm(off_span(first, cell.gauge_legs), axis=0))) / size)
    return worst


def second_order(first: FirstOrder, cells: Sequence[Cell], starts: int = STARTS) -> SecondOrder:
    """The second-order margin of these cells together (one cell: of that atom).

    The rank-limited problem is solved for m = 2 atoms and, where the convex minimum is zero but not attained there, for
    more atoms until it is: at the latest for as many as the convex minimiser has columns, and one.

    Args:
        first: of the whole mixture.
        cells: those that are over-fitted.
        starts: of each rank-limited problem.

    Raises:
        AssertionError: if a Hessian term with a gauge leg does not lie in the first-order span.
    """
    residual = gauge_leg_residual(first, cells)
    assert residual <= GAUGE_LEG, f"gauge legs lie {residual:.1g} off the first-order span: the gauge is not complete"
    problem = _problem(first, cells)
    rounding = max(_rounding(first, cell) for cell in cells)
    found = rank_limited(problem, 1, starts, enough=rounding)
    limited = {2: found[0]}
    minimum = convex(problem, found[0], rounding)
    decision: Decision = "undecided"
    if minimum.value <= rounding:
        decision = "zero"
        for columns in range(2, max(own.shape[1] for own in minimum.factors) + 1):
            if limited[columns].value <= rounding:
                break
            known = [limited[columns]] + [minimum] * (max(own.shape[1] for own in minimum.factors) <= columns)
            found = rank_limited(problem, columns, max(1, starts // columns), enough=rounding)
            found = sorted([*found, *known], key=lambda each: each.value)
            limited[columns + 1] = found[0]
    elif minimum.lower > POSITIVE * rounding:
        decision = "positive"
    zeros = [each.matrices for each in found if each.value <= rounding] if decision == "zero" else []
    null = [np.mean(own, axis=0) for own in zip(*(zeros or [minimum.matrices]), strict=True)]
    return SecondOrder(minimum, limited, rounding, decision, null)


def null_split(
    first: FirstOrder, cells: Sequence[Cell], atoms: int, starts: int = STARTS
) -> list[Float[np.ndarray, "_ _"]] | None:
    """Y_j of a split of these cells in at most so many atoms each whose (joint) second-order margin is zero, or None.

    Of as few atoms as can be. The rank-limited problems of ``second_order`` alone: a positive margin is not proved,
    which is what takes the time.

    Args:
        first: of the whole mixture.
        cells: the atoms that are split.
        atoms: largest number of parts of each.
        starts: of each rank-limited problem.
    """
    problem, rounding = _problem(first, cells), max(_rounding(first, cell) for cell in cells)
    for columns in range(1, atoms):
        best = rank_limited(problem, columns, starts)[0]
        if best.value <= rounding:
            return best.factors
    return None


def _problem(first: FirstOrder, cells: Sequence[Cell]) -> Problem:
    """1/2 D^2 H off the first-order span, one stack of symmetric forms per cell."""
    return problem_of([
        off_span(first, cell.bends.reshape(len(cell.response), -1)).reshape(cell.bends.shape) for cell in cells
    ])  # fmt: skip


def _rounding(first: FirstOrder, cell: Cell) -> float:
    """What rounding may leave of a Hessian term that lies in the span of A."""
    return ROUNDING * first.condition * float(np.max(np.linalg.norm(cell.bends, axis=0)))
