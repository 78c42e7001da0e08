"""Figures of error against sample size, each with its plotted numbers (CSV) and its provenance (JSON) beside it.

From top to bottom a figure's panel shows the errors, their local slopes decade by decade, and the share of certified
fits. Equal input gives equal bytes: no file holds a date of its own, and the user's matplotlib settings are not read.
"""

import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_theory.errors import InputError, StoreError
from moe_theory.study.axes import GREY, draw_certified, draw_errors, draw_slopes, label_axes, legend_entries
from moe_theory.study.panels import Bounds, Panel, Series, claim_panel
from moe_theory.study.verdict import Verdict
from moe_theory.theory.summaries import Statistic

COMPARED = ("D_12", "function_error", "overfitted_error")
"""Columns for the panels of `comparison_figure`."""
BOUND = "two-point lower bound"
"""What the CSV calls the bound of a series, with its name."""
_KEY = "Marker: median (or mean, where said); band: quartiles; line: law; numbers: exponent [95 % interval]"


def claim_figure(
    claim_title: str,
    frame: pd.DataFrame,
    verdict: Verdict | None,
    fit_from: float | None,
    path_stem: str | Path,
    columns: Sequence[str] | None = None,
    references: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    bounds: Bounds | None = None,
) -> list[Path]:
    """Draw one claim: `claim_panel`, written by `rate_figure`; raises what they raise."""
    panel = claim_panel(
        claim_title, frame, verdict, fit_from, columns, references, statistics=statistics, bounds=bounds
    )
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
    with style():
        return save_figure(_draw(panels), path_stem, plotted(panels), {"series": _fitted(panels)}, provenance)


def save_figure(
    figure: Figure,
    path_stem: str | Path,
    table: pd.DataFrame,
    described: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a figure's four files; to be called under `style`.

    Args:
        figure: what is drawn.
        path_stem, provenance: as in `rate_figure`.
        table: the numbers that are plotted, for the CSV.
        described: what was computed from them, for the JSON.

    Raises:
        InputError, StoreError: as `rate_figure`.
    """
    stem = Path(path_stem)
    png, pdf = _rendered(figure, "png", {"Software": None}), _rendered(figure, "pdf", {"CreationDate": None})
    numbers = table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()
    contents = {".png": png, ".pdf": pdf, ".csv": numbers, ".json": _described(described, provenance or {})}
    return [write_whole(stem.with_name(stem.name + suffix), content) for suffix, content in contents.items()]


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw panels without writing anything, for a notebook or a test.

    Raises:
        InputError: there is nothing to draw.
    """
    with style():
        return _draw(panels)


def plotted(panels: Sequence[Panel]) -> pd.DataFrame:
    """The numbers behind a figure: one row per panel, series and size, NaN where there is no value."""
    tables = [_table(panel, series) for panel in panels for series in panel.series]
    bounds = [
        pd.DataFrame(
            {"panel": panel.title, "series": f"{BOUND} of {each.name}", "n": each.bound[0], "center": each.bound[1]}
        )
        for panel in panels
        for each in panel.series
        if each.bound is not None
    ]
    return pd.concat([*tables, *bounds], ignore_index=True)


@contextmanager
def style() -> Iterator[None]:
    """The toolkit's matplotlib settings, and none of the user's."""
    sheet = as_file(files("moe_theory.study") / "style.mplstyle")
    with sheet as path, matplotlib.style.context(["default", str(path)]):
        yield


def _draw(panels: Sequence[Panel]) -> Figure:
    if not panels or any(not panel.series for panel in panels):
        raise InputError("a figure needs at least one panel, and every panel at least one series")
    lines = max(len(legend_entries(panel)) for panel in panels)
    heights = [3.1, 0.95, 0.32, 0.16 * lines]
    figure = Figure(figsize=(0.5 + 4.3 * len(panels), sum(heights) + 1.2), layout="constrained")
    grid = figure.add_gridspec(4, len(panels), height_ratios=heights)
    shared: list[Axes | None] = [None, None, None]
    for i, panel in enumerate(panels):
        first = figure.add_subplot(grid[0, i], sharey=shared[0])
        axes = [first, *(figure.add_subplot(grid[j, i], sharex=first, sharey=shared[j]) for j in (1, 2))]
        shared = [*axes]
        draw_errors(axes[0], panel, panels)
        draw_slopes(axes[1], panel, panels)
        draw_certified(axes[2], panel)
        label_axes(axes, leftmost=i == 0)
        legend = figure.add_subplot(grid[3, i])
        legend.set_axis_off()
        handles, texts = zip(*legend_entries(panel), strict=True)
        legend.legend(handles, texts, loc="upper left").set_in_layout(False)  # a long text must not narrow the axes
    figure.align_ylabels()
    figure.supxlabel(_KEY, x=0.01, ha="left", fontsize=6.5, color=GREY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # placed once, so that every format has the same layout
    return figure


def _table(panel: Panel, series: Series) -> pd.DataFrame:
    curve, unknown = series.curve, np.full(series.curve.n.shape, np.nan)
    fitted = unknown if series.fit is None else np.exp(series.fit.log_error(curve.n))
    if series.fit is not None:
        fitted[(curve.n < series.fit.n_range[0]) | (curve.n > series.fit.n_range[1])] = np.nan
    low, high = series.identified or (unknown, unknown)
    level, tail = series.tail or (np.nan, unknown)
    columns = {
        "center": np.exp(curve.log_center),
        "lower_quartile": curve.lower,
        "upper_quartile": curve.upper,
        "standard_error_log_center": curve.standard_error,
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
    table["tail_level"], table["statistic"] = level, curve.statistic
    table.insert(6, "certified_share", [panel.certified.get(n, np.nan) for n in table.index.tolist()])
    for name, value in (("n", table.index), ("series", series.name), ("panel", panel.title)):
        table.insert(0, name, value)
    return table


def _fitted(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    return [
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


def _described(described: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    versions = {name: version(name) for name in ("matplotlib", "numpy", "pandas", "scipy")}
    everything = {"provenance": dict(provenance), "versions": versions, **described}
    try:
        return (json.dumps(everything, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"the provenance of a figure must be plain values that JSON can hold: {error}") from None


def _rendered(figure: Figure, kind: str, metadata: Mapping[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dict(metadata))
    return buffer.getvalue()


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file in one step, its folder made if need be, and return its path.

    Raises:
        StoreError: it cannot be written.
    """
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
