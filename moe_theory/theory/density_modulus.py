"""The modulus of continuity of a density: how far a cell of two or three atoms can part at a given distance.

For amplitudes t, two of the cell's atoms are held 2 t apart along a direction u of mu (in the units of
``MixtureSpace.scale``), and everything but the shares inside the cell minimises the Kullback-Leibler divergence from
the truth, which is F of the truth's own expected counts, by damped Newton steps in moment coordinates. The Hellinger
distance h(t) at the end goes as t^rbar(m) for splits of b or c, and the maximum-likelihood estimate tracks t(h) at h
of order n^-1/2: a slope a of log t in log h means the local rate n^(-a/2) at n = 1/h^2, without noise and replications.
Every pair (h, t) is a measure that was evaluated, so t is a lower bound of the modulus at h. Source: theory section 8;
our derivation.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.merges import Merges
from moe_theory.estimation.mixture import MixtureProblem, MixtureSpace, MixtureView
from moe_theory.models.density import AbstractDensity

SHAPES = {
    2: (np.array([1.0, -1.0]), np.array([0.5, 0.5]), np.array([-1.0, -1.0])),
    3: (
        np.array([1.0, -1.0, 0.0]),
        np.array([1.0, 1.0, 1.0]) / 3.0,
        np.array([np.sqrt(2.0) / 3.0 - 1.0] * 2 + [-2.0 * np.sqrt(2.0) / 3.0]),
    ),
}
"""Offsets, shares and changes of variance, in units of t and t^2, of cells that cancel rbar(m) - 1 moments. For three:
shares of a third and variances v, v, w with 2 (1 + v) + w = 0 and 2 (1 + 6 v + 3 v^2) + 3 w^2 = 0."""
STEPS = 60
SMALLEST_DAMPING = 1e-14


class DensityModulus(NamedTuple):
    """Measures found, from the largest amplitude to the smallest.

    Attributes:
        amplitudes: t.
        distances: Hellinger distance h from the truth.
        rows: the measures, (amplitudes, k, q).
    """

    amplitudes: Float[np.ndarray, " T"]
    distances: Float[np.ndarray, " T"]
    rows: Float[np.ndarray, "T k q"]

    def slopes(self, errors: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T1"]:
        """d log error / d log h between neighbours; half of it is minus the local exponent of n."""
        return np.diff(np.log(errors)) / np.diff(np.log(self.distances))

    @property
    def sizes(self) -> Float[np.ndarray, " T"]:
        """n = 1 / h^2, at which the split is about as far from the truth as the noise."""
        return self.distances**-2.0


def density_modulus(
    model: AbstractDensity,
    space: MixtureSpace,
    truth: Float[np.ndarray, "k_true q"],
    points: Points,
    cell: int,
    atoms: int,
    direction: Float[np.ndarray, " D"],
    amplitudes: Sequence[float],
) -> DensityModulus:
    """Best splits of one true atom in two or three along a direction.

    Args:
        model, space: as a fit has them; Theta's bounds are not applied.
        truth: rows of G*.
        points: expected counts of the truth on its grid, n times its probabilities; n scales F and nothing else.
        cell: which true atom.
        atoms: 2 or 3.
        direction: u in mu, in units of ``space.scale``.
        amplitudes: t, largest first; each starts from its own closed-form shape.
    """
    unit = np.asarray(direction) * np.asarray(space.scale)
    found, distances = [], []
    for amplitude in amplitudes:
        rows = jnp.asarray(_parted(model, truth, cell, atoms, amplitude * unit))
        first = len(truth)
        merges = _merges(cell, first, atoms, rows)
        problem = MixtureProblem(model, space, atoms - 1, points)
        best = _settled(problem.seen_in(merges), rows, first)
        found.append(np.asarray(best))
        distances.append(float(hellinger(model, best, jnp.asarray(truth), points)))
    return DensityModulus(np.array(amplitudes), np.array(distances), np.array(found))


def _parted(
    model: AbstractDensity, truth: Float[np.ndarray, "k_true q"], cell: int, atoms: int, apart: Float[np.ndarray, " D"]
) -> Float[np.ndarray, "k q"]:
    """The closed-form shape; its first atom in the place of the one that is split, the others at the end."""
    offsets, shares, changes = SHAPES[atoms]
    left, right = (np.asarray(index) for index in model.places())
    last = 1 + model.joint
    split = []
    for offset, share, change in zip(offsets, shares, changes, strict=True):
        row = np.array(truth[cell])
        row[0] *= share
        row[1:last] += offset * apart
        row[last:] += change * apart[left] * apart[right]
        split.append(row)
    rows = np.array(truth)
    rows[cell] = split[0]
    return np.vstack([rows, *split[1:]])


def covariance_split(
    model: AbstractDensity,
    space: MixtureSpace,
    truth: Float[np.ndarray, "k_true q"],
    cell: int,
    atoms: int,
    entry: int,
    amplitude: float,
) -> Float[np.ndarray, "k q"]:
    """One true atom in two or three with equal means and S +- t along one free entry: h(t) goes as t^2, unminimised.

    Splits of the means do not part the entries of S that no pair of means is tied to, such as a softmax gate's slope
    where its gate does not split.

    Args:
        model, space, truth, cell, atoms: as for ``density_modulus``.
        entry: number of the entry among the free ones.
        amplitude: t, in units of the product of the two scales.
    """  # fmt: skip
    offsets = {2: (1.0, -1.0), 3: (1.0, -1.0, 0.0)}[atoms]
    first, second = model.free[entry]
    place = 1 + model.joint + entry
    parts = np.repeat(truth[cell][None], atoms, axis=0)
    parts[:, 0] /= atoms
    parts[:, place] += amplitude * float(space.scale[first] * space.scale[second]) * np.array(offsets)
    rows = np.array(truth)
    rows[cell] = parts[0]
    return np.vstack([rows, parts[1:]])


def _merges(cell: int, first: int, atoms: int, rows: Float[Array, "k q"]) -> Merges:
    """The two atoms 2 t apart are merged first, then with the third."""
    spent = jnp.arange(first, first + atoms - 1)
    return Merges(jnp.full(atoms - 1, cell), spent, jnp.ones_like(rows))


def _settled(view: MixtureView, rows: Float[Array, "k q"], held_row: int) -> Float[Array, "k q"]:
    """F minimised over everything but the first split's direction and size and the shares inside the cell."""
    k, size = rows.shape
    y = view.enter(rows.reshape(-1))
    tilts = np.arange(held_row, k) * size
    held = np.append(held_row * size + 1 + np.arange(view.problem.model.joint), tilts)
    free = np.setdiff1d(np.arange(y.shape[0]), held)
    pinned = np.asarray(view.across(y).basis)  # a softmax gate's common shift is not free
    free = free[np.abs(pinned[free]).sum(axis=1) > 0]
    return view.leave(_minimised(view, y, jnp.asarray(free))).reshape(rows.shape)


@jax.jit
def _minimised(view: MixtureView, y: Float[Array, " z"], free: Array) -> Float[Array, " z"]:
    """Damped Newton steps (Levenberg, in units of the Hessian's own diagonal) on the free coordinates."""
    nothing = jnp.zeros(view.slacks(y).shape)

    def advance(_: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        point, damping = now
        at = view.derivatives(point, nothing)
        slope, hessian = at.slope[free], at.hessian[free][:, free]
        unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(hessian)), 1e-300))
        values, vectors = jnp.linalg.eigh(hessian * unit[:, None] * unit[None])
        turned = vectors.T @ (unit * slope)
        tried = damping * jnp.asarray([1e-3, 1e-1, 1.0, 1e2, 1e4])
        curved = jnp.abs(values)[None] + tried[:, None]
        steps = -unit[None] * ((turned[None] / curved) @ vectors.T)
        points = point[None] + jnp.zeros((5, point.shape[0])).at[:, free].set(steps)
        levels = jax.vmap(view.value)(points)
        levels = jnp.where(jnp.isfinite(levels), levels, jnp.inf)
        best = jnp.argmin(levels)
        better = levels[best] < at.value
        new = jnp.where(better, points[best], point)
        return new, jnp.where(better, jnp.maximum(tried[best], SMALLEST_DAMPING), 1e4 * damping)

    return jax.lax.fori_loop(0, STEPS, advance, (y, jnp.asarray(1e-6)))[0]


@partial(jax.jit, static_argnums=0)
def hellinger(
    model: AbstractDensity, rows: Float[Array, "k q"], truth: Float[Array, "k_true q"], points: Points
) -> Float[Array, ""]:
    """(1/2 sum p (sqrt(p_G / p) - 1)^2)^(1/2)."""
    gap = model.log_densities(rows, points.x, points.y) - model.log_densities(truth, points.x, points.y)
    share = points.weight / jnp.sum(points.weight)
    return jnp.sqrt(0.5 * jnp.sum(share * jnp.expm1(0.5 * gap) ** 2))
