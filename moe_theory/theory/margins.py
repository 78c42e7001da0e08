"""First-order margins of identifiability: which rate, before anything is sampled (theory section 8).

With H_j the responses of the true atoms (``families``) and phi the coordinates in which motions are measured,

- *directions* of an atom are lifts u = J^+ z, J = d phi / d theta, ||z|| = 1: the gauge is the kernel of J;
- the *first-order margin* is the least singular value of A = { H_j, D_u H_j, common }, after the combinations that are
  zero at every truth near by (the softmax's common shift) are divided out;
- the second derivatives in the same lifts are what ``second_order`` needs.

*Numerical zero.* A singular value counts as zero below ``RELATIVE_ZERO`` of the largest one, and the decision is sound
only if the smallest kept and the largest dropped value are ``LEAST_GAP`` apart, which is recorded. Margins are
invariant under gauge motions, because the lifts are taken in phi.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.jitting import filter_jitted
from moe_theory.precision import require_x64
from moe_theory.theory.decomposition import singular_values, svd
from moe_theory.theory.families import AbstractSet

RELATIVE_ZERO = 1e-10
LEAST_GAP = 1e3
NEAR = 0.1

Mixture = Sequence[AbstractSet]
Decision = Literal["positive", "zero", "undecided"]


class Rank(NamedTuple):
    """How many singular values count, and how clear that is.

    Attributes:
        rank: how many are above the threshold.
        least: the smallest of them (0 if none).
        largest_dropped: the largest of the others (0 if none).
        threshold: ``RELATIVE_ZERO`` of the largest.
    """

    rank: int
    least: float
    largest_dropped: float
    threshold: float

    @property
    def gap(self) -> float:
        """Smallest kept over largest dropped; infinite if nothing is dropped."""
        return self.least / self.largest_dropped if self.largest_dropped > 0.0 else float("inf")


def rank_of(values: Float[np.ndarray, " s"]) -> Rank:
    """Count the singular values that are not rounding.

    Args:
        values: largest first.
    """
    threshold = RELATIVE_ZERO * float(values[0]) if len(values) else 0.0
    rank = int(np.sum(values > threshold))
    least = float(values[rank - 1]) if rank else 0.0
    return Rank(rank, least, float(values[rank]) if rank < len(values) else 0.0, threshold)


class Chart(NamedTuple):
    """Directions of one atom.

    Attributes:
        lifts: u = J^+ z for an orthonormal basis z of the range of J.
        gauge: an orthonormal basis of the kernel of J.
        along: rows z'J, which read the coordinates z of a motion of theta.
        rank: of J.
    """

    lifts: Float[np.ndarray, "q p"]
    gauge: Float[np.ndarray, "q g"]
    along: Float[np.ndarray, "p q"]
    rank: Rank


class Cell(NamedTuple):
    """One true atom with its first and second derivatives, in lifted directions.

    Attributes:
        place, atom: the set, and the atom's number in it.
        chart: its directions.
        response: H.
        slopes: D_u H, one column per lift.
        bends: 1/2 D^2 H[u, v] over lifts.
        gauge_legs: 1/2 D^2 H[u, g] over lifts and gauge motions.
    """

    place: int
    atom: int
    chart: Chart
    response: Float[np.ndarray, " N"]
    slopes: Float[np.ndarray, "N p"]
    bends: Float[np.ndarray, "N p p"]
    gauge_legs: Float[np.ndarray, "N g_pg"]


class FirstOrder(NamedTuple):
    """The first-order span A and what is known of it.

    Attributes:
        margin: least singular value of A off the common invariances; 0 at a singular truth.
        condition: largest over smallest singular value that counts.
        rank: of A.
        invariances: orthonormal combinations of A's columns that vanish, (P, nullity).
        generic_nullity: how many of them vanish at the truths near by too.
        basis: orthonormal basis of A's span.
        columns: A.
        names: what each column of A moves: (set, atom or -1 for common parameters, lift or -1 for the weight).
    """

    margin: float
    condition: float
    rank: Rank
    invariances: Float[np.ndarray, "P nullity"]
    generic_nullity: int
    basis: Float[np.ndarray, "N rank"]
    columns: Float[np.ndarray, "N P"]
    names: tuple[tuple[int, int, int], ...]

    @property
    def is_singular(self) -> bool:
        """Whether more combinations vanish at this truth than at those near by."""
        return self.invariances.shape[1] > self.generic_nullity


@filter_jitted
def _jacobian(own: AbstractSet, atom: Array, common: Array) -> Array:
    return jax.jacfwd(own.coordinates)(atom, common)


@filter_jitted
def _first(own: AbstractSet, atom: Array, common: Array, lifts: Array) -> tuple[Array, Array, Array]:
    """(H, D_u H, D_common H)."""

    def along(u: Array) -> Array:
        return jax.jvp(lambda moved: own.response(moved, common), (atom,), (u,))[1]

    shared = jax.jacfwd(lambda moved: own.response(atom, moved))(common)
    return own.response(atom, common), jax.vmap(along, 1, 1)(lifts), shared


@filter_jitted
def _second(own: AbstractSet, atom: Array, common: Array, directions: Array, lifts: Array) -> Array:
    """D^2 H[v, u] for all directions v and lifts u, (directions, N, lifts)."""

    def slope(moved: Array, u: Array) -> Array:
        return jax.jvp(lambda point: own.response(point, common), (moved,), (u,))[1]

    def row(v: Array) -> Array:
        return jax.vmap(lambda u: jax.jvp(lambda point: slope(point, u), (atom,), (v,))[1], 1, 1)(lifts)

    return jax.lax.map(row, directions.T)


def chart_of(own: AbstractSet, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Chart:
    """Lifts and gauge of one atom, from the singular value decomposition of d phi / d theta."""
    jacobian = np.asarray(_jacobian(own, atom, common))
    left, values, right = svd(jacobian, full_matrices=True)
    rank = rank_of(values)
    kept = right[: rank.rank].T
    along = left[:, : rank.rank].T @ jacobian
    return Chart(kept / values[: rank.rank], right[rank.rank :].T, along, rank)


def cell_of(own: AbstractSet, place: int, index: int) -> Cell:
    """One true atom's derivatives."""
    atom, chart = own.atoms[index], chart_of(own, own.atoms[index], own.common)
    lifts, gauge = jnp.asarray(chart.lifts), jnp.asarray(chart.gauge)
    response, slopes, _ = _first(own, atom, own.common, lifts)
    both = jnp.concatenate([lifts, gauge], axis=1)
    second = 0.5 * np.asarray(_second(own, atom, own.common, both, lifts))
    p = lifts.shape[1]
    bends = np.transpose(second[:p], (1, 0, 2))
    legs = np.transpose(second[p:], (1, 0, 2)).reshape(response.shape[0], -1)
    return Cell(place, index, chart, np.asarray(response), np.asarray(slopes), bends, legs)


def cells_of(mixture: Mixture) -> list[Cell]:
    """All true atoms, set by set.

    Raises:
        InputError: if float64 is off.
    """
    require_x64()
    return [cell_of(own, place, index) for place, own in enumerate(mixture) for index in range(len(own.weights))]


def _columns(mixture: Mixture) -> tuple[Float[np.ndarray, "N P"], tuple[tuple[int, int, int], ...]]:
    """A, and what each column moves."""
    columns, names = [], []
    for place, own in enumerate(mixture):
        shared = np.zeros((0, 0))
        for index in range(len(own.weights)):
            lifts = jnp.asarray(chart_of(own, own.atoms[index], own.common).lifts)
            response, slopes, common = map(np.asarray, _first(own, own.atoms[index], own.common, lifts))
            columns += [response[:, None], slopes]
            names += [(place, index, lift) for lift in range(-1, slopes.shape[1])]
            weighted = float(own.weights[index]) * common
            shared = weighted if index == 0 else shared + weighted
        columns.append(shared)
        names += [(place, -1, number) for number in range(shared.shape[1])]
    return np.concatenate(columns, axis=1), tuple(names)


def first_order(mixture: Mixture) -> FirstOrder:
    """The first-order margin, and how many combinations vanish at every truth.

    A map of constant rank near the truth has invariances, the ones to be divided out; a rank that drops at the truth
    itself makes it singular, and the margin 0.

    Raises:
        InputError: with fewer numbers than directions, which more support points cure.
    """
    columns, names = _columns(mixture)
    if columns.shape[0] < columns.shape[1]:
        raise InputError(
            f"{columns.shape[0]} numbers on the support cannot tell {columns.shape[1]} directions apart: use more "
            "points"
        )
    left, values, right = svd(columns)
    rank = rank_of(values)
    nullity = columns.shape[1] - rank.rank
    generic = min([nullity, *(_nullity(near) for near in nearby(mixture))]) if nullity else 0
    singular = nullity > generic or _drops(mixture)
    return FirstOrder(
        margin=0.0 if singular else rank.least,
        condition=float(values[0]) / rank.least,
        rank=rank,
        invariances=right[rank.rank :].T,
        generic_nullity=generic,
        basis=left[:, : rank.rank],
        columns=columns,
        names=names,
    )


def _nullity(mixture: Mixture) -> int:
    columns = _columns(mixture)[0]
    return columns.shape[1] - rank_of(singular_values(columns)).rank


def _drops(mixture: Mixture) -> bool:
    """Whether the coordinates themselves are singular at a true atom."""
    near = nearby(mixture, 1)[0]
    return any(
        chart_of(own, own.atoms[index], own.common).rank.rank < chart_of(by, by.atoms[index], by.common).rank.rank
        for own, by in zip(mixture, near, strict=True)
        for index in range(len(own.weights))
    )


def nearby(mixture: Mixture, count: int = 2, size: float = NEAR) -> list[list[AbstractSet]]:
    """The same model at random truths near by: atoms moved by ``size`` of the set's ``sizes``, weights by as much.

    Args:
        mixture: where.
        count: how many.
        size: relative.
    """
    moved = []
    for number in range(count):
        rng = np.random.default_rng([number, 8])
        sets = []
        for own in mixture:
            atoms = own.atoms + size * np.asarray(own.sizes) * rng.standard_normal(own.atoms.shape)
            weights = own.weights * np.exp(size * rng.standard_normal(own.weights.shape))
            common = own.common * (1.0 + size * rng.standard_normal(own.common.shape))
            sets.append(own.at(weights, atoms, common))
        moved.append(sets)
    return moved


def off_span(first: FirstOrder, vectors: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N k"]:
    """(I - P) of the columns, projected twice because once leaves rounding of the size of what was removed."""
    for _ in range(2):
        vectors = vectors - first.basis @ (first.basis.T @ vectors)
    return vectors
