"""Plain-text tables for the terminal and Markdown."""

from collections.abc import Iterable

from moe_theory.study.report import Judged, Report, predicted_words
from moe_theory.study.witnesses import Witness, Witnesses
from moe_theory.theory.claims import Claim
from moe_theory.theory.comparisons import Comparison


def claims_table(claims: Iterable[Claim], comparisons: Iterable[Comparison] = ()) -> str:
    """One row per claim: id, model, specification, loss, predicted law, statement; then one per comparison."""
    rows = [["id", "model", "k_fit", "loss", "predicted", "statement"]]
    for claim in claims:
        words = predicted_words(claim.main.prediction)
        rows.append([claim.id, claim.model, claim.specification, claim.main.column, words, claim.statement])
    for each in comparisons:
        rows.append([each.id, each.model, "comparison", each.main.column, each.question, each.statement])
    return aligned(rows)


def verdict_table(reports: Iterable[Report]) -> str:
    """One row per claim and measure; then, by claim, the reason, sample sizes of accuracies, and what has no value."""
    rows = [["claim", "measure", "predicted", "measured exponent", "law", "certified", "verdict"]]
    reasons = []
    for made in reports:
        rows.append(_row(made.claim.id, made.main, f"{100 * made.certified_share:.1f} %"))
        rows.extend(_row("", judged, "") for judged in made.others)
        reasons += [f"{made.claim.id}: {made.main.verdict.reason}", *_notes(made)]
    return "\n".join([aligned(rows), "", *reasons])


def _notes(made: Report) -> list[str]:
    """Indented lines: the n of every accuracy, and the replications that have no value."""
    lines = [f"sample size: {found['statement']}" for found in made.main.verdict.evidence["sample_complexity"]]
    if made.starts is not None:
        at = made.starts
        lines.append(
            f"starts: at n = {at.n:.0e} the starts have a median loss of {at.start_error:.2g}, their fits of "
            f"{at.fit_error:.2g} after {at.iterations:.0f} iterations; a start with nothing of the truth in it ends at "
            f"the same minimum in {100 * at.untied_share:.0f} % of the replications"
        )
    lines += [f"{measure.words}: hardly any fit has such a cell, not judged" for measure in made.unseen]
    for judged in (made.main, *made.others):
        words = judged.measure.words
        if judged.remark or any(judged is each for each in made.open_questions):
            told = f"{judged.verdict.reason} {_sentence(judged.remark)}" if judged.remark else judged.verdict.reason
            lines.append(f"{words}: {judged.verdict.status}. {told}")
        if judged.missing:
            meaning = "their fit has no such cell" if judged.measure.conditional else "these count as failures"
            lines.append(f"{words}: {judged.missing} of {judged.replications} replications have no value, {meaning}")
        if judged.failed:
            lines.append(f"{words}: {judged.failed} of those without a value are not certified")
        if judged.left_out:
            sizes = ", ".join(f"{n:.0e}" for n in judged.left_out)
            lines.append(f"{words}: hardly any replication has a value at n = {sizes}, not in the curve")
    return [f"  {line}" for line in lines]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _row(name: str, judged: Judged, certified: str) -> list[str]:
    *told, law, status = judged_words(judged)
    return [name, *told, law, certified, status]


def witness_table(found: Iterable[Witnesses]) -> str:
    """Prediction, modulus and simulation side by side, one row per claim and measure; then what is not stored yet."""
    rows, absent = [["claim", *WITNESS_HEAD]], []
    for each in found:
        rows += [[each.claim.id if i == 0 else "", *witness_words(seen)] for i, seen in enumerate(each.each)]
        if each.advice:
            absent.append(f"{each.claim.id}: prediction and modulus are not stored; `{each.advice}` stores them")
    return "\n".join([*([aligned(rows)] if len(rows) > 1 else []), *absent])


WITNESS_HEAD = ("measure", "claimed", "certify", "modulus", "simulation", "three witnesses")


def witness_words(seen: Witness) -> list[str]:
    """One measure in words: what it is; the law claimed, foreseen, of the modulus; simulated exponent; the finding."""
    told, claimed, simulated, _, status = judged_words(seen.judged)
    certify = "-" if seen.foreseen is None else predicted_words(seen.foreseen)
    modulus = "-" if seen.exponent is None else f"n^{seen.exponent:.2f}"
    return [told, claimed, certify, modulus, f"{simulated} {status}", seen.finding]


def judged_words(judged: Judged) -> list[str]:
    """A measure in five words: what it is, the predicted law, the exponent with its interval, the law, the verdict."""
    verdict = judged.verdict
    exponent = exponent_words(verdict.exponent, verdict.interval)
    predicted = predicted_words(judged.measure.prediction)
    return [judged.measure.words, predicted, exponent, verdict.law, str(verdict.status)]


def exponent_words(exponent: float | None, interval: tuple[float, float] | None) -> str:
    """An exponent and its interval, as in every table; a dash where there is none."""
    if exponent is None or interval is None:
        return "-"
    return f"{exponent:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def aligned(rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
