"""The modulus of continuity omega(delta) = sup { D(G, G*) : || f_G - f_{G*} || <= delta }, from below.

Every measure G that is found is a certificate of its own: with delta = || f_G - f_{G*} || and D = D(G, G*), both
computed at G, omega(delta) >= D. Candidates are, for amplitudes t over several decades,

- the best split of each true atom at amplitude t, everything else free (``visibility.descend``);
- the motion of all atoms by t along the direction of the first-order margin, which D feels at power one.

The least-squares error tracks omega(sigma sqrt(p / n)): a log-log slope a of omega means the rate n^(-a/2), without any
noise. *Minimax side* (Le Cam's two points): n samples of G* and of a G with || f_G - f_{G*} || = delta have total
variation at most sqrt(n) delta / (2 sigma), so with delta = sigma / sqrt(n) no test tells them apart with both errors
below 1/4: no estimator resolves D below omega(sigma / sqrt(n)), whatever it is. Source: theory section 8; our
derivation of the candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe_theory.theory.families import AbstractSet
from moe_theory.theory.margins import Cell, FirstOrder, Mixture, SecondOrder, chart_of
from moe_theory.theory.visibility import RESOLVED, descend, measure_of
from moe_theory.theory.voronoi import Points, losses

AMPLITUDES = (0.4, 0.08, 0.016, 0.0032, 0.00064)
"""t: distances t^2 from 10^-1 to 10^-7."""
RANGE = (1e-6, 1e-1)
"""delta over which the slope is taken."""


class Modulus(NamedTuple):
    """Lower bounds of omega, each proved by a measure that was evaluated.

    Attributes:
        distances: || f_G - f_{G*} ||, increasing; rounding is cut at ``RESOLVED``.
        losses: D_12 of the same measures, the largest so far: omega(distance) is at least this.
        slope: of log omega in log delta over ``RANGE``; 0 on a plateau.
    """

    distances: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, " points"]
    slope: float

    def at(self, delta: Float[np.ndarray, " deltas"]) -> Float[np.ndarray, " deltas"]:
        """The lower bound at any delta: the largest loss of a measure within it, 0 where there is none."""
        place = np.searchsorted(self.distances, delta, side="right")
        return np.concatenate([[0.0], self.losses])[place]

    def least_resolved(self, n: Float[np.ndarray, " sizes"], sigma: float) -> Float[np.ndarray, " sizes"]:
        """D that no estimator can resolve with n samples: omega(sigma / sqrt(n))."""
        return self.at(sigma / np.sqrt(n))


def modulus(
    mixture: Mixture,
    first: FirstOrder,
    cells: Sequence[tuple[Cell, SecondOrder]],
    amplitudes: Sequence[float] = AMPLITUDES,
    extra: Sequence[tuple[float, float]] = (),
) -> Modulus:
    """Lower bounds of the modulus for one atom too many.

    Args:
        mixture, first: where.
        cells: the true atoms that may be split, with their second-order margins.
        amplitudes: t.
        extra: further measures, as (distance, D_12).
    """
    found = [*extra, *first_order_motions(mixture, first, amplitudes)]
    for cell, second in cells:
        found += _splits(mixture, cell, second, amplitudes)
    return envelope(found)


NEAR_HULL = 0.1
"""Distance in log omega within which a corner counts as on the concave hull."""


def envelope(found: Sequence[tuple[float, float]]) -> Modulus:
    """The increasing envelope of (distance, loss) pairs, and its slope.

    The slope is that of the straight line through those corners of the envelope, in log coordinates, that lie on its
    upper concave hull. The others lie below what their neighbours promise: another motion reaches further at that
    distance, and only its amplitude there was not tried.
    """
    pairs = np.array(sorted((max(distance, RESOLVED), loss) for distance, loss in found))
    highest = np.maximum.accumulate(pairs[:, 1])
    corner = np.concatenate([[True], highest[1:] > highest[:-1]])
    distances, reached = pairs[corner, 0], highest[corner]
    inside = (distances >= RANGE[0]) & (distances <= RANGE[1])
    trusted = inside & _on_hull(np.log(distances), np.log(reached))
    below = reached[distances < RANGE[0]]
    slope = 0.0
    if trusted.sum() > 1 and inside.sum() > 2:
        slope = float(np.polyfit(np.log(distances[trusted]), np.log(reached[trusted]), 1)[0])
    if below.size and inside.any():
        ends = np.log(RANGE[1] / RANGE[0])
        slope = min(slope, float(np.log(reached[inside][-1] / below[-1]) / ends))
    return Modulus(distances, reached, slope)


def _on_hull(x: Float[np.ndarray, " p"], y: Float[np.ndarray, " p"]) -> Bool[np.ndarray, " p"]:
    """Which points, given from left to right, lie on or `NEAR_HULL` the upper concave hull (Andrew's chain)."""
    hull: list[int] = []
    for new in range(len(x)):
        while len(hull) > 1:
            first, last = hull[-2:]
            if (y[last] - y[first]) * (x[new] - x[first]) > (y[new] - y[first]) * (x[last] - x[first]):
                break
            hull.pop()
        hull.append(new)
    return np.interp(x, x[hull], y[hull]) - y <= NEAR_HULL


def first_order_motions(mixture: Mixture, first: FirstOrder, amplitudes: Sequence[float]) -> list[tuple[float, float]]:
    """(distance, D_12) of the truth moved along the right singular vector of the first-order margin."""
    right = np.linalg.svd(first.columns, full_matrices=False)[2]
    direction = right[first.rank.rank - 1]
    return [_moved(mixture, first, amplitude * direction) for amplitude in amplitudes]


def _moved(mixture: Mixture, first: FirstOrder, motion: Float[np.ndarray, " P"]) -> tuple[float, float]:
    """Distance and loss after a motion given in the columns of A (of an atom's own, not its weighted, motion)."""
    total, loss = [], 0.0
    for place, own in enumerate(mixture):
        weights, atoms, common = np.array(own.weights), np.array(own.atoms), np.array(own.common)
        for index in range(len(weights)):
            columns = [i for i, (where, atom, _) in enumerate(first.names) if (where, atom) == (place, index)]
            lifts = chart_of(own, own.atoms[index], own.common).lifts
            true = float(own.weights[index])
            atoms[index] += lifts @ motion[columns[1:]] / true
            weights[index] += motion[columns[0]]
        shared = [i for i, (where, atom, _) in enumerate(first.names) if (where, atom) == (place, -1)]
        common += motion[shared]
        change, own_loss = _measured(own, *map(jnp.asarray, (np.maximum(weights, 1e-12), atoms, common)))
        total.append(np.asarray(change))
        loss += float(own_loss)
    return float(np.linalg.norm(np.sum(total, axis=0))), loss


def _splits(
    mixture: Mixture, cell: Cell, second: SecondOrder, amplitudes: Sequence[float]
) -> list[tuple[float, float]]:
    """(distance, D_12) of the best splits of one atom in two."""
    direction = cell.chart.lifts @ second.limited[2].factors[0][:, 0]
    pairs = []
    for amplitude in amplitudes:
        apart = amplitude * np.stack([direction, -direction])
        free, distance = descend(mixture, cell, apart, amplitude)
        measures = measure_of(mixture, cell.place, cell.atom, free)
        loss = sum(float(_measured(own, *measure)[1]) for own, measure in zip(mixture, measures, strict=True))
        pairs.append((distance, loss))
    return pairs


@eqx.filter_jit
def _measured(own: AbstractSet, weights: Array, atoms: Array, common: Array) -> tuple[Array, Array]:
    """f_G - f_{G*} of one set, and its D_12 in phi, without frozen cells."""
    phi = jax.vmap(own.coordinates, (0, None))
    true = phi(own.atoms, own.common)
    fitted = phi(atoms, common)
    nothing = jnp.zeros((fitted.shape[0], 0))
    points = Points(nothing, fitted, weights), Points(nothing[:1].repeat(true.shape[0], 0), true, own.weights)
    none = Points(jnp.zeros((0, 0)), true[:0], jnp.zeros(0))
    return own.moved(weights, atoms, common), losses(*points, none, False).d_12
