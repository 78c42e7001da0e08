"""Blame: which parameter blocks carry the directions of margin zero, and what gate and output do along them.

The share of a block is sum_b ||L_b Y||^2 over the null minimisers that were found, with factors balanced so that the
two sides of a product are of one size. Where many directions are invisible the shares depend on which were found.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.jitting import filter_jitted
from moe_theory.theory.exact import split_is_exact
from moe_theory.theory.families import AbstractSet, SoftmaxSet
from moe_theory.theory.margins import Cell
from moe_theory.theory.registered_families import ModelView
from moe_theory.theory.second_order import SecondOrder

LEAST_BLAME = 0.01
FLAT = 1e-8
"""Relative size of a derivative that counts as none, for words."""
UNMOVED = 1e-5
"""The same for a derivative along a minimiser, which is known to the root of rounding: its value is quadratic in it."""


class Blame(NamedTuple):
    """One block's share, in per cent, in the direction that is hard or impossible to see."""

    block: str
    per_cent: float


def blame_of(own: AbstractSet, cell: Cell, second: SecondOrder) -> tuple[Blame, ...]:
    """Blocks that carry the minimising directions, in per cent, largest first."""
    raw = cell.chart.lifts @ second.null[0] @ cell.chart.lifts.T
    shares = {name: float(np.trace(raw[place, place])) for name, place in _named(own)}
    total = sum(shares.values())
    blames = [Blame(name, 100.0 * share / total) for name, share in shares.items() if share > LEAST_BLAME * total]
    return tuple(sorted(blames, key=lambda each: -each.per_cent))


def exact_blocks(own: AbstractSet, cell: Cell) -> tuple[str, ...]:
    """Blocks of a registered model along which every split is invisible, confirmed by fractions (``exact``)."""
    if not isinstance(own, SoftmaxSet) or not isinstance(own.view, ModelView):
        return ()
    view, atom = own.view, np.asarray(own.atoms[cell.atom])

    def coefficients(point: Array) -> tuple[Array, Array]:
        return view.coefficients(point, own.common)

    return tuple(name for name, place in _named(own) if split_is_exact(coefficients, atom, place))


def _named(own: AbstractSet) -> list[tuple[str, slice]]:
    return list(zip(own.blocks.names, own.blocks.slices, strict=True))


def reason_of(own: AbstractSet, cell: Cell, second: SecondOrder, blame: tuple[Blame, ...]) -> str:
    """What the gate and the output do along the blamed blocks; of a density, whether first derivatives undo the second.

    Of the gate: whether it contains the blocks, and if so whether it moves along the minimising directions themselves
    (the combination of two factors of a product may be one that the gate does not see). Of the output: along which
    blocks it does not move, is linear, or bends. Derivatives are taken along single blocks, because a direction that
    mixes the two factors of a product bends the output although each factor alone does not. A block that the gate does
    not contain and in which the output is linear can be split alone without a trace.
    """
    if not own.has_gate:
        undone = "undone by" if second.decision == "zero" else "the nearest to"
        return f"the density's second derivatives along them are {undone} first derivatives"
    units = np.eye(own.atoms.shape[1])
    seen = {name: _motions(own, cell, units[:, place]) for name, place in _named(own)}
    names = [each.block for each in blame]
    if all(seen[name].score <= FLAT for name in names):
        gate = "the gate does not contain them"
    else:
        along = _motions(own, cell, cell.chart.lifts @ _leading(second.null[0]))
        unmoved = along.score <= UNMOVED * max(motion.score for motion in seen.values())
        gate = "the gate contains them" + (" but does not move along this direction" if unmoved else "")
    still = [name for name in names if seen[name].slope <= FLAT]
    linear = [name for name in names if seen[name].slope > FLAT >= seen[name].bend]
    bent = [name for name in names if seen[name].bend > FLAT and name not in still]
    if len(still) == len(names):
        return f"{gate} and nor does the output"
    told = [f"is linear in {_listed(linear, names)}", f"bends along {_listed(bent, names)}"]
    told.append(f"does not contain {_listed(still, names)}")
    output = " and ".join(words for words, group in zip(told, (linear, bent, still), strict=True) if group)
    return f"{gate} and the output {output}"


def _listed(group: list[str], names: list[str]) -> str:
    """The blocks of a group: by name, unless they are all that were named before."""
    if len(group) == len(names):
        return "each of them" if len(names) > 1 else "them"
    return " and ".join(filter(None, [", ".join(group[:-1]), *group[-1:]]))


def _leading(matrix: Float[np.ndarray, "p p"]) -> Float[np.ndarray, "p e"]:
    """The eigenvectors of S that carry it."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, values > LEAST_BLAME * values[-1]]


class Motions(NamedTuple):
    """Largest slope of the score, slope of the output and second derivative of the output in a span of directions."""

    score: float
    slope: float
    bend: float


def _motions(own: AbstractSet, cell: Cell, directions: Float[np.ndarray, "q k"]) -> Motions:
    """How score and output move in a span of directions.

    A quadratic form vanishes on a span if it vanishes on enough directions of it: random ones, twice as many.
    """
    mixed = directions @ np.random.default_rng(0).standard_normal((directions.shape[1], 2 * directions.shape[1]))
    return Motions(*map(float, _largest(own, own.atoms[cell.atom], jnp.asarray(mixed))))


@filter_jitted
def _largest(own: AbstractSet, atom: Array, directions: Array) -> tuple[Array, Array, Array]:
    def along(u: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        def slope(point: Array) -> tuple[Array, Array]:
            return jax.jvp(lambda moved: own.seen(moved, own.common), (point,), (u,))[1]

        return slope(atom), jax.jvp(slope, (atom,), (u,))[1]

    (score, output), (_, bend) = jax.vmap(along, 1)(directions)
    return jnp.max(jnp.abs(score)), jnp.max(jnp.abs(output)), jnp.max(jnp.abs(bend))
