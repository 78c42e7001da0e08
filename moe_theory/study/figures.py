"""Figures of error against sample size, each with its plotted numbers (CSV) and its provenance (JSON) beside it.

A `Series` is one error curve with the law drawn through it, a `Panel` a set of them on common axes. From top to
bottom a panel shows the errors, their local slopes decade by decade, and the share of certified fits. Laws and
verdicts come from `theory.laws` and `study.verdict`. Equal input gives equal bytes: no file holds a date of its own,
and the user's matplotlib settings are not read.
"""

import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter
from numpy.typing import NDArray

from moe_theory.errors import InputError, StoreError
from moe_theory.study.verdict import CERTIFIED_SHARE, MISSING_SHARE, Verdict, decided_law, drop_transient
from moe_theory.theory.laws import LawFit, compare_laws
from moe_theory.theory.summaries import ErrorCurve, local_slopes, summarise

Array = NDArray[np.float64]
REFERENCES = (-0.5, -0.25)
"""Slopes drawn in grey: the rates of an identified and of an over-fitted parameter."""
COMPARED = ("D_12", "function_error", "overfitted_error")
"""Columns for the panels of `comparison_figure`."""
IDENTIFIED_SET = ("D_12_lowest", "D_12_highest")
"""Columns with the least and largest D_12 over the fits that the objective cannot tell apart."""
_GREY, _PALE = "0.45", "0.65"
_KEY = "Marker: median; band: quartiles; line: fitted law; numbers: exponent [95 % interval]"
_LEAST_SHARE = 0.9
_LOOKS: tuple[tuple[str, str, Any], ...] = (  # Okabe and Ito's colours; markers and lines tell as much in grey
    ("#0072B2", "o", "-"),
    ("#009E73", "^", (0, (5, 1.2, 1.2, 1.2))),
    ("#CC79A7", "D", (0, (1.2, 1.2))),
    ("#D55E00", "s", (0, (4.5, 1.8))),
    ("#E69F00", "v", (0, (8, 2))),
    ("#56B4E9", "P", (0, (5, 1.2, 1.2, 1.2, 1.2, 1.2))),
    ("#000000", "X", (0, (2.5, 1))),
)
_QUANTITIES: dict[str, tuple[str, int]] = {  # column: label and look, so that it looks the same in every figure
    "D_12": ("$D_{12}$", 0),
    "D_1": ("$D_1$", 0),
    "function_error": ("function error", 1),
    "singleton_error": ("singleton atoms", 2),
    "overfitted_error": ("over-fitted atoms", 3),
}


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
            `curve.n`, NaN where unknown; drawn as a hatched band.
        tail: level and values of an upper quantile, aligned with `curve.n`; drawn as a dash above each median.
        look: colour, marker and line style, by number; None for the first that the panel has free.
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


@dataclass(frozen=True)
class Panel:
    """Series on common axes.

    Args:
        title: above the axes, at the left.
        series: in the order of the legend.
        certified: share of certified fits by size; empty if none was recorded.
        note: one short line beneath the legend.
        subtitle: beneath the title, smaller; may hold $mathematics$.
    """

    title: str
    series: Sequence[Series]
    certified: Mapping[float, float] = field(default_factory=dict)
    note: str = ""
    subtitle: str = ""


def claim_panel(
    title: str,
    frame: pd.DataFrame,
    verdict: Verdict | None = None,
    fit_from: float | None = None,
    columns: Sequence[str] | None = None,
    references: Mapping[str, float] | None = None,
    tail_level: float | None = None,
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

    Raises:
        InputError: a column is absent, no column has a value, or an error is zero, negative or infinite.
    """
    known = [column for column in _QUANTITIES if column in frame and not (column == "D_1" and "D_12" in frame)]
    drawn = known if columns is None else list(columns)
    absent = [column for column in ("n", "certified", *drawn) if column not in frame]
    if absent:
        raise InputError(f"the results have no column {', '.join(absent)}; they have {', '.join(map(str, frame))}")
    predicted: Any = None if verdict is None else verdict.evidence.get("predicted")
    expected = dict.fromkeys(drawn[:1], predicted if isinstance(predicted, float) else None) | dict(references or {})
    made = [
        _series(frame, column, None if i else verdict, fit_from, expected.get(column), tail_level)
        for i, column in enumerate(drawn)
    ]
    series = [each for each in made if each is not None]
    if not series:
        raise InputError(f"{title}: none of the columns {', '.join(drawn) or '(none)'} has a value to draw")
    sizes, certified = frame["n"].to_numpy(dtype=np.float64), frame["certified"].eq(True).to_numpy(dtype=np.float64)
    shares = {float(n): float(certified[sizes == n].mean()) for n in np.unique(sizes)}
    return Panel(title, series, shares, subtitle="" if verdict is None else _subtitle(drawn[0], verdict))


def claim_figure(
    claim_title: str,
    frame: pd.DataFrame,
    verdict: Verdict | None,
    fit_from: float | None,
    path_stem: str | Path,
    columns: Sequence[str] | None = None,
    references: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw one claim: `claim_panel`, written by `rate_figure`; raises what they raise."""
    panel = claim_panel(claim_title, frame, verdict, fit_from, columns, references)
    judged = {} if verdict is None else {"verdict": {"status": str(verdict.status), "reason": verdict.reason}}
    return rate_figure([panel], path_stem, {**(provenance or {}), **judged})


def comparison_figure(
    left: Panel, right: Panel, path_stem: str | Path, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Draw two panels, such as LoRA and RepLoRA, side by side on one error axis; raises as `rate_figure`."""
    return rate_figure([left, right], path_stem, provenance)


def rate_figure(
    panels: Sequence[Panel], path_stem: str | Path, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write `path_stem`.png (200 dpi), .pdf, .csv (what is plotted) and .json (fits, provenance, versions).

    All four are made in memory first, and each replaces its file in one step.

    Args:
        panels: side by side, on one error axis.
        path_stem: path without suffix; its folder is made if need be.
        provenance: what JSON can hold, for example a cell's metadata. The time of drawing in it would make the JSON
            differ from run to run.

    Raises:
        InputError: there is nothing to draw, or JSON cannot hold `provenance`.
        StoreError: the files cannot be written.
    """
    stem = Path(path_stem)
    with _style():
        figure = _draw(panels)
        png, pdf = _rendered(figure, "png", {"Software": None}), _rendered(figure, "pdf", {"CreationDate": None})
    table = plotted(panels).to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()
    contents = {".png": png, ".pdf": pdf, ".csv": table, ".json": _described(panels, provenance or {})}
    return [_write(stem.with_name(stem.name + suffix), content) for suffix, content in contents.items()]


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw panels without writing anything, for a notebook or a test.

    Raises:
        InputError: there is nothing to draw.
    """
    with _style():
        return _draw(panels)


def plotted(panels: Sequence[Panel]) -> pd.DataFrame:
    """The numbers behind a figure: one row per panel, series and size, NaN where there is no value."""
    return pd.concat([_table(panel, series) for panel in panels for series in panel.series], ignore_index=True)


def curve_of(frame: pd.DataFrame, column: str) -> tuple[ErrorCurve | None, dict[float, int]]:
    """Median curve of a column, and the number of replications at sizes without a single value.

    Raises:
        InputError: an error is zero, negative or infinite, or a size is below 3.
    """
    sizes, values = frame["n"].to_numpy(dtype=np.float64), frame[column].to_numpy(dtype=np.float64)
    errors = {float(n): values[sizes == n] for n in np.unique(sizes)}
    empty = {n: row.size for n, row in errors.items() if np.isnan(row).all()}
    kept = [n for n in errors if n not in empty]
    try:
        return (summarise(kept, [errors[n] for n in kept]) if kept else None), empty
    except ValueError as error:
        raise InputError(f"{column}: {error}") from None


def _subtitle(column: str, verdict: Verdict) -> str:
    label = _QUANTITIES[column][0] if column in _QUANTITIES else column
    predicted = verdict.evidence.get("predicted")
    law = f", $n^{{{_fraction(predicted)}}}$" if isinstance(predicted, float) else f", {predicted}" * bool(predicted)
    return f"prediction for {label}{law}: {verdict.status}"


def _series(
    frame: pd.DataFrame,
    column: str,
    verdict: Verdict | None,
    fit_from: float | None,
    reference: float | None,
    tail_level: float | None,
) -> Series | None:
    curve, empty = curve_of(frame, column)
    if curve is None:
        return None
    label, look = _QUANTITIES.get(column, (column, None))
    fit, exponent, interval = _fits(curve, fit_from, verdict)
    identified = tail = None
    if column == "D_12" and set(IDENTIFIED_SET) <= set(frame.columns):
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


@contextmanager
def _style() -> Iterator[None]:
    sheet = as_file(files("moe_theory.study") / "style.mplstyle")
    with sheet as path, matplotlib.style.context(["default", str(path)]):
        yield


def _draw(panels: Sequence[Panel]) -> Figure:
    if not panels or any(not panel.series for panel in panels):
        raise InputError("a figure needs at least one panel, and every panel at least one series")
    lines = max(len(_legend(panel)) for panel in panels)
    heights = [3.1, 0.95, 0.32, 0.16 * lines]
    figure = Figure(figsize=(0.5 + 4.3 * len(panels), sum(heights) + 1.2), layout="constrained")
    grid = figure.add_gridspec(4, len(panels), height_ratios=heights)
    shared: list[Axes | None] = [None, None, None]
    for i, panel in enumerate(panels):
        first = figure.add_subplot(grid[0, i], sharey=shared[0])
        axes = [first, *(figure.add_subplot(grid[j, i], sharex=first, sharey=shared[j]) for j in (1, 2))]
        shared = [*axes]
        _draw_errors(axes[0], panel, panels)
        _draw_slopes(axes[1], panel, panels)
        _draw_certified(axes[2], panel)
        _label(axes, leftmost=i == 0)
        legend = figure.add_subplot(grid[3, i])
        legend.set_axis_off()
        handles, texts = zip(*_legend(panel), strict=True)
        legend.legend(handles, texts, loc="upper left")
    figure.align_ylabels()
    figure.supxlabel(_KEY, x=0.01, ha="left", fontsize=6.5, color=_GREY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # placed once, so that every format has the same layout
    return figure


def _looks(panel: Panel) -> list[dict[str, Any]]:
    """Colour, marker and line style of every series: its own, or the first that no other one has."""
    own = {series.look for series in panel.series}
    free = iter([i for i in range(len(_LOOKS)) if i not in own] * len(panel.series))
    chosen = [_LOOKS[(series.look if series.look is not None else next(free)) % len(_LOOKS)] for series in panel.series]
    return [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in chosen]


def _few(curve: ErrorCurve) -> NDArray[np.bool_]:
    """Sizes with too many missing replications."""
    return curve.missing > MISSING_SHARE * (curve.missing + curve.count)


def _draw_errors(ax: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    ax.set(xscale="log", yscale="log")
    ax.set_title(panel.title, pad=17 if panel.subtitle else None)
    place: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "annotation_clip": False}
    ax.annotate(panel.subtitle, (0, 1), xycoords="axes fraction", fontsize=7.5, **place)
    _draw_references(ax, panel, panels)
    for series, look in zip(panel.series, _looks(panel), strict=True):
        curve, color, center = series.curve, look["color"], np.exp(series.curve.log_center)
        if series.identified is not None:
            low, high = series.identified
            ax.fill_between(
                curve.n, low, high, facecolor="none", edgecolor=color, alpha=0.55, hatch="////", linewidth=0
            )
        ax.fill_between(curve.n, curve.lower, curve.upper, color=color, alpha=0.18, linewidth=0)
        if series.tail is not None:
            ax.plot(curve.n, series.tail[1], "_", color=color, markersize=7, gid=f"{series.name}:tail")
        n = curve.n if series.fit is None else np.geomspace(*series.fit.n_range, 60)
        law, width = (center, 0.6) if series.fit is None else (np.exp(series.fit.log_error(n)), 1.4)
        ax.plot(n, law, color=color, linestyle=look["linestyle"], linewidth=width, gid=f"{series.name}:law")
        few = _few(curve)
        for kept, face, kind in ((~few, color, "median"), (few, "white", "median of few")):
            points = {"color": color, "linestyle": "none", "marker": look["marker"], "markerfacecolor": face}
            ax.plot(curve.n[kept], center[kept], gid=f"{series.name}:{kind}", **points)


def _draw_references(ax: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    """The steepest slope below all data, the others above their start, so that they cross as little as can be."""
    curves = [series.curve for each in panels for series in each.series]
    ends = np.array([min(s.curve.n[0] for s in panel.series), max(s.curve.n[-1] for s in panel.series)])
    for slope in REFERENCES:
        if slope == min(REFERENCES):
            constant = 0.45 * min(np.min(curve.lower * curve.n**-slope) for curve in curves)
        else:
            constant = 2.2 * max(curve.upper[0] * curve.n[0] ** -slope for curve in curves)
        values = constant * ends**slope
        ax.plot(ends, values, color=_PALE, linewidth=0.8, linestyle="-", zorder=1, gid=f"reference {slope:g}")
        place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(f"$n^{{{_fraction(slope)}}}$", (ends[1], values[1]), color=_GREY, va="center", **place)


def _draw_slopes(ax: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    """Slope by decade with its 95 % interval, the series a little apart from each other."""
    curves = [series.curve for each in panels for series in each.series if series.curve.n.size > 1]
    seen = np.concatenate([[-0.6, 0.1], *(local_slopes(curve).slope for curve in curves)])
    for slope in (*REFERENCES, 0.0):
        ax.axhline(slope, color=_PALE, linewidth=0.8, zorder=1)
    for i, (series, look) in enumerate(zip(panel.series, _looks(panel), strict=True)):
        if series.curve.n.size < 2:
            continue
        slopes = local_slopes(series.curve)
        apart = 0.16 * (i - (len(panel.series) - 1) / 2) * np.log10(slopes.upper_n / slopes.lower_n)
        middle = np.sqrt(slopes.lower_n * slopes.upper_n) * 10**apart
        points = {**look, "linestyle": "none", "markersize": 3, "elinewidth": 0.8}
        container = ax.errorbar(middle, slopes.slope, 1.96 * slopes.standard_error, **points)
        container.lines[0].set_gid(f"{series.name}:slopes")
    ax.set_ylim(max(seen.min() - 0.05, -1.5), min(seen.max() + 0.05, 0.8))
    ax.yaxis.set_major_locator(FixedLocator([*REFERENCES, 0.0]))
    ax.yaxis.set_major_formatter(lambda value, _: _fraction(value).replace("-", "−"))
    ax.grid(False, axis="y")


def _draw_certified(ax: Axes, panel: Panel) -> None:
    ax.set_ylim(_LEAST_SHARE, 1.005)
    ax.yaxis.set_major_locator(FixedLocator([_LEAST_SHARE, 1.0]))
    ax.grid(False)
    ax.axhline(CERTIFIED_SHARE, color=_GREY, linewidth=0.8, linestyle="--", gid="certified: least share")
    if not panel.certified:
        ax.text(0.5, 0.4, "not recorded", transform=ax.transAxes, ha="center", va="center", color=_GREY)
        return
    n, share = np.array(sorted(panel.certified.items()), dtype=np.float64).T
    low, foot = share < _LEAST_SHARE, _LEAST_SHARE + 0.015
    ax.plot(n[~low], share[~low], ".", color="black", markersize=5, clip_on=False, gid="certified")
    ax.plot(n[low], np.full(low.sum(), foot), "v", color="#D55E00", markersize=4, gid="certified: below the axis")
    if low.any():
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 6.5}
        ax.annotate(f"{share.min():.2f}", (n[np.argmin(share)], foot), color="#D55E00", **place)


def _label(axes: Sequence[Axes], leftmost: bool) -> None:
    for ax, text in zip(axes, ("error", "local slope", "certified"), strict=True):
        ax.tick_params(labelleft=leftmost, labelbottom=ax is axes[-1])
        ax.set_ylabel(text if leftmost else "")
        ax.xaxis.set_major_locator(LogLocator(10, numticks=16))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_xlabel("sample size $n$")


def _legend(panel: Panel) -> list[tuple[Line2D | Patch, str]]:
    looks, blank = _looks(panel), Line2D([], [], linestyle="none")
    entries: list[tuple[Line2D | Patch, str]] = []
    entries += [(Line2D([], [], **look), _measured(s)) for s, look in zip(panel.series, looks, strict=True)]
    for series, look in zip(panel.series, looks, strict=True):
        color = look["color"]
        if series.identified is not None:
            hatched = Patch(facecolor="none", edgecolor=color, alpha=0.55, hatch="//////", linewidth=0)
            entries.append((hatched, f"{series.label}: range over the identified set"))
        if series.tail is not None:
            dash = Line2D([], [], color=color, marker="_", markersize=7, linestyle="none")
            entries.append((dash, f"{series.label}: {100 * series.tail[0]:g} % quantile"))
    if any(_few(series.curve).any() for series in panel.series):
        entries.append((blank, f"hollow marker: more than {100 * MISSING_SHARE:g} % of the replications have no value"))
    return [*entries, (blank, panel.note)] if panel.note else entries


def _measured(series: Series) -> str:
    """The legend's text: the law, the exponent with its interval, the prediction."""
    parts = []
    if series.fit is not None and series.fit.name == "plateau":
        parts.append(f"plateau {np.exp(series.fit.parameters['log_constant']):.2g}")
    elif series.fit is not None and series.fit.name == "inverse-log":
        parts.append(f"$(\\log\\,n)^{{{-series.fit.parameters['tau']:.2f}}}$")
    if series.exponent is not None:
        interval = "" if series.interval is None else f" [{series.interval[0]:.3f}, {series.interval[1]:.3f}]"
        parts.append(("exponent " if parts else "") + f"{series.exponent:.3f}{interval}".replace("-", "−"))
    if series.reference is not None:
        parts.append(f"predicted {_fraction(series.reference)}".replace("-", "−"))
    return f"{series.label}: {', '.join(parts)}" if parts else series.label


def _fraction(value: float) -> str:
    """-0.25 as -1/4, as far as the exponents of the theory go."""
    simple = Fraction(value).limit_denominator(12)
    return str(simple) if abs(float(simple) - value) < 1e-9 else f"{value:g}"


def _table(panel: Panel, series: Series) -> pd.DataFrame:
    curve, unknown = series.curve, np.full(series.curve.n.shape, np.nan)
    fitted = unknown if series.fit is None else np.exp(series.fit.log_error(curve.n))
    if series.fit is not None:
        fitted[(curve.n < series.fit.n_range[0]) | (curve.n > series.fit.n_range[1])] = np.nan
    low, high = series.identified or (unknown, unknown)
    level, tail = series.tail or (np.nan, unknown)
    columns = {
        "median": np.exp(curve.log_center),
        "lower_quartile": curve.lower,
        "upper_quartile": curve.upper,
        "standard_error_log_median": curve.standard_error,
        "replications": curve.count,
        "missing": curve.missing,
        "fitted": fitted,
        "identified_lowest": low,
        "identified_highest": high,
        "tail": tail,
    }
    table = pd.DataFrame(columns, index=curve.n).reindex(sorted({*curve.n.tolist(), *series.empty}))
    table["replications"] = table["replications"].fillna(0).astype(int)
    table["missing"] = table["missing"].fillna(pd.Series(dict(series.empty), dtype=float)).astype(int)
    table["tail_level"] = level
    table.insert(6, "certified_share", [panel.certified.get(n, np.nan) for n in table.index.tolist()])
    for name, value in (("n", table.index), ("series", series.name), ("panel", panel.title)):
        table.insert(0, name, value)
    return table


def _described(panels: Sequence[Panel], provenance: Mapping[str, Any]) -> bytes:
    fits = [
        {
            "panel": panel.title,
            "series": series.name,
            "law": series.fit and series.fit.name,
            "parameters": series.fit and series.fit.parameters,
            "fitted_n": series.fit and series.fit.n_range,
            "exponent": series.exponent,
            "interval": series.interval,
            "predicted_exponent": series.reference,
        }
        for panel in panels
        for series in panel.series
    ]
    versions = {name: version(name) for name in ("matplotlib", "numpy", "pandas", "scipy")}
    described = {"provenance": dict(provenance), "versions": versions, "series": fits}
    try:
        return (json.dumps(described, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"the provenance of a figure must be plain values that JSON can hold: {error}") from None


def _rendered(figure: Figure, kind: str, metadata: Mapping[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dict(metadata))
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror or error}): choose a writable folder") from None
    return path
