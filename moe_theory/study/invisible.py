"""Splits of the truth that leave f_G as it is, found from the second-order margin before anything is sampled.

A split along one block of factors in a random direction (``block_splits``) meets LoRA's invisible splits, where every
direction of a block is one. It misses those of fewer directions, such as RepLoRA's from rank two on under a bilinear
gate, H = (b_1 b_2' - b_2 b_1') M_K^-1. Such a one is a minimiser of the second-order margin with value zero; followed
as far as it goes with all else free (``theory.following``) it is a measure G with f_G = f_{G*}, so
F(G) = F(G*) whatever the noise, and D(G, G*) is a lower bound of the largest loss among fits as good as the truth. It
is computed once per truth. Source: our derivation.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.estimation.identified import LEAST_SLACK
from moe_theory.estimation.objective import mix
from moe_theory.estimation.space import Chart, joined
from moe_theory.jitting import at_once
from moe_theory.study.problem import Setup
from moe_theory.theory.envelope import INVISIBLE
from moe_theory.theory.following import hidden_measures
from moe_theory.theory.margins import cells_of, first_order
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.second_order import null_split
from moe_theory.theory.visibility import split_of
from moe_theory.theory.voronoi import effective_losses
from moe_theory.threads import one_blas_thread


def moves(
    setup: Setup, chart: Chart, points: Float[np.ndarray, "points z"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """(|| f_G - f_{G*} || in L2(mu), D_12) of measures given by their coordinates."""

    def one(z: Float[Array, " z"]) -> tuple[Array, Array]:
        change = mix(chart.coefficients(z), setup.design).prediction - setup.values
        loss = effective_losses(setup.model, chart.measure(z), setup.truth).d_12
        return jnp.sqrt(jnp.mean(jnp.sum(change**2, axis=0))), loss

    distances, losses = at_once(jax.vmap(one), jnp.asarray(points))
    return np.asarray(distances), np.asarray(losses)


@one_blas_thread
def farthest_invisible(
    setup: Setup, chart: Chart, known: Float[np.ndarray, "points z"]
) -> Float[np.ndarray, " z"] | None:
    """The invisible split inside Theta with the largest D_12 that the margins lead to: of single atoms, else of all.

    None where there is none, and where one of the known measures is invisible and far already, so that nothing need be
    looked for: LoRA costs nothing.

    Args:
        setup: the problem.
        chart: Theta, with more atoms than the truth.
        known: such as ``block_splits``.
    """
    if np.any(moves(setup, chart, known)[0] <= INVISIBLE):
        return None
    found = list(_splits(setup, chart))
    if not found:
        return None
    return found[int(np.argmax(moves(setup, chart, np.stack(found))[1]))]


def _splits(setup: Setup, chart: Chart) -> Iterator[Float[np.ndarray, " z"]]:
    """Of every atom whose margin is zero, its largest invisible split inside Theta; of all at once if there is none."""
    mixture = mixture_of(setup.model, setup.truth, setup.design)
    first, cells = first_order(mixture), cells_of(mixture)
    spare = chart.k - len(mixture[0].weights)
    alone = [(cell, null_split(first, [cell], spare + 1)) for cell in cells]
    found = [split_of([cell], factors) for cell, factors in alone if factors is not None]
    if not found and len(cells) > 1 and spare >= max(len(own.weights) for own in mixture):
        together = null_split(first, cells, 2)
        found = [] if together is None else [split_of(cells, together)]
    for split in found:
        for sets in hidden_measures(mixture, split):
            inside = [z for z in _filled(chart, sets) if float(jnp.min(chart.slacks(jnp.asarray(z)))) > LEAST_SLACK]
            yield from inside
            if inside:
                break


def _filled(chart: Chart, sets: list[tuple[Array, Array, Array]]) -> list[Float[np.ndarray, " z"]]:
    """The measure as z, with as many atoms in every set as the chart has: one of them, in turn, is in equal parts.

    Which one matters: the loss counts an atom alone in its cell at power one, and two at power two.
    """
    sizes = [len(weights) for weights, _, _ in sets]
    turns = 1 if min(sizes) == chart.k else max(sizes)
    return [np.concatenate([_shared(chart, turn, *map(np.asarray, own)) for own in sets]) for turn in range(turns)]


def _shared(
    chart: Chart, turn: int, weights: np.ndarray, atoms: np.ndarray, common: np.ndarray
) -> Float[np.ndarray, " z"]:
    """z of one set, the atom whose turn it is in one part more than there are atoms to spare."""
    places, spare = np.arange(len(weights)), chart.k - len(weights)
    chosen = turn % len(weights)
    parts = np.where(places == chosen, weights / (1 + spare), weights)
    place = np.append(places, np.full(spare, chosen))
    return joined(chart.space, parts[place], atoms[place], common)
