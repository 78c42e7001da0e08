"""The identified set: how far the loss can move while the objective stays within a hair of its minimum.

Where the objective does not determine the error (LoRA's over-fitted value atoms), one fitted value says little. Here
the loss D is minimised and maximised over { z in Theta : F(z) <= F(fit) + level } by sequential quadratic
programming from the fit: with W the Hessian of phi_mu, g its gradient and d = grad D in the gauge slice, the step
extremises d'p subject to g'p + 1/2 p'Wp <= room, room = level - (F(z) - F(fit)),

    p = -W^-1 g + t W^-1 d,    t = +- sqrt( (2 room + g'W^-1 g) / d'W^-1 d ),

is corrected back to the valley, and shortened until it stays within the level. This searches the component of the
set that contains the fit; other components are other starts' minima, `block_splits`, and splits that do not move f_G
(``study.invisible``), where it may start as well as at a fit. Source: our derivation.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from moe_theory.estimation.smooth import AbstractProblem
from moe_theory.estimation.space import Chart, TrueSet, joined, true_sets
from moe_theory.estimation.trust_region import Standpoint, State, corrected
from moe_theory.models.measure import MixingMeasure

STEPS = 32
SETTLED = 1e-4
"""A search ends with a step that moves the loss by less than this share of it, or after ``STEPS`` steps."""

SHORTENINGS = (1.0, 0.4, 0.1)

CONFIDENCE_LEVEL = 1.92
"""Half the 95 % quantile of chi-square with one degree of freedom: { D(G) : F(G) <= min F + 1.92 } is the usual 95 %
likelihood-ratio interval of the one number D."""


class Search(NamedTuple):
    """One lane's search for an end of D over { z in Theta : F(z) <= ceiling }.

    Attributes:
        state: where it is; at first the converged fit.
        ceiling: largest F (units of sigma^2 / n).
        sign: -1 for the least loss, +1 for the largest.
        reached: the loss there.
        left: steps that it may still take; 0 once they no longer pay.
    """

    state: State
    ceiling: Float[Array, "*lanes"]
    sign: Float[Array, "*lanes"]
    reached: Float[Array, "*lanes"]
    left: Int[Array, "*lanes"]


Loss = Callable[[Array], Array]
"""z -> D, differentiable almost everywhere."""


def begin_search(state: State, loss: Loss, level: float | Float[Array, ""], sign: Float[Array, ""]) -> Search:
    """The search that starts at a fit and may raise F by ``level`` above the fit's."""
    return Search(state, state.value + level, sign, loss(state.z), jnp.asarray(STEPS))


def search_step(problem: AbstractProblem, search: Search, at: Standpoint, loss: Loss) -> Search:
    """One step; a search that has none left does not move.

    Args:
        problem, search: where it is.
        at: the standpoint of its ``centred`` state.
        loss: D.
    """
    z, reached = _step(problem, at, loss, search.ceiling, search.sign)
    gain = search.sign * (reached - search.reached)
    better = (gain > 0.0) & (search.left > 0)
    left = jnp.where(gain > SETTLED * jnp.abs(search.reached), jnp.maximum(search.left - 1, 0), 0)
    state = search.state._replace(z=jnp.where(better, z, search.state.z))
    return search._replace(state=state, reached=jnp.where(better, reached, search.reached), left=left)


def _step(problem: AbstractProblem, at: Standpoint, loss: Loss, ceiling: Array, sign: Array) -> tuple[Array, Array]:
    """One quadratic-programming step, shortened until it keeps below the ceiling: (z, loss there)."""
    state, local, view = at.state, at.local, problem.seen_in(at.frame)
    values, vectors = local.spectrum.values, local.spectrum.vectors
    curvature = jnp.maximum(values, 1e-12 * values[-1])
    pull = vectors.T @ jax.grad(lambda point: loss(view.leave(point)))(local.y)
    slope = local.spectrum.slope
    room = jnp.maximum(ceiling - local.value, 0.0)
    length = jnp.sqrt((2.0 * room + jnp.sum(slope**2 / curvature)) / jnp.maximum(jnp.sum(pull**2 / curvature), 1e-300))
    full = vectors @ ((-slope + sign * length * pull) / curvature)

    def attempt(ratio: Array) -> tuple[Array, Array, Array]:
        moved = corrected(view, local, state.barrier, ratio * full, jnp.zeros(()), jnp.zeros_like(full))
        inside = jnp.all(view.slacks(moved.y) > 0.0) & (moved.value <= ceiling)
        point = view.leave(moved.y)
        return jnp.where(inside, point, state.z), inside, loss(point)

    points, inside, reached = jax.vmap(attempt)(jnp.asarray(SHORTENINGS))
    index = jnp.argmax(jnp.where(inside, sign * reached, -jnp.inf))
    return points[index], jnp.where(inside[index], reached[index], -sign * jnp.inf)


SHARES = (0.5, 0.2)
DIRECTIONS = 4
LEAST_SLACK = 1e-3


def block_splits(chart: Chart, truth: MixingMeasure, seed: int = 0) -> Float[np.ndarray, "splits z"]:
    """Measures that split one true atom along one of its parameter blocks, as far as Theta allows.

        theta_a = theta - s H,   theta_b = theta + (1 - s) H,   H in one block, weights (1 - s) w and s w.

    The mean of the block is kept, so f_G is unchanged if score and output are linear in it while the gate does not see
    it: LoRA's B_V and A_V are such blocks, and then every H, however large, fits as well as the truth. Where the gate
    does see the block (RepLoRA), a split of order one is visible, and F tells. Which it is, is measured, not assumed.

    Args:
        chart: Theta, with more atoms than the truth.
        truth: G*.
        seed: of the directions.

    Raises:
        ValueError: if the chart has no atom to spare.

    Source: our derivation (theory section 7, 'why the slow ones are slow').
    """
    if chart.k <= truth.k:
        raise ValueError(f"a split needs more fitted than true atoms, got {chart.k} and {truth.k}")
    rng = np.random.default_rng(seed)
    slacks = jax.jit(lambda z: chart.slacks(z))
    sets = true_sets(chart, truth)
    one = jax.tree.map(lambda leaf: leaf[0], chart.example[0]) if chart.sets > 1 else chart.example[0]
    blocks, structure = jax.tree.flatten(jax.tree.map(lambda leaf: np.zeros(leaf.shape), one))
    made = []
    for place, atom, block, share in product(range(len(sets)), range(truth.k), range(len(blocks)), SHARES):
        for _ in range(DIRECTIONS):
            moved = [rng.standard_normal(leaf.shape) if i == block else leaf for i, leaf in enumerate(blocks)]
            direction = np.asarray(ravel_pytree(jax.tree.unflatten(structure, moved))[0])
            made.append(_farthest(chart, slacks, sets, place, atom, share, direction))
    return np.stack(made)


def _farthest(
    chart: Chart, slacks: Any, sets: list[TrueSet], place: int, atom: int, share: float, direction: np.ndarray
) -> np.ndarray:
    """The split of one set's atom along a direction that is the largest, in steps of a twentieth, inside Theta.

    In the other sets the same atom is in two equal parts.
    """
    still = [_split(chart, own, atom, share, 0.0 * direction) for own in sets]
    found = None
    for size in 1.05 ** np.arange(40, -120, -1.0):
        split = _split(chart, sets[place], atom, share, size * direction)
        found = np.concatenate([*still[:place], split, *still[place + 1 :]])
        if float(slacks(found).min()) > LEAST_SLACK:
            break
    assert found is not None
    return found


def _split(chart: Chart, true: TrueSet, atom: int, share: float, moved: np.ndarray) -> np.ndarray:
    """z of one set whose atom is split by H = ``moved``."""
    extra = chart.k - len(true.weights)
    weights = np.append(true.weights, np.full(extra, share * true.weights[atom] / extra))
    weights[atom] *= 1.0 - share
    parts = np.repeat(true.atoms[atom : atom + 1] + (1.0 - share) * moved, extra, axis=0)
    atoms = np.vstack([true.atoms, parts])
    atoms[atom] -= share * moved
    return joined(chart.space, weights, atoms, true.common)
