"""Verdicts on comparisons: stored rows of several claims, contrasted pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_theory.errors import InputError
from moe_theory.study.panels import curve_of
from moe_theory.study.tables import aligned, exponent_words
from moe_theory.study.verdict import CERTIFIED_SHARE, Status, equivalence_margin
from moe_theory.theory.comparisons import Aspect, Comparison, Pair
from moe_theory.theory.contrasts import Contrast, Estimate, contrast
from moe_theory.theory.summaries import ErrorCurve

LEVEL = 0.95
"""Of all pairs' intervals together: each has 1 - (1 - LEVEL) / pairs (Bonferroni)."""

LEAST_SIZES = 2


@dataclass(frozen=True)
class Compared:
    """One aspect of a comparison, judged.

    Attributes:
        aspect: the error.
        contrasts: one per pair.
        status, reason: the verdict.
        growth: exponent g of n_first / n_second ~ x^g over the pairs; None for one x.
    """

    aspect: Aspect
    contrasts: tuple[Contrast, ...]
    status: Status
    reason: str
    growth: Estimate | None


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that is said about a comparison.

    Attributes:
        comparison: what was compared.
        main: the aspect that decides.
        others: the further ones.
        certified_share: the least over claims and sizes.
        replications: the fewest per size.
        sizes: compared, of all claims.
    """

    comparison: Comparison
    main: Compared
    others: tuple[Compared, ...]
    certified_share: float
    replications: int
    sizes: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """One object, with the keys of a claim's."""
        growth = self.main.growth
        return {
            "id": self.comparison.id,
            "model": self.comparison.model,
            "specification": "comparison",
            "loss": self.main.aspect.column,
            "predicted": self.comparison.question,
            "exponent": None if growth is None else growth.value,
            "interval": None if growth is None else growth.interval(),
            "law": "undetermined" if growth is None else "power",
            "verdict": str(self.main.status),
            "reason": self.main.reason,
            "certified_share": self.certified_share,
            "replications": self.replications,
            "n": list(self.sizes),
            "aspects": [_aspect_json(self.comparison, each) for each in (self.main, *self.others)],
        }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison without results, with the keys of a claim's."""
    return {
        "id": comparison.id,
        "model": comparison.model,
        "specification": "comparison",
        "statement": comparison.statement,
        "loss": comparison.main.column,
        "predicted": comparison.question,
        "source": comparison.source,
    }


def compare(comparison: Comparison, rows: Mapping[str, pd.DataFrame]) -> ComparisonReport:
    """Judge every aspect of a comparison on the rows of its claims.

    Args:
        comparison: what is claimed.
        rows: by claim id, one row per replication.

    Raises:
        InputError: a claim has fewer than two sizes to compare, or an error without a value.
    """
    used = {name: rows[name].loc[rows[name]["n"] >= comparison.from_size] for name in comparison.parts}
    for name, frame in used.items():
        if frame["n"].nunique() < LEAST_SIZES:
            raise InputError(
                f"{comparison.id} needs at least {LEAST_SIZES} sizes of {name} from n = {comparison.from_size:.0e} on: "
                f"run `moe-theory run {name}` with a longer grid"
            )
    by_size = [group for frame in used.values() for _, group in frame.groupby("n")]
    share = min(float(np.mean(group["certified"].to_numpy(dtype=float))) for group in by_size)
    judged = [_judge(comparison, aspect, used, share) for aspect in (comparison.main, *comparison.others)]
    sizes = sorted({int(group["n"].iloc[0]) for group in by_size})
    return ComparisonReport(comparison, judged[0], tuple(judged[1:]), share, min(map(len, by_size)), tuple(sizes))


def _judge(comparison: Comparison, aspect: Aspect, rows: Mapping[str, pd.DataFrame], share: float) -> Compared:
    contrasts = tuple(
        contrast(_curve(pair.first, aspect, rows), _curve(pair.second, aspect, rows), aspect.exponent)
        for pair in comparison.pairs
    )
    growth = _growth(comparison.pairs, contrasts)
    if share < CERTIFIED_SHARE:
        reason = f"only {100 * share:.1f} % of the fits are certified at some size"
        return Compared(aspect, contrasts, Status.UNDECIDED, reason, growth)
    if comparison.question == "advantage":
        status, reason = _advantage(comparison.pairs, contrasts, growth)
    else:
        status, reason = _other_law(comparison.pairs, contrasts, aspect)
    return Compared(aspect, contrasts, status, reason, growth)


def _curve(name: str, aspect: Aspect, rows: Mapping[str, pd.DataFrame]) -> ErrorCurve:
    if aspect.column not in rows[name]:
        raise InputError(f"the rows of {name} have no {aspect.column}")
    curve, _ = curve_of(rows[name], aspect.column)
    if curve is None or curve.n.size < LEAST_SIZES:
        raise InputError(f"{name} has a {aspect.words} at fewer than {LEAST_SIZES} sizes: use more --reps")
    return curve


def _growth(pairs: Sequence[Pair], contrasts: Sequence[Contrast]) -> Estimate | None:
    """Weighted least-squares slope of log ratio in log x."""
    x = np.log([pair.x for pair in pairs])
    if np.ptp(x) == 0.0:
        return None
    weights = np.array([each.log_ratio.standard_error for each in contrasts]) ** -2.0
    ratios = np.array([each.log_ratio.value for each in contrasts])
    centred = x - np.sum(weights * x) / np.sum(weights)
    information = np.sum(weights * centred**2)
    dof = min(each.log_ratio.dof for each in contrasts)
    return Estimate(float(np.sum(weights * centred * ratios) / information), float(information**-0.5), dof)


def _together(pairs: Sequence[Pair]) -> float:
    return 1.0 - (1.0 - LEVEL) / len(pairs)


def _advantage(pairs: Sequence[Pair], contrasts: Sequence[Contrast], growth: Estimate | None) -> tuple[Status, str]:
    """Whether every ratio lies above 1, all intervals at once, and grows."""
    intervals = [each.log_ratio.interval(_together(pairs)) for each in contrasts]
    ratios = ", ".join(
        f"{np.exp(each.log_ratio.value):.3g} [{np.exp(low):.3g}, {np.exp(high):.3g}] at {pair.label}"
        for pair, each, (low, high) in zip(pairs, contrasts, intervals, strict=True)
    )
    grows = None if growth is None else growth.interval()
    words = "" if grows is None or growth is None else (
        f"; it goes as the power {growth.value:.2f} [{grows[0]:.2f}, {grows[1]:.2f}] of the series"
    )  # fmt: skip
    reason = f"Ratio of samples for equal error, intervals of {100 * LEVEL:.0f} % together: {ratios}{words}."
    if any(high < 0.0 for _, high in intervals) or (grows is not None and grows[1] < 0.0):
        return Status.REFUTED, reason
    if all(low > 0.0 for low, _ in intervals) and (grows is None or grows[0] > 0.0):
        return Status.SUPPORTED, reason
    return Status.UNDECIDED, reason


def _other_law(pairs: Sequence[Pair], contrasts: Sequence[Contrast], aspect: Aspect) -> tuple[Status, str]:
    """Whether the exponents of some pair differ by more than the equivalence margin."""
    margin, level = equivalence_margin(aspect.exponent), _together(pairs)
    intervals = [each.exponents.interval(level) for each in contrasts]
    far = [pair for pair, (low, high) in zip(pairs, intervals, strict=True) if low > margin or high < -margin]
    open_ = [pair for pair, (low, high) in zip(pairs, intervals, strict=True) if low < -margin or high > margin]
    together = f"intervals of {100 * LEVEL:.0f} % together"
    if far:
        names = "; ".join(pair.label for pair in far)
        return Status.SUPPORTED, f"The exponents differ by more than {margin:g} ({together}): {names}."
    if not open_:
        largest = max(abs(edge) for interval in intervals for edge in interval)
        return Status.REFUTED, f"All exponents agree within {largest:.3f}, less than {margin:g} ({together})."
    names = "; ".join(pair.label for pair in open_)
    return Status.UNDECIDED, f"Differences of exponents reach beyond {margin:g} ({together}): {names}; use more --reps."


def comparison_table(made: ComparisonReport) -> str:
    """One row per aspect and pair, then the reason of each verdict."""
    rows = [["comparison", "error", "pair", "difference of exponents", "ratio of samples", "predicted", "verdict"]]
    for each in (made.main, *made.others):
        for place, (pair, found) in enumerate(zip(made.comparison.pairs, each.contrasts, strict=True)):
            ratio = np.exp([found.log_ratio.value, *found.log_ratio.interval()])
            predicted = f"{pair.ratio:.3g}" if each.aspect.predicted and pair.ratio is not None else "-"
            rows.append(
                [
                    made.comparison.id if place == 0 and each is made.main else "",
                    each.aspect.words if place == 0 else "",
                    pair.label,
                    exponent_words(found.exponents.value, found.exponents.interval()),
                    f"{ratio[0]:.3g} [{ratio[1]:.3g}, {ratio[2]:.3g}]",
                    predicted,
                    str(each.status) if place == 0 else "",
                ]
            )
    reasons = [f"{made.comparison.id}, {each.aspect.words}: {each.reason}" for each in (made.main, *made.others)]
    return "\n".join([aligned(rows), "", *reasons])


def _aspect_json(comparison: Comparison, each: Compared) -> dict[str, Any]:
    pairs = [
        {
            "label": pair.label,
            "x": pair.x,
            "first": pair.first,
            "second": pair.second,
            "exponent_difference": found.exponents.value,
            "exponent_difference_interval": found.exponents.interval(),
            "sample_ratio": float(np.exp(found.log_ratio.value)),
            "sample_ratio_interval": [float(np.exp(edge)) for edge in found.log_ratio.interval()],
            "predicted_ratio": pair.ratio if each.aspect.predicted else None,
        }
        for pair, found in zip(comparison.pairs, each.contrasts, strict=True)
    ]
    return {"loss": each.aspect.column, "verdict": str(each.status), "reason": each.reason, "pairs": pairs}
