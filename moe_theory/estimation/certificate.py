"""When a fit counts: the certificate of theory section 4, computed afresh from the final point.

1. F is not above F at the truth (necessary for a minimiser).
2. The Newton decrement 1/2 g' W^+ g of the Lagrangian on a lane's steps is at most ``LARGEST_DECREMENT``; where the
   curvature is below rounding the possible gain |slope| x reach is at most ``LARGEST_UNRESOLVED``.
3. Along no eigenvector of W may F fall by more than that for its negative curvature, 1/2 |value| x reach^2. (A bound on
   the eigenvalue itself, relative to the largest, would refuse minima for curvatures that mean nothing: -10^-12 of the
   largest at n = 10^3 is 10^-6 sigma^2/n over the whole of Theta.)
4. Among starts that pass 1 to 3 none is lower by more than ``SPREAD`` (the replication keeps the lowest).
KKT at the bounds: the multipliers are lambda = mu / s, positive, and complementarity sum lambda s is at most
``LARGEST_GAP``: that much F could at most fall by moving along active constraints. All in units of sigma^2 / n.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe_theory.estimation.smooth import AbstractProblem
from moe_theory.estimation.spectrum import possible_gains
from moe_theory.estimation.trust_region import Standpoint, State, centred, standpoint

LARGEST_DECREMENT = 1e-4
LARGEST_UNRESOLVED = 1e-3
LARGEST_GAP = 1e-4
SPREAD = 1e-3
ACTIVE_SLACK = 1e-3


class Certificate(NamedTuple):
    """What was found at the final point of one lane.

    Attributes:
        excess: F - F(truth); minimisers have it negative.
        decrement: Newton decrement over resolved curvature.
        unresolved: possible gain along directions whose curvature is below rounding.
        downward: possible gain along negative curvature.
        gap: complementarity sum lambda s.
        at_bound: whether a constraint is active (slack below ``ACTIVE_SLACK``).
        passed: 1 to 3 and the gap.
    """

    excess: Float[Array, "*lanes"]
    decrement: Float[Array, "*lanes"]
    unresolved: Float[Array, "*lanes"]
    downward: Float[Array, "*lanes"]
    gap: Float[Array, "*lanes"]
    at_bound: Bool[Array, "*lanes"]
    passed: Bool[Array, "*lanes"]


def certify(problem: AbstractProblem, state: State, truth_value: Float[Array, ""]) -> Certificate:
    """Certificate of one lane; vmap over lanes.

    Args:
        problem: the lane's data and parameter space.
        state: its final state; only point and barrier are used.
        truth_value: F at the truth.
    """
    return judge(standpoint(problem, centred(problem, state)), truth_value)


def judge(at: Standpoint, truth_value: Float[Array, ""]) -> Certificate:
    """The certificate of a ``centred`` state's standpoint."""
    local = at.local
    gains = possible_gains(local.spectrum)
    excess = local.value - truth_value
    gap = jnp.sum(at.state.multipliers * local.slacks)
    flat = jnp.maximum(gains.unresolved, gains.downward) <= LARGEST_UNRESOLVED
    stationary = (gains.decrement <= LARGEST_DECREMENT) & flat
    return Certificate(
        excess=excess,
        decrement=gains.decrement,
        unresolved=gains.unresolved,
        downward=gains.downward,
        gap=gap,
        at_bound=jnp.min(local.slacks) < ACTIVE_SLACK,
        passed=stationary & (gap <= LARGEST_GAP) & (excess <= 1e-9 * jnp.abs(truth_value)),
    )


def explain(certificate: Certificate) -> str:
    """Why one lane (scalars) passed or failed, in English."""
    if not np.isfinite(certificate.excess):
        return "the objective is not finite"
    if certificate.decrement > LARGEST_DECREMENT:
        return f"Newton decrement {float(certificate.decrement):.2g} sigma^2/n: not converged"
    if certificate.excess > 0 and not certificate.passed:
        return f"objective above that of the truth by {float(certificate.excess):.3g} sigma^2/n: a local minimum"
    if certificate.unresolved > LARGEST_UNRESOLVED:
        return f"possible gain {float(certificate.unresolved):.2g} sigma^2/n along curvature below rounding"
    if certificate.gap > LARGEST_GAP:
        return f"complementarity gap {float(certificate.gap):.2g} sigma^2/n"
    if not certificate.passed:
        return f"possible gain {float(certificate.downward):.2g} sigma^2/n along negative curvature"
    return "minimum at a bound of the parameter space" if certificate.at_bound else "interior minimum"
