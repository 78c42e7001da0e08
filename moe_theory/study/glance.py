"""All claims on one page each line: what certify foresees, what the modulus says, what the simulation found."""

from collections.abc import Iterable, Mapping
from typing import Any

from moe_theory.study.phases import SET_COLUMN
from moe_theory.study.report import Judged, Report, predicted_words
from moe_theory.study.tables import aligned, exponent_words
from moe_theory.study.witnesses import Witness, Witnesses

LEAST_SHARE = 5.0
"""Blocks that carry less of a null direction, in per cent, are not named."""


def glance_table(reports: Iterable[Report], seen: Mapping[str, Witnesses]) -> str:
    """One row per claim: the error that decides it, the law that three witnesses say, the set of fits as good.

    Args:
        reports: the simulations.
        seen: prediction and modulus beside them, by id of the claim.
    """
    rows = [
        ["claim", "decided by", "claimed", "certify", "modulus", "simulation", "fits as good as the truth", "finding"]
    ]
    for made in reports:
        each = seen[made.claim.id].each if made.claim.id in seen else ()
        main = next((one for one in each if one.judged is made.main), None)
        contradicted = sum(bool(one.disagreements) for one in each if one is not main)
        also = f"; DISAGREE for {contradicted} more below" if contradicted else ""
        rows.append(
            [
                f"[{made.claim.id}](#{made.claim.id.replace('.', '')})",
                made.main.measure.words,
                predicted_words(made.main.measure.prediction),
                *_foreseen(main),
                _told(made.main),
                _of_set(made),
                f"{main.finding}{also}" if main is not None else "-",
            ]
        )
    return aligned(rows)


def _foreseen(main: Witness | None) -> tuple[str, str]:
    """Certify's law and the modulus' exponent."""
    if main is None:
        return "-", "-"
    law = "-" if main.foreseen is None else predicted_words(main.foreseen)
    if main.exponent is None:
        return law, "-"
    return law, f"n^{main.exponent:.2f}" if main.exponent else "plateau"


def _told(judged: Judged) -> str:
    verdict = judged.verdict
    return f"{exponent_words(verdict.exponent, verdict.interval)} {verdict.status}"


def _of_set(made: Report) -> str:
    """The largest loss of fits as good as the truth, where another error decides."""
    return next((_told(each) for each in made.others if each.measure.column == SET_COLUMN), "")


def margins_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per claim: the margins that `certify` found, what the split does, and which blocks carry it.

    Args:
        found: what is kept of the claims' problems, by id; margins are the least over the true atoms.
    """
    rows = [
        ["claim", "first-order", "second-order", "two atoms", "all cells", "frozen cell", "a split", "carried by, %"]
    ]
    for name, answer in found.items():
        atoms, frozen, joint = answer["second_order"], answer["frozen_cell"], answer["all_cells_at_once"]
        pairs = [each["by_atoms"]["2"] for each in atoms if "2" in each["by_atoms"]]
        carried = answer["blame"]["blocks"]
        blocks = sorted(carried, key=lambda block: -carried[block])
        rows.append(
            [
                f"`{name}`",
                _margin(answer["first_order_margin"], answer["first_order"]["threshold"]),
                _margin(answer["second_order_margin"], max(each["rounding"] for each in atoms)),
                _margin(min(pairs), max(each["rounding"] for each in atoms)) if pairs else "-",
                "-" if joint is None else _decided(joint["value"], joint["decision"]),
                "-" if frozen is None else _decided(frozen["lower"], frozen["decision"]),
                answer["visibility"] or "-",
                ", ".join(f"{block} {carried[block]:.0f}" for block in blocks if carried[block] >= LEAST_SHARE),
            ]
        )
    return aligned(rows)


def _margin(value: float, rounding: float) -> str:
    return "0" if value <= rounding else f"{value:.2g}"


def _decided(value: float, decision: str) -> str:
    return {"zero": "0", "positive": f"{value:.2g}"}.get(decision, decision)
