"""Figures over several claims: the sharing dial's phase diagram, the sample size that an accuracy needs, and ratios of
sample sizes over a series.

The first two show `SET_COLUMN`: the largest D_12 among fits that are as good as the truth, F(G) <= F(G*). The set
holds the truth for certain, so its width bounds what any least-squares estimator can promise.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from moe_theory.errors import InputError
from moe_theory.study.axes import GREY, LOOKS
from moe_theory.study.comparing import ComparisonReport
from moe_theory.study.figures import save_figure, style
from moe_theory.study.panels import curve_of
from moe_theory.study.report import Judged
from moe_theory.theory.complexity import SampleComplexity
from moe_theory.theory.summaries import ErrorCurve, local_slopes

SET_COLUMN = "D_12_truth_highest"
SET_WORDS = "largest $D_{12}$ where $F(G) \\leq F(G_*)$"
ACCURACIES = tuple(float(eps) for eps in 10.0 ** np.arange(1.0, -4.125, -0.125))

NEEDED_RANGE = (1e3, 1e15)
"""Sample sizes that a figure of n(eps) shows."""


class Dialled(NamedTuple):
    """One setting of the dial: eta, and the median curve of `SET_COLUMN`."""

    eta: float
    curve: ErrorCurve


def dialled(rows: Mapping[float, pd.DataFrame]) -> list[Dialled]:
    """The curve of every eta, in increasing order.

    Args:
        rows: of each eta, one row per replication.

    Raises:
        InputError: `SET_COLUMN` is absent or without a value.
    """
    made = []
    for eta in sorted(rows):
        if SET_COLUMN not in rows[eta]:
            raise InputError(
                f"the rows of eta = {eta:g} have no {SET_COLUMN}: the claim must compute its identified set"
            )
        curve, _ = curve_of(rows[eta], SET_COLUMN)
        if curve is None:
            raise InputError(f"no replication of eta = {eta:g} has a {SET_COLUMN}")
        made.append(Dialled(eta, curve))
    return made


def dial_table(dial: Sequence[Dialled]) -> pd.DataFrame:
    """One row per eta and size: the error, its quartiles, and the local slope over the decades around the size."""
    parts = []
    for eta, curve in dial:
        slopes = local_slopes(curve)
        middle = np.sqrt(slopes.lower_n * slopes.upper_n)
        at = np.interp(np.log(curve.n), np.log(middle), slopes.slope)
        columns = {"eta": eta, "n": curve.n, "error": np.exp(curve.log_center), "lower_quartile": curve.lower}
        parts.append(pd.DataFrame({**columns, "upper_quartile": curve.upper, "local_slope": at}))
    return pd.concat(parts, ignore_index=True)


def dial_figure(
    dial: Sequence[Dialled], path_stem: str | Path, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Draw the phase diagram: curves by eta; local slope by n and eta; height at the largest n against 1 - eta.

    Raises:
        InputError: fewer than two settings.
        StoreError: the files cannot be written.
    """
    if len(dial) < 2:
        raise InputError("a phase diagram needs at least two settings of the dial")
    table = dial_table(dial)
    with style():
        figure = Figure(figsize=(10.2, 3.5), layout="constrained")
        curves, phases, heights = figure.subplots(1, 3)
        _draw_curves(curves, dial)
        _draw_phases(figure, phases, table)
        _draw_heights(heights, dial)
        return save_figure(figure, path_stem, table, {"heights": _heights(dial)}, provenance)


def _heights(dial: Sequence[Dialled]) -> list[dict[str, float]]:
    return [{"eta": eta, "n": float(curve.n[-1]), "error": float(np.exp(curve.log_center[-1]))} for eta, curve in dial]


def _draw_curves(ax: Axes, dial: Sequence[Dialled]) -> None:
    ax.set(xscale="log", yscale="log", xlabel="sample size $n$", ylabel=SET_WORDS)
    ax.set_title("The set of fits as good as the truth")
    for (eta, curve), (color, marker, _) in zip(dial, LOOKS * len(dial), strict=False):
        ax.fill_between(curve.n, curve.lower, curve.upper, color=color, alpha=0.18, linewidth=0)
        ax.plot(curve.n, np.exp(curve.log_center), color=color, marker=marker, label=f"$\\eta$ = {eta:g}")
    ax.legend()


def _draw_phases(figure: Figure, ax: Axes, table: pd.DataFrame) -> None:
    grid = table.pivot(index="eta", columns="n", values="local_slope")
    mesh = ax.imshow(grid.to_numpy(), origin="lower", aspect="auto", cmap="cividis", vmin=-0.5, vmax=0.0)
    ax.set_xticks(range(grid.shape[1]), [f"$10^{{{np.log10(float(n)):g}}}$" for n in grid.columns.tolist()])
    ax.set_yticks(range(grid.shape[0]), [f"{eta:g}" for eta in grid.index.tolist()])
    ax.set(xlabel="sample size $n$", ylabel="share $\\eta$ of the query's update in the value's")
    ax.set_title("Local slope: plateau (0) or power ($-1/2$)")
    ax.grid(False)
    for (row, column), slope in np.ndenumerate(grid.to_numpy()):
        shade = "white" if slope < -0.25 else "black"
        words = f"{round(slope, 2) + 0.0:.2f}".replace("-", "−")
        ax.text(column, row, words, ha="center", va="center", color=shade, fontsize=7)
    figure.colorbar(mesh, ax=ax, label="local slope")


def _draw_heights(ax: Axes, dial: Sequence[Dialled]) -> None:
    below = [(1.0 - each.eta, each.curve) for each in dial if each.eta < 1.0]
    rest = np.array([own for own, _ in below])
    ax.set(xscale="log", yscale="log", xlabel="own share $1 - \\eta$", ylabel=SET_WORDS)
    ax.set_title("Height by own share")
    for place, marker, face in ((-1, "o", None), (0, "s", "white")):
        values = [np.exp(curve.log_center[place]) for _, curve in below]
        label = f"$n = 10^{{{np.log10(below[0][1].n[place]):g}}}$"
        ax.plot(rest, values, color=LOOKS[0 if place else 3][0], marker=marker, markerfacecolor=face, label=label)
    first = np.exp(below[0][1].log_center[-1])
    ax.plot(rest, first * (rest / rest[0]) ** 2, color=GREY, linewidth=0.8, label="$(1 - \\eta)^2$")
    ax.legend()


class Needed(NamedTuple):
    """One system: its name, and the sample size of each accuracy; infinite where the error is not reached."""

    name: str
    sizes: tuple[SampleComplexity, ...]


def needed_table(systems: Sequence[Needed]) -> pd.DataFrame:
    """One row per system and accuracy: n(eps), its 95 % interval, the law, and whether it is an extrapolation."""
    rows = [
        {"system": name, "accuracy": s.accuracy, "n": s.n, "lower": s.lower, "upper": s.upper, "law": s.law,
         "extrapolated": s.extrapolated}
        for name, sizes in systems for s in sizes
    ]  # fmt: skip
    return pd.DataFrame(rows)


def needed_figure(
    systems: Sequence[Needed], path_stem: str | Path, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Draw n(eps) of all systems, measured ones as markers, extrapolations of an established law dashed.

    One whose error is a plateau, never below some eps, ends there in a vertical line.

    Raises:
        InputError: no system, or one that reaches no accuracy.
        StoreError: the files cannot be written.
    """
    if not systems:
        raise InputError("a figure of sample sizes needs at least one system")
    with style():
        figure = Figure(figsize=(6.6, 4.8), layout="constrained")
        ax = figure.subplots()
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=f"accuracy $\\epsilon$: {SET_WORDS}",
            ylabel="sample size $n$",
            ylim=NEEDED_RANGE,
        )
        ax.set_title("Samples that an accuracy needs")
        for (name, sizes), (color, marker, _) in zip(systems, LOOKS * len(systems), strict=False):
            _draw_needed(ax, name, sizes, color, marker)
        ax.invert_xaxis()
        figure.legend(loc="outside lower center", ncols=2, fontsize=7.5)
        return save_figure(figure, path_stem, needed_table(systems), {"column": SET_COLUMN}, provenance)


def _draw_needed(ax: Axes, name: str, sizes: Sequence[SampleComplexity], color: str, marker: str) -> None:
    reached = [s for s in sizes if np.isfinite(s.n)]
    if not reached:
        raise InputError(f"{name} reaches none of the accuracies: ask for larger ones")
    never = sizes[-1].law == "plateau"
    words = "" if len(reached) == len(sizes) else ": never beyond" if never else ": undecided beyond"
    measured = [s for s in reached if not s.extrapolated]
    beyond = [s for s in reached if s.extrapolated and s.n > max((m.n for m in measured), default=0.0)]
    ax.plot(*_line(beyond), color=color, linewidth=0.7, linestyle="--")
    spread = np.array([[s.lower, s.upper] for s in measured]).reshape(-1, 2).T
    eps, n = _line(measured)
    bars = np.abs(np.clip(spread, *NEEDED_RANGE) - n)
    ax.errorbar(eps, n, yerr=bars, color=color, marker=marker, elinewidth=0.8, markevery=2, label=name + words)
    if never:
        ax.vlines(reached[-1].accuracy, reached[-1].n, NEEDED_RANGE[1], color=color, linestyle=":")


def _line(sizes: Sequence[SampleComplexity]) -> NDArray[np.float64]:
    return np.array([[s.accuracy, s.n] for s in sizes], np.float64).reshape(-1, 2).T


def needed(name: str, judged: Judged) -> Needed:
    """The sample sizes of a judged measure, of the accuracies that it was judged with.

    Accuracies above twice the error at the smallest size are left out: nothing was measured there.

    Raises:
        InputError: the verdict fitted no law, for example for want of sizes.
    """
    complexities = [SampleComplexity(**each) for each in judged.verdict.evidence["sample_complexity"]]
    if not complexities:
        raise InputError(f"{name} has no law to ask sample sizes of: {judged.verdict.reason}")
    top = float(np.exp(judged.curve.log_center[0]))
    return Needed(name, tuple(each for each in complexities if each.accuracy <= 2.0 * top))


def ratio_table(made: ComparisonReport) -> pd.DataFrame:
    """One row per aspect and pair: x, n_first / n_second with its 95 % interval, what is predicted (NaN: nothing)."""
    rows = []
    for each in (made.main, *made.others):
        for pair, found in zip(made.comparison.pairs, each.contrasts, strict=True):
            low, high = np.exp(found.log_ratio.interval())
            predicted = pair.ratio if each.aspect.predicted and pair.ratio is not None else np.nan
            ratio = np.exp(found.log_ratio.value)
            rows.append((each.aspect.words, pair.label, pair.x, ratio, low, high, predicted))
    return pd.DataFrame(rows, columns=["error", "pair", "x", "ratio", "lower", "upper", "predicted"])


def ratio_figure(
    made: ComparisonReport,
    x_label: str,
    y_label: str,
    path_stem: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw a comparison over its series: ratios with 95 % intervals, and the predicted ones as a line.

    Raises:
        StoreError: the files cannot be written.
    """
    table = ratio_table(made)
    with style():
        figure = Figure(figsize=(5.0, 4.0), layout="constrained")
        ax = figure.subplots()
        ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        ax.set_title(made.comparison.model, fontsize=8.5)
        for (words, group), (color, marker, _) in zip(table.groupby("error", sort=False), LOOKS, strict=False):
            bars = np.abs(group[["lower", "upper"]].to_numpy().T - group["ratio"].to_numpy())
            ax.errorbar(group["x"], group["ratio"], yerr=bars, color=color, marker=marker, linestyle="", label=words)
            if not np.isnan(group["predicted"].to_numpy()).any():
                ax.plot(group["x"], group["predicted"], color=color, linestyle="--", label=f"{words}, predicted")
        ax.axhline(1.0, color=GREY, linewidth=0.8)
        ax.set_xticks(sorted(set(table["x"])), labels=[f"{x:g}" for x in sorted(set(table["x"]))], minor=False)
        ax.xaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside lower center", ncols=2, fontsize=7.5)
        return save_figure(figure, path_stem, table, {"verdict": str(made.main.status)}, provenance)
