"""From stored rows to verdicts: one report per claim, for people and for machines."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_theory.errors import InputError
from moe_theory.study.spec import SweepSpec
from moe_theory.study.verdict import Verdict, judge
from moe_theory.theory.claims import Claim, Measure
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import ErrorCurve, summarise


@dataclass(frozen=True)
class Judged:
    """A measure, its curve of medians and its verdict."""

    measure: Measure
    curve: ErrorCurve
    verdict: Verdict


@dataclass(frozen=True)
class Report:
    """Everything that is said about a claim.

    Attributes:
        claim, sweep: what was run.
        main: the measure that decides the claim's verdict.
        others: the further measures.
        certified_share: certified replications over all, in each size the least.
        replications: per size.
    """

    claim: Claim
    sweep: SweepSpec
    main: Judged
    others: tuple[Judged, ...]
    certified_share: float
    replications: int

    def as_json(self) -> dict[str, Any]:
        """One flat object; NaN and infinity become null."""
        verdict = self.main.verdict
        return {
            "id": self.claim.id,
            "model": self.claim.model,
            "specification": self.claim.specification,
            "loss": self.claim.main.column,
            "predicted": predicted_words(self.claim.main.prediction),
            "exponent": _number(verdict.exponent),
            "interval": _interval(verdict),
            "law": verdict.law,
            "verdict": str(verdict.status),
            "reason": verdict.reason,
            "certified_share": self.certified_share,
            "replications": self.replications,
            "n": [int(n) for n in self.sweep.sizes],
            "measures": [
                {
                    "loss": judged.measure.column,
                    "predicted": predicted_words(judged.measure.prediction),
                    "exponent": _number(judged.verdict.exponent),
                    "interval": _interval(judged.verdict),
                    "law": judged.verdict.law,
                    "verdict": str(judged.verdict.status),
                    "reason": judged.verdict.reason,
                }
                for judged in self.others
            ],
        }


def report(claim: Claim, sweep: SweepSpec, rows: pd.DataFrame, statistic: str = "median") -> Report:
    """Judge every measure of a claim on its stored rows.

    Args:
        claim: what was claimed.
        sweep: what was run.
        rows: one row per replication.
        statistic: 'median' or 'mean' over replications.

    Raises:
        InputError: if there are no rows.
    """
    if rows.empty:
        raise InputError(f"no rows of {claim.id}: run `moe-theory run {claim.id}` first")
    share = min(float(np.mean(group["certified"].to_numpy(dtype=float))) for _, group in rows.groupby("n"))
    main = judge_measure(claim.main, rows, share, statistic)
    others = tuple(judge_measure(measure, rows, share, statistic) for measure in claim.others)
    return Report(claim, sweep, main, others, share, min(len(group) for _, group in rows.groupby("n")))


def judge_measure(measure: Measure, rows: pd.DataFrame, certified_share: float, statistic: str = "median") -> Judged:
    """The curve of one measure over all sizes, and its verdict over the sizes that are judged.

    Replications without the cell in question (NaN) are not failures: which cell the extra atom joins is random. The
    curve is taken over those that have it, and counts them.
    """
    sizes, errors = [], []
    for n, group in rows.groupby("n"):
        values = group[measure.column].to_numpy(dtype=float)
        values = values[~np.isnan(values)]
        if values.size >= FEWEST:
            sizes.append(float(n))  # pyright: ignore[reportArgumentType]
            errors.append(values)
    if not sizes:
        raise InputError(f"fewer than {FEWEST} replications have a {measure.words} at any size: use more --reps")
    if measure.from_size > max(sizes):
        raise InputError(
            f"{measure.words} is judged from n = {measure.from_size:.0e} on, but the largest size is {max(sizes):.0e}: "
            "use a grid that reaches further"
        )
    curve = summarise(np.array(sizes), errors, statistic)  # pyright: ignore[reportArgumentType]
    verdict = judge(measure.prediction, curve, measure.from_size or None, certified_share)
    return Judged(measure, curve, verdict)


FEWEST = 3
"""A size enters a curve with at least this many replications that have the cell."""


def predicted_words(prediction: Prediction) -> str:
    """The prediction as text, for example 'n^-0.5'."""
    return f"n^{prediction.exponent:g}" if prediction.exponent is not None else "no power law"


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _interval(verdict: Verdict) -> list[float | None] | None:
    return None if verdict.interval is None else [_number(bound) for bound in verdict.interval]
