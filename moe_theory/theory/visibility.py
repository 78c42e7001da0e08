"""How far a split shows: the order q in min || f_{G_t} - f_{G*} || ~ t^q along a direction whose margin is zero.

One true atom becomes m atoms theta_i with shares p_i and amplitude t,

    t^2 = sum_i p_i || phi(theta_i) - sum_l p_l phi(theta_l) ||^2,

measured in phi because raw parameters also move along the gauge. Everything else is free: the directions (which start
along the minimising split), the shares (not below ``FLOOR`` / m), all other atoms, all weights, what atoms share.
Amplitudes are so small that no part of the atom reaches another atom, whose weight it could join unseen. Least squares
(Levenberg and Marquardt) over these gives the distance that no motion can undo:

    q = 2 where the second-order margin is positive;  rate n^-1/(2q);
    zero to rounding at an amplitude of order one: the split is invisible, and there is no rate.

Location and variance of a Gaussian: q = 4 for two atoms, 6 for three (Ho and Nguyen 2016). Source: theory section 8.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.theory.envelope import RESOLVED
from moe_theory.theory.families import AbstractSet
from moe_theory.theory.margins import Cell, Mixture

FLOOR = 0.3
AMPLITUDES = (0.2, 0.1, 0.05)
"""t, in units of the distance in phi to the nearest other true atom of the set, and at most of 2."""
MOST = 2.0
HIDDEN_AMPLITUDES = 0.8 ** np.arange(11)
"""t at which invisible splits are looked for, in the same units: as large as may be, to a tenth."""
INVISIBLE = 1e-11
"""Distance in L2(mu) that counts as rounding; outputs are of order one."""
EVEN = 0.25
ITERATIONS = 25
STARTS = 2


class Visibility(NamedTuple):
    """Distances along the best split of each amplitude.

    Attributes:
        atoms: m.
        amplitudes: t.
        distances: the least || f_{G_t} - f_{G*} || that was found.
        order: slope of log distance in log t; NaN where the split is invisible.
    """

    atoms: int
    amplitudes: Float[np.ndarray, " T"]
    distances: Float[np.ndarray, " T"]
    order: float

    @property
    def even_order(self) -> int | None:
        """The even number within ``EVEN`` of the measured order (a split and its mirror image show alike), or None."""
        if np.isnan(self.order):
            return None
        nearest = 2 * max(1, round(self.order / 2.0))
        return nearest if abs(self.order - nearest) <= EVEN else None

    @property
    def is_invisible(self) -> bool:
        """Whether f_G does not move at any amplitude, to rounding."""
        return bool(np.max(self.distances) <= INVISIBLE)


class Free(eqx.Module):
    """All that may move while a split is held at its amplitude.

    Attributes:
        log_weights, atoms, common: motions of the truth, one array per set.
        logits: of the shares p_i.
        apart: theta_i - theta of the split atom's parts.
    """

    log_weights: tuple[Float[Array, " k"], ...]
    atoms: tuple[Float[Array, "k q"], ...]
    common: tuple[Float[Array, " c"], ...]
    logits: Float[Array, " m"]
    apart: Float[Array, "m q"]


def shares_of(logits: Float[Array, " m"]) -> Float[Array, " m"]:
    """p_i, none below ``FLOOR`` / m."""
    return FLOOR / logits.shape[0] + (1.0 - FLOOR) * jax.nn.softmax(logits)


def measure_of(mixture: Mixture, place: int, atom: int, free: Free) -> list[tuple[Array, Array, Array]]:
    """(weights, atoms, common) of every set of G_t; the split atoms are the set's last ones."""
    measures = []
    for number, own in enumerate(mixture):
        weights = own.weights * jnp.exp(free.log_weights[number])
        atoms, common = own.atoms + free.atoms[number], own.common + free.common[number]
        if number == place:
            parts = atoms[atom][None] + free.apart
            rest = np.delete(np.arange(len(own.weights)), atom)
            weights = jnp.concatenate([weights[rest], weights[atom] * shares_of(free.logits)])
            atoms = jnp.concatenate([atoms[rest], parts])
        measures.append((weights, atoms, common))
    return measures


def _amplitude(own: AbstractSet, parts: Float[Array, "m q"], shares: Float[Array, " m"], common: Array) -> Array:
    """t of a split: the root mean square distance in phi from the mean."""
    points = jax.vmap(own.coordinates, (0, None))(parts, common)
    return jnp.sqrt(shares @ jnp.sum((points - (shares @ points)[None]) ** 2, axis=1))


@eqx.filter_jit
def _residual(mixture: Mixture, place: int, atom: int, free: Free, amplitude: Array) -> Float[Array, " N_1"]:
    """f_{G_t} - f_{G*}, and the relative error of the amplitude.

    At a solution that error is of the order of the squared distance: nothing is gained by missing t.
    """
    moved = measure_of(mixture, place, atom, free)
    total = jnp.sum(jnp.stack([own.moved(*measure) for own, measure in zip(mixture, moved, strict=True)]), axis=0)
    shares = shares_of(free.logits)
    reached = _amplitude(mixture[place], moved[place][1][-shares.shape[0] :], shares, moved[place][2])
    return jnp.append(total, reached / amplitude - 1.0)


@eqx.filter_jit
def _jacobian(mixture: Mixture, place: int, atom: int, free: Free, amplitude: Array) -> Float[Array, "N_1 free"]:
    """Its derivative in all that is free."""
    flat, unravel = ravel_pytree(free)
    return jax.jacfwd(lambda point: _residual(mixture, place, atom, unravel(point), amplitude))(flat)


def visibility(
    mixture: Mixture,
    cell: Cell,
    factor: Float[np.ndarray, "p e"],
    atoms: int | None = None,
    amplitudes: Sequence[float] = AMPLITUDES,
    starts: int = STARTS,
) -> Visibility:
    """Follow the split of one cell along the directions of S = Y Y'.

    Args:
        mixture, cell: where.
        factor: Y, in the cell's lifts.
        atoms: m; by default one more than Y has columns.
        amplitudes: t in units of ``AMPLITUDES``, largest first.
        starts: placements of the m atoms along Y: the corners of a simplex, then random ones.
    """
    count = atoms or factor.shape[1] + 1
    sizes = _reach(mixture[cell.place], cell.atom) * np.asarray(amplitudes)
    rng = np.random.default_rng(0)
    placed = [_simplex(count, factor.shape[1])]
    placed += [rng.standard_normal((count, factor.shape[1])) for _ in range(starts - 1)]
    lifted = [points @ (cell.chart.lifts @ factor).T for points in placed]
    distances = []
    for amplitude in sizes:
        least = float("inf")
        for apart in lifted:
            if least > RESOLVED:
                least = min(least, descend(mixture, cell, amplitude * apart, float(amplitude))[1])
        distances.append(least)
    return Visibility(count, sizes, np.array(distances), _order(sizes, np.array(distances)))


def hidden_measures(
    mixture: Mixture, cell: Cell, factor: Float[np.ndarray, "p e"]
) -> Iterator[list[tuple[Array, Array, Array]]]:
    """(weights, atoms, common) of every set of the invisible splits of one cell along S = Y Y', the largest first.

    Args:
        mixture, cell: where.
        factor: Y, in the cell's lifts: the cell gets one atom more than Y has columns.
    """
    placed = _simplex(factor.shape[1] + 1, factor.shape[1]) @ (cell.chart.lifts @ factor).T
    for amplitude in _reach(mixture[cell.place], cell.atom) * HIDDEN_AMPLITUDES:
        free, distance = descend(mixture, cell, amplitude * placed, float(amplitude))
        if distance <= INVISIBLE:
            yield measure_of(mixture, cell.place, cell.atom, free)


def _reach(own: AbstractSet, atom: int) -> float:
    """Distance in phi to the nearest other true atom of the set, at most ``MOST``."""
    points = np.asarray(jax.vmap(own.coordinates, (0, None))(own.atoms, own.common))
    apart = np.linalg.norm(points - points[atom], axis=1)
    return float(np.min(np.delete(apart, atom), initial=MOST))


def _order(amplitudes: Float[np.ndarray, " T"], distances: Float[np.ndarray, " T"]) -> float:
    """Slope over the amplitudes whose distance is not rounding, without the largest, where higher orders mix in."""
    known = distances > RESOLVED
    if np.max(distances) <= INVISIBLE or known.sum() < 2:
        return float("nan")
    t, d = np.log(amplitudes[known]), np.log(distances[known])
    kept = slice(1, None) if known.sum() > 2 else slice(None)
    return float(np.polyfit(t[kept], d[kept], 1)[0])


def _simplex(count: int, dimensions: int) -> Float[np.ndarray, "m e"]:
    """``count`` points with mean 0 and covariance I: corners of a simplex, or equally spaced along one direction."""
    if dimensions == count - 1:
        corners = np.linalg.svd(np.eye(count) - 1.0 / count)[0][:, : count - 1]
        return np.sqrt(count) * corners
    points = np.zeros((count, dimensions))
    points[:, 0] = np.linspace(-1.0, 1.0, count)
    return points


def descend(mixture: Mixture, cell: Cell, apart: Float[np.ndarray, "m q"], amplitude: float) -> tuple[Free, float]:
    """The measure that Levenberg and Marquardt's method ends in, from the truth split as given, and its distance.

    Args:
        mixture, cell: where.
        apart: theta_i - theta of the parts at the start.
        amplitude: t.
    """
    start = Free(
        log_weights=tuple(jnp.zeros(own.weights.shape) for own in mixture),
        atoms=tuple(jnp.zeros(own.atoms.shape) for own in mixture),
        common=tuple(jnp.zeros(own.common.shape) for own in mixture),
        logits=jnp.zeros(len(apart)),
        apart=jnp.asarray(apart),
    )
    flat, unravel = ravel_pytree(start)
    here, damping, t = np.asarray(flat), 1e-3, jnp.asarray(amplitude)

    def look(function: Callable[..., Array], point: np.ndarray) -> np.ndarray:
        return np.asarray(function(mixture, cell.place, cell.atom, unravel(jnp.asarray(point)), t))

    residual = look(_residual, here)
    for _ in range(ITERATIONS):
        size = float(np.linalg.norm(residual))
        if size <= 0.1 * RESOLVED:
            break
        left, values, right = np.linalg.svd(look(_jacobian, here), full_matrices=False)
        pulled, gained = left.T @ residual, False
        while damping < 1e8 and not gained:
            step = -right.T @ (pulled * values / (values**2 + damping * values[0] ** 2 * min(1.0, size)))
            trial = look(_residual, here + step)
            gained = float(np.linalg.norm(trial)) < size
            damping *= 0.1 if gained else 10.0
            if gained:
                here, residual = here + step, trial
        if not gained or size - float(np.linalg.norm(residual)) < 1e-4 * size:
            break
    return unravel(jnp.asarray(here)), float(np.linalg.norm(residual[:-1]))
