"""From stored rows to verdicts: one report per claim, for people and for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moe_theory.errors import InputError
from moe_theory.study.spec import SweepSpec
from moe_theory.study.verdict import CERTIFIED_SHARE, Status, Terms, Verdict, judge
from moe_theory.theory.claims import Claim, Measure
from moe_theory.theory.laws import LawComparison, Prediction, compare_laws
from moe_theory.theory.summaries import ErrorCurve, Statistic, local_slopes, summarise

FEWEST = 3
"""A size enters a curve with at least this many replications that have a value."""


@dataclass(frozen=True)
class Judged:
    """A measure, its curve and its verdict.

    Attributes:
        measure: the error and its predicted law.
        curve: of the statistic that is judged.
        other: the same replications through the other statistic, the mean of a median and the other way round.
        verdict: on `curve`.
        missing: replications without a value, over all sizes, judged or not.
        failed: those of them whose fit is not certified, so that no cell need be absent.
        left_out: replications at sizes that are not in the curve because fewer than `FEWEST` have a value, by size.
    """

    measure: Measure
    curve: ErrorCurve
    other: ErrorCurve
    verdict: Verdict
    missing: int
    failed: int
    left_out: Mapping[float, int]

    @property
    def replications(self) -> int:
        """All of them, with a value or without, over all sizes."""
        return int(self.curve.count.sum() + self.curve.missing.sum()) + sum(self.left_out.values())

    @property
    def remark(self) -> str:
        """Why the law need not hold, where the data refute it."""
        return self.measure.remark if self.verdict.status is Status.REFUTED else ""

    def laws(self, statistic: Statistic) -> LawComparison | None:
        """The laws on the medians or the means, over the sizes that the verdict used; None where it fitted nothing."""
        if self.verdict.exponent is None:
            return None
        curve = self.curve if self.curve.statistic == statistic else self.other
        return compare_laws(curve, self.verdict.evidence["n_min"])


@dataclass(frozen=True)
class Report:
    """Everything that is said about a claim.

    Attributes:
        claim, sweep: what was run.
        main: the measure that decides the claim's verdict.
        others: the further measures.
        certified_share: certified replications over all, in each size the least.
        replications: per size.
        starts: what the fits owe to where they started.
        unseen: measures of a kind of cell that hardly any fit has, which cannot be judged.
    """

    claim: Claim
    sweep: SweepSpec
    main: Judged
    others: tuple[Judged, ...]
    certified_share: float
    replications: int
    starts: "Starts | None" = None
    unseen: tuple[Measure, ...] = ()

    @property
    def certified(self) -> bool:
        """Whether the share of certified fits is what a verdict demands."""
        return self.certified_share >= CERTIFIED_SHARE

    @property
    def open_questions(self) -> tuple[Judged, ...]:
        """The further measures that are undecided; their reasons say what would decide them."""
        return tuple(judged for judged in self.others if judged.verdict.status is Status.UNDECIDED)

    def as_json(self) -> dict[str, Any]:
        """One object; NaN and infinity become null."""
        described = {
            "id": self.claim.id,
            "model": self.claim.model,
            "specification": self.claim.specification,
            **_judgement(self.main),
            "certified_share": self.certified_share,
            "replications": self.replications,
            "n": [int(n) for n in self.sweep.sizes],
            **_numbers(self.main),
            "starts": None if self.starts is None else self.starts._asdict(),
            "measures": [_judgement(judged) | _numbers(judged) for judged in self.others],
            "unseen": [measure.column for measure in self.unseen],
        }
        return _plain(described)


class Starts(NamedTuple):
    """How little the fits owe to their starts, at the largest size.

    Attributes:
        n: the size.
        start_error: median loss (D_1 or D_12) of the starts that led to the fits.
        fit_error: median loss of the fits.
        untied_share: replications in which a start that holds nothing of the truth ends at the same minimum.
        iterations: median over the fits.
    """

    n: int
    start_error: float
    fit_error: float
    untied_share: float
    iterations: float


def _starts(claim: Claim, rows: pd.DataFrame) -> Starts | None:
    """None for rows that were not fitted by the sweep and so have no starts."""
    if "start_D_12" not in rows:
        return None
    last = rows.loc[rows["n"] == rows["n"].max()]
    loss = "D_1" if claim.specification == "exact" else "D_12"
    same = float(np.mean(last["untied_agrees"].to_numpy(dtype=float)))
    middle = {name: float(last[name].median()) for name in (f"start_{loss}", loss, "iterations")}
    return Starts(int(last["n"].iloc[0]), middle[f"start_{loss}"], middle[loss], same, middle["iterations"])


def report(
    claim: Claim,
    sweep: SweepSpec,
    rows: pd.DataFrame,
    statistic: Statistic | None = None,
    accuracies: Sequence[float] | None = None,
) -> Report:
    """Judge every measure of a claim on its stored rows.

    Args:
        claim: what was claimed.
        sweep: what was run.
        rows: one row per replication.
        statistic: 'median' or 'mean' over replications; None for each measure's own.
        accuracies: errors whose sample sizes are wanted; by default the powers of ten that the law passes.

    Raises:
        InputError: if there are no rows.
    """
    if rows.empty:
        raise InputError(f"no rows of {claim.id}: run `moe-theory run {claim.id}` first")
    share = min(float(np.mean(group["certified"].to_numpy(dtype=float))) for _, group in rows.groupby("n"))
    unseen = tuple(each for each in claim.others if each.conditional and not _errors_by_size(each.column, rows)[0])
    main, *others = (
        judge_measure(measure, rows, share, statistic, accuracies)
        for measure in (claim.main, *claim.others)
        if measure not in unseen
    )
    fewest = min(len(group) for _, group in rows.groupby("n"))
    return Report(claim, sweep, main, tuple(others), share, fewest, _starts(claim, rows), unseen)


def judge_measure(
    measure: Measure,
    rows: pd.DataFrame,
    certified_share: float,
    statistic: Statistic | None = None,
    accuracies: Sequence[float] | None = None,
) -> Judged:
    """The curve of one measure over all sizes, and its verdict over the sizes that are judged.

    A replication without a value (NaN) is counted as missing, never dropped. The verdict says what it means: no such
    cell in the fit where the measure is conditional on one, else a failure.

    Raises:
        InputError: too few replications have a value, or the sizes end before the measure is judged.
    """
    sizes, errors, left_out = _errors_by_size(measure.column, rows)
    if not sizes:
        raise InputError(f"fewer than {FEWEST} replications have a {measure.words} at any size: use more --reps")
    if measure.from_size > max(sizes):
        raise InputError(
            f"{measure.words} is judged from n = {measure.from_size:.0e} on, but the largest size is {max(sizes):.0e}: "
            "use a grid that reaches further"
        )
    judged = statistic or measure.statistic
    curve, other = (summarise(np.array(sizes), errors, each) for each in (judged, _other(judged)))
    lost = sum(count for n, count in left_out.items() if n >= measure.from_size)
    terms = Terms(certified_share, measure.conditional, lost, accuracies)
    verdict = judge(measure.prediction, curve, measure.from_size or None, terms)
    missing = np.isnan(rows[measure.column].to_numpy(dtype=np.float64))
    failed = missing & ~rows["certified"].eq(True).to_numpy()
    return Judged(measure, curve, other, verdict, int(missing.sum()), int(failed.sum()), left_out)


def _errors_by_size(column: str, rows: pd.DataFrame) -> tuple[list[float], list[np.ndarray], dict[float, int]]:
    """Sizes, their errors with NaN for a missing one, and how many replications the sizes left out have."""
    n, values = rows["n"].to_numpy(dtype=np.float64), rows[column].to_numpy(dtype=np.float64)
    by_size = {float(size): values[n == size] for size in np.unique(n)}
    kept = {size: errors for size, errors in by_size.items() if np.isfinite(errors).sum() >= FEWEST}
    return list(kept), list(kept.values()), {size: row.size for size, row in by_size.items() if size not in kept}


def _other(statistic: Statistic) -> Statistic:
    return "mean" if statistic == "median" else "median"


def predicted_words(prediction: Prediction) -> str:
    """The prediction as text, for example 'n^-0.5'."""
    return f"n^{prediction.exponent:g}" if prediction.exponent is not None else "no power law"


def _judgement(judged: Judged) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "loss": judged.measure.column,
        "predicted": predicted_words(judged.measure.prediction),
        "exponent": verdict.exponent,
        "interval": verdict.interval,
        "law": verdict.law,
        "verdict": str(verdict.status),
        "reason": verdict.reason,
        "remark": judged.remark,
    }


def _numbers(judged: Judged) -> dict[str, Any]:
    """What the judgement rests on."""
    verdict, curve = judged.verdict, judged.curve
    return {
        "sample_complexity": verdict.evidence["sample_complexity"],
        "missing": judged.missing,
        "missing_uncertified": judged.failed,
        "left_out": [{"n": n, "replications": count} for n, count in judged.left_out.items()],
        "fits": {statistic: _fitted(judged.laws(statistic)) for statistic in ("median", "mean")},
        "slopes": _slopes(curve),
        "curve": {
            "statistic": curve.statistic,
            "n": curve.n,
            "error": np.exp(curve.log_center),
            "bootstrap_standard_error_log": curve.standard_error,
            "lower_quartile": curve.lower,
            "upper_quartile": curve.upper,
            "replications": curve.count,
            "missing": curve.missing,
        },
        "evidence": {name: value for name, value in verdict.evidence.items() if name != "sample_complexity"},
    }


def _fitted(comparison: LawComparison | None) -> dict[str, Any] | None:
    """The power law through the medians or the means, and how the three laws rank."""
    if comparison is None:
        return None
    power = comparison.fits["power"]
    return {
        "exponent": power.parameters["exponent"],
        "standard_error": power.standard_errors["exponent"],
        "interval": power.intervals["exponent"],
        "constant": float(np.exp(power.parameters["log_constant"])),
        "tau": comparison.fits["inverse-log"].parameters["tau"],
        "aicc_weights": comparison.weights,
        "fitted_n": power.n_range,
    }


def _slopes(curve: ErrorCurve) -> list[dict[str, float]]:
    if curve.n.size < 2:
        return []
    slopes = local_slopes(curve)
    columns = (slopes.lower_n, slopes.upper_n, slopes.slope, slopes.standard_error)
    names = ("from_n", "to_n", "slope", "standard_error")
    return [dict(zip(names, map(float, window), strict=True)) for window in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    """What strict JSON can hold: arrays become lists, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
