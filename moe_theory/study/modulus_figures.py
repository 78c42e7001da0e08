"""Figures of moduli of continuity: of a whole measure, and by block beside what replications show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moe_theory.study.block_moduli import BlockModuli
from moe_theory.study.figures import save_figure, style
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.summaries import ErrorCurve

SLOPES = (1.0, 0.5)
"""Drawn in grey: omega of a split that shows at order 2 and 4."""
SHOWN = (1e-7, 1.0)
"""delta that is drawn; a measure that does not move f_G, wherever it lies, is a line from the left edge on."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v")


def modulus_figure(name: str, found: Modulus, sigma: float, stem: Path) -> list[Path]:
    """Draw omega from below against delta, with the sample size that delta stands for on the upper axis.

    Raises:
        InputError, StoreError: as ``save_figure``.
    """
    n = (sigma / found.distances) ** 2
    table = pd.DataFrame({"delta": found.distances, "omega_at_least": found.losses, "n": n})
    with style():
        figure = Figure(figsize=(4.8, 3.8), layout="constrained")
        ax = figure.add_subplot()
        ax.set(xscale="log", yscale="log", xlabel=r"distance $\delta = ||f_G - f_{G^*}||$", ylabel=r"$D_{12}$")
        inside = (found.distances >= SHOWN[0]) & (found.distances <= SHOWN[1])
        delta = np.concatenate([SHOWN[:1], found.distances[inside], SHOWN[1:]])
        known = found.at(delta) > 0.0
        ax.step(delta[known], found.at(delta)[known], where="post", color="#0072B2", gid="omega")
        ax.plot(found.distances[inside], found.losses[inside], "o", color="#0072B2", markersize=3, gid="measures")
        middle = float(np.median(delta[known]))
        for slope in SLOPES if found.slope > 0.0 else ():
            reference = found.at(np.array([middle]))[0] * (np.array(SHOWN) / middle) ** slope
            ax.plot(SHOWN, reference, color="0.65", linewidth=0.8, zorder=1, gid=f"reference {slope:g}")
            ax.annotate(f"slope {slope:g}", (SHOWN[1], reference[1]), ha="right", va="bottom", color="0.45", fontsize=7)
        ax.set_xlim(*SHOWN)
        ax.set_ylim(0.3 * float(np.min(found.at(delta)[known])), 5.0 * float(found.losses[-1]))
        upper = ax.secondary_xaxis("top", functions=(lambda d: _samples(d, sigma), lambda m: _distance(m, sigma)))
        upper.set_xlabel("$n$ at which no test tells $G$ from $G^*$ with both errors below 0.3", fontsize=7.5)
        figure.suptitle(f"{name}: modulus of continuity, from below", fontsize=9)
        return save_figure(figure, stem, table, {"slope": found.slope, "sigma": sigma}, {"model": name})


def _distance(n: Any, sigma: float) -> np.ndarray:
    """delta = sigma / sqrt(n); matplotlib asks for it at 0 too."""
    return sigma / np.sqrt(np.maximum(n, 1e-60))


def _samples(distance: Any, sigma: float) -> np.ndarray:
    """n = (sigma / delta)^2; matplotlib asks for it at 0 too."""
    return (sigma / np.maximum(distance, 1e-30)) ** 2


def moduli_figure(
    panels: Mapping[str, tuple[Mapping[str, ErrorCurve], BlockModuli]],
    words: Mapping[str, str],
    stem: Path,
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Means over replications (markers, with standard errors) beside the envelopes at h(n) (lines), a panel a claim.

    Args:
        panels: title -> (curve by block, envelopes).
        words: what a block is, for the legend.
        stem, provenance: see ``save_figure``.
    """
    tables = []
    with style():
        figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
        for ax, (title, (curves, moduli)) in zip(axes, panels.items(), strict=True):
            for place, (block, curve) in enumerate(curves.items()):
                colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
                grid = np.geomspace(curve.n[0], curve.n[-1], 60)
                center = np.exp(curve.log_center)
                ax.errorbar(curve.n, center, yerr=center * curve.standard_error, fmt=marker, color=colour,
                            markersize=4, linewidth=0.8, label=words[block], gid=f"replications {block}")  # fmt: skip
                ax.plot(grid, moduli.errors(block, grid), color=colour, linewidth=0.9, gid=f"modulus {block}")
                rows = {
                    "panel": title,
                    "block": block,
                    "n": curve.n,
                    "mean": center,
                    "relative_error": curve.standard_error,
                }
                tables.append(pd.DataFrame({**rows, "modulus": moduli.errors(block, curve.n)}))
            ax.set(xscale="log", yscale="log", xlabel="sample size $n$", title=title)
        axes[0].set_ylabel("error in a cell of three atoms")
        axes[0].legend(fontsize=7)
        described = {
            title: {block: moduli.exponent(block, curve.n[0], curve.n[-1]) for block, curve in curves.items()}
            for title, (curves, moduli) in panels.items()
        }
        return save_figure(figure, stem, pd.concat(tables), {"modulus_exponents": described}, provenance)
