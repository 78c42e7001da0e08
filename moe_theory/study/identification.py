"""What `moe-theory certify` answers: identifiability of a problem, as one object, as JSON and as one screen of text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moe_theory.study.report import predicted_words
from moe_theory.study.witnesses import TOGETHER
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.frozen_cells import FrozenMargin
from moe_theory.theory.identifiability import CellVerdict, Identifiability
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import RELATIVE_ZERO
from moe_theory.theory.second_order import POSITIVE
from moe_theory.theory.truths import Path, Spread
from moe_theory.theory.visibility import Visibility

DELTAS = np.array([1e-1, 1e-3, 1e-6])
"""Distances at which the text tells the modulus."""

CELL_SIZES = (2, 3)
"""Atoms of an over-fitted cell whose law is told."""


@dataclass(frozen=True)
class Certified:
    """The answer for one model at one truth.

    Attributes:
        name: of the model.
        settings: that differ from the defaults.
        found: margins, visibility, laws, blame.
        modulus: lower bounds of the modulus of continuity of D_12 with one atom too many, where they were asked for.
        modulus_exact: of D_1 with the number of atoms known.
        spread: margins at random truths of the same model, where they were asked for.
        path: margins on the way to a truth where the model breaks down, where they were asked for.
        blocks: moduli of a density, by the errors of cells of two and three atoms (``block_moduli``).
        every: those of cells of two where all atoms are fitted twice, if that makes a difference.
    """

    name: str
    settings: Mapping[str, Any]
    found: Identifiability
    modulus: Modulus | None = None
    modulus_exact: Modulus | None = None
    spread: Spread | None = None
    path: Path | None = None
    blocks: Mapping[str, Modulus] | None = None
    every: Mapping[str, Modulus] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; keys as the command line promises them."""
        first = self.found.first
        worst = self.found.worst
        return {
            "model": self.name,
            "settings": dict(self.settings),
            "first_order_margin": first.margin,
            "first_order": {
                "threshold": first.rank.threshold,
                "gap": None if np.isinf(first.rank.gap) else first.rank.gap,
                "condition": first.condition,
                "singular": first.is_singular,
            },
            "gauge_dimension": self.found.gauge_dimension,
            "gauge": [part._asdict() for part in (*worst.gauge, *self.found.common_gauge)],
            "second_order_margin": worst.second.minimum.value if worst.second.decision != "zero" else 0.0,
            "second_order": [_cell_json(each) for each in self.found.cells],
            "all_cells_at_once": _together_json(self.found),
            "frozen_cell": None if self.found.frozen is None else self.found.frozen._asdict(),
            "visibility": _visibility_words(worst),
            "exact_arithmetic": list(worst.exact),
            "predicted": {
                "exact": _law_words(self.found.exact),
                **{f"over, cells of {atoms} atoms": _law_words(self.found.law(atoms)) for atoms in CELL_SIZES},
                "over, all cells at once": _law_words(self.found.law_together),
            },
            "laws": {
                "exact": asdict(self.found.exact),
                **{str(atoms): _law_json(self.found.law(atoms)) for atoms in CELL_SIZES},
                TOGETHER: _law_json(self.found.law_together),
            },
            "blame": {
                "blocks": {each.block: round(each.per_cent, 1) for each in worst.blame},
                "words": blame_words(worst),
            },
            "modulus": _modulus_json(self.modulus),
            "modulus_exact": _modulus_json(self.modulus_exact),
            "block_moduli": {name: _modulus_json(each) for name, each in (self.blocks or {}).items()},
            "block_moduli_all_cells_at_once": {name: _modulus_json(each) for name, each in (self.every or {}).items()},
            "truths": None if self.spread is None else _spread_json(self.spread),
            "path": None if self.path is None else _path_json(self.path),
        }

    def as_text(self) -> str:
        """One screen."""
        first, worst = self.found.first, self.found.worst
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items() if name != "adapter")
        gauge = "; ".join(f"{part.dimension}: {part.words}" for part in worst.gauge) or "none of its own"
        common = "; ".join(f"{part.dimension}: {part.words}" for part in self.found.common_gauge) or "none"
        sure = "infinite" if np.isinf(first.rank.gap) else f"{first.rank.gap:.1e}"
        singular = "SINGULAR at this truth" if first.is_singular else "positive"
        lines = [
            ("model", f"{self.name} ({settings})" if settings else self.name),
            ("first-order margin", f"{first.margin:.3g}, {singular} (condition {first.condition:.2g})"),
            ("gauge", f"{self.found.gauge_dimension} dimensions; each atom: {gauge}; common: {common}"),
            *(("second-order margin" if i == 0 else "", _cell_words(each)) for i, each in enumerate(self.found.cells)),
            ("", f"all cells at once: {_together_words(self.found)}"),
            *([] if self.found.frozen is None else [("frozen atom's cell", _frozen_words(self.found.frozen))]),
            ("visibility", _visibility_words(worst)),
            *(("", f"exact arithmetic: every split of {name} alone is invisible") for name in worst.exact),
            ("predicted", f"number of atoms known: {_law_words(self.found.exact)}"),
            *(
                ("", f"over-fitted cell of {atoms} atoms: {_law_words(self.found.law(atoms))}")
                for atoms in CELL_SIZES
            ),
            ("", f"all cells over-fitted at once: {_law_words(self.found.law_together)}"),
            *([] if self.modulus is None else [("modulus", _modulus_words(self.modulus))]),
            *_blocks_lines(self.blocks or {}),
            *_blocks_lines(self.every or {}, "all "),
            *([] if self.spread is None else [("random truths", _spread_words(self.spread))]),
            *([] if self.path is None else [("nearby truths", _path_words(self.path))]),
            ("blame", blame_words(worst)),
            (
                "how sure",
                f"a singular value is zero below {RELATIVE_ZERO:g} of the largest: smallest kept / largest dropped is "
                f"{sure}; a second-order zero lies below its rounding, a positive margin has a certified lower bound "
                f"more than {POSITIVE:g} times that",
            ),
        ]  # fmt: skip
        return "\n".join(f"{name:<20} {text}" for name, text in lines)


def _law_json(law: Prediction | None) -> dict[str, Any] | None:
    return None if law is None else asdict(law)


def _modulus_json(found: Modulus | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "slope": found.slope,
        "rate_of_loss": -0.5 * found.slope,
        "distances": found.distances.tolist(),
        "losses": found.losses.tolist(),
    }


def _modulus_words(found: Modulus) -> str:
    ends = ", ".join(
        f"{float(loss):.2g} at delta = {delta:g}" for delta, loss in zip(DELTAS, found.at(DELTAS), strict=True)
    )
    return f"D_12 is at least {ends}: slope {found.slope:.2f}, that is n^{-0.5 * found.slope:.2f}"


def _blocks_lines(blocks: Mapping[str, Modulus], which: str = "") -> list[tuple[str, str]]:
    """A line per kind of cell."""
    lines = []
    for kind in dict.fromkeys(name.split("_")[0] for name in blocks):
        told = [f"{name.removeprefix(f'{kind}_')} n^{-0.5 * found.slope:.3f}" for name, found in blocks.items()
                if name.startswith(f"{kind}_")]  # fmt: skip
        slowest = f"slowest block n^{-0.5 * blocks[kind].slope:.3f}"
        lines.append((f"modulus, {which}{kind}s", f"{slowest}; {', '.join(told)}"))
    return lines


MARGINS = {"first": "first-order", "any_atoms": "second-order", "two_atoms": "second-order for two atoms"}
"""How the fields of `Margins` are called."""


def _spread_json(spread: Spread) -> dict[str, Any]:
    shares = {f"share_{decision}": spread.share(decision) for decision in ("positive", "zero", "undecided")}
    return {**shares, "share_singular": spread.singular, "margins": [each._asdict() for each in spread.truths]}


def _spread_words(spread: Spread) -> str:
    told = []
    for name, words in MARGINS.items():
        values = spread.values(name)
        told.append(f"{words} {values[0]:.2g} to {values[-1]:.2g}, median {np.median(values):.2g}")
    shares = f"second-order zero at {100.0 * spread.share('zero'):.0f} %"
    undecided = spread.share("undecided")
    more = f", undecided at {100.0 * undecided:.0f} %" if undecided else ""
    return f"{len(spread.truths)}: {'; '.join(told)}; singular {100.0 * spread.singular:.0f} %, {shares}{more}"


def _path_json(path: Path) -> dict[str, Any]:
    return {
        "towards": path.towards,
        "sizes": list(path.sizes),
        "powers": {name: path.power(name) for name in MARGINS},
        "margins": [each._asdict() for each in path.truths],
    }


PATHS = {"equal": "two atoms become one as s falls", "zero": "an atom shrinks to the pre-trained one as s falls"}


def _path_words(path: Path) -> str:
    told = []
    for name, words in MARGINS.items():
        power, values = path.power(name), [getattr(each, name) for each in path.truths]
        law = "zero" if power is None else f"{values[0]:.2g} to {values[-1]:.2g}, as s^{power:.1f}"
        told.append(f"{words} {law}")
    return f"{PATHS[path.towards]} to {path.sizes[-1]:.2g}: {'; '.join(told)}"


def _law_words(law: Prediction | None) -> str:
    return "undecided" if law is None else predicted_words(law)


def blame_words(verdict: CellVerdict) -> str:
    """Blocks with their shares, and what gate and output do along them."""
    shares = ", ".join(f"{each.block} {each.per_cent:.0f} %" for each in verdict.blame)
    return f"{shares}: {verdict.reason}"


def _cell_json(each: CellVerdict) -> dict[str, Any]:
    second = each.second
    return {
        "set": each.cell.place,
        "atom": each.cell.atom,
        "decision": second.decision,
        "any_atoms": second.minimum.value,
        "lower_bound": second.minimum.lower,
        "by_atoms": {str(atoms): best.value for atoms, best in second.limited.items()},
        "rounding": second.rounding,
        "fewest_atoms_at_zero": second.fewest,
        "visibility": _visibility_words(each),
        "distances": None if each.visibility is None else each.visibility.distances.tolist(),
        "blame": {blame.block: round(blame.per_cent, 1) for blame in each.blame},
    }


def _cell_words(each: CellVerdict) -> str:
    second = each.second
    place = _place(each)
    two = second.limited[2].value
    if second.decision == "positive":
        bounds = f"between {second.minimum.lower:.3g} and {second.minimum.value:.3g} for any number of atoms"
        return f"{place}: positive, {bounds} in the cell, {two:.3g} for two"
    if second.decision == "undecided":
        return f"{place}: undecided, at most {second.minimum.value:.2g} where rounding is {second.rounding:.1g}"
    few = f"; {two:.3g} for two" if second.fewest and second.fewest > 2 else ""
    at = f"from {second.fewest} atoms in the cell on" if second.fewest else "for many atoms in the cell"
    return f"{place}: zero {at} ({second.minimum.value:.1g}, rounding {second.rounding:.1g}){few}"


def _place(each: CellVerdict) -> str:
    return f"atom {each.cell.atom + 1}" + (f" of head {each.cell.place + 1}" if each.cell.place else "")


def _together_json(found: Identifiability) -> dict[str, Any]:
    together = found.together
    return {
        "decision": together.decision, "value": together.value, "lower": together.lower, "shares": together.shares,
        "words": _together_words(found),
    }  # fmt: skip


def _together_words(found: Identifiability) -> str:
    """The joint margin, and which cells the minimiser splits."""
    together = found.together
    if together.decision == "positive":
        shares = ", ".join(f"{100.0 * share:.0f} %" for share in together.shares)
        bounds = f"between {together.lower:.3g} and {together.value:.3g} for any numbers of atoms"
        return f"positive, {bounds}; minimiser by atom: {shares}"
    if max(together.shares) == 1.0 and not together.by_gauge:
        return f"{together.decision}, because that of {_place(found.cells[together.shares.index(1.0)])} is"
    if max(together.shares) == 1.0:
        gauge = "zero for every atom, and along motions of all that the softmax does not see"
        return f"{gauge}; {_seen_words(together.visibility)}" if together.visibility is not None else gauge
    alone = f"{together.decision} ({together.value:.1g}) although that of every atom is positive"
    if together.by_gauge:
        alone += ", along motions of all atoms that the softmax does not see"
    return f"{alone}; {_seen_words(together.visibility)}" if together.visibility is not None else alone


def _frozen_words(found: FrozenMargin) -> str:
    if found.decision == "positive":
        return f"one fitted atom: first-order margin at least {found.lower:.3g}, n^-0.5"
    if found.decision == "zero":
        return "one fitted atom: first-order margin 0, the others undo a motion of it: slower than n^-0.5"
    return f"one fitted atom: first-order margin undecided, at most {found.upper:.3g}"


def _visibility_words(each: CellVerdict) -> str:
    if each.second.decision == "positive":
        return "order 2: a split shows at second order"
    if each.visibility is None:
        return "not looked at: the margin is undecided"
    return _seen_words(each.visibility)


def _seen_words(seen: Visibility) -> str:
    """Into how many parts, and how far it shows."""
    into = " and ".join(f"{count}" for count in seen.atoms)
    reach = f"amplitudes {seen.amplitudes[-1]:.2g} to {seen.amplitudes[0]:.2g}"
    if seen.is_invisible:
        moves = float(seen.distances[seen.amplitudes == seen.hidden_at][0])
        return f"invisible: split into {into}, f moves by {moves:.1g} at amplitude {seen.hidden_at:.2g} of phi"
    if not seen.is_clear:
        return f"unclear: split into {into}, distances {seen.distances} at {reach}"
    return f"order {seen.even_order} (measured {seen.order:.2f}): split into {into}, {reach}"
