"""Fits that are no estimates: a variance that the data do not keep from shrinking to its floor.

The likelihood of a Gaussian mixture of experts is unbounded where an atom's Gamma or nu can be singular; only the floor
ends such a fit, and it says nothing of the data.
"""

import jax.numpy as jnp
import numpy as np

from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.mixture import MixtureSpace
from moe_theory.models.density import GaussianGated, SoftmaxGated

NEAR_FLOOR = 1.1
"""Variances below this many times their floor are on it."""


def points_lacking(model: GaussianGated | SoftmaxGated, points: Points) -> int:
    """How many distinct points short of d + d_out + 1 the data are: up to d + d_out of them have a singular covariance,
    so that every atom's Gamma or nu is singular, whatever the weights."""
    return max(0, model.dimension + model.outputs + 1 - int(np.sum(np.asarray(points.weight) > 0)))


def degeneracy(model: GaussianGated | SoftmaxGated, space: MixtureSpace, rows: np.ndarray, lacking: int) -> str:
    """Why these atoms are no estimate, and what to do; empty if they may be one.

    Args:
        model, space: p_G and Theta.
        rows: the atoms, (k, q).
        lacking: see `points_lacking`.
    """
    if lacking:
        return (
            f"degenerate: a line through so few points in so many dimensions leaves no variance, whatever k is; give "
            f"{lacking} more distinct points, or fewer columns"
        )
    if _on_floor(model, space, rows):
        return (
            "degenerate: a variance is at its floor, where the likelihood grows only because it may shrink; use fewer "
            "atoms, a larger deviation_floor, or look for repeated points"
        )
    return ""


def _on_floor(model: GaussianGated | SoftmaxGated, space: MixtureSpace, rows: np.ndarray) -> bool:
    atoms = model.measure(jnp.asarray(rows)).atoms
    d, floor = model.dimension, np.asarray(space.floor)
    blocks = [(np.asarray(atoms.noise), floor[d:])]
    if isinstance(model, GaussianGated):
        blocks.append((np.asarray(atoms.spread), floor[:d]))
    return any(
        float(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(least, least)))[0]) < NEAR_FLOOR
        for covariances, least in blocks
        for matrix in covariances
    )
