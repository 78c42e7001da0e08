"""Margins over many truths: at random ones, and along a path towards a truth where the model breaks down.

Margins speak of one truth. What is *generic* shows at random truths, of which a margin may be zero at some; how much a
margin is worth shows on a path theta(s), s -> 0, towards

    equal   theta_2(s) = theta_1 + s (theta_2 - theta_1): two atoms become one, and H_1 - H_2 vanishes;
    zero    theta_1(s) = sqrt(s) theta_1: low-rank products shrink as s, towards the pre-trained (frozen) atom,

along which a margin falls as a power of s: an error bound of constant C at s = 1 has C s^-a there. Our derivation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.theory.families import AbstractSet
from moe_theory.theory.margins import Decision, Mixture, cells_of, first_order
from moe_theory.theory.second_order import second_order
from moe_theory.threads import one_blas_thread

STARTS = 4
"""Of each rank-limited problem: many truths, so fewer starts than at a single one."""
SIZES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""s along a path."""

Towards = Literal["equal", "zero"]


class Margins(NamedTuple):
    """The margins of one truth, each the least over its atoms.

    Attributes:
        first: first-order margin; 0 at a singular truth.
        any_atoms, two_atoms: second-order margins of cells of any number of atoms, and of two.
        decision: zero if an atom's is, otherwise undecided if an atom's is, otherwise positive.
    """

    first: float
    any_atoms: float
    two_atoms: float
    decision: Decision


@one_blas_thread
def margins_of(mixture: Mixture) -> Margins:
    """The margins of one truth; splits are not followed.

    Raises:
        InputError: as ``first_order``.
    """
    first = first_order(mixture)
    each = [second_order(first, [cell], STARTS) for cell in cells_of(mixture)]
    decisions = {second.decision for second in each}
    worst: Decision = "zero" if "zero" in decisions else "undecided" if "undecided" in decisions else "positive"
    least = min(second.minimum.value for second in each), min(second.limited[2].value for second in each)
    return Margins(0.0 if first.is_singular else first.margin, *least, worst)


class Spread(NamedTuple):
    """Margins at several truths.

    Attributes:
        truths: the margins of each.
    """

    truths: tuple[Margins, ...]

    def share(self, decision: Decision) -> float:
        """Share of the truths whose second-order margin is decided so."""
        return float(np.mean([each.decision == decision for each in self.truths]))

    @property
    def singular(self) -> float:
        """Share of the truths whose first-order margin is zero."""
        return float(np.mean([each.first == 0.0 for each in self.truths]))

    def values(self, name: str) -> Float[np.ndarray, " truths"]:
        """One of the margins at all truths, sorted."""
        return np.sort([getattr(each, name) for each in self.truths])


class Path(NamedTuple):
    """Margins along a path.

    Attributes:
        towards: where to.
        sizes: s, from 1 down.
        truths: the margins at each s.
    """

    towards: Towards
    sizes: tuple[float, ...]
    truths: tuple[Margins, ...]

    def power(self, name: str) -> float | None:
        """a in margin ~ s^a over the second half of the path; None where a margin is zero there."""
        half = len(self.sizes) // 2
        values = np.array([getattr(each, name) for each in self.truths])[half:]
        zero = name != "first" and any(each.decision != "positive" for each in self.truths[half:])
        if zero or np.min(values) <= 0.0:
            return None
        return float(np.polyfit(np.log(self.sizes[half:]), np.log(values), 1)[0])


def path_towards(mixture: Mixture, towards: str, sizes: Sequence[float] = SIZES) -> Path:
    """The margins on the way to a truth where the model breaks down.

    Args:
        mixture: the truth at s = 1.
        towards: 'equal' or 'zero'.
        sizes: s.

    Raises:
        InputError: for an unknown path, or 'equal' with a single atom.
    """
    if towards not in MOVES:
        raise InputError(f"a path leads towards {' or '.join(MOVES)}, got {towards!r}")
    name: Towards = "equal" if towards == "equal" else "zero"
    truths = [margins_of([MOVES[name](own, size) for own in mixture]) for size in sizes]
    return Path(name, tuple(sizes), tuple(truths))


def _towards_equal(own: AbstractSet, size: float) -> AbstractSet:
    if len(own.weights) < 2:
        raise InputError("two atoms cannot become one where there is one: use more true atoms, or the path 'zero'")
    moved = own.atoms.at[1].set(own.atoms[0] + size * (own.atoms[1] - own.atoms[0]))
    return own.at(own.weights, moved, own.common)


def _towards_zero(own: AbstractSet, size: float) -> AbstractSet:
    return own.at(own.weights, own.atoms.at[0].mul(jnp.sqrt(size)), own.common)


MOVES: Mapping[Towards, Callable[[AbstractSet, float], AbstractSet]] = {
    "equal": _towards_equal, "zero": _towards_zero,
}  # fmt: skip
"""The truth at s of each path."""
