"""An error curve: replicated errors at each sample size, reduced to a centre with a standard error.

Everything that fits a law reads an `ErrorCurve`, so the treatment of noise lives here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

Array = NDArray[np.float64]
Statistic = Literal["median", "mean"]

RESAMPLES = 200
STANDARD_ERROR_FLOOR = 1e-3
"""Least standard error of a log centre. Below one part in a thousand the departure of a real curve from its
asymptotic law, not the sampling noise, is what separates points, and replications do not measure that."""
SOLITARY_LOG_SD = 1.0
"""Log standard deviation assumed when no size has two replications: a guess, and deliberately a wide one."""
LARGEST_DOF = 1e9


@dataclass(frozen=True)
class ErrorCurve:
    """Centre of the error at each size, with its uncertainty.

    Args:
        n: sample sizes, increasing, each at least 3. Shape (sizes,).
        log_center: natural log of the median (or mean) error. Shape (sizes,).
        standard_error: standard error of `log_center`, positive. Shape (sizes,).
        lower: first quartile of the replications, in the units of the error. Shape (sizes,).
        upper: third quartile, same units. Shape (sizes,).
        count: replications used. Shape (sizes,).
        missing: replications that had no value (NaN). Shape (sizes,).
        statistic: `median` or `mean`.
        variance_dof: degrees of freedom behind the standard errors taken together; infinite if they are
            known.

    Raises:
        ValueError: shapes differ, sizes do not increase or lie below 3, a centre is not finite, or a standard
            error is not positive.
    """

    n: Array
    log_center: Array
    standard_error: Array
    lower: Array
    upper: Array
    count: NDArray[np.int64]
    missing: NDArray[np.int64]
    statistic: Statistic = "median"
    variance_dof: float = float("inf")

    def __post_init__(self) -> None:
        fields = (self.log_center, self.standard_error, self.lower, self.upper, self.count, self.missing)
        if self.n.ndim != 1 or any(field.shape != self.n.shape for field in fields):
            raise ValueError("every field of an error curve needs one entry per sample size")
        _check_sizes(self.n)
        if not np.all(np.isfinite(self.log_center)):
            raise ValueError("the log centre of an error curve must be finite at every size")
        if not np.all(self.standard_error > 0):
            raise ValueError("the standard errors of an error curve must be positive")

    @property
    def decades(self) -> float:
        """log10 of the largest over the smallest size."""
        return float(np.log10(self.n[-1] / self.n[0]))

    def from_size(self, n_min: float) -> "ErrorCurve":
        """The part of the curve with n >= n_min.

        Raises:
            ValueError: no size is left.
        """
        keep = self.n >= n_min
        if not keep.any():
            raise ValueError(f"no sample size is at least n_min = {n_min:g}; the largest is {self.n[-1]:g}")
        return ErrorCurve(
            self.n[keep],
            self.log_center[keep],
            self.standard_error[keep],
            self.lower[keep],
            self.upper[keep],
            self.count[keep],
            self.missing[keep],
            self.statistic,
            self.variance_dof,
        )


def summarise(
    n: Sequence[float] | Array,
    errors: Sequence[Sequence[float] | Array] | Array,
    statistic: Statistic = "median",
    seed: int = 0,
) -> ErrorCurve:
    """Reduce replicated errors to one centre per size, with bootstrap standard errors.

    `log_center_i = log median_r e_ir`. Its raw standard error is a smoothed bootstrap: resample log errors,
    add Gaussian noise of Silverman's bandwidth, take the median, and take the standard deviation over 200
    resamples (the plain bootstrap of a median jumps between order statistics and can be zero). For the mean
    the resamples are not smoothed, because a mean needs none.

    A bootstrap from 16 replications is itself uncertain by a third, and a size that is by luck too narrow
    would dominate a weighted fit. So the raw variances, rescaled to one replication, are shrunk in the log
    towards their pooled value by the positive-part James-Stein factor 1 - omega^2 / S^2 (S^2 the observed,
    omega^2 the expected variance of the log variances): equal noise is pooled, truly unequal noise is left
    alone. No standard error falls below `STANDARD_ERROR_FLOOR`, and one replication alone borrows the
    pooled spread (or `SOLITARY_LOG_SD` when there is none), so zero never occurs.

    Args:
        n: sample sizes, increasing, at least 3. Shape (sizes,).
        errors: replicated errors per size, positive, possibly ragged; NaN marks a replication without a
            value.
        statistic: `median` or `mean`.
        seed: of the bootstrap.

    Raises:
        ValueError: an error is zero, negative or infinite, or a size has no value at all.

    Source: our derivation; Efron 1979 (smoothed bootstrap), Smyth 2004 (shrunken variances).
    """
    if statistic not in ("median", "mean"):
        raise ValueError(f"statistic must be 'median' or 'mean', not {statistic!r}")
    sizes = np.asarray(n, dtype=np.float64)
    _check_sizes(sizes)
    if len(errors) != len(sizes):
        raise ValueError(f"{len(sizes)} sample sizes but errors for {len(errors)}")
    rows = [_log_errors(size, np.asarray(row, dtype=np.float64)) for size, row in zip(sizes, errors, strict=True)]
    count = np.array([row.size for row in rows], dtype=np.int64)
    missing = np.array([len(e) for e in errors], dtype=np.int64) - count
    center = np.array([_log_center(row, statistic) for row in rows])
    quartiles = np.exp([np.percentile(row, (25.0, 75.0)) for row in rows])
    raw = _bootstrap_errors(rows, statistic, seed)
    standard_error, dof = _shrink(raw, count)
    return ErrorCurve(sizes, center, standard_error, quartiles[:, 0], quartiles[:, 1], count, missing, statistic, dof)


def _check_sizes(n: Array) -> None:
    if n.ndim != 1 or n.size == 0 or not np.all(np.isfinite(n)) or n[0] < 3 or np.any(np.diff(n) <= 0):
        raise ValueError("sample sizes must be finite, increasing and at least 3 (log log n must be positive)")


def _log_errors(size: float, row: Array) -> Array:
    present = row[~np.isnan(row)]
    if present.size == 0:
        raise ValueError(f"n = {size:g}: none of the {row.size} replications has a value")
    bad = (present <= 0) | np.isinf(present)
    if bad.any():
        raise ValueError(
            f"n = {size:g}: {int(bad.sum())} of {row.size} errors are zero, negative or infinite "
            f"(the first is {present[bad][0]:g}); the log of an error needs a positive finite number"
        )
    return np.log(present)


def _log_center(log_errors: Array, statistic: Statistic) -> float:
    if statistic == "median":
        return float(np.median(log_errors))
    top = log_errors.max()
    return float(top + np.log(np.mean(np.exp(log_errors - top))))


@lru_cache(maxsize=32)
def _bootstrap_draws(count: int, seed: int) -> tuple[NDArray[np.int64], Array]:
    """Resampled positions and smoothing noise, shared by sizes of equal count (marginal errors only)."""
    rng = np.random.default_rng([seed, count])
    return rng.integers(count, size=(RESAMPLES, count)), rng.standard_normal((RESAMPLES, count))


def _bootstrap_errors(rows: Sequence[Array], statistic: Statistic, seed: int) -> Array:
    """Bootstrap standard error of each size's log centre; NaN for one replication. Shape (sizes,)."""
    raw = np.full(len(rows), np.nan)
    for m in sorted({row.size for row in rows} - {1}):
        chosen = [i for i, row in enumerate(rows) if row.size == m]
        raw[chosen] = _bootstrap_block(np.stack([rows[i] for i in chosen]), statistic, seed)
    return raw


def _bootstrap_block(log_errors: Array, statistic: Statistic, seed: int) -> Array:
    """The same for sizes of equal count. Shape of `log_errors` (sizes, m)."""
    m = log_errors.shape[1]
    positions, noise = _bootstrap_draws(m, seed)
    resampled = log_errors[:, positions]
    if statistic == "mean":
        scaled = np.exp(resampled - log_errors.max(axis=1)[:, None, None])
        return np.std(np.log(np.mean(scaled, axis=2)), axis=1, ddof=1)
    quartiles = np.percentile(log_errors, (25.0, 75.0), axis=1)
    deviation, robust = np.std(log_errors, axis=1, ddof=1), (quartiles[1] - quartiles[0]) / 1.349
    spread = np.where(robust > 0, np.minimum(deviation, robust), deviation)
    resampled += (0.9 * m**-0.2 * spread)[:, None, None] * noise
    return np.std(np.median(resampled, axis=2, overwrite_input=True), axis=1, ddof=1)


def _bootstrap_dof(count: NDArray[np.int64]) -> Array:
    """Degrees of freedom of one size's bootstrap variance, about m^(3/4).

    Measured from the variance of its log over 600 samples of lognormal, half-normal and gamma errors: 4 to
    5 at m = 8, 6 to 9 at 16, 20 to 24 at 64, 50 to 74 at 256.
    """
    return np.maximum(count.astype(np.float64), 1.0) ** 0.75


def _shrink(raw: Array, count: NDArray[np.int64]) -> tuple[Array, float]:
    """Standard errors shrunk to the pooled one-replication variance, and their joint degrees of freedom."""
    known = (count > 1) & (raw > 0)
    if not known.any():
        spread = SOLITARY_LOG_SD if np.all(count == 1) else 0.0
        return np.maximum(spread / np.sqrt(count), STANDARD_ERROR_FLOOR), 1.0
    per_replication = raw[known] ** 2 * count[known]
    dof = _bootstrap_dof(count[known])
    pooled = float(np.sum(dof * per_replication) / np.sum(dof))
    expected = float(np.mean(polygamma(1, dof / 2)))
    observed = float(np.var(np.log(per_replication), ddof=1)) if per_replication.size > 1 else 0.0
    kept = max(0.0, 1.0 - expected / observed) if observed > 0 else 0.0
    variance = np.full(raw.shape, pooled)
    variance[known] = pooled * (per_replication / pooled) ** kept
    joint_dof = (1 - kept) * float(dof.sum()) + kept * float(dof.mean())
    return np.maximum(np.sqrt(variance / count), STANDARD_ERROR_FLOOR), min(joint_dof, LARGEST_DOF)


@dataclass(frozen=True)
class LocalSlopes:
    """Slopes d log error / d log n over consecutive windows. Every field has shape (windows,)."""

    lower_n: Array
    upper_n: Array
    slope: Array
    standard_error: Array


def local_slopes(curve: ErrorCurve, decades: float = 1.0) -> LocalSlopes:
    """Weighted least-squares slope of log error in log n, decade by decade.

    Each window starts at the last size of the window before it and ends at the first size at least `decades`
    decades further (a grid coarser than that gives one window per step); a shorter rest joins the last
    window.

    Raises:
        ValueError: the curve has fewer than two sizes.

    Source: our derivation.
    """
    if curve.n.size < 2:
        raise ValueError("a slope needs at least two sample sizes")
    windows = _windows(np.log10(curve.n), decades)
    slopes, deviations = [], []
    for first, last in windows:
        x = np.log(curve.n[first : last + 1])
        w = curve.standard_error[first : last + 1] ** -2.0
        centred = x - np.sum(w * x) / np.sum(w)
        information = np.sum(w * centred**2)
        slopes.append(np.sum(w * centred * curve.log_center[first : last + 1]) / information)
        deviations.append(information**-0.5)
    lower, upper = (np.array([curve.n[w[side]] for w in windows]) for side in (0, 1))
    return LocalSlopes(lower, upper, np.array(slopes), np.array(deviations))


def _windows(log10_n: Array, decades: float) -> list[tuple[int, int]]:
    windows: list[tuple[int, int]] = []
    first = 0
    for i in range(1, log10_n.size):
        if log10_n[i] - log10_n[first] >= decades - 1e-9:
            windows.append((first, i))
            first = i
    end = log10_n.size - 1
    if not windows:
        return [(0, end)]
    windows[-1] = (windows[-1][0], end) if windows[-1][1] < end else windows[-1]
    return windows
