"""What is drawn on one panel's axes: its errors, its local slopes decade by decade, its certified share, its legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter
from numpy.typing import NDArray

from moe_theory.study.panels import Panel, Series, fraction
from moe_theory.study.verdict import CERTIFIED_SHARE, MISSING_SHARE
from moe_theory.theory.summaries import ErrorCurve, local_slopes

GREY = "0.45"
_PALE = "0.65"
BOUND_LINE: Any = (0, (1, 1))
_LEAST_SHARE = 0.9
_TICKS_APART = 0.1
"""Least distance of two labelled slopes, of the axis: those of cells of three atoms lie close together."""
LOOKS: tuple[tuple[str, str, Any], ...] = (
    ("#0072B2", "o", "-"),
    ("#009E73", "^", (0, (5, 1.2, 1.2, 1.2))),
    ("#CC79A7", "D", (0, (1.2, 1.2))),
    ("#D55E00", "s", (0, (4.5, 1.8))),
    ("#E69F00", "v", (0, (8, 2))),
    ("#56B4E9", "P", (0, (5, 1.2, 1.2, 1.2, 1.2, 1.2))),
    ("#000000", "X", (0, (2.5, 1))),
)
"""Colour, marker and line of each series: Okabe and Ito's colours; markers and lines tell as much in grey."""


def draw_errors(ax: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    """Errors against n with their intervals, fitted laws and identified sets; reference slopes in grey."""
    ax.set(xscale="log", yscale="log")
    ax.set_title(panel.title, pad=17 if panel.subtitle else None)
    place: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "annotation_clip": False}
    ax.annotate(panel.subtitle, (0, 1), xycoords="axes fraction", fontsize=7.5, **place)
    _draw_references(ax, panel, panels)
    for series, look in zip(panel.series, _looks(panel), strict=True):
        curve, color, center = series.curve, look["color"], np.exp(series.curve.log_center)
        if series.bound is not None:
            bound = {"color": color, "linewidth": 1.0, "linestyle": BOUND_LINE, "zorder": 1}
            ax.plot(*series.bound, **bound, gid=f"{series.name}:bound")
        if series.band is not None:
            hatched = {"facecolor": "none", "edgecolor": color, "alpha": 0.55, "hatch": "////"}
            ax.fill_between(curve.n, *series.band, **hatched, linewidth=0)
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
    for slope in panel.slopes:
        if slope == min(panel.slopes):
            constant = 0.45 * min(np.min(curve.lower * curve.n**-slope) for curve in curves)
        else:
            constant = 2.2 * max(curve.upper[0] * curve.n[0] ** -slope for curve in curves)
        values = constant * ends**slope
        ax.plot(ends, values, color=_PALE, linewidth=0.8, linestyle="-", zorder=1, gid=f"reference {slope:g}")
        place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(f"$n^{{{fraction(slope)}}}$", (ends[1], values[1]), color=GREY, va="center", **place)


def draw_slopes(ax: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    """Slope by decade with its 95 % interval, the series a little apart from each other."""
    curves = [series.curve for each in panels for series in each.series if series.curve.n.size > 1]
    seen = np.concatenate([[-0.6, 0.1], *(local_slopes(curve).slope for curve in curves)])
    for slope in (*panel.slopes, 0.0):
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
    room = _TICKS_APART * float(np.ptp(ax.get_ylim()))
    ticks: list[float] = []
    for slope in (0.0, *sorted({slope for each in panels for slope in each.slopes})):
        if all(abs(slope - tick) >= room for tick in ticks):
            ticks.append(slope)
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(lambda value, _: fraction(value).replace("-", "−"))
    ax.grid(False, axis="y")


def draw_certified(ax: Axes, panel: Panel) -> None:
    """Share of certified replications at each n, and the least that a verdict asks for."""
    ax.set_ylim(_LEAST_SHARE, 1.005)
    ax.yaxis.set_major_locator(FixedLocator([_LEAST_SHARE, 1.0]))
    ax.grid(False)
    ax.axhline(CERTIFIED_SHARE, color=GREY, linewidth=0.8, linestyle="--", gid="certified: least share")
    if not panel.certified:
        ax.text(0.5, 0.4, "not recorded", transform=ax.transAxes, ha="center", va="center", color=GREY)
        return
    n, share = np.array(sorted(panel.certified.items()), dtype=np.float64).T
    low, foot = share < _LEAST_SHARE, _LEAST_SHARE + 0.015
    if not low.all():  # an unclipped line without points has no extent, and the layout would collapse
        ax.plot(n[~low], share[~low], ".", color="black", markersize=5, clip_on=False, gid="certified")
    ax.plot(n[low], np.full(low.sum(), foot), "v", color="#D55E00", markersize=4, gid="certified: below the axis")
    if low.any():
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 6.5}
        ax.annotate(f"{share.min():.2f}", (n[np.argmin(share)], foot), color="#D55E00", **place)


def label_axes(axes: Sequence[Axes], leftmost: bool) -> None:
    """Titles of a panel's axes (top to bottom), and tick labels where there is room for them."""
    for ax, text in zip(axes, ("error", "local slope", "certified"), strict=True):
        ax.tick_params(labelleft=leftmost, labelbottom=ax is axes[-1])
        ax.set_ylabel(text if leftmost else "")
        ax.xaxis.set_major_locator(LogLocator(10, numticks=16))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_xlabel("sample size $n$")


def legend_entries(panel: Panel) -> list[tuple[Line2D | Patch, str]]:
    """Handles and labels of one panel's series, sets and empty markers."""
    looks, blank = _looks(panel), Line2D([], [], linestyle="none")
    entries: list[tuple[Line2D | Patch, str]] = []
    entries += [(Line2D([], [], **look), _measured(s)) for s, look in zip(panel.series, looks, strict=True)]
    for series, look in zip(panel.series, looks, strict=True):
        color = look["color"]
        if series.band is not None:
            hatched = Patch(facecolor="none", edgecolor=color, alpha=0.55, hatch="//////", linewidth=0)
            entries.append((hatched, f"{series.label}: range over the identified set"))
        if series.tail is not None:
            dash = Line2D([], [], color=color, marker="_", markersize=7, linestyle="none")
            entries.append((dash, f"{series.label}: {100 * series.tail[0]:g} % quantile"))
    if any(series.bound is not None for series in panel.series):
        line = Line2D([], [], color=GREY, linewidth=1.0, linestyle=BOUND_LINE)
        entries.append((line, "no mean error below, at $G_*$ and another measure (two points)"))
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
    elif series.exponent is not None:
        interval = "" if series.interval is None else f" [{series.interval[0]:.3f}, {series.interval[1]:.3f}]"
        parts.append(f"{series.exponent:.3f}{interval}".replace("-", "−"))
    if series.reference is not None:
        parts.append(f"predicted {fraction(series.reference)}".replace("-", "−"))
    return f"{series.label}: {', '.join(parts)}" if parts else series.label


def _looks(panel: Panel) -> list[dict[str, Any]]:
    """Colour, marker and line style of every series: its own, or the first that no other one has."""
    own = {series.look for series in panel.series}
    free = iter([i for i in range(len(LOOKS)) if i not in own] * len(panel.series))
    chosen = [LOOKS[(series.look if series.look is not None else next(free)) % len(LOOKS)] for series in panel.series]
    return [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in chosen]


def _few(curve: ErrorCurve) -> NDArray[np.bool_]:
    """Sizes with too many missing replications."""
    return curve.missing > MISSING_SHARE * (curve.missing + curve.count)
