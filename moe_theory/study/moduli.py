"""The modulus of continuity of a registered problem: lower bounds, their figure, and what they mean at n samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moe_theory.estimation.identified import block_splits
from moe_theory.estimation.space import Chart
from moe_theory.study.figures import save_figure, style
from moe_theory.study.invisible import farthest_invisible, moves
from moe_theory.study.problem import Setup
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.identifiability import Identifiability
from moe_theory.theory.margins import Mixture
from moe_theory.theory.modulus import modulus

SLOPES = (1.0, 0.5)
"""Drawn in grey: omega of a split that shows at order 2 and 4."""
SHOWN = (1e-7, 1.0)
"""delta that is drawn; a measure that does not move f_G, wherever it lies, is a line from the left edge on."""


def modulus_of(setup: Setup | None, mixture: Mixture, found: Identifiability) -> Modulus:
    """Lower bounds of a problem with one atom too many.

    Splits of the truth along one block as far as Theta allows (``block_splits``) and the farthest invisible one that
    the margins lead to are candidates too: where one is invisible it is the height of the plateau.

    Args:
        setup: the regression; None of a low-rank density, whose splits all show.
        mixture, found: functions and margins.
    """
    cells = [(each.cell, each.second) for each in found.cells]
    if setup is None:
        return modulus(mixture, found.first, cells, density=True)
    return modulus(mixture, found.first, cells, extra=_far_splits(setup))


def _far_splits(setup: Setup) -> list[tuple[float, float]]:
    """(distance, D_12) of splits that are as large as Theta, or the curve of invisible ones, allows."""
    chart = Chart(setup.model, setup.space, setup.k_fit)
    splits = block_splits(chart, setup.truth)
    hidden = farthest_invisible(setup, chart, splits)
    distances, losses = moves(setup, chart, splits if hidden is None else np.vstack([splits, hidden]))
    return list(zip(distances.tolist(), losses.tolist(), strict=True))


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
