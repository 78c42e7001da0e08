"""Lower bounds of a modulus of continuity from measures that were evaluated, and the two-point bound that they imply.

The numbers alone, without the models (``modulus`` finds the measures): what is stored can be read and drawn at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

RESOLVED = 1e-12
"""Distance below which nothing but rounding is left; outputs are of order one."""
RANGE = (1e-6, 1e-2)
"""delta over which the slope is taken: sigma sqrt(p / n) at the sizes at which over-fitted laws are judged, from
n = 10^5 (p / sigma^2 = 10) to 10^13. Omega saturates above, where an atom is as far away as Theta lets it be."""


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

    def two_points(self, n: Float[np.ndarray, " sizes"], sigma: float) -> Float[np.ndarray, " sizes"]:
        """Le Cam's lower bound: an error that no estimator stays below at both of two measures.

            B_n = max_G D(G, G*) Phi( - sqrt(n) || f_G - f_{G*} || / (2 sigma) )

        over the measures G that were found, Phi the standard normal distribution function. For every estimator G^ of n
        samples y = f(x) + sigma z, x ~ mu, z standard normal,

            max( E_{G*} D(G^, G*),  E_G | D(G^, G*) - D(G, G*) | ) >= B_n.

        Proof. Let T = D(G^, G*). |T| + |T - D(G, G*)| >= D(G, G*), so the two risks add up to at least
        D(G, G*) times the integral of the smaller density, which is 1 - TV. Given the inputs, the two laws of y are
        normal with means sqrt(n) d_n apart in units of sigma, d_n^2 = mean over the sample of || f_G - f_{G*} ||^2, and
        TV = 2 Phi(sqrt(n) d_n / (2 sigma)) - 1, concave in d_n^2, whose mean is || f_G - f_{G*} ||^2 (L2(mu)): Jensen.
        Half of the sum bounds the larger risk. Neither symmetry nor a triangle inequality of D is used. The first risk
        is the mean of the simulated D_12; a procedure may do better at the one G*, but then not near by.

        Args:
            n: sample sizes.
            sigma: standard deviation of the noise.

        Source: Le Cam's method, Tsybakov 2009, chapter 2; our derivation of the form.
        """
        reach = np.sqrt(n)[:, None] * self.distances / (2.0 * sigma)
        return np.max(self.losses * ndtr(-reach), axis=1)


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
