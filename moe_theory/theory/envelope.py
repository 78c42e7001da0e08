"""Lower bounds of a modulus of continuity from measures that were evaluated, and the two-point bound that they imply.

The numbers alone, without the models (``modulus`` finds the measures): what is stored can be read and drawn at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

RESOLVED = 1e-12
"""Distance below which nothing but rounding is left; outputs are of order one."""
RANGE = (1e-6, 1e-3)
"""delta over which the slope is taken: sigma sqrt(p / n) for n from 10^7 to 10^13 at p = 10. Above, atoms come as far
as Theta lets them, and omega is no power."""
INVISIBLE = 1e-11
"""Distance in L2(mu) that counts as rounding; outputs are of order one."""
APART = 1e-6
"""D_12 of a measure away from the truth: below it f_G need not move by more than rounding, at a small margin."""
LATTICE = 61


def chi_of(hellinger: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """The chi of ``Modulus.two_densities`` at which its bound (1 + chi^2)^(-1/2) of the affinity is 1 - h^2 itself.

    Args:
        hellinger: h = (1 - A)^(1/2), A the affinity; not rounding, below 1.
    """
    return np.sqrt(np.expm1(-2.0 * np.log1p(-(hellinger**2))))


class Modulus(NamedTuple):
    """Lower bounds of omega, each proved by a measure that was evaluated.

    Attributes:
        distances: || f_G - f_{G*} ||, or chi of a density (``two_densities``), increasing; rounding is cut at
            ``RESOLVED``.
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

    def two_densities(self, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """The same of n draws from a density, whose distances are chi = || (p_G - p_{G*}) / sqrt(p_{G*}) ||:

            B_n = max_G D(G, G*) ( 1 - ( 1 - (1 + chi^2)^(-n) )^(1/2) ) / 2.

        Proof. As above with 1 - TV >= 1 - (1 - A^(2n))^(1/2), A = int sqrt(p_G p_{G*}) the affinity of one draw (Le
        Cam), and A >= exp( - KL(p_G, p_{G*}) / 2 ) >= (1 + chi^2)^(-1/2), twice by Jensen's inequality.

        Args:
            n: sample sizes.

        Source: Tsybakov 2009, chapter 2; our derivation of the form.
        """
        apart = -np.expm1(-n[:, None] * np.log1p(self.distances**2))
        return np.max(0.5 * self.losses * (1.0 - np.sqrt(apart)), axis=1)


def envelope(found: Sequence[tuple[float, float]]) -> Modulus:
    """The increasing envelope of (distance, loss) pairs, and its slope.

    The slope is 0 if a measure away from the truth does not move f_G at all: omega does not go to 0 then. Otherwise it
    is that of the least-squares line through log omega on a lattice of log delta in ``RANGE``, straight between the
    corners of the envelope, so that many measures at one distance count no more than one.
    """
    pairs = np.array(sorted((max(distance, RESOLVED), loss) for distance, loss in found))
    highest = np.maximum.accumulate(pairs[:, 1])
    last = np.append(pairs[1:, 0] > pairs[:-1, 0], True)
    distances, reached = pairs[last, 0], highest[last]
    higher = np.append(True, reached[1:] > reached[:-1])
    distances, reached = distances[higher], reached[higher]
    return Modulus(distances, reached, _slope(distances, reached))


def _slope(distances: Float[np.ndarray, " p"], reached: Float[np.ndarray, " p"]) -> float:
    ends = max(RANGE[0], float(distances[0])), min(RANGE[1], float(distances[-1]))
    hidden = reached[distances <= INVISIBLE]
    if np.any(hidden > APART) or ends[0] >= ends[1]:
        return 0.0
    lattice = np.linspace(float(np.log(ends[0])), float(np.log(ends[1])), LATTICE)
    return float(np.polyfit(lattice, np.interp(lattice, np.log(distances), np.log(reached)), 1)[0])
