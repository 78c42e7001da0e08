"""The gauge of a mixture in words: which motions leave f_G as it is, and why, dimension by dimension."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from moe_theory.theory.decomposition import svd
from moe_theory.theory.families import AbstractSet
from moe_theory.theory.margins import Cell, FirstOrder, Mixture, chart_of
from moe_theory.theory.visibility import Split, split_of

INSIDE = 1e-6
"""A tangent lies in a null space if its part outside is below this share of it."""


class GaugePart(NamedTuple):
    """Some of the dimensions of the gauge, and why they are there."""

    dimension: int
    words: str


def _inside(space: Float[np.ndarray, "n g"], vectors: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n i"]:
    """Orthonormal basis of the part of a span that lies in a space (given by an orthonormal basis)."""
    if not vectors.shape[1] or not space.shape[1]:
        return np.zeros((space.shape[0], 0))
    left, values, _ = svd(vectors)
    span = left[:, values > INSIDE * max(float(values[0]), 1e-300)]
    _, cosines, turn = svd(space.T @ span)
    return span @ turn[cosines > 1.0 - INSIDE].T


def _explained(
    space: Float[np.ndarray, "n g"], candidates: list[tuple[str, Float[np.ndarray, "n _"]]], rest: str
) -> tuple[GaugePart, ...]:
    """Dimensions of a null space by the first candidate that contains them."""
    parts, known = [], np.zeros((space.shape[0], 0))
    for words, vectors in candidates:
        joined = _inside(space, np.concatenate([known, vectors], axis=1))
        if joined.shape[1] > known.shape[1]:
            parts.append(GaugePart(joined.shape[1] - known.shape[1], words))
            known = joined
    if space.shape[1] > known.shape[1]:
        parts.append(GaugePart(space.shape[1] - known.shape[1], rest))
    return tuple(parts)


def gauge_of(own: AbstractSet, cell: Cell) -> tuple[GaugePart, ...]:
    """The dimensions of one atom's gauge, explained."""
    atom = np.asarray(own.atoms[cell.atom])
    candidates = [
        (words, np.asarray(tangents).T) for words, tangents in own.known_gauge(own.atoms[cell.atom], own.common)
    ]
    candidates += _products(own, atom) + _scales(own, atom)
    return _explained(cell.chart.gauge, candidates, "what score and output do not see in so few dimensions")


def _scales(own: AbstractSet, atom: Float[np.ndarray, " q"]) -> list[tuple[str, Float[np.ndarray, "q _"]]]:
    """The length of a block, and of two blocks against each other."""
    found = []
    for name, place in zip(own.blocks.names, own.blocks.slices, strict=True):
        radial = np.zeros((len(atom), 1))
        radial[place, 0] = atom[place]
        found.append((f"the length of {name}", radial))
    for i, (name, _) in enumerate(found[: len(own.blocks.names)]):
        for other, vectors in found[i + 1 : len(own.blocks.names)]:
            words = f"{name} against {other.removeprefix('the length of ')}"
            found.append((words, found[i][1] - vectors))
    return found


def _products(own: AbstractSet, atom: Float[np.ndarray, " q"]) -> list[tuple[str, Float[np.ndarray, "q _"]]]:
    """GL(r) of any two blocks that can be multiplied."""
    found = []
    parts = list(zip(own.blocks.names, own.blocks.slices, own.blocks.shapes, strict=True))
    for left, at_left, left_shape in parts:
        for right, at_right, right_shape in parts:
            if left == right or len(left_shape) != 2 or len(right_shape) != 2 or left_shape[1] != right_shape[0]:
                continue
            r = left_shape[1]
            b, a = atom[at_left].reshape(left_shape), atom[at_right].reshape(right_shape)
            tangents = np.zeros((len(atom), r * r))
            for number, unit in enumerate(np.eye(r * r).reshape(r * r, r, r)):
                tangents[at_left, number] = (b @ unit).ravel()
                tangents[at_right, number] = -(unit @ a).ravel()
            found.append((f"GL({r}) of the product {left} {right}", tangents))
    return found


def common_gauge_of(mixture: Mixture, first: FirstOrder) -> tuple[GaugePart, ...]:
    """The combinations of several atoms that vanish, explained: common shifts of weights or of a block."""
    candidates = []
    for place, own in enumerate(mixture):
        weights = np.zeros((len(first.names), 1))
        for column, (where, atom, lift) in enumerate(first.names):
            if where == place and atom >= 0 and lift < 0:
                weights[column] = float(own.weights[atom])
        candidates.append(("the softmax's common shift of all log-weights", weights))
        for name, block in zip(own.blocks.names, own.blocks.slices, strict=True):
            candidates.append((f"a common shift of {name} of all atoms", _block_shifts(own, first, place, block)))
    rest = "common motions of several atoms that the softmax does not see"
    return _explained(first.invariances, candidates, rest)


def _block_shifts(own: AbstractSet, first: FirstOrder, place: int, block: slice) -> Float[np.ndarray, "P k"]:
    """The shift of each entry of a block by the same amount in all atoms of a set, as combinations of A's columns."""
    shifts = np.zeros((len(first.names), block.stop - block.start))
    for atom in range(len(own.weights)):
        along = chart_of(own, own.atoms[atom], own.common).along
        for column, (where, which, lift) in enumerate(first.names):
            if (where, which) == (place, atom) and lift >= 0:
                shifts[column] = float(own.weights[atom]) * along[lift, block]
    return shifts


def orbit_split(mixture: Mixture, first: FirstOrder, cells: Sequence[Cell]) -> Split | None:
    """The split of all atoms at once along their common gauge, or None where that moves nothing but weights.

    If f_G = f_G* then the mean of G and G* has this f too: f is one sum over atoms over another, and both sums are
    linear in the measure. So where all atoms can move together unseen, as when the scores of an un-anchored softmax
    shift alike, each may be split into one part that moves and one that stays. The motion must leave what atoms share
    as it is, because the parts share it. Source: our derivation.

    Args:
        mixture, first: the whole.
        cells: all of its atoms.
    """
    shared = [column for column, (_, atom, _) in enumerate(first.names) if atom < 0]
    _, sizes, turn = svd(first.invariances[shared], full_matrices=True)
    motions = first.invariances @ turn[np.sum(sizes > INSIDE) :].T
    if not motions.shape[1]:
        return None
    parts = []
    for cell in cells:
        own = [
            column
            for column, (place, atom, lift) in enumerate(first.names)
            if (place, atom) == (cell.place, cell.atom) and lift >= 0
        ]
        parts.append(motions[own] / np.sqrt(float(mixture[cell.place].weights[cell.atom])))
    _, sizes, turn = svd(np.concatenate(parts))
    if sizes[0] <= INSIDE:
        return None
    return split_of(cells, [part @ turn[:1].T for part in parts], INSIDE)  # light atoms move as far as heavy ones
