"""The first-order margin of a fitted atom in a frozen atom's cell.

The parametrisation by factors is singular at a frozen atom, Delta = 0: with the left factors at zero every right factor
A gives the same atom, and its tangents are { B A : B }. One fitted atom of weight w close by moves f_G by

    w ( H(0) + <D, DH(0)> ) / D_G*,   D a tangent of some A,

to first order; H(0) is a combination of the H_j (the frozen atom is one of the softmax's own), and D_12 counts w ||D||
there, distances in a cell of one atom at power one. So D_12 is at n^-1/2 in this cell if

    min || (I - P) <D, DH(0)> ||   over D with || D ||_phi = 1

is positive, P the projection on the first-order span. The minimum over the *span* of the tangents of all A, which holds
matrices of any rank, is a lower bound; the least over the A that were tried an upper one. It is zero where a common
shift of all atoms' scores, which the softmax does not see, moves every true atom along its own tangents: adapters whose
query is their own, D = B_1 A_2 for two atoms of rank one under the attention gate. Source: our derivation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.jitting import filter_jitted
from moe_theory.theory.decomposition import singular_values, svd
from moe_theory.theory.families import AbstractSet
from moe_theory.theory.margins import RELATIVE_ZERO, Decision, FirstOrder, Mixture, off_span, rank_of

LEFT = ("B", "B_Q", "B_V", "m_Q", "m_V")
"""Blocks that vanish at the pre-trained atom; gains are relative."""
MOST_DRAWS = 16
"""Right factors that are tried beside the true atoms', until their tangents span no more."""


class FrozenMargin(NamedTuple):
    """What one fitted atom does in the frozen atoms' cells.

    Attributes:
        lower: least distance of a unit motion from the first-order span, over the span of all tangents.
        upper: the same over the tangents of the right factors that were tried.
        dimension: of the span of motions.
        decision: whether the margin is zero.
    """

    lower: float
    upper: float
    dimension: int
    decision: Decision


def frozen_margin(mixture: Mixture, first: FirstOrder) -> FrozenMargin | None:
    """The margin of the sets' frozen atoms; None where no atom comes near one.

    Args:
        mixture, first: where.
    """
    found = [margin for margin in (_of_set(own, first) for own in mixture) if margin is not None]
    return min(found, key=lambda margin: (margin.upper, margin.lower)) if found else None


def _of_set(own: AbstractSet, first: FirstOrder) -> FrozenMargin | None:
    free = [place for name, place in zip(own.blocks.names, own.blocks.slices, strict=True) if name in LEFT]
    if not free:
        return None
    columns = np.concatenate([np.arange(place.start, place.stop) for place in free])
    drawn = np.random.default_rng(0).standard_normal((MOST_DRAWS, own.atoms.shape[1]))
    motions, slopes, upper, rank = [], [], np.inf, 0
    for draw, atom in enumerate(np.concatenate([np.asarray(own.atoms), drawn])):
        held = np.where(np.isin(np.arange(len(atom)), columns), 0.0, atom)
        if not own.is_frozen(jnp.asarray(held)):
            return None
        moved, pulled = (np.asarray(part)[:, columns] for part in _tangents(own, jnp.asarray(held), own.common))
        motions.append(moved)
        slopes.append(off_span(first, pulled))
        upper = min(upper, _least(moved, slopes[-1]))
        before, rank = rank, rank_of(singular_values(np.concatenate(motions, axis=1))).rank
        if rank == before and draw >= len(own.atoms):
            break
    lower = _least(np.concatenate(motions, axis=1), np.concatenate(slopes, axis=1))
    decision: Decision = "positive" if lower > 0.0 else "zero" if upper == 0.0 else "undecided"
    return FrozenMargin(lower, upper, rank, decision)


def _least(motions: Float[np.ndarray, "e c"], slopes: Float[np.ndarray, "N c"]) -> float:
    """Least size of a combination of slopes whose motion has norm one; 0 if it is rounding."""
    _, values, right = svd(motions)
    rank = rank_of(values).rank
    singular = singular_values(slopes @ (right[:rank].T / values[:rank]))
    least = float(singular[-1]) if len(singular) == rank else 0.0
    return least if least > RELATIVE_ZERO * float(singular[0]) else 0.0


@filter_jitted
def _tangents(own: AbstractSet, atom: Array, common: Array) -> tuple[Array, Array]:
    """(d phi / d theta, d H / d theta)."""
    return jax.jacfwd(own.coordinates)(atom, common), jax.jacfwd(own.response)(atom, common)
