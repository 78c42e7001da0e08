"""rbar(m): the least r at which a cell of m atoms can no longer cancel r cumulants (theory section 6).

With a_i = q3_i^2 > 0 the system of theory section 6 says that the formal moments

    M_s = sum_i a_i sum_{m1 + 2 m2 = s} q1_i^m1 q2_i^m2 / (m1! m2!) = [t^s] sum_i a_i exp(q1_i t + q2_i t^2), s = 1..r,

of the mixture sum_i a_i N(q1_i, 2 q2_i), "variances" of either sign, vanish with some q1_i nonzero; rbar(m) is the
least r for which they cannot.

*m = 2, by elimination.* Moments 1..r vanish if and only if cumulants 1..r do. With shares p, q, delta = q1_1 - q1_2
and E = v_1 - v_2 + (q - p)/3 delta^2, v = 2 q2, the third cumulant is 3 p q E delta, so E = 0 unless delta = 0; then
the fourth is -2/3 p q (1 - p q) delta^4, which is not 0. Cumulants 1 to 3 can vanish, 4 cannot: rbar(2) = 4.

*m = 3, by search.* M_s has degree s in (q1, sqrt |q2|), so max |q1_i| = 1 is no restriction; weights have sum one and
are at least ``least_weight``, as the parameter space has them (without that a third atom may vanish and leave a
solution for one atom). The residual grows with |q2| (M_4 holds sum a q2^2 / 2), so its minimum is attained. For r = 5
it is 0, for r = 6 it is not. What is numerical is that the starts find the minimum; different starts agree.

Source: Ho and Nguyen 2016 for the system; the elimination is our derivation.
"""

from math import factorial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from moe_theory.errors import InputError

SOLVED = 1e-12
"""Largest root sum of squares of the moments that counts as a solution."""


class Residual(NamedTuple):
    """The least residual found.

    Attributes:
        least: root sum of squares of M_1 ... M_r on the normalised set.
        weights, first, second: a, q1, q2 there.
        starts: how many were tried.
    """

    least: float
    weights: Float[np.ndarray, " m"]
    first: Float[np.ndarray, " m"]
    second: Float[np.ndarray, " m"]
    starts: int

    @property
    def solvable(self) -> bool:
        """Whether that is a solution to rounding."""
        return self.least < SOLVED


def moments(
    weights: Float[np.ndarray, " m"], first: Float[np.ndarray, " m"], second: Float[np.ndarray, " m"], r: int
) -> Float[np.ndarray, " r"]:
    """M_1 ... M_r."""
    found = np.zeros(r)
    for s in range(1, r + 1):
        for m2 in range(s // 2 + 1):
            m1 = s - 2 * m2
            found[s - 1] += weights @ (first**m1 * second**m2) / (factorial(m1) * factorial(m2))
    return found


def least_residual(m: int, r: int, starts: int = 200, least_weight: float = 0.05, seed: int = 0) -> Residual:
    """Search for a solution of M_1 = ... = M_r = 0 in m atoms.

    Args:
        m: atoms, at least 2.
        r: equations.
        starts: random starts of a least-squares search.
        least_weight: of an atom, whose weights have sum one.
        seed: of the starts.

    Raises:
        InputError: for m below 2, r below 1, or weights that leave no room.
    """
    if m < 2 or r < 1 or not 0 < least_weight * m < 1:
        raise InputError(f"m must be at least 2, r at least 1, least_weight in (0, 1/m); got {m}, {r}, {least_weight}")
    rng = np.random.default_rng(seed)

    def normalised(point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        share = point[:m] ** 2
        weights = least_weight + (1.0 - m * least_weight) * share / share.sum()
        first, second = point[m : 2 * m], point[2 * m :]
        size = np.max(np.abs(first))
        return weights, first / size, second / size**2

    best = None
    for _ in range(starts):
        found = least_squares(
            lambda point: moments(*normalised(point), r), rng.standard_normal(3 * m), xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return Residual(float(np.sqrt(2.0 * best.cost)), *normalised(best.x), starts)
