"""What a figure shows: error curves with their laws, grouped into panels; numbers only, nothing is drawn here.

A `Series` is one error curve with the law drawn through it, a `Panel` a set of them on common axes. Laws and verdicts
come from `theory.laws` and `study.verdict`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_theory.errors import InputError
from moe_theory.study.verdict import Verdict, decided_law, drop_transient
from moe_theory.theory.laws import LawFit, compare_laws
from moe_theory.theory.summaries import ErrorCurve, Statistic, summarise

Array = NDArray[np.float64]
Bounds = Mapping[str, Callable[[Array], Array]]
"""Errors as functions of n, by column, that no estimator stays below at both of two measures."""
BOUND_POINTS = 73
"""Points at which a lower bound is drawn."""
IDENTIFIED_SET = ("D_12_lowest", "D_12_highest")
"""Columns with the least and largest D_12 over the fits that the objective cannot tell apart."""
NARROW_BAND = 1.25
"""A band whose bounds are nearer than this ratio lies within the width of a marker, on axes of several decades."""
_BLOCKS = {
    "": ("all blocks", 6),
    "_center": ("centres $c$", 0),
    "_gate": ("gate slopes $\\beta_1$", 0),
    "_intercept": ("intercepts $b$", 1),
    "_spread": ("spreads $\\Gamma$", 2),
    "_noise": ("noise variances $\\nu$", 3),
    "_slope": ("slopes $A$", 4),
}
_QUANTITIES: dict[str, tuple[str, int]] = {  # column: label and look, so that it looks the same in every figure
    "D_12": ("$D_{12}$", 0),
    "D_1": ("$D_1$", 0),
    "function_error": ("function error", 1),
    "singleton_error": ("singleton atoms", 2),
    "overfitted_error": ("over-fitted atoms", 3),
    "overfitted_value_error": ("over-fitted values", 3),
    "overfitted_query_error": ("over-fitted centers", 4),
    "frozen_error": ("atom in the frozen cell", 6),
    "D_12_confidence_highest": ("max $D_{12}$ in the 95 % set", 4),
    "D_12_truth_highest": ("max $D_{12}$ where $F \\leq F(G_*)$", 5),
    "D_12_highest": ("max $D_{12}$ within $10^{-3}$", 6),
    "farthest_error": ("farthest over-fitted atom", 4),
    "weight_error": ("weights of cells", 4),
    "D": ("$D$ with block powers", 0),
    **{
        f"{kind}{block}_error": look
        for kind in ("pair", "triple", "singleton")
        for block, look in _BLOCKS.items()
        if (kind, block) != ("singleton", "")
    },
}


_DEFAULT = ("D_12", "D_1", "function_error", "singleton_error", "overfitted_error")
"""Columns drawn unless others are asked for, where present."""


@dataclass(frozen=True)
class Series:
    """One error curve as drawn.

    Args:
        name: plain word for the CSV, such as a column's name.
        label: for the legend; may hold $mathematics$.
        curve: centre, quartiles and standard errors by size.
        fit: law to draw over its own range; None joins the medians by a thin line instead.
        exponent: slope of the power law, shown in the legend whatever law is drawn.
        interval: its 95 % interval.
        reference: predicted exponent, if a power is predicted.
        empty: replications at sizes at which not one has a value, by size; they are only in the CSV.
        identified: least and largest value over the identified set (medians of the bounds), aligned with
            `curve.n`, NaN where unknown; drawn as a hatched band where it can be seen.
        tail: level and values of an upper quantile, aligned with `curve.n`; drawn as a dash above each median.
        look: colour, marker and line style, by number; None for the first that the panel has free.
        bound: sizes and errors that no estimator stays below at both of two measures; drawn as a thin dotted line.
    """

    name: str
    label: str
    curve: ErrorCurve
    fit: LawFit | None = None
    exponent: float | None = None
    interval: tuple[float, float] | None = None
    reference: float | None = None
    empty: Mapping[float, int] = field(default_factory=dict)
    identified: tuple[Array, Array] | None = None
    tail: tuple[float, Array] | None = None
    look: int | None = None
    bound: tuple[Array, Array] | None = None

    @property
    def band(self) -> tuple[Array, Array] | None:
        """The identified set, unless it is as narrow as the curve's own line at every size."""
        if self.identified is None:
            return None
        low, high = self.identified
        return self.identified if np.any(high > NARROW_BAND * low) else None


@dataclass(frozen=True)
class Panel:
    """Series on common axes.

    Args:
        title: above the axes, at the left.
        series: in the order of the legend.
        certified: share of certified fits by size; empty if none was recorded.
        note: one short line beneath the legend.
        subtitle: beneath the title, smaller; may hold $mathematics$.
        slopes: drawn in grey: by default the rates of an identified and of an over-fitted parameter.
    """

    title: str
    series: Sequence[Series]
    certified: Mapping[float, float] = field(default_factory=dict)
    note: str = ""
    subtitle: str = ""
    slopes: tuple[float, ...] = (-0.5, -0.25)


def claim_panel(
    title: str,
    frame: pd.DataFrame,
    verdict: Verdict | None = None,
    fit_from: float | None = None,
    columns: Sequence[str] | None = None,
    references: Mapping[str, float] | None = None,
    tail_level: float | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    bounds: Bounds | None = None,
) -> Panel:
    """Make the panel of one claim from its replications.

    Every row counts, certified or not; a NaN (a replication without such a cell) counts as missing. The law drawn is
    the one that the data single out (`decided_law`), else the power law. With a verdict, the first column is the loss
    that was judged: exponent, interval, law and range are then the verdict's, so that figure and table agree.

    Args:
        title: of the claim.
        frame: one row per replication, with the columns `n`, `certified` and those drawn; the columns
            `IDENTIFIED_SET`, if present, become the hatched band of D_12.
        verdict: on the first column; with its prediction it makes the subtitle.
        fit_from: least size fitted; None drops the transient as `judge` does.
        columns: what to draw; by default D_12 (else D_1), function, singleton and over-fitted errors, if present.
        references: predicted exponent by column; that of the first column is taken from the verdict by default.
        tail_level: quantile of the over-fitted atom error to show as well, such as 0.9.
        statistics: 'mean' for columns whose mean is drawn; the median of all others.
        bounds: lower bounds of errors as functions of n, by column.

    Raises:
        InputError: a column is absent, no column has a value, or an error is zero, negative or infinite.
    """
    known = [column for column in _DEFAULT if column in frame and not (column == "D_1" and "D_12" in frame)]
    drawn = known if columns is None else list(columns)
    absent = [column for column in ("n", "certified", *drawn) if column not in frame]
    if absent:
        raise InputError(f"the results have no column {', '.join(absent)}; they have {', '.join(map(str, frame))}")
    predicted: Any = None if verdict is None else verdict.evidence.get("predicted")
    expected = dict.fromkeys(drawn[:1], predicted if isinstance(predicted, float) else None) | dict(references or {})
    made = []
    for i, column in enumerate(drawn):
        center = (statistics or {}).get(column, "median")
        one = _series(frame, column, center, None if i else verdict, fit_from, expected.get(column), tail_level)
        made.append(None if one is None else replace(one, bound=_drawn_bound(frame, (bounds or {}).get(column))))
    series = [each for each in made if each is not None]
    if not series:
        raise InputError(f"{title}: none of the columns {', '.join(drawn) or '(none)'} has a value to draw")
    sizes, certified = frame["n"].to_numpy(dtype=np.float64), frame["certified"].eq(True).to_numpy(dtype=np.float64)
    shares = {float(n): float(certified[sizes == n].mean()) for n in np.unique(sizes)}
    return Panel(title, series, shares, subtitle="" if verdict is None else _subtitle(drawn[0], verdict))


def _drawn_bound(frame: pd.DataFrame, bound: Callable[[Array], Array] | None) -> tuple[Array, Array] | None:
    """A lower bound over the sizes of the rows."""
    if bound is None:
        return None
    grid = np.geomspace(frame["n"].min(), frame["n"].max(), BOUND_POINTS)
    return grid, bound(grid)


def curve_of(
    frame: pd.DataFrame, column: str, statistic: Statistic = "median"
) -> tuple[ErrorCurve | None, dict[float, int]]:
    """Median or mean curve of a column, and the number of replications at sizes without a single value.

    Raises:
        InputError: an error is zero, negative or infinite, or a size is below 3.
    """
    sizes, values = frame["n"].to_numpy(dtype=np.float64), frame[column].to_numpy(dtype=np.float64)
    errors = {float(n): values[sizes == n] for n in np.unique(sizes)}
    empty = {n: row.size for n, row in errors.items() if np.isnan(row).all()}
    kept = [n for n in errors if n not in empty]
    try:
        return (summarise(kept, [errors[n] for n in kept], statistic) if kept else None), empty
    except ValueError as error:
        raise InputError(f"{column}: {error}") from None


def fraction(value: float) -> str:
    """-0.25 as -1/4, as far as the exponents of the theory go."""
    simple = Fraction(value).limit_denominator(12)
    return str(simple) if abs(float(simple) - value) < 1e-9 else f"{value:g}"


def _subtitle(column: str, verdict: Verdict) -> str:
    label = _QUANTITIES[column][0] if column in _QUANTITIES else column
    predicted = verdict.evidence.get("predicted")
    law = f", $n^{{{fraction(predicted)}}}$" if isinstance(predicted, float) else f", {predicted}" * bool(predicted)
    return f"prediction for {label}{law}: {verdict.status}"


def _series(
    frame: pd.DataFrame,
    column: str,
    statistic: Statistic,
    verdict: Verdict | None,
    fit_from: float | None,
    reference: float | None,
    tail_level: float | None,
) -> Series | None:
    curve, empty = curve_of(frame, column, statistic)
    if curve is None:
        return None
    label, look = _QUANTITIES.get(column, (column, None))
    label = f"{label}, mean" if statistic == "mean" else label
    fit, exponent, interval = _fits(curve, fit_from, verdict)
    identified = tail = None
    if column == "D_12" and statistic == "median" and set(IDENTIFIED_SET) <= set(frame.columns):
        low, high = (_quantile(frame, bound, 0.5, curve.n) for bound in IDENTIFIED_SET)
        identified = None if np.isnan(low + high).all() else (low, high)
    if column == "overfitted_error" and tail_level is not None:
        tail = tail_level, _quantile(frame, column, tail_level, curve.n)
    return Series(column, label, curve, fit, exponent, interval, reference, empty, identified, tail, look)


def _quantile(frame: pd.DataFrame, column: str, level: float, n: Array) -> Array:
    values = frame[column].astype(float).groupby(frame["n"].astype(float)).quantile(level)
    return values.reindex(n).to_numpy(dtype=np.float64)


def _fits(
    curve: ErrorCurve, fit_from: float | None, verdict: Verdict | None
) -> tuple[LawFit | None, float | None, tuple[float, float] | None]:
    """The law to draw, the power law's exponent and interval; all None where nothing can be or was fitted."""
    n_min = fit_from if verdict is None else verdict.evidence["n_min"]
    part = curve if n_min is None else curve.from_size(n_min) if curve.n[-1] >= n_min else None
    if part is None or part.n.size < 3 or (verdict is not None and verdict.exponent is None):
        return None, None, None
    comparison = drop_transient(part) if n_min is None else compare_laws(part)
    law = decided_law(comparison) if verdict is None else verdict.law
    fit, power = comparison.fits["power" if law == "undetermined" else law], comparison.fits["power"]
    if verdict is not None:
        return fit, verdict.exponent, verdict.interval
    return fit, power.parameters["exponent"], power.intervals["exponent"]
