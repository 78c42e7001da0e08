"""How far every block of parameters of an over-fitted cell can part at the distance that n samples leave.

The same measures as in ``theory.density_modulus``, over all cells and several directions; by block of parameters their
upper envelope is a lower bound of the modulus of continuity of that block's error. At n samples the maximum-likelihood
fit is at a Hellinger distance of about h(n) = (p / (8 n))^(1/2), p parameters, so the envelope's slope there is the
local exponent that replications should show, with no noise and no optimiser in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.study.density_problem import DensitySetup
from moe_theory.theory.cells import KINDS, WHOLE
from moe_theory.theory.density_families import MixtureSet
from moe_theory.theory.density_modulus import covariance_split, density_modulus, hellinger
from moe_theory.theory.envelope import Modulus, envelope
from moe_theory.theory.margins import FirstOrder
from moe_theory.theory.mixture_losses import block_losses
from moe_theory.theory.modulus import DENSITY_DISTANCES, first_order_motions

DIRECTIONS = ((0.0, 1.0), (1.0, 0.0), (0.7, 0.7), (0.7, -0.7))
"""In which the two locations of an atom part, d = 1."""
AMPLITUDES = (0.63, 0.5, 0.39, 0.3, 0.24, 0.19, 0.145, 0.11, 0.09)
"""Of cells of three atoms that are drawn."""
FARTHEST, SHRINK, MOST_AMPLITUDES = 0.63, 0.7, 24
"""The first t of ``cell_moduli``, the ratio of one to the next, and how many there are at most."""
NEAREST = 3e-8
"""Hellinger distance that ends them."""
SIZES = (1e8, 1e15)
"""n between which exponents are told, those of the claims: from h = 2 x 10^-4 to 5 x 10^-8 at 20 parameters."""


class BlockModuli(NamedTuple):
    """Envelopes by block.

    Attributes:
        blocks: name of a block -> lower bound of its modulus, errors as in ``mixture_losses``; D under the kind
            of cell with ``WHOLE``.
        parameters: p of the fitted model, for h(n).
    """

    blocks: Mapping[str, Modulus]
    parameters: int

    def distance(self, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """h(n): 8 n h^2 is about chi-square with p degrees of freedom (for regular models)."""
        return np.sqrt(self.parameters / (8.0 * n))

    def errors(self, block: str, n: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """The envelope at h(n), straight between its corners in logarithms."""
        found = self.blocks[block]
        at = np.interp(np.log(self.distance(n)), np.log(found.distances), np.log(found.losses))
        return np.exp(at)

    def exponent(self, block: str, first: float, last: float) -> float:
        """Slope of log error in log n between two sizes."""
        low, high = self.errors(block, np.array([first, last]))
        return float(np.log(high / low) / np.log(last / first))


def block_moduli(
    setup: DensitySetup,
    atoms: int,
    directions: Sequence[tuple[float, ...]],
    amplitudes: Sequence[float],
    cells: Sequence[int] | None = None,
    until: float = 0.0,
    covariances: bool = False,
) -> BlockModuli:
    """Envelopes over cells and directions.

    Args:
        setup: truth and grid.
        atoms: of a cell, 2 or 3.
        directions: of mu, in units of ``MixtureSpace.scale``.
        amplitudes: see ``density_modulus``.
        cells: true atoms to part; all by default.
        until: the first distance below it ends a direction.
        covariances: whether covariances are parted by themselves, too.
    """
    kind, errors = next(name for name, count in KINDS.items() if count == atoms), jax.jit(partial(_errors, setup))
    pairs: dict[str, list[tuple[float, float]]] = {}
    parted = range(len(setup.rows)) if cells is None else cells
    for splits in _splits(setup, atoms, directions, amplitudes, parted, covariances):
        for distance, rows in splits:
            found = errors(jnp.asarray(rows))[kind] if np.isfinite(distance) else {}
            for name, error in found.items():
                if float(error) > 0.0:
                    pairs.setdefault(name, []).append((distance, float(error)))
            if distance < until:
                break
    parameters = (len(setup.rows) + atoms - 1) * setup.model.row_size - 1
    return BlockModuli({name: envelope(each) for name, each in pairs.items()}, parameters)


def _errors(setup: DensitySetup, rows: Float[Array, "k q"]) -> dict[str, dict[str, Float[Array, ""]]]:
    """By kind of cell the errors of its blocks, and D of the whole, which is the same for all."""
    found = block_losses(setup.model, setup.model.measure(rows), setup.truth, setup.metric)
    return {
        kind: {
            **{name: error for name, error in found.errors.items() if name.split("_")[0] == kind},
            f"{kind}_{WHOLE}": found.d,
        }
        for kind in KINDS
    }


def _splits(
    setup: DensitySetup,
    atoms: int,
    directions: Sequence[tuple[float, ...]],
    amplitudes: Sequence[float],
    cells: Iterable[int],
    covariances: bool,
) -> Iterator[Iterator[tuple[float, np.ndarray]]]:
    """(Hellinger distance, rows) by falling amplitude, one iterator per cell and direction."""
    model, space, truth = setup.model, setup.space, setup.rows
    points = jax.tree.map(jnp.asarray, setup.points(1e15 * setup.grid.probability))

    def along(cell: int, direction: tuple[float, ...]) -> Iterator[tuple[float, np.ndarray]]:
        for amplitude in amplitudes:
            found = density_modulus(model, space, truth, points, cell, atoms, np.array(direction), [amplitude])
            yield float(found.distances[0]), found.rows[0]

    def in_covariances(cell: int, entry: int) -> Iterator[tuple[float, np.ndarray]]:
        for amplitude in amplitudes:
            rows = covariance_split(model, space, truth, cell, atoms, entry, amplitude)
            yield float(hellinger(model, jnp.asarray(rows), jnp.asarray(truth), points)), rows

    for cell in cells:
        yield from (along(cell, direction) for direction in directions)
        yield from (in_covariances(cell, entry) for entry in range(len(model.free) * covariances))


def cell_moduli(setup: DensitySetup) -> dict[str, Modulus]:
    """Envelopes of cells of two and of three atoms, by error: 'pair', 'pair_center', ..., 'triple', ....

    Slopes are those at h(n) for n between ``SIZES``. All blocks of a cell together fall as the slowest of them in the
    end, which at these distances is not yet the largest: 'pair' and 'triple' are the envelopes of that block. Of D,
    cells of two are among what as many atoms as cells of three can do.

    Args:
        setup: a density problem with d = 1.
    """
    amplitudes = (FARTHEST * SHRINK ** np.arange(MOST_AMPLITUDES)).tolist()
    pairs, triples = (
        block_moduli(setup, KINDS[kind], DIRECTIONS, amplitudes, until=NEAREST, covariances=True)
        for kind in ("pair", "triple")
    )
    whole = [*_corners(pairs.blocks[f"pair_{WHOLE}"]), *_corners(triples.blocks[f"triple_{WHOLE}"])]
    either = triples._replace(blocks={**triples.blocks, f"triple_{WHOLE}": envelope(whole)})
    return {**_with_slopes("pair", pairs), **_with_slopes("triple", either)}


def _corners(found: Modulus) -> list[tuple[float, float]]:
    """(distance, loss) of the measures of an envelope."""
    return list(zip(found.distances.tolist(), found.losses.tolist(), strict=True))


def moduli_together(
    setup: DensitySetup, cells: Mapping[str, Modulus], rows: Float[np.ndarray, "k q"]
) -> dict[str, Modulus]:
    """Envelopes of cells of two where every true atom is fitted twice: an invisible split of all is a measure too.

    A block that this parts has no rate; the others are as in a cell by itself.

    Args:
        setup: as for ``cell_moduli``.
        cells: what that found.
        rows: a measure with the density of the truth and two atoms in each cell.
    """
    model, points = setup.model, jax.tree.map(jnp.asarray, setup.points(1e15 * setup.grid.probability))
    distance = float(hellinger(model, jnp.asarray(rows), jnp.asarray(setup.rows), points))
    errors = _errors(setup, jnp.asarray(rows))["pair"]
    blocks = {}
    for name, own in cells.items():
        if name.startswith("pair_"):
            here = [(distance, float(errors[name]))] if float(errors[name]) > 0.0 else []
            blocks[name] = envelope([*_corners(own), *here])
    return _with_slopes("pair", BlockModuli(blocks, len(rows) * model.row_size - 1))


def _with_slopes(kind: str, moduli: BlockModuli) -> dict[str, Modulus]:
    """Every envelope with its slope between ``SIZES``, and under ``kind`` that of the slowest block."""
    blocks = {
        name: each._replace(slope=-2.0 * moduli.exponent(name, *SIZES))
        for name, each in moduli.blocks.items()
        if name != kind
    }
    alone = [each for name, each in blocks.items() if name != f"{kind}_{WHOLE}"]
    return {kind: min(alone, key=lambda each: each.slope), **blocks}


def exact_modulus(own: MixtureSet, first: FirstOrder) -> Modulus:
    """Lower bounds of D_1 where the number of atoms is known, by the distance chi of ``Modulus.two_densities``.

    Args:
        own: the density at its truth.
        first: its first-order margin.
    """

    @jax.jit
    def pair(weights: Array, atoms: Array, common: Array) -> tuple[Array, Array]:
        fitted, true = own.measure(weights, atoms, common), own.measure(own.weights, own.atoms, own.common)
        distance = jnp.linalg.norm(own.moved(weights, atoms, common))
        return distance, block_losses(own.model, fitted, true, own.metric).d_1

    motions = first_order_motions((own,), first, DENSITY_DISTANCES)
    return envelope([(float(distance), float(loss)) for (measure,) in motions for distance, loss in [pair(*measure)]])
