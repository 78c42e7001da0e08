"""The modulus of continuity of a registered problem: lower bounds, their figure, and what they mean at n samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moe_theory.estimation.identified import block_splits
from moe_theory.estimation.space import Chart
from moe_theory.study.figures import save_figure, style
from moe_theory.study.invisible import moves
from moe_theory.study.problem import Setup
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.identifiability import Identifiability
from moe_theory.theory.margins import Mixture
from moe_theory.theory.modulus import modulus

SLOPES = (1.0, 0.5)
"""Drawn in grey: omega of a split that shows at order 2 and 4."""


def modulus_of(setup: Setup, mixture: Mixture, found: Identifiability) -> Modulus:
    """Lower bounds of a problem with one atom too many.

    Splits of the truth along one block as far as Theta allows (``block_splits``) are candidates too: where they are
    invisible they are the height of the plateau.
    """
    cells = [(each.cell, each.second) for each in found.cells]
    return modulus(mixture, found.first, cells, extra=_far_splits(setup))


def _far_splits(setup: Setup) -> list[tuple[float, float]]:
    """(distance, D_12) of splits along one block, as large as Theta allows."""
    chart = Chart(setup.model, setup.space, setup.k_fit)
    distances, losses = moves(setup, chart, block_splits(chart, setup.truth))
    return list(zip(distances.tolist(), losses.tolist(), strict=True))


def modulus_figure(name: str, found: Modulus, sigma: float, stem: Path) -> list[Path]:
    """Draw omega from below against delta, with the sample size that delta stands for on the upper axis.

    Raises:
        InputError, StoreError: as ``save_figure``.
    """
    n = (sigma / found.distances) ** 2
    table = pd.DataFrame({"delta": found.distances, "omega_at_least": found.losses, "n": n})
    with style():
        figure = Figure(figsize=(4.8, 3.6), layout="constrained")
        ax = figure.add_subplot()
        ax.set(xscale="log", yscale="log", xlabel=r"distance $\delta = ||f_G - f_{G^*}||$", ylabel=r"$D_{12}$")
        ax.set_title(f"{name}: modulus of continuity, from below")
        ax.step(found.distances, found.losses, where="post", color="#0072B2", gid="omega")
        ax.plot(found.distances, found.losses, "o", color="#0072B2", gid="measures")
        for slope in SLOPES:
            reference = found.losses[-1] * (found.distances / found.distances[-1]) ** slope
            ax.plot(found.distances, reference, color="0.65", linewidth=0.8, zorder=1, gid=f"reference {slope:g}")
        upper = ax.secondary_xaxis("top", functions=(lambda d: _samples(d, sigma), lambda m: _distance(m, sigma)))
        upper.set_xlabel(r"no test tells $G$ from $G^*$ (both errors below 1/4) with $n$ samples")
        return save_figure(figure, stem, table, {"slope": found.slope, "sigma": sigma}, {"model": name})


def _distance(n: Any, sigma: float) -> np.ndarray:
    """delta = sigma / sqrt(n); matplotlib asks for it at 0 too."""
    return sigma / np.sqrt(np.maximum(n, 1e-60))


def _samples(distance: Any, sigma: float) -> np.ndarray:
    """n = (sigma / delta)^2; matplotlib asks for it at 0 too."""
    return (sigma / np.maximum(distance, 1e-30)) ** 2
