"""The sample size that an accuracy needs: a fitted law inverted, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moe_theory.theory.laws import LawFit, LawName, compare_laws
from moe_theory.theory.summaries import ErrorCurve

MAX_LOG_N = 700.0
"""A larger log n counts as infinite (its exponential overflows)."""


@dataclass(frozen=True)
class SampleComplexity:
    """The size at which a fitted law reaches an accuracy, with its 95 % interval.

    `lower` is 1 where the data set no lower limit, `n` and `upper` are infinite where they set no upper one.
    """

    accuracy: float
    n: float
    lower: float
    upper: float
    law: LawName
    extrapolated: bool
    statement: str


def sample_complexity(curve_or_fit: ErrorCurve | LawFit, eps: float) -> SampleComplexity:
    """Invert a fitted law: n(eps) with law(n(eps)) = eps.

    The interval is Fieller's: all n at which the 95 % band of the fitted line contains log eps. A curve is
    inverted through its law of least AICc. A plateau above eps, or an error that does not fall, needs an
    infinite n; a plateau at or below eps is reached at the least size of the grid, or earlier.

    Args:
        curve_or_fit: a curve of at least three sizes, or a fit of one law.
        eps: accuracy, positive, in the units of the error.

    Raises:
        ValueError: eps is not positive.

    Source: Fieller 1954; our derivation.
    """
    if not eps > 0:
        raise ValueError(f"the accuracy eps must be positive, not {eps:g}")
    fit = _best_fit(curve_or_fit) if isinstance(curve_or_fit, ErrorCurve) else curve_or_fit
    target = float(np.log(eps))
    n, lower, upper = _invert_plateau(fit, target) if fit.name == "plateau" else _invert_line(fit, target)
    first, last = fit.n_range
    outside = not first * (1 - 1e-9) <= n <= last * (1 + 1e-9)
    where = (
        f"an extrapolation of the {fit.name} law beyond the sizes measured, {first:.3g} to {last:.3g}"
        if outside
        else f"inside the sizes measured, {first:.3g} to {last:.3g}"
    )
    text = f"error {eps:.3g} at n = {n:.3g} (95 % interval {lower:.3g} to {upper:.3g}): {where}"
    if np.isinf(n):
        text = f"error {eps:.3g} is never reached, or beyond n = e^{MAX_LOG_N:.0f}: {where}"
    return SampleComplexity(eps, n, lower, upper, fit.name, outside, text)


def accuracies(fit: LawFit) -> tuple[float, ...]:
    """Accuracies to ask sample sizes for, largest first: the powers of ten that the fitted law passes.

    A law that passes none over its sizes, such as a plateau, is asked for the next power of ten below it.
    """
    ends = fit.log_error(np.array(fit.n_range)) / np.log(10.0)
    low, high = int(np.ceil(ends.min())) - 1, int(np.floor(ends.max()))
    inside = [power for power in range(high, low, -1) if ends.min() < power < ends.max()]
    return tuple(10.0**power for power in inside or [low])


def sizes_needed(fit: LawFit, wanted: Sequence[float], extrapolate: bool) -> tuple[SampleComplexity, ...]:
    """The sample size of every accuracy wanted; beyond the sizes measured only where a law may be trusted there.

    Args:
        fit: the law to invert.
        wanted: accuracies, positive.
        extrapolate: whether the law is known well enough beyond its largest size; if not, an accuracy that needs a
            larger one is 'not reached' (n infinite).

    Raises:
        ValueError: an accuracy is not positive.
    """
    found = [sample_complexity(fit, eps) for eps in wanted]
    return tuple(each if extrapolate or each.n <= fit.n_range[1] else _not_reached(each, fit) for each in found)


def _not_reached(found: SampleComplexity, fit: LawFit) -> SampleComplexity:
    text = (
        f"error {found.accuracy:.3g} is not reached at the sizes measured, {fit.n_range[0]:.3g} to "
        f"{fit.n_range[1]:.3g}, and no power law is established that would say where it is"
    )
    return replace(found, n=float("inf"), upper=float("inf"), statement=text)


def _best_fit(curve: ErrorCurve) -> LawFit:
    comparison = compare_laws(curve)
    return comparison.fits[comparison.best]


def _invert_plateau(fit: LawFit, target: float) -> tuple[float, float, float]:
    low, high = fit.intervals["log_constant"]
    first = fit.n_range[0]
    n, lower, upper = (
        first if edge <= target else float("inf") for edge in (fit.parameters["log_constant"], low, high)
    )
    return n, lower, upper


def _invert_line(fit: LawFit, target: float) -> tuple[float, float, float]:
    """Fieller's interval for the abscissa z of c + b z = target, mapped back from z to n."""
    (constant, slope), v = fit.parameters.values(), fit.covariance
    sign = 1.0 if fit.name == "power" else -1.0
    slope, cross = sign * slope, sign * v[0, 1]
    gap, t2 = constant - target, fit.critical**2
    a, b, c = slope**2 - t2 * v[1, 1], gap * slope - t2 * cross, gap**2 - t2 * v[0, 0]
    point = _to_n(fit.name, -gap / slope) if slope < 0 else float("inf")
    root = b**2 - a * c
    if root < 0 or slope >= 0:
        return point, 1.0, float("inf")
    ends = sorted(((-b - root**0.5) / a, (-b + root**0.5) / a))
    if a > 0:
        return point, _to_n(fit.name, ends[0]), _to_n(fit.name, ends[1])
    return point, (_to_n(fit.name, ends[1]) if -gap / slope >= ends[1] else 1.0), float("inf")


def _to_n(name: LawName, z: float) -> float:
    log_n = z if name == "power" else float(np.exp(min(z, 50.0)))
    return float(np.exp(log_n)) if log_n < MAX_LOG_N else float("inf")
