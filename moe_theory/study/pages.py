"""The page of all claims: for each its statement, source, derivation, experiment, result and figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moe_theory.study.comparing import ComparisonReport, comparison_table
from moe_theory.study.glance import glance_table, margins_table
from moe_theory.study.report import Report, predicted_words
from moe_theory.study.sweep import sweep_of
from moe_theory.study.tables import WITNESS_HEAD, aligned, judged_words, witness_words
from moe_theory.study.witnesses import Witnesses
from moe_theory.theory.claims import Claim

REGULAR = (
    "The derivatives of exp(s) (h - f) at the true atoms are linearly independent once the gauge is divided out (a "
    "positive "
    "first-order margin), so the information matrix is regular and every error is of order n^-1/2."
)
SHARED = (
    "The value is linear in what the gate also sees, so a split of an atom shows in the score at second order: with "
    "the means kept, "
    "f moves by the square of the split, and a split of n^-1/4 is as visible as noise. Weights, means and single "
    "atoms stay at n^-1/2."
)
DERIVATIONS: Mapping[str, tuple[str, str]] = {
    "lora": (
        "theory.md#lora-over-fitted-what-not-identified-means-for-least-squares",
        "The gate does not contain (B_V, A_V) and the expert is linear in Delta_V: two halves Delta_V + H and "
        "Delta_V - H with "
        "one query part leave f_G as it is, for every H that stays in Theta.",
    ),
    "replora": ("theory.md#lora-over-fitted-what-not-identified-means-for-least-squares", SHARED),
    "dora": (
        "theory.md#magnitudes-sharing-tau-dora-and-doran",
        "Columns of fixed or common length lie on spheres, which hold no segments: a split shows at second order. Free "
        "magnitudes are a linear part of the value that the gate does not see: m + t and m - t leave f_G as it is.",
    ),
    "doran": (
        "theory.md#magnitudes-sharing-tau-dora-and-doran",
        SHARED + " Free magnitudes are shared by nothing: m + t and m - t leave f_G as it is.",
    ),
    "dial": (
        "theory.md#the-sharing-dial",
        "For every share below 1 the value keeps a part of its own, which can be split without a trace, on a scale "
        "of 1 - eta.",
    ),
    "hora": ("theory.md#several-heads-multi-head-lora-and-hora", SHARED),
    "hora-heads": (
        "theory.md#several-heads-multi-head-lora-and-hora",
        "An invisible split must keep the mean of act(U_h B_V) in every head; a nonlinear activation and two different "
        "embeddings forbid that, so sharing by heads alone is enough.",
    ),
}
"""By adapter: the section of theory.md, and the argument in short, for over-specified fits."""

DENSITY = (
    "../moe_theory/theory/polynomial_system.py",
    "Second derivatives in the locations are first derivatives in the scales, so a split of the locations is undone "
    "by the "
    "scales up to the order rbar at which a system of polynomial equations has no solution any more.",
)
"""The same for densities."""
ADAPTED = (
    "density.md#low-rank-experts",
    "A split of a value matrix with one center leaves the mean as it is and moves the conditional variance by a "
    "quadratic in x, which no first derivative of the density undoes.",
)
"""The same for low-rank densities."""


def claims_page(
    claims: Sequence[Claim],
    reports: Mapping[str, Report],
    comparisons: Sequence[ComparisonReport],
    figures: Path,
    seen: Mapping[str, Witnesses] = MappingProxyType({}),
    found: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> str:
    """Markdown: two tables of everything, one section per claim, then one per comparison.

    Args:
        claims: in the order of the page.
        reports: of the claims that are stored at their default sweep, by id.
        comparisons: those whose claims are all stored.
        figures: folder; a claim whose figure is in it shows it.
        seen: prediction and modulus beside the reports, by id.
        found: what `certify` keeps of the claims' problems, by id.
    """
    head = (
        "# Every claim\n\nMade by `simulations/claim_pages.py` from stored rows; nothing here is typed in. Each "
        "claim is run by "
        "`moe-theory run ID`. Exponents have 95 % intervals; laws and verdicts: [theory.md](theory.md), "
        "[verdict-calibration.md](verdict-calibration.md).\n"
    )
    sections = [_section(claim, reports.get(claim.id), figures, seen.get(claim.id)) for claim in claims]
    return "\n".join([head, *_glance(reports, seen, found), *sections, *map(_comparison, comparisons)])


def _glance(
    reports: Mapping[str, Report], seen: Mapping[str, Witnesses], found: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What is stored, one line per claim."""
    lines = []
    if reports:
        lines += ["## Verdicts", "", glance_table(reports.values(), seen), ""]
    if found:
        told = (
            "Of the claim's truth, the least over its true atoms; `0` is zero to rounding, and what a split of margin "
            "zero does is told (f is in units of phi; [certify.md](certify.md))."
        )
        lines += ["## Margins", "", told, "", margins_table(found), ""]
    return lines


def _section(claim: Claim, made: Report | None, figures: Path, seen: Witnesses | None) -> str:
    anchor, why = _derivation(claim)
    lines = [
        f"## {claim.id}",
        "",
        f"{claim.model}, {claim.specification}-specified: {claim.statement}.",
        "",
        f"- *Source*: {claim.source}.",
        f"- *Derivation*: {why} [More]({anchor}).",
        f"- *Experiment*: {_experiment(claim, made)}",
        "",
        _results(claim, made),
    ]
    if made is not None:
        lines += ["", made.main.verdict.reason]
        lines += ["", *(f"- *{each.measure.words}*: {each.verdict.reason}" for each in made.open_questions)]
    if seen is not None:
        lines += _three(seen)
    picture = figures / f"{claim.id}.png"
    if picture.is_file():
        lines += ["", f"![{claim.model}](../figures/{picture.name})"]
    return "\n".join([*lines, ""])


def _derivation(claim: Claim) -> tuple[str, str]:
    if claim.specification == "exact":
        return "theory.md#model", REGULAR
    others = {"density": DENSITY, "adapted-density": ADAPTED}
    return others[claim.kind] if claim.kind in others else DERIVATIONS[sweep_of(claim).problem.adapter]


def _experiment(claim: Claim, made: Report | None) -> str:
    sweep = sweep_of(claim) if made is None else made.sweep
    sizes = f"{len(sweep.sizes)} sizes from {sweep.sizes[0]:.0e} to {sweep.sizes[-1]:.0e}"
    if made is None:
        return f"{sizes}, {sweep.replications} replications; not stored when this page was written."
    told = f"{made.replications} replications, {100 * made.certified_share:.1f} % certified"
    return f"{sizes}, {told} (revision {sweep.revision} of the code)."


def _results(claim: Claim, made: Report | None) -> str:
    rows = [["error", "predicted", "measured exponent", "law", "verdict"]]
    if made is None:
        measures = (claim.main, *claim.others)
        rows += [[each.words, predicted_words(each.prediction), "-", "-", "-"] for each in measures]
        return aligned(rows)
    return aligned([*rows, *map(judged_words, (made.main, *made.others))])


def _three(seen: Witnesses) -> list[str]:
    """Prediction (margins), modulus of continuity and simulation side by side."""
    if seen.each:
        rows = [list(WITNESS_HEAD), *map(witness_words, seen.each)]
        return ["", "Prediction, modulus and simulation ([certify.md](certify.md)):", "", aligned(rows)]
    told = f"Prediction and modulus were not stored when this page was written (`{seen.advice}`)."
    return ["", told] if seen.advice else []


def _comparison(made: ComparisonReport) -> str:
    comparison = made.comparison
    return "\n".join(
        [
            f"## {comparison.id}",
            "",
            f"{comparison.model}: {comparison.statement}.",
            "",
            f"- *Source*: {comparison.source}.",
            f"- *Experiment*: {made.replications} replications, {100 * made.certified_share:.1f} % certified, n from "
            f"{made.sizes[0]:.0e} to {made.sizes[-1]:.0e}.",
            "",
            comparison_table(made),
            "",
        ]
    )
