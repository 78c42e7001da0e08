"""The modulus of continuity of a registered problem: lower bounds, and the splits that they come from."""

import numpy as np

from moe_theory.estimation.identified import block_splits
from moe_theory.estimation.space import Chart
from moe_theory.study.invisible import farthest_invisible, moves
from moe_theory.study.problem import Setup
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.identifiability import Identifiability
from moe_theory.theory.margins import Mixture
from moe_theory.theory.modulus import modulus


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
