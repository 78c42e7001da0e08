"""Splits of margin zero, followed: searched at a few amplitudes, and along a curve from where they are small.

Of an invisible split there is a measure with f_G = f_{G*} at every small amplitude t: a curve that leaves the truth.
Where the curve is narrow, a descent at one amplitude misses it. Newton's method (steps of least norm, since the gauge
leaves some directions free) started at a tiny t, where the truth itself is a good guess, and a secant from there on,
follow the curve outward: t grows by 8 per cent at a time, by up to 36 where corrections are few, until the curve ends
or the parts come near another atom. A split that shows at a finite order has no such curve, and the method stops where
t^q leaves rounding. Source: our derivation (continuation by prediction and correction: Allgower and Georg 1990).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.theory.decomposition import pulled_svd
from moe_theory.theory.envelope import INVISIBLE
from moe_theory.theory.margins import Mixture
from moe_theory.theory.visibility import (
    AMPLITUDES,
    Free,
    Split,
    Visibility,
    Where,
    at_truth,
    descend,
    leading,
    looks,
    measure_of,
    reach_of,
    simplex,
    visibility,
)

HIDDEN_AMPLITUDES = 0.8 ** np.arange(11)
"""t at which invisible splits are looked for, in units of ``visibility.AMPLITUDES``: as large as may be, to a tenth."""
MORE_ITERATIONS, MORE_STARTS = 60, 8
"""Of a search that is made again."""
NEAR = (0.05, 0.025, 0.0125)
"""t of the last search, in units of ``visibility.AMPLITUDES``."""
MORE_ATOMS = 2
"""How many more atoms than the margin asks for a split is given before it counts as unclear."""
FIRST_AMPLITUDE, GROWTH = 0.003, 1.08
"""Where a curve is begun, in units of ``visibility.AMPLITUDES``, and how t grows along it."""
CURVES = 12
"""Placements of the parts from which curves are begun. What hides to a high order looks like a curve while t is small;
of the isolated curves of HoRA of rank three the fourth start finds one, or none of the first four does."""
CORRECTIONS = 15
EASY, MOST_STEPS = 6, 4
"""Corrections up to which twice as many growths are taken at once next, and at most so many."""
SOLVED = 3e-13
"""Distance at which a point counts as one of the curve."""
LOST = 10.0
"""Distance at which Newton's method has left it."""
LEAST_VALUE = 1e-9
"""Singular values below this share of the largest are of the gauge: no steps are taken along them."""


def followed(mixture: Mixture, split: Split, atoms: int | None = None) -> Visibility:
    """``looked``, and ``insisted`` where it is not clear."""
    first = looked(mixture, split, atoms)
    return first if first.is_clear else insisted(mixture, split, first)


def looked(mixture: Mixture, split: Split, atoms: int | None = None) -> Visibility:
    """``visibility``, and the curve where that did not find the split invisible.

    A search may end at a finite order beside an invisible split (DoRA with tau 0.5 and no anchor: at order six).
    """
    first = visibility(mixture, split, atoms)
    if first.is_invisible or not _may_hide(mixture):
        return first
    curve = continued(mixture, split, first.atoms)
    return curve if curve.is_invisible else first


def insisted(mixture: Mixture, split: Split, first: Visibility) -> Visibility:
    """What follows where that was unclear: a longer search; then, for one atom, more parts, and smaller amplitudes.

    More parts come before smaller amplitudes, because one invisible split decides everything. What shows for any number
    of them may have an order that is not reached yet at the usual amplitudes; where every split shows by a theorem,
    smaller ones are tried first. The longer search, if nothing is clear.

    Args:
        mixture, split: as for ``visibility``.
        first: what ``looked`` found.
    """

    def longer(amplitudes: Sequence[float]) -> Visibility:
        return visibility(mixture, split, first.atoms[0], amplitudes, MORE_STARTS, MORE_ITERATIONS)

    shows = not _may_hide(mixture)
    again = longer(NEAR if shows else AMPLITUDES)
    if again.is_clear or len(split.factors) > 1:
        return again
    parts = (looked(mixture, split, first.atoms[0] + more) for more in range(1, MORE_ATOMS + 1))
    found: list[Visibility] = []
    for seen in () if shows else parts:
        if seen.is_invisible:
            return seen
        found.append(seen)
    other = longer(AMPLITUDES if shows else NEAR)
    return next((seen for seen in chain([other, *found], parts) if seen.is_clear), again)


def _may_hide(mixture: Mixture) -> bool:
    """Whether no theorem says that every split shows, so that invisible ones are to be looked for."""
    return not all(own.is_identified for own in mixture)


def continued(mixture: Mixture, split: Split, atoms: Sequence[int]) -> Visibility:
    """The longest curve of invisible splits that begins along a split; of no amplitude if none begins.

    Args:
        mixture, split: where, and along what.
        atoms: parts of every split atom.
    """
    return _seen(atoms, _longest(*leading(mixture, split), atoms).points)


def hidden_measures(mixture: Mixture, split: Split) -> Iterator[list[tuple[Array, Array, Array]]]:
    """(weights, atoms, common) of every set of the invisible splits along S = Y Y': those that descents at
    ``HIDDEN_AMPLITUDES`` find, the largest first; then those of the curve, its end first.

    Args:
        mixture, split: where, and along what: a cell gets one atom more than its Y has columns.
    """
    mixture, split = leading(mixture, split)
    atoms = [factor.shape[1] + 1 for factor in split.factors]
    placed = split.lifted(mixture, [simplex(count, count - 1) for count in atoms])
    for amplitude in reach_of(mixture, split) * HIDDEN_AMPLITUDES:
        free, distance = descend(mixture, split.where, [amplitude * each for each in placed], float(amplitude))
        if distance <= INVISIBLE:
            yield measure_of(mixture, split.where, free)
    curve = _longest(mixture, split, atoms)
    for point in reversed(curve.points):
        if _seen(atoms, [point]).is_invisible:
            yield measure_of(mixture, split.where, curve.unravel(jnp.asarray(point.free)))


class _Point(NamedTuple):
    """A point of a curve: amplitude, all that is free, the distance left, and how many corrections it took."""

    amplitude: float
    free: Float[np.ndarray, " free"]
    distance: float
    corrections: int


class _Curve(NamedTuple):
    """Points from the truth outward, and what makes the motions of a flat vector."""

    points: list[_Point]
    unravel: Callable[[Array], Free]

    @property
    def end(self) -> float:
        """The amplitude that it reaches; 0 of one that does not begin."""
        return self.points[-1].amplitude if self.points else 0.0


def _seen(atoms: Sequence[int], points: Sequence[_Point]) -> Visibility:
    """Points of a curve, the end first."""
    amplitudes = np.array([point.amplitude for point in reversed(points)])
    distances = np.array([point.distance for point in reversed(points)])
    return Visibility(tuple(atoms), amplitudes, distances, float("nan"))


def _longest(mixture: Mixture, split: Split, atoms: Sequence[int]) -> _Curve:
    """The longest curve from ``CURVES`` placements of the parts; the first that is of invisible splits, if one is."""
    shapes = [(count, factor.shape[1]) for count, factor in zip(atoms, split.factors, strict=True)]
    rng, reach, longest = np.random.default_rng(0), reach_of(mixture, split), None
    for number in range(CURVES):
        placed = [rng.standard_normal(shape) if number else simplex(*shape) for shape in shapes]
        apart = split.lifted(mixture, [points - points.mean(axis=0) for points in placed])
        curve = _curve(mixture, split.where, apart, reach)
        if longest is None or curve.end > longest.end:
            longest = curve
        if _seen(atoms, longest.points).is_invisible:
            break
    assert longest is not None
    return longest


def _curve(mixture: Mixture, where: Where, apart: Sequence[Float[np.ndarray, "_ q"]], reach: float) -> _Curve:
    """The curve that begins along ``apart``, at amplitudes of one grid; after an easy point some are left out."""
    start = at_truth(mixture, [FIRST_AMPLITUDE * reach * each for each in apart])
    flat, unravel = ravel_pytree(start)
    grid = reach * np.exp(np.arange(np.log(FIRST_AMPLITUDE), 0.0, np.log(GROWTH)))
    points: list[_Point] = []
    place, steps = 0, 1
    while place < len(grid):
        guess = _ahead(points, float(grid[place])) if points else np.asarray(flat)
        point = _corrected(mixture, where, start, guess, float(grid[place]))
        if point is None and steps == 1:
            break
        if point is None:
            place, steps = place - steps + 1, 1
            continue
        points.append(point)
        steps = min(2 * steps, MOST_STEPS) if point.corrections <= EASY else 1
        steps = min(steps, max(1, len(grid) - 1 - place))
        place += steps
    return _Curve(points, unravel)


def _ahead(points: Sequence[_Point], t: float) -> Float[np.ndarray, " free"]:
    """Where the secant through the last two points, at first through the truth, is at amplitude t."""
    last = points[-1]
    before, at = (points[-2].free, points[-2].amplitude) if len(points) > 1 else (np.zeros_like(last.free), 0.0)
    return last.free + (last.free - before) * (t - last.amplitude) / (last.amplitude - at)


def _corrected(
    mixture: Mixture,
    where: Where,
    like: Free,
    guess: Float[np.ndarray, " free"],
    amplitude: float,
) -> _Point | None:
    """Newton's method at one amplitude: the nearest point within ``SOLVED``, polished by one step more; or None."""
    here, seen, found = guess, looks(mixture, where, like, amplitude), None
    for corrections in range(CORRECTIONS):
        residual = np.asarray(seen.residual(here))
        size = float(np.linalg.norm(residual))
        if not size < LOST:
            break
        if found is not None:
            distance = float(np.linalg.norm(residual[:-1]))
            return found._replace(free=here, distance=distance) if distance < found.distance else found
        if size <= SOLVED:
            found = _Point(amplitude, here, float(np.linalg.norm(residual[:-1])), corrections)
        jacobian = np.asarray(seen.jacobian(here))
        if not np.all(np.isfinite(jacobian)):  # parts that have met have an amplitude without a derivative
            break
        pulled, values, right = pulled_svd(jacobian, residual)
        kept = values > LEAST_VALUE * values[0]
        here = here - right[kept].T @ (pulled[kept] / values[kept])
    return found
