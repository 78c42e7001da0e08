"""The modulus of continuity omega(delta) = sup { D(G, G*) : || f_G - f_{G*} || <= delta }, from below.

Every measure G that is found is a certificate of its own: with delta = || f_G - f_{G*} || and D = D_12(G, G*), both
computed at G, omega(delta) >= D. Norms are those of L2(mu), squares summed over the entries of an output; D_12 is the
loss of the simulations, frozen atoms with cells of their own (``voronoi``). Of a density f is p / sqrt(p_{G*}), and the
noise of n draws is n^(-1/2) in its units. Candidates are, for amplitudes t over several decades,

- the best split of each true atom at amplitude t, everything else free (``visibility.descend``), each begun where the
  one before ended;
- the motion of all atoms by t along the direction of the first-order margin, which D feels at power one.

The least-squares error tracks omega(sigma sqrt(p / n)): a log-log slope a of omega means the rate n^(-a/2), without any
noise. *Minimax side*: ``two_points`` and ``two_densities`` of ``envelope.Modulus``. Source: theory section 8; our
derivation of the candidates.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.jitting import filter_jitted
from moe_theory.theory.decomposition import svd
from moe_theory.theory.envelope import RANGE, Modulus, envelope
from moe_theory.theory.families import AbstractSet, Flat
from moe_theory.theory.margins import Cell, FirstOrder, Mixture, chart_of
from moe_theory.theory.second_order import SecondOrder
from moe_theory.theory.visibility import descend, leading, measure_of, split_of
from moe_theory.threads import one_blas_thread

AMPLITUDES = tuple((0.8 * 0.5 ** np.arange(16)).tolist())
"""t of splits, largest first: where distances are of order t^2 / 20, from 10^-1 to below 10^-9."""
DISTANCES = tuple(np.geomspace(0.1, 1e-7, 13).tolist())
"""delta for which first-order motions are made."""
NEAREST_DENSITY = 1e-8
"""delta down to which measures are sought of a density, a third of n^-1/2 at n = 10^15."""
DENSITY_DISTANCES = (*DISTANCES, *np.geomspace(3e-8, NEAREST_DENSITY, 2).tolist())


@one_blas_thread
def modulus(
    mixture: Mixture,
    first: FirstOrder,
    cells: Sequence[tuple[Cell, SecondOrder]],
    amplitudes: Sequence[float] = AMPLITUDES,
    extra: Sequence[tuple[float, float]] = (),
    density: bool = False,
) -> Modulus:
    """Lower bounds of the modulus for one atom too many.

    Args:
        mixture, first: where.
        cells: the true atoms that may be split, with their second-order margins.
        amplitudes: t.
        extra: further measures, as (distance, D_12).
        density: whether measures are sought down to ``NEAREST_DENSITY``.
    """
    nearest = NEAREST_DENSITY if density else RANGE[0]
    motions = first_order_motions(mixture, first, DENSITY_DISTANCES if density else DISTANCES)
    found = [*extra, *(distance_and_loss(mixture, measures) for measures in motions)]
    for cell, second in cells:
        found += _splits(mixture, cell, second, amplitudes, nearest)
    return envelope(found)


def first_order_motions(
    mixture: Mixture, first: FirstOrder, distances: Sequence[float] = DISTANCES
) -> list[list[Flat]]:
    """The truth moved along the right singular vector of the first-order margin: the measure of every set.

    Args:
        mixture, first: where.
        distances: delta to first order; a motion is no longer than the largest split.
    """
    right = svd(first.columns)[2]
    direction = right[first.rank.rank - 1]
    amplitudes = sorted({min(delta / first.rank.least, AMPLITUDES[0]) for delta in distances})
    return [_moved(mixture, first, amplitude * direction) for amplitude in amplitudes]


def _moved(mixture: Mixture, first: FirstOrder, motion: Float[np.ndarray, " P"]) -> list[Flat]:
    """The truth after a motion given in the columns of A (of an atom's own, not its weighted, motion)."""
    measures = []
    for place, own in enumerate(mixture):
        weights, atoms, common = np.array(own.weights), np.array(own.atoms), np.array(own.common)
        for index in range(len(weights)):
            columns = [i for i, (where, atom, _) in enumerate(first.names) if (where, atom) == (place, index)]
            lifts = chart_of(own, own.atoms[index], own.common).lifts
            true = float(own.weights[index])
            atoms[index] += lifts @ motion[columns[1:]] / true
            weights[index] += motion[columns[0]]
        shared = [i for i, (where, atom, _) in enumerate(first.names) if (where, atom) == (place, -1)]
        common += motion[shared]
        measures.append((jnp.maximum(jnp.asarray(weights), 1e-12), jnp.asarray(atoms), jnp.asarray(common)))
    return measures


def distance_and_loss(mixture: Mixture, measures: Sequence[Flat]) -> tuple[float, float]:
    """|| f_G - f_{G*} || and D_12 of a measure, which is given set by set."""
    found = [_measured(own, *measure) for own, measure in zip(mixture, measures, strict=True)]
    total = np.sum([np.asarray(change) for change, _ in found], axis=0)
    return float(np.linalg.norm(total)), sum(float(loss) for _, loss in found)


def _splits(
    mixture: Mixture, cell: Cell, second: SecondOrder, amplitudes: Sequence[float], nearest: float
) -> list[tuple[float, float]]:
    """(distance, D_12) of the best splits of one atom in two, until they are nearer than is asked for."""
    direction = cell.chart.lifts @ second.limited[2].factors[0][:, 0]
    mixture, split = leading(mixture, split_of([cell], second.limited[2].factors))
    apart, where = np.stack([direction, -direction]), split.where
    pairs, before = [], 1.0
    for amplitude in amplitudes:
        free, distance = descend(mixture, where, [(amplitude / before) * apart], amplitude)
        apart, before = np.asarray(free.apart[0]), amplitude
        measures = measure_of(mixture, where, free)
        loss = sum(float(_measured(own, *measure)[1]) for own, measure in zip(mixture, measures, strict=True))
        pairs.append((distance, loss))
        if distance < nearest:
            break
    return pairs


@filter_jitted
def _measured(own: AbstractSet, weights: Array, atoms: Array, common: Array) -> tuple[Array, Array]:
    """f_G - f_{G*} of one set, and its D_12."""
    return own.moved(weights, atoms, common), own.loss(weights, atoms, common)
