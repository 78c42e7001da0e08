"""The atlas of identifiability as a figure: where rates are polynomial, with margins, and where they are not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moe_theory.errors import InputError
from moe_theory.study.atlas import RANKS, SYSTEMS, law_words
from moe_theory.study.figures import save_figure, style

KINDS = {
    "slow": ("#D55E00", "no rate: an invisible split"),
    "small cells": ("#E69F00", "$n^{-1/4}$ below so many atoms in a cell, no rate from there on"),
    "open": ("#F0E442", "$n^{-1/4}$ below so many atoms in a cell, open from there on"),
    "together": ("#56B4E9", "$n^{-1/4}$ for one cell alone, no rate if all are over-fitted at once"),
    "slower": ("#CC79A7", "margin zero for two atoms: a slower power, or open"),
    "undecided": ("#BBBBBB", "undecided"),
}
"""Colours and words of the cells where n^-1/4 is not certified for every cell."""
POSITIVE = "$n^{-1/4}$ for any number of atoms (number: joint margin)"


def kind_of(row: Mapping[str, Any]) -> str:
    """Which kind a cell is: 'positive', or a key of ``KINDS``."""
    law = law_words(row)
    if law in ("undecided", "singular truth"):
        return "undecided"
    if row["two_atoms_law"] == "no power law":
        return "slow"
    if row["two_atoms_law"] != "n^-0.25":
        return "slower"
    if row["all_cells_law"] == "n^-0.25":
        return "positive"
    if row["decision"] != "zero":
        return "together" if row["all_cells_law"] == "no power law" else "undecided"
    return "small cells" if row["all_cells_law"] == "no power law" else "open"


def atlas_figure(atlas: pd.DataFrame, path_stem: str | Path, provenance: Mapping[str, Any] | None = None) -> list[Path]:
    """Draw one panel per gate and anchor: systems against rank; a cell that is not known is blank.

    Raises:
        InputError: there is nothing to draw.
        StoreError: the files cannot be written.
    """
    if atlas.empty:
        raise InputError("the atlas has no cells: certify some first")
    rows = atlas.assign(kind=[kind_of(row) for row in atlas.to_dict("records")])
    panels = [(gate, anchored) for anchored in (True, False) for gate in ("attention", "gaussian")]
    systems = [system.name for system in SYSTEMS if system.name in set(rows["system"])]
    positive = rows.loc[rows["kind"] == "positive", "together"].to_numpy(dtype=float)
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1e-3, 1.0)
    shades = LogNorm(low, high)
    counts = rows["kind"].value_counts()
    with style():
        figure = Figure(figsize=(7.4, 1.15 + 0.24 * len(systems)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for ax, (gate, anchored) in zip(axes, panels, strict=True):
            own = rows.loc[(rows["gate"] == gate) & (rows["anchored"] == anchored)]
            _draw_panel(ax, own, systems, shades)
            ax.set_title(f"{gate}\n{'one frozen atom' if anchored else 'no anchor'}", fontsize=8)
        shared = rows.groupby("system", sort=False)["shared"].first()
        axes[0].set_yticks(range(len(systems)), [f"{name}  ({shared[name]})" for name in systems])
        handles = [Patch(color=_green((low * high) ** 0.5, shades), label=POSITIVE)]
        handles += [Patch(color=color, label=words) for kind, (color, words) in KINDS.items() if kind in counts]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=6.5, borderpad=0.6)
        described = {"cells": {str(kind): int(count) for kind, count in counts.items()}}
        return save_figure(figure, path_stem, rows, described, provenance)


def _green(margin: float, shades: LogNorm) -> str:
    """Pale for a small margin, full for a large one."""
    share = 0.25 + 0.75 * float(shades(margin))
    red, green, blue = (share * part + 1.0 - share for part in to_rgb("#009E73"))
    return to_hex((red, green, blue))


def _draw_panel(ax: Axes, rows: pd.DataFrame, systems: list[str], shades: LogNorm) -> None:
    ax.set(xlabel="rank", xlim=(-0.5, len(RANKS) - 0.5), ylim=(len(systems) - 0.5, -0.5))
    ax.set_xticks(range(len(RANKS)), [f"{rank}" for rank in RANKS])
    ax.tick_params(length=0)
    ax.grid(False)
    for row in rows.to_dict("records"):
        x, y = RANKS.index(row["rank"]), systems.index(row["system"])
        positive = row["kind"] == "positive"
        color = _green(row["together"], shades) if positive else KINDS[row["kind"]][0]
        ax.fill_between([x - 0.47, x + 0.47], y - 0.46, y + 0.46, color=color, linewidth=0)
        words = f"{row['together']:.0e}".replace("e-0", "e−") if positive else ""
        if row["kind"] in ("small cells", "open"):
            fewest = row["fewest_atoms_at_zero"]
            words = "?" if pd.isna(fewest) else f"{fewest:.0f}"
        ax.text(x, y, words, ha="center", va="center", fontsize=5.5)
