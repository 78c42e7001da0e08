"""The verdict on one prediction: SUPPORTED, REFUTED or UNDECIDED, with its reason in numbers.

The data leave a set of candidates standing: each law that the encompassing test of `compare_laws` does not
reject at `REJECTION_LEVEL`, and of the power laws those with an exponent in
`LawComparison.exponent_region`, same level. The verdict is what that set implies. All candidates contradict
the prediction: REFUTED. Only the power law stands and the 95 % interval of its exponent lies within the
equivalence margin: SUPPORTED. Anything else: UNDECIDED. A wrong verdict thus needs the true law to have
been rejected, which each of the two tests does at most at its level.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from moe_theory.theory.complexity import accuracies, sizes_needed
from moe_theory.theory.laws import LAWS, LawComparison, LawName, Prediction, compare_laws
from moe_theory.theory.summaries import ErrorCurve

REJECTION_LEVEL = 0.005
MISFIT_LEVEL = 0.001
"""Goodness of fit of the encompassing family below which no law of it is said to stand."""
CANDIDATE_EXPONENTS = (1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 2, 1.0)
"""Exponents that the theory can produce: n^-1/2, n^-1/(2 q) and n^-1/rbar, n^-1/(2 rbar) for rbar = 4, 6."""
SMALLEST_EXPONENT = min(CANDIDATE_EXPONENTS)
"""No power law slower than this occurs in the theory; rejecting it and all faster ones is 'no power law'."""
LARGEST_MARGIN = 0.05
NEIGHBOUR_SHARE = 0.45
FLAT_TAU = 0.5
"""|tau| of an inverse-log law that still counts as a plateau."""
CERTIFIED_SHARE = 0.99
MISSING_SHARE = 0.05
"""Missing replications that a verdict tolerates: they move a median by at most 2.5 % of the distribution."""
LEAST_REPLICATIONS = 8
LEAST_SIZES = 4
LEAST_DECADES = 2.0


class Status(StrEnum):
    """What a verdict says of a claim."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Verdict:
    """What the data say about a prediction.

    Args:
        status: SUPPORTED, REFUTED or UNDECIDED.
        law: the law that the data single out, or `undetermined`.
        exponent: slope of the fitted power law (negative when the error falls); None if nothing was fitted.
        interval: its 95 % interval.
        reason: one English sentence with the numbers in it.
        evidence: those numbers and more, by name.
    """

    status: Status
    law: LawName | Literal["undetermined"]
    exponent: float | None
    interval: tuple[float, float] | None
    reason: str
    evidence: dict[str, Any]


def equivalence_margin(exponent: float) -> float:
    """How near to a predicted exponent the 95 % interval must lie for support.

    margin = min(0.05, 0.45 * distance to the nearest other candidate), candidates `CANDIDATE_EXPONENTS` and
    0. Less than half the distance, so that no interval supports two candidates: 1/2 -> 0.05, 1/4 -> 0.0375,
    1/8 -> 0.019, 1/12 -> 0.019.

    Args:
        exponent: predicted exponent, either sign.

    Source: our derivation.
    """
    distances = [abs(abs(exponent) - other) for other in (0.0, *CANDIDATE_EXPONENTS)]
    return min(LARGEST_MARGIN, NEIGHBOUR_SHARE * min(d for d in distances if d > 1e-9))


@dataclass(frozen=True)
class Terms:
    """What a judgement must know beside prediction and curve.

    Args:
        certified_share: share of all replications whose fit is certified; below 0.99 nothing is decided.
        conditional: whether a replication without a value is no failure but one whose fit has no such cell. The law
            is then that of the replications that have it; how many do not is said in the reason.
        lost: replications at sizes that the curve leaves out because too few there have a value; they count as missing.
        wanted: accuracies whose sample sizes are wanted; by default the powers of ten that the law passes.
    """

    certified_share: float = 1.0
    conditional: bool = False
    lost: int = 0
    wanted: Sequence[float] | None = None


PLAIN = Terms()
"""Every fit certified, every replication meant to have a value."""


def judge(prediction: Prediction, curve: ErrorCurve, n_min: float | None = None, terms: Terms = PLAIN) -> Verdict:
    """Judge a prediction on an error curve.

    Without `n_min`, the smallest sizes are dropped one at a time for as long as no law fits what is left (an
    asymptotic law owes nothing to small n), down to four sizes and two decades. This happens only after every
    law was rejected, so it hardly costs calibration; `evidence["n_min"]` says what was used.

    Args:
        prediction: a power with its exponent, or no power law.
        curve: from `summarise`.
        n_min: least size used; None for the rule above.
        terms: certified share, meaning of missing values, accuracies wanted.

    Raises:
        ValueError: `n_min` is above the largest size.
    """
    part = curve if n_min is None else curve.from_size(n_min)
    if part.n.size < LEAST_SIZES or part.decades < LEAST_DECADES:
        return _unfitted(part, terms)
    comparison = compare_laws(part) if n_min is not None else drop_transient(part)
    verdict = decide(prediction, comparison, terms)
    used = comparison.curve.n[0]
    if used == part.n[0]:
        return verdict
    reason = f"From n = {used:.3g} on (no law fits with the smaller sizes): {verdict.reason}"
    return replace(verdict, reason=reason)


def drop_transient(curve: ErrorCurve) -> LawComparison:
    """The comparison from the least size on from which some law fits; the whole curve if none ever does.

    Raises:
        ValueError: fewer than three sizes.
    """
    whole = compare_laws(curve)
    comparison = whole
    for n in curve.n[1:]:
        if standing_laws(comparison):
            return comparison
        rest = curve.from_size(float(n))
        if rest.n.size < LEAST_SIZES or rest.decades < LEAST_DECADES:
            return whole
        comparison = compare_laws(rest)
    return whole


def standing_laws(comparison: LawComparison) -> set[LawName]:
    """The laws that the data do not reject."""
    if comparison.encompassing_fit < MISFIT_LEVEL:
        return set()
    return {name for name, p in comparison.rejection.items() if p >= REJECTION_LEVEL}


def decide(prediction: Prediction, comparison: LawComparison, terms: Terms = PLAIN) -> Verdict:
    """The verdict from a comparison of laws; `judge` without the choice of sizes."""
    power = comparison.fits["power"]
    law = decided_law(comparison)
    obstacle = _obstacle(comparison.curve, terms)
    if obstacle:
        status, reason = Status.UNDECIDED, obstacle
    elif not standing_laws(comparison):
        status, reason = Status.UNDECIDED, _nothing_fits(comparison)
    elif prediction.kind == "power":
        status, reason = _judge_power(prediction, comparison, law)
    else:
        status, reason = _judge_no_power(comparison, law)
    if terms.conditional and not obstacle:
        reason += _absent(comparison.curve, terms)
    evidence = _evidence(prediction, comparison, terms) | {"sample_complexity": _sample_sizes(comparison, law, terms)}
    return Verdict(status, law, power.parameters["exponent"], power.intervals["exponent"], reason, evidence)


def decided_law(comparison: LawComparison) -> LawName | Literal["undetermined"]:
    """The law that the data single out.

    Power and inverse-log: the only one standing, decreasing. Plateau: not rejected, and equivalent to one,
    the 95 % intervals of the exponent within half the smallest candidate exponent and of tau within
    `FLAT_TAU` of 0.
    """
    standing = standing_laws(comparison)
    power, inverse_log = comparison.fits["power"], comparison.fits["inverse-log"]
    if "plateau" in standing:
        flat = _within(power.intervals["exponent"], 0.0, SMALLEST_EXPONENT / 2)
        return "plateau" if flat and _within(inverse_log.intervals["tau"], 0.0, FLAT_TAU) else "undetermined"
    if standing == {"power"} and _region(comparison)[1] < 0:
        return "power"
    if standing == {"inverse-log"} and inverse_log.interval("tau", 1 - REJECTION_LEVEL)[0] > 0:
        return "inverse-log"
    return "undetermined"


def _region(comparison: LawComparison) -> tuple[float, float]:
    """The exponents standing, for a comparison in which the power law stands (so some exponent does)."""
    region = comparison.exponent_region(REJECTION_LEVEL)
    assert region is not None
    return region


def _within(interval: tuple[float, float], center: float, margin: float) -> bool:
    return center - margin <= interval[0] and interval[1] <= center + margin


def _judge_power(
    prediction: Prediction, comparison: LawComparison, law: LawName | Literal["undetermined"]
) -> tuple[Status, str]:
    predicted = prediction.exponent
    assert predicted is not None
    margin = equivalence_margin(predicted)
    fit, standing = comparison.fits["power"], standing_laws(comparison)
    interval = fit.intervals["exponent"]
    measured = f"exponent {fit.parameters['exponent']:.4f}, 95 % interval {_pair(interval)}"
    target = f"within {margin:.3f} of the predicted {predicted:.4f}"
    if law == "power" and _within(interval, predicted, margin):
        others = _rejections(comparison, "power")
        return Status.SUPPORTED, f"The error follows a power law: {measured}, {target}; {others}."
    if "power" not in standing:
        return Status.REFUTED, _no_power_law(comparison)
    region = _region(comparison)
    if region[1] < predicted - margin or region[0] > predicted + margin:
        return (
            Status.REFUTED,
            f"The power law has {measured}, not {target}; {_standing(standing)} not rejected.",
        )
    if law != "power":
        advice = "a wider range of n, or more replications, would tell"
        return Status.UNDECIDED, f"Not decided: {measured}, but {_standing(standing)} not rejected; {advice}."
    return Status.UNDECIDED, _undecided_exponent(measured, interval, predicted, margin)


def _undecided_exponent(measured: str, interval: tuple[float, float], predicted: float, margin: float) -> str:
    half, center = (interval[1] - interval[0]) / 2, sum(interval) / 2
    room = margin - abs(center - predicted)
    start = f"A power law with {measured}: neither within {margin:.3f} of {predicted:.4f} nor outside"
    if room < margin / 4:
        return f"{start}; larger sizes would tell, since the exponent may still drift."
    return f"{start}; about {np.ceil((half / room) ** 2):.0f} times the replications would tell."


def _judge_no_power(comparison: LawComparison, law: LawName | Literal["undetermined"]) -> tuple[Status, str]:
    fit, standing = comparison.fits["power"], standing_laws(comparison)
    measured = f"exponent {fit.parameters['exponent']:.4f}, 95 % interval {_pair(fit.intervals['exponent'])}"
    if law == "power":
        others = _rejections(comparison, "power")
        return Status.REFUTED, f"The error follows a power law: {measured}; {others}."
    if "power" not in standing:
        return Status.SUPPORTED, _no_power_law(comparison)
    if _region(comparison)[0] > -SMALLEST_EXPONENT:
        limit = f"No power as fast as n^-{SMALLEST_EXPONENT:.4f} fits"
        if law == "plateau":
            return Status.SUPPORTED, f"A plateau: {measured}. {limit}: every power law of the theory is rejected."
        return Status.SUPPORTED, f"{limit} ({measured}), while {_standing(standing)} not rejected."
    advice = "a wider range of n, or more replications, would tell"
    return Status.UNDECIDED, f"Not decided: {measured}, and {_standing(standing)} not rejected; {advice}."


def _no_power_law(comparison: LawComparison) -> str:
    standing = _standing(standing_laws(comparison))
    return f"No power law: {_rejections(comparison)}, while {standing} not rejected."


def _obstacle(curve: ErrorCurve, terms: Terms) -> str:
    missing, total = _missing(curve, terms)
    if terms.certified_share < CERTIFIED_SHARE:
        return (
            f"Only {100 * terms.certified_share:.1f} % of the fits are certified minimisers, "
            f"less than {100 * CERTIFIED_SHARE:.0f} %: the errors may be the optimiser's."
        )
    if missing > MISSING_SHARE * total and not terms.conditional:
        return f"{missing} of {total} replications have no error, more than {100 * MISSING_SHARE:.0f} %."
    if curve.count.min() < LEAST_REPLICATIONS:
        return f"Some size has {curve.count.min()} replications, a verdict needs at least {LEAST_REPLICATIONS}."
    return ""


def _missing(curve: ErrorCurve, terms: Terms) -> tuple[int, int]:
    missing = int(curve.missing.sum()) + terms.lost
    return missing, missing + int(curve.count.sum())


def _absent(curve: ErrorCurve, terms: Terms) -> str:
    missing, total = _missing(curve, terms)
    return f" Of {total} replications {missing} have no such cell and no value." if missing else ""


def _unfitted(curve: ErrorCurve, terms: Terms) -> Verdict:
    reason = (
        f"{curve.n.size} sizes over {curve.decades:.1f} decades are too few to tell laws apart; "
        f"at least {LEAST_SIZES} sizes over {LEAST_DECADES:.0f} decades are needed."
    )
    evidence = _measured(curve, terms) | {"decades": curve.decades, "sample_complexity": []}
    return Verdict(Status.UNDECIDED, "undetermined", None, None, reason, evidence)


def _nothing_fits(comparison: LawComparison) -> str:
    p = ", ".join(f"{name} p = {fit.goodness_of_fit:.1e}" for name, fit in comparison.fits.items())
    start = f"No law fits from n = {comparison.curve.n[0]:.3g} on ({p})"
    return f"{start}; larger sizes, past the transient, would tell."


def _rejections(comparison: LawComparison, spared: LawName | None = None) -> str:
    standing = standing_laws(comparison)
    gone = {name: p for name, p in comparison.rejection.items() if name not in standing and name != spared}
    return " and ".join(f"the {name} law is rejected (p = {p:.1e})" for name, p in gone.items())


def _standing(standing: set[LawName]) -> str:
    names = [name for name in LAWS if name in standing]
    return f"the {', '.join(names)} law{'s are' if len(names) > 1 else ' is'}"


def _pair(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _sample_sizes(
    comparison: LawComparison, law: LawName | Literal["undetermined"], terms: Terms
) -> list[dict[str, Any]]:
    """n(eps) of the accuracies wanted, through the law decided, else the likeliest that stands.

    Only a decided power law is followed beyond the sizes measured.
    """
    standing = standing_laws(comparison) or set(LAWS)
    fits = [comparison.fits[name] for name in LAWS if name in ({law} if law in LAWS else standing)]
    fit = min(fits, key=lambda fit: fit.aicc)
    wanted = accuracies(fit) if terms.wanted is None else terms.wanted
    return [asdict(found) for found in sizes_needed(fit, wanted, extrapolate=law == "power")]


def _measured(curve: ErrorCurve, terms: Terms) -> dict[str, Any]:
    return {
        "n_min": float(curve.n[0]),
        "n_max": float(curve.n[-1]),
        "sizes": int(curve.n.size),
        "replications": int(curve.count.sum()),
        "missing": _missing(curve, terms)[0],
        "certified_share": terms.certified_share,
    }


def _evidence(prediction: Prediction, comparison: LawComparison, terms: Terms) -> dict[str, Any]:
    fits = comparison.fits
    return {
        "predicted": "no power law" if prediction.exponent is None else prediction.exponent,
        "margin": None if prediction.exponent is None else equivalence_margin(prediction.exponent),
        **_measured(comparison.curve, terms),
        "exponent_region": comparison.exponent_region(REJECTION_LEVEL),
        "tau": fits["inverse-log"].parameters["tau"],
        "tau_interval": fits["inverse-log"].intervals["tau"],
        "rejection_p": dict(comparison.rejection),
        "goodness_of_fit_p": {name: fit.goodness_of_fit for name, fit in fits.items()},
        "encompassing_fit_p": comparison.encompassing_fit,
        "delta_aicc": dict(comparison.delta_aicc),
        "aicc_weights": dict(comparison.weights),
        "best_by_aicc": comparison.best,
    }
