"""How far a split shows: the order q in min || f_{G_t} - f_{G*} || ~ t^q along a direction whose margin is zero.

One true atom becomes m atoms theta_i with shares p_i and amplitude t,

    t^2 = sum_i p_i || phi(theta_i) - sum_l p_l phi(theta_l) ||^2,

measured in phi because raw parameters also move along the gauge. Everything else is free: the directions (which start
along the minimising split), the shares (not below ``FLOOR`` / m), all other atoms, all weights, what atoms share.
Several atoms may be split at once; t^2 is then the sum over them. Amplitudes are so small that no part of the atom
reaches another atom, whose weight it could join unseen. Least squares (Levenberg and Marquardt) over these gives the
distance that no motion can undo:

    q = 2 where the second-order margin is positive;  rate n^-1/(2q);
    zero to rounding at an amplitude of order one: the split is invisible, and there is no rate.

A split whose margin is zero shows beyond order two, at an even one. A search that ends elsewhere did not find the best
split: ``following`` goes on.

Location and variance of a Gaussian: q = 4 for two atoms, 6 for three (Ho and Nguyen 2016). Source: theory section 8.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from moe_theory.jitting import bound
from moe_theory.theory.decomposition import pulled_svd
from moe_theory.theory.envelope import INVISIBLE, RESOLVED
from moe_theory.theory.margins import Cell, Mixture

FLOOR = 0.3
AMPLITUDES = (0.2, 0.1, 0.05)
"""t, in units of the distance in phi to the nearest other true atom of the set, and at most of 2."""
MOST = 2.0
EVEN = 0.25
FLATTEST = 12
"""Order from which on a split counts as one that cannot be seen: n^-1/24 is no rate to measure."""
COLUMNS = 16
"""Of a Jacobian, at once: twice as fast as all of 485."""
ITERATIONS = 25
STARTS = 2
LEAST_PART = 0.01
"""Share of a joint split below which an atom takes no part in it."""


class Visibility(NamedTuple):
    """Distances along the best split of each amplitude.

    Attributes:
        atoms: m, of every atom that is split.
        amplitudes: t.
        distances: the least || f_{G_t} - f_{G*} || that was found.
        order: slope of log distance in log t; NaN where fewer than two distances are not rounding.
    """

    atoms: tuple[int, ...]
    amplitudes: Float[np.ndarray, " T"]
    distances: Float[np.ndarray, " T"]
    order: float

    @property
    def even_order(self) -> int | None:
        """The even number within ``EVEN`` of the measured order (a split and its mirror image show alike), or None.

        None of a split that is invisible, too.
        """
        if np.isnan(self.order) or self.is_invisible:
            return None
        nearest = 2 * max(1, round(self.order / 2.0))
        return nearest if abs(self.order - nearest) <= EVEN else None

    @property
    def hidden_at(self) -> float | None:
        """The largest amplitude at which f_G does not move, to rounding, or None.

        One is enough: a measure with f_G = f_{G*} away from the truth is told from it by no number of samples. At a
        small t a split of a high order is as near; up to ``FLATTEST`` it is not.
        """
        hidden = are_hidden(self.amplitudes, self.distances)
        return float(np.max(self.amplitudes[hidden])) if np.any(hidden) else None

    @property
    def is_invisible(self) -> bool:
        """Whether f_G does not move at some amplitude."""
        return self.hidden_at is not None

    @property
    def is_clear(self) -> bool:
        """Whether the search found what a split of margin zero must be: invisible, or of an even order above two."""
        return self.is_invisible or (self.even_order or 0) > 2


def are_hidden(amplitudes: Float[np.ndarray, " T"], distances: Float[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Which distances are rounding, and below what a split of order ``FLATTEST`` leaves."""
    return distances <= np.minimum(INVISIBLE, amplitudes**FLATTEST)


class Free(eqx.Module):
    """All that may move while a split is held at its amplitude.

    Attributes:
        log_weights, atoms, common: motions of the truth, one array per set.
        logits: of the shares p_i, one array per split atom.
        apart: theta_i - theta of a split atom's parts.
    """

    log_weights: tuple[Float[Array, " k"], ...]
    atoms: tuple[Float[Array, "k q"], ...]
    common: tuple[Float[Array, " c"], ...]
    logits: tuple[Float[Array, " _"], ...]
    apart: tuple[Float[Array, "_ q"], ...]


Where = tuple[tuple[int, int], ...]
"""The atoms that are split: set, and number in it."""


def shares_of(logits: Float[Array, " m"]) -> Float[Array, " m"]:
    """p_i, none below ``FLOOR`` / m."""
    return FLOOR / logits.shape[0] + (1.0 - FLOOR) * jax.nn.softmax(logits)


def measure_of(mixture: Mixture, where: Where, free: Free) -> list[tuple[Array, Array, Array]]:
    """(weights, atoms, common) of every set of G_t; the parts of split atoms are their set's last ones."""
    measures = []
    for number, own in enumerate(mixture):
        weights = own.weights * jnp.exp(free.log_weights[number])
        atoms, common = own.atoms + free.atoms[number], own.common + free.common[number]
        split = [(each, atom) for each, (place, atom) in enumerate(where) if place == number]
        rest = np.delete(np.arange(len(own.weights)), [atom for _, atom in split])
        parts = [atoms[atom][None] + free.apart[each] for each, atom in split]
        shares = [weights[atom] * shares_of(free.logits[each]) for each, atom in split]
        measures.append((jnp.concatenate([weights[rest], *shares]), jnp.concatenate([atoms[rest], *parts]), common))
    return measures


def _amplitude(mixture: Mixture, where: Where, free: Free) -> Float[Array, ""]:
    """t: the root mean square distance in phi of the parts from their mean, over all atoms that are split."""
    squares = []
    for (place, atom), logits, apart in zip(where, free.logits, free.apart, strict=True):
        own, shares = mixture[place], shares_of(logits)
        parts = (own.atoms[atom] + free.atoms[place][atom])[None] + apart
        points = jax.vmap(own.coordinates, (0, None))(parts, own.common + free.common[place])
        squares.append(shares @ jnp.sum((points - (shares @ points)[None]) ** 2, axis=1))
    return jnp.sqrt(sum(squares, jnp.zeros(())))


def residual_of(mixture: Mixture, where: Where, free: Free, amplitude: Array) -> Float[Array, " N_1"]:
    """f_{G_t} - f_{G*}, and the relative error of the amplitude.

    At a solution that error is of the order of the squared distance: nothing is gained by missing t.
    """
    moved = measure_of(mixture, where, free)
    total = jnp.sum(jnp.stack([own.moved(*measure) for own, measure in zip(mixture, moved, strict=True)]), axis=0)
    return jnp.append(total, _amplitude(mixture, where, free) / amplitude - 1.0)


class Looks(NamedTuple):
    """What a search at one amplitude sees, as compiled functions of one vector of all that is free.

    Attributes:
        residual: ``residual_of``.
        jacobian: its derivative.
    """

    residual: Callable[[Float[np.ndarray, " free"]], Float[Array, " N_1"]]
    jacobian: Callable[[Float[np.ndarray, " free"]], Float[Array, "N_1 free"]]


def looks(mixture: Mixture, where: Where, like: Free, amplitude: float) -> Looks:
    """The functions of a search.

    Args:
        mixture, where, amplitude: as for ``residual_of``.
        like: the parts of the vector.
    """
    fixed = mixture, where, like, jnp.asarray(amplitude)
    return Looks(bound(_residual_at, *fixed), bound(_jacobian_at, *fixed))


def _residual_at(mixture: Mixture, where: Where, like: Free, amplitude: Array, point: Array) -> Float[Array, " N_1"]:
    return residual_of(mixture, where, ravel_pytree(like)[1](point), amplitude)


def _jacobian_at(
    mixture: Mixture, where: Where, like: Free, amplitude: Array, point: Array
) -> Float[Array, "N_1 free"]:
    """Column by column, a few at a time: what all columns at once leave on the way does not fit the cache."""

    def push(tangent: Array) -> Array:
        def residual(moved: Array) -> Array:
            return _residual_at(mixture, where, like, amplitude, moved)

        return jax.jvp(residual, (point,), (tangent,))[1]

    blocks = -(-point.shape[0] // COLUMNS)
    basis = jnp.eye(blocks * COLUMNS, point.shape[0]).reshape(blocks, COLUMNS, -1)
    columns = jax.lax.map(jax.vmap(push), basis).reshape(blocks * COLUMNS, -1)
    return columns[: point.shape[0]].T


def at_truth(mixture: Mixture, apart: Sequence[Float[np.ndarray, "_ q"]]) -> Free:
    """Nothing moved but the parts of the split atoms, theta_i - theta as given."""
    return Free(
        log_weights=tuple(jnp.zeros(own.weights.shape) for own in mixture),
        atoms=tuple(jnp.zeros(own.atoms.shape) for own in mixture),
        common=tuple(jnp.zeros(own.common.shape) for own in mixture),
        logits=tuple(jnp.zeros(len(each)) for each in apart),
        apart=tuple(jnp.asarray(each) for each in apart),
    )


class Split(NamedTuple):
    """Directions of a split of one or several atoms at once, S_j = Y_j Y_j' as the margins have them.

    Attributes:
        cells: the atoms.
        factors: Y_j, in the cells' lifts.
    """

    cells: tuple[Cell, ...]
    factors: tuple[Float[np.ndarray, "_ _"], ...]

    @property
    def where(self) -> Where:
        """The atoms."""
        return tuple((cell.place, cell.atom) for cell in self.cells)

    def lifted(self, mixture: Mixture, placed: Sequence[Float[np.ndarray, "_ _"]]) -> list[Float[np.ndarray, "_ q"]]:
        """theta_i - theta of the parts, one array per atom, at amplitude one.

        Weighted by w_j the second moments of an atom's parts are S_j, which therefore are divided by it.

        Args:
            mixture: where.
            placed: the parts along the columns of every Y_j, of mean 0 and covariance I.
        """
        weights = [float(mixture[cell.place].weights[cell.atom]) for cell in self.cells]
        roots = [factor / np.sqrt(weight) for factor, weight in zip(self.factors, weights, strict=True)]
        size = np.sqrt(sum(np.sum(root**2) for root in roots))
        return [
            points @ (cell.chart.lifts @ root).T / size
            for points, cell, root in zip(placed, self.cells, roots, strict=True)
        ]


def split_of(
    cells: Sequence[Cell], factors: Sequence[Float[np.ndarray, "_ _"]], least_part: float = LEAST_PART
) -> Split:
    """The split along a minimiser of the (joint) second-order margin, of the atoms that take part in it.

    Args:
        cells, factors: of the minimiser.
        least_part: share of the whole below which an atom is left out.
    """
    sizes = [float(np.sum(factor**2)) for factor in factors]
    kept = [number for number, size in enumerate(sizes) if size > least_part * sum(sizes)]
    return Split(tuple(cells[number] for number in kept), tuple(factors[number] for number in kept))


def leading(mixture: Mixture, split: Split) -> tuple[Mixture, Split]:
    """The same where the split atoms are the first of their sets: the programs of one atom's search serve all atoms."""
    moved, cells = [], list(split.cells)
    for place, own in enumerate(mixture):
        numbers = [number for number, cell in enumerate(split.cells) if cell.place == place]
        first = [split.cells[number].atom for number in numbers]
        order = np.array([*first, *(atom for atom in range(len(own.weights)) if atom not in first)])
        ordered = own.weights[order], own.atoms[order]
        moved.append(eqx.tree_at(lambda own: (own.weights, own.atoms), own, ordered))
        for atom, number in enumerate(numbers):
            cells[number] = cells[number]._replace(atom=atom)
    return tuple(moved), split._replace(cells=tuple(cells))


def visibility(
    mixture: Mixture,
    split: Split,
    atoms: int | None = None,
    amplitudes: Sequence[float] = AMPLITUDES,
    starts: int = STARTS,
    iterations: int = ITERATIONS,
) -> Visibility:
    """Follow a split.

    Args:
        mixture, split: where, and along what.
        atoms: m, of each atom; by default one more than its Y has columns.
        amplitudes: t in units of ``AMPLITUDES``, largest first; they end with one at which the split is invisible.
        starts: placements of the m atoms along Y at the largest amplitude: the corners of a simplex, then random ones.
            At the others, the first two of these, and where the one before ended.
        iterations: of each search.
    """
    mixture, split = leading(mixture, split)
    counts = tuple(atoms or factor.shape[1] + 1 for factor in split.factors)
    shapes = list(zip(counts, [factor.shape[1] for factor in split.factors], strict=True))
    sizes = reach_of(mixture, split) * np.asarray(amplitudes)
    rng = np.random.default_rng(0)
    placed = [[simplex(*shape) for shape in shapes]]
    placed += [[rng.standard_normal(shape) for shape in shapes] for _ in range(starts - 1)]
    lifted = [split.lifted(mixture, points) for points in placed]
    found, before = Visibility(counts, sizes[:0], sizes[:0], float("nan")), []
    for amplitude in sizes:
        least, best = float("inf"), []
        for apart in [*before, *(lifted[:STARTS] if before else lifted)]:
            if least > RESOLVED:
                scaled = [amplitude * each for each in apart]
                free, distance = descend(mixture, split.where, scaled, float(amplitude), iterations)
                if distance < least:
                    least, best = distance, [np.asarray(each) / amplitude for each in free.apart]
        reached, distances = np.append(found.amplitudes, amplitude), np.append(found.distances, least)
        found, before = Visibility(counts, reached, distances, _order(reached, distances)), [best]
        if found.is_invisible:
            break
    return found


def reach_of(mixture: Mixture, split: Split) -> float:
    """Least distance in phi of a split atom to another true atom of its set, at most ``MOST``."""
    least = MOST
    for place, atom in split.where:
        own = mixture[place]
        points = np.asarray(jax.vmap(own.coordinates, (0, None))(own.atoms, own.common))
        apart = np.linalg.norm(points - points[atom], axis=1)
        least = float(np.min(np.delete(apart, atom), initial=least))
    return least


def _order(amplitudes: Float[np.ndarray, " T"], distances: Float[np.ndarray, " T"]) -> float:
    """Slope over the amplitudes whose distance is not rounding, without the largest, where higher orders mix in."""
    known = distances > RESOLVED
    if known.sum() < 2:
        return float("nan")
    t, d = np.log(amplitudes[known]), np.log(distances[known])
    kept = slice(1, None) if known.sum() > 2 else slice(None)
    return float(np.polyfit(t[kept], d[kept], 1)[0])


def simplex(count: int, dimensions: int) -> Float[np.ndarray, "m e"]:
    """``count`` points with mean 0 and covariance I: corners of a simplex, or equally spaced along one direction."""
    if dimensions == count - 1:
        corners = np.linalg.svd(np.eye(count) - 1.0 / count)[0][:, : count - 1]
        return np.sqrt(count) * corners
    points = np.zeros((count, dimensions))
    points[:, 0] = np.linspace(-1.0, 1.0, count)
    return points


def descend(
    mixture: Mixture,
    where: Where,
    apart: Sequence[Float[np.ndarray, "_ q"]],
    amplitude: float,
    iterations: int = ITERATIONS,
) -> tuple[Free, float]:
    """The measure that Levenberg and Marquardt's method ends in, from the truth split as given, and its distance.

    Args:
        mixture, where: which atoms are split.
        apart: theta_i - theta of the parts at the start.
        amplitude: t.
        iterations: at most so many.
    """
    start = at_truth(mixture, apart)
    flat, unravel = ravel_pytree(start)
    here, damping = np.asarray(flat), 1e-3
    seen = looks(mixture, where, start, amplitude)
    residual = np.asarray(seen.residual(here))
    for _ in range(iterations):
        size = float(np.linalg.norm(residual))
        if size <= 0.1 * RESOLVED:
            break
        jacobian = np.asarray(seen.jacobian(here))
        if not np.all(np.isfinite(jacobian)):  # parts that have met have an amplitude without a derivative
            break
        pulled, values, right = pulled_svd(jacobian, residual)
        gained = False
        while damping < 1e8 and not gained:
            step = -right.T @ (pulled * values / (values**2 + damping * values[0] ** 2 * min(1.0, size)))
            trial = np.asarray(seen.residual(here + step))
            gained = float(np.linalg.norm(trial)) < size
            damping *= 0.1 if gained else 10.0
            if gained:
                here, residual = here + step, trial
        if not gained or size - float(np.linalg.norm(residual)) < 1e-4 * size:
            break
    return unravel(jnp.asarray(here)), float(np.linalg.norm(residual[:-1]))
