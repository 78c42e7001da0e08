"""What the margins of a mixture mean: the gauge in words, the predicted laws, and the blame.

Everything here is a statement about one truth, made without a sample: theory section 8. Laws are those of ``laws``:

    exact-specified           n^-1/2       if the first-order margin is positive
    a cell of m atoms         n^-1/4       if the second-order margin (for m atoms) is positive
                              n^-1/(2q)    if it is zero and the split shows at order q
                              no rate      if the split is invisible
    several cells at once     n^-1/4       if their joint margin is positive; otherwise as for one cell, of the joint
                                           split

*Several cells at once.* Let k_fit be any number and G -> G*, with atoms i of weights w_i in cell j, mean motion b_j and
S_j = sum_i w_i (theta_i - theta*_j)(theta_i - theta*_j)'. Then

    f_G - f_{G*} = sum_j ( a_j H_j + <b_j, D H_j> + 1/2 <S_j, D^2 H_j> ) + o(sum_j trace S_j + |a| + |b|),

so || f_G - f_{G*} || >= c D_12(G, G*) near G* if no (a, b, S) != 0 with every S_j >= 0 makes the sum vanish: the
first-order margin and the *joint* second-order margin, min || (I - P) sum_j 1/2 <S_j, D^2 H_j> || over S_j >= 0 with
sum_j trace S_j = 1, must be positive. It is at most the least margin of a single cell, and it can be zero although all
of those are positive, where the second derivatives of two cells cancel. Source: our derivation (Chen 1995 for one).

*Blame*: the share of each parameter block in the directions of the null minimisers, sum_b ||L_b Y||^2, with factors
balanced so that the two sides of a product are of one size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.theory.exact import split_is_exact
from moe_theory.theory.families import AbstractSet, SoftmaxSet
from moe_theory.theory.frozen_cells import FrozenMargin, frozen_margin
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import (
    Cell,
    Decision,
    FirstOrder,
    Mixture,
    SecondOrder,
    cells_of,
    chart_of,
    first_order,
    second_order,
)
from moe_theory.theory.registered_families import ModelView
from moe_theory.theory.visibility import Visibility, followed, insisted, split_of, visibility
from moe_theory.threads import one_blas_thread

JOINT_STARTS = 4
"""Starts of the joint problem, which is convex: they choose only where it begins."""
INSIDE = 1e-6
"""A tangent lies in a null space if its part outside is below this share of it."""
LEAST_BLAME = 0.01
FLAT = 1e-8
"""Relative size of a derivative that counts as none, for words."""
UNMOVED = 1e-5
"""The same for a derivative along a minimiser, which is known to the root of rounding: its value is quadratic in it."""


class GaugePart(NamedTuple):
    """Some of the dimensions of the gauge, and why they are there."""

    dimension: int
    words: str


class Blame(NamedTuple):
    """One block's share, in per cent, in the direction that is hard or impossible to see."""

    block: str
    per_cent: float


class CellVerdict(NamedTuple):
    """What over-fitting one true atom does.

    Attributes:
        cell, second: the atom and its second-order margin.
        seen: visibility of the split where the margin is zero, of as few atoms as it is clear for; where it shows at a
            finite order also with one atom more, which may hide it better. Empty where there is nothing to follow.
        gauge: of the atom.
        blame: largest first.
        reason: what gate and output do along the blamed blocks.
        exact: blocks whose splits were confirmed to be invisible in rational arithmetic.
    """

    cell: Cell
    second: SecondOrder
    seen: tuple[Visibility, ...]
    gauge: tuple[GaugePart, ...]
    blame: tuple[Blame, ...]
    reason: str
    exact: tuple[str, ...]

    @property
    def visibility(self) -> Visibility | None:
        """Of the fewest atoms."""
        return self.seen[0] if self.seen else None

    def law(self, atoms: int) -> Prediction | None:
        """Predicted law of the atoms in a cell of so many; None where the margin is undecided."""
        if self.second.decision == "undecided":
            return None
        fewest = self.second.fewest
        if self.second.decision == "positive" or fewest is None or atoms < fewest:
            return Prediction("power", -0.25)
        known = [each for each in self.seen if each.atoms[0] <= atoms]
        return law_of(known[-1]) if known else None


def law_of(seen: Visibility) -> Prediction | None:
    """The law of a split of margin zero; None where the search did not find the best one."""
    if seen.is_invisible:
        return Prediction("no-power")
    order = seen.even_order
    return Prediction("power", -0.5 / order) if seen.is_clear and order is not None else None


class Together(NamedTuple):
    """All true atoms over-fitted at once.

    Attributes:
        decision: whether the joint second-order margin is zero.
        value: least distance that was found.
        lower: certified lower bound, for any numbers of atoms in the cells.
        shares: trace S_j of the minimiser, by true atom; they add up to 1.
        visibility: of the joint split, where this margin is zero and that of no single atom is; None otherwise.
    """

    decision: Decision
    value: float
    lower: float
    shares: tuple[float, ...]
    visibility: Visibility | None = None


class Identifiability(NamedTuple):
    """Margins and predictions of one mixture.

    Attributes:
        first: the first-order margin.
        cells: every true atom.
        together: all of them at once.
        common_gauge: combinations of several atoms' motions that change nothing, in words.
        frozen: margin of one fitted atom in a frozen atom's cell; None where none comes near.
    """

    first: FirstOrder
    cells: tuple[CellVerdict, ...]
    together: Together
    common_gauge: tuple[GaugePart, ...]
    frozen: FrozenMargin | None = None

    @property
    def exact(self) -> Prediction:
        """Law of the parameters when the number of atoms is known; no power where the truth is singular."""
        return Prediction("no-power") if self.first.is_singular else Prediction("power", -0.5)

    def law(self, atoms: int = 2) -> Prediction | None:
        """Law of the slowest cell of so many atoms; None where one is undecided and none is without a rate."""
        laws = [each.law(atoms) for each in self.cells]
        if any(law is not None and law.kind == "no-power" for law in laws):
            return Prediction("no-power")
        if any(law is None for law in laws):
            return None
        return max((law for law in laws if law is not None), key=lambda law: law.exponent or 0.0)

    @property
    def law_together(self) -> Prediction | None:
        """Law of the slowest cell where all may be over-fitted at once, by any number of atoms; None: undecided."""
        if self.together.decision == "positive":
            return Prediction("power", -0.25)
        if self.together.visibility is not None:
            return law_of(self.together.visibility)
        alone = [law_of(each.visibility) for each in self.cells if each.visibility is not None]
        if any(law is not None and law.kind == "no-power" for law in alone):
            return Prediction("no-power")
        return None

    @property
    def worst(self) -> CellVerdict:
        """The cell with the smallest margin for two atoms."""
        return min(self.cells, key=lambda each: (each.second.minimum.value, each.second.limited[2].value))

    @property
    def gauge_dimension(self) -> int:
        """All dimensions: every atom's own, and the common ones."""
        own = sum(each.cell.chart.gauge.shape[1] for each in self.cells)
        return own + self.first.generic_nullity


@one_blas_thread
def identify(mixture: Mixture, look: bool = True) -> Identifiability:
    """Margins, visibility, laws and blame of a mixture.

    Args:
        mixture: see ``families``.
        look: follow splits whose margin is zero, to find the order at which they show.
    """
    cells, first = cells_of(mixture), first_order(mixture)
    seconds = [second_order(first, [cell]) for cell in cells]
    verdicts = []
    for cell, second, seen in zip(cells, seconds, _followed(mixture, cells, seconds, look), strict=True):
        own = mixture[cell.place]
        blame = blame_of(own, cell, second)
        exact = exact_blocks(own, cell) if seen and seen[0].is_invisible else ()
        reason = reason_of(own, cell, second, blame)
        verdicts.append(CellVerdict(cell, second, seen, gauge_of(own, cell), blame, reason, exact))
    together = together_of(mixture, first, cells, seconds, look)
    common = common_gauge_of(mixture, first)
    return Identifiability(first, tuple(verdicts), together, common, frozen_margin(mixture, first))


def _followed(
    mixture: Mixture, cells: Sequence[Cell], seconds: Sequence[SecondOrder], look: bool
) -> list[tuple[Visibility, ...]]:
    """What is seen of each cell's split of margin zero.

    An unclear search is made again unless another cell has an invisible split into no more atoms: that decides the law.
    """
    splits = [
        split_of([cell], second.limited[second.fewest].factors)
        if look and second.decision == "zero" and second.fewest is not None
        else None
        for cell, second in zip(cells, seconds, strict=True)
    ]
    first = [None if split is None else visibility(mixture, split) for split in splits]
    hidden = [seen.atoms[0] for seen in first if seen is not None and seen.is_invisible]
    found: list[tuple[Visibility, ...]] = []
    for split, seen in zip(splits, first, strict=True):
        if split is None or seen is None:
            found.append(())
            continue
        if not seen.is_clear and not any(atoms <= seen.atoms[0] for atoms in hidden):
            seen = insisted(mixture, split, seen)
        if seen.is_clear and not seen.is_invisible:
            found.append((seen, followed(mixture, split, seen.atoms[0] + 1)))
        else:
            found.append((seen,))
    return found


def together_of(
    mixture: Mixture, first: FirstOrder, cells: Sequence[Cell], alone: Sequence[SecondOrder], look: bool = True
) -> Together:
    """The joint second-order margin; where one cell's own is zero or undecided, that cell decides.

    Args:
        mixture, first: the whole.
        cells: all of them.
        alone: the second-order margin of each.
        look: follow the joint split where only the joint margin is zero.
    """
    least = min(range(len(cells)), key=lambda number: alone[number].minimum.value)
    by_one = [number for number, each in enumerate(alone) if each.decision == "zero"] or [
        number for number, each in enumerate(alone) if each.decision == "undecided"
    ]
    if by_one or len(cells) == 1:
        place = by_one[0] if by_one else least
        shares = tuple(float(number == place) for number in range(len(cells)))
        return Together(alone[place].decision, alone[place].minimum.value, alone[place].minimum.lower, shares)
    joint = second_order(first, cells, JOINT_STARTS)
    shares = tuple(float(np.trace(own)) for own in joint.minimum.matrices)
    seen = None
    if joint.fewest is not None and joint.decision == "zero" and look:
        seen = followed(mixture, split_of(cells, joint.limited[joint.fewest].factors))
    return Together(joint.decision, joint.minimum.value, joint.minimum.lower, shares, seen)


def _inside(space: Float[np.ndarray, "n g"], vectors: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n i"]:
    """Orthonormal basis of the part of a span that lies in a space (given by an orthonormal basis)."""
    if not vectors.shape[1] or not space.shape[1]:
        return np.zeros((space.shape[0], 0))
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    span = left[:, values > INSIDE * max(float(values[0]), 1e-300)]
    _, cosines, turn = np.linalg.svd(space.T @ span, full_matrices=False)
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


def blame_of(own: AbstractSet, cell: Cell, second: SecondOrder) -> tuple[Blame, ...]:
    """Blocks that carry the minimising directions, in per cent, largest first."""
    raw = cell.chart.lifts @ second.null[0] @ cell.chart.lifts.T
    shares = {name: float(np.trace(raw[place, place])) for name, place in _named(own)}
    total = sum(shares.values())
    blames = [Blame(name, 100.0 * share / total) for name, share in shares.items() if share > LEAST_BLAME * total]
    return tuple(sorted(blames, key=lambda each: -each.per_cent))


def exact_blocks(own: AbstractSet, cell: Cell) -> tuple[str, ...]:
    """Blocks of a registered model along which every split is invisible, confirmed by fractions (``exact``)."""
    if not isinstance(own, SoftmaxSet) or not isinstance(own.view, ModelView):
        return ()
    view, atom = own.view, np.asarray(own.atoms[cell.atom])

    def coefficients(point: Array) -> tuple[Array, Array]:
        return view.coefficients(point, own.common)

    return tuple(name for name, place in _named(own) if split_is_exact(coefficients, atom, place))


def _named(own: AbstractSet) -> list[tuple[str, slice]]:
    return list(zip(own.blocks.names, own.blocks.slices, strict=True))


def reason_of(own: AbstractSet, cell: Cell, second: SecondOrder, blame: tuple[Blame, ...]) -> str:
    """What the gate and the output do along the blamed blocks.

    Of the gate: whether it contains the blocks, and if so whether it moves along the minimising directions themselves
    (the combination of two factors of a product may be one that the gate does not see). Of the output: along which
    blocks it does not move, is linear, or bends. Derivatives are taken along single blocks, because a direction that
    mixes the two factors of a product bends the output although each factor alone does not. A block that the gate does
    not contain and in which the output is linear can be split alone without a trace.
    """
    units = np.eye(own.atoms.shape[1])
    seen = {name: _motions(own, cell, units[:, place]) for name, place in _named(own)}
    names = [each.block for each in blame]
    if all(seen[name].score <= FLAT for name in names):
        gate = "the gate does not contain them"
    else:
        along = _motions(own, cell, cell.chart.lifts @ _leading(second.null[0]))
        unmoved = along.score <= UNMOVED * max(motion.score for motion in seen.values())
        gate = "the gate contains them" + (" but does not move along this direction" if unmoved else "")
    still = [name for name in names if seen[name].slope <= FLAT]
    linear = [name for name in names if seen[name].slope > FLAT >= seen[name].bend]
    bent = [name for name in names if seen[name].bend > FLAT and name not in still]
    if len(still) == len(names):
        return f"{gate} and nor does the output"
    told = [f"is linear in {_listed(linear, names)}", f"bends along {_listed(bent, names)}"]
    told.append(f"does not contain {_listed(still, names)}")
    output = " and ".join(words for words, group in zip(told, (linear, bent, still), strict=True) if group)
    return f"{gate} and the output {output}"


def _listed(group: list[str], names: list[str]) -> str:
    """The blocks of a group: by name, unless they are all that were named before."""
    if len(group) == len(names):
        return "each of them" if len(names) > 1 else "them"
    return " and ".join(filter(None, [", ".join(group[:-1]), *group[-1:]]))


def _leading(matrix: Float[np.ndarray, "p p"]) -> Float[np.ndarray, "p e"]:
    """The eigenvectors of S that carry it."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, values > LEAST_BLAME * values[-1]]


class Motions(NamedTuple):
    """Largest slope of the score, slope of the output and second derivative of the output in a span of directions."""

    score: float
    slope: float
    bend: float


def _motions(own: AbstractSet, cell: Cell, directions: Float[np.ndarray, "q k"]) -> Motions:
    """How score and output move in a span of directions.

    A quadratic form vanishes on a span if it vanishes on enough directions of it: random ones, twice as many.
    """
    mixed = directions @ np.random.default_rng(0).standard_normal((directions.shape[1], 2 * directions.shape[1]))
    return Motions(*map(float, _largest(own, own.atoms[cell.atom], jnp.asarray(mixed))))


@eqx.filter_jit
def _largest(own: AbstractSet, atom: Array, directions: Array) -> tuple[Array, Array, Array]:
    def along(u: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        def slope(point: Array) -> tuple[Array, Array]:
            return jax.jvp(lambda moved: own.seen(moved, own.common), (point,), (u,))[1]

        return slope(atom), jax.jvp(slope, (atom,), (u,))[1]

    (score, output), (_, bend) = jax.vmap(along, 1)(directions)
    return jnp.max(jnp.abs(score)), jnp.max(jnp.abs(output)), jnp.max(jnp.abs(bend))
