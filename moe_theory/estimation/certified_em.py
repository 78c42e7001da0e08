"""EM with a stopping rule on objective and gradient: it ends at a certified minimum or says that it crawls.

After every ``SWEEPS`` sweeps the point is judged by the certificate of theory section 4 (Newton decrement, possible
gain along flat and downward directions, KKT gap), which knows how far F can still fall; the change of F alone does not.
If the gains of F per block of sweeps fall by a ratio rho and the last one is D, EM still needs
log(LARGEST_DECREMENT (1 - rho) / (rho D)) / log rho blocks. If that is more than ``PATIENCE``, or F no longer changes
though the certificate does not hold, EM crawls, and the trust-region method should take over from where it stands.
Source: our derivation; the ratio is Aitken's.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.estimation.certificate import LARGEST_DECREMENT, Certificate, certify
from moe_theory.estimation.em import em
from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.mixture import MixtureKind, MixtureSpace, slacks
from moe_theory.estimation.trust_region import CONVERGED, RUNNING, SMALLEST_BARRIER, State

SWEEPS = 25
PATIENCE = 8
"""Blocks of sweeps that EM may still need by its own ratio before it is said to crawl."""
MOST_BLOCKS = 40
LEAST_GAIN = 1e-9
"""Gain of F in a block, in units of log-likelihood, below which only rounding is left of it."""


class EmEnd(NamedTuple):
    """Where EM ended.

    Attributes:
        state: the point as the trust-region method has it; CONVERGED where the certificate holds, else RUNNING.
        certificate: there.
        sweeps: done so far.
    """

    state: State
    certificate: Certificate
    sweeps: int

    @property
    def crawls(self) -> bool:
        """Whether the trust-region method should take over."""
        return not bool(self.certificate.passed)


def certified_em(
    kind: MixtureKind,
    space: MixtureSpace,
    points: Points,
    rows: Float[Array, "k q"],
    ceiling: Float[Array, ""],
) -> EmEnd:
    """Sweep until the certificate holds or EM crawls.

    Args:
        kind, space: the mixture and its parameter space.
        points: data.
        rows: start, inside the floors.
        ceiling: F that a minimiser does not exceed, as ``certify`` takes it.
    """
    values: list[float] = []
    while True:
        rows, state, certificate = _block(kind, space, points, rows, ceiling)
        values.append(float(state.value))
        if bool(certificate.passed):
            return EmEnd(state._replace(status=jnp.asarray(CONVERGED)), certificate, len(values) * SWEEPS)
        if crawls(values) or len(values) == MOST_BLOCKS:
            return EmEnd(state, certificate, len(values) * SWEEPS)


def crawls(values: list[float]) -> bool:
    """Whether EM needs more than ``PATIENCE`` blocks for the rest, by the ratio of its last two gains.

    Args:
        values: F after every block of sweeps.
    """
    if len(values) < 3:
        return False
    before, last = values[-3] - values[-2], values[-2] - values[-1]
    if last <= LEAST_GAIN:
        return True
    ratio = last / before if before > 0 else 1.0
    if ratio >= 1.0:
        return False  # not yet where gains fall geometrically
    rest = last * ratio / (1.0 - ratio)
    return bool(np.log(LARGEST_DECREMENT / rest) < PATIENCE * np.log(ratio)) if rest > LARGEST_DECREMENT else False


@partial(jax.jit, static_argnums=0)
def _block(
    kind: MixtureKind, space: MixtureSpace, points: Points, rows: Float[Array, "k q"], ceiling: Float[Array, ""]
) -> tuple[Float[Array, "k q"], State, Certificate]:
    """``SWEEPS`` sweeps, and their end as a state of the trust-region method with its certificate."""
    rows = em(kind.model, space, rows, points, SWEEPS)
    problem = kind(space, points)
    z = problem.tidied(rows.reshape(-1))
    barrier = jnp.asarray(SMALLEST_BARRIER)
    multipliers = barrier / slacks(kind.model, space, problem.rows(z))
    state = State(
        z, multipliers, barrier, jnp.ones(()), problem.value(z), jnp.asarray(jnp.inf), jnp.asarray(RUNNING),
        jnp.asarray(0),
    )  # fmt: skip
    return rows, state, certify(problem, state, ceiling)
