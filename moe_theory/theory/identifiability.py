"""What the margins of a mixture mean: the predicted laws; gauge and blame are found beside (``gauges``, ``blame``).

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
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from moe_theory.theory.blame import Blame, blame_of, exact_blocks, reason_of
from moe_theory.theory.following import followed, hidden_measures, insisted, looked
from moe_theory.theory.frozen_cells import FrozenMargin, frozen_margin
from moe_theory.theory.gauges import GaugePart, common_gauge_of, gauge_of, orbit_split
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import Cell, Decision, FirstOrder, Mixture, cells_of, first_order
from moe_theory.theory.second_order import SecondOrder, second_order
from moe_theory.theory.visibility import Visibility, split_of
from moe_theory.threads import one_blas_thread

JOINT_STARTS = 4
"""Starts of the joint problem, which is convex: they choose only where it begins."""


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
        by_gauge: whether that split is along the common gauge (``gauges.orbit_split``).
    """

    decision: Decision
    value: float
    lower: float
    shares: tuple[float, ...]
    visibility: Visibility | None = None
    by_gauge: bool = False


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
        """The cell with the smallest margin, among those with an invisible split if there are any."""

        def badness(each: CellVerdict) -> tuple[bool, float, float]:
            hidden = each.visibility is not None and each.visibility.is_invisible
            return not hidden, each.second.minimum.value, each.second.limited[2].value

        return min(self.cells, key=badness)

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
    if look and together.visibility is None and together.decision == "zero":
        together = _along_gauge(mixture, first, cells, verdicts, together)
    common = common_gauge_of(mixture, first)
    return Identifiability(first, tuple(verdicts), together, common, frozen_margin(mixture, first))


def _along_gauge(
    mixture: Mixture, first: FirstOrder, cells: Sequence[Cell], verdicts: Sequence[CellVerdict], together: Together
) -> Together:
    """All atoms over-fitted at once where those over-fitted alone show at a finite order: the split along their gauge.

    Some gates have such a motion (``gauges.orbit_split``), and then the joint split hides what no single one does.
    """
    if any(each.visibility is None or each.visibility.is_invisible for each in verdicts):
        return together
    orbit = orbit_split(mixture, first, cells)
    seen = None if orbit is None else followed(mixture, orbit)
    hidden = seen is not None and seen.is_invisible
    return together._replace(visibility=seen, by_gauge=True) if hidden else together


def hidden_together(mixture: Mixture, found: Identifiability) -> list[tuple[Array, Array, Array]] | None:
    """The farthest split of all atoms at once along their common gauge that leaves f as it is: (weights, atoms, common)
    of every set. None where `identify` found none.

    Args:
        mixture: the truth.
        found: of it.
    """
    seen, cells = found.together.visibility, cells_of(mixture)
    orbit = orbit_split(mixture, found.first, cells) if found.together.by_gauge else None
    if orbit is None or seen is None or not seen.is_invisible:
        return None
    return next(hidden_measures(mixture, orbit), None)


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
    first = [None if split is None else looked(mixture, split) for split in splits]
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
    seen, orbit = None, orbit_split(mixture, first, cells)
    if joint.fewest is not None and joint.decision == "zero" and look:
        splits = [orbit, split_of(cells, joint.limited[joint.fewest].factors)]
        tried = (followed(mixture, split) for split in splits if split is not None)
        for seen in tried:
            if seen.is_invisible:
                break
    return Together(joint.decision, joint.minimum.value, joint.minimum.lower, shares, seen, orbit is not None)
