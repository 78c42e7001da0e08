"""Moment coordinates of over-fitted mixtures: close atoms merged two by two.

Two atoms (w, mu, S)_a and _b with p = w_a / W, q = w_b / W are replaced by their merged atom, which a mixture feels at
first order, and by their differences, which it feels through cumulants of third and fourth order only:

    W = w_a + w_b,   mu = p mu_a + q mu_b,   S = p S_a + q S_b + p q delta delta',        delta = mu_a - mu_b
    t = log(w_a / w_b),   xi = (p q (1 - p q))^(1/4) delta,   E = S_a - S_b + (q - p)/3 delta delta'.

The third cumulant of the pair is 3 p q sym(E x delta); with E = 0 the fourth is -2/3 xi x xi x xi x xi: the likelihood
holds E to n^-1/2 / |delta|, xi to n^-1/8, and t hardly at all. In these coordinates its valley is straight and F's
entries have the sizes of their own directions. The merged atom may be merged again (a cell of three). The map and its
inverse are polynomial but for p(t). Source: our derivation; theory section 6 for the identities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_theory.models.density import AbstractDensity

STATISTICAL_UNIT = 0.1
"""Units of a split end at this share of its statistical size, n^-1/8 for xi and n^-3/8 for E."""


class Merges(NamedTuple):
    """Which rows are merged, in this order, and the unit of every coordinate.

    Attributes:
        kept: row that holds the merged atom from then on, (L,).
        spent: row that holds the differences from then on, (L,).
        unit: (k, q).
    """

    kept: Int[Array, " L"]
    spent: Int[Array, " L"]
    unit: Float[Array, "k q"]


def merged(model: AbstractDensity, first: Float[Array, " q"], second: Float[Array, " q"]) -> Float[Array, "2 q"]:
    """(merged atom, differences) of two rows."""
    left, right = model.places()
    last = 1 + model.joint
    total = first[0] + second[0]
    p, q = first[0] / total, second[0] / total
    apart = first[1:last] - second[1:last]
    square = apart[left] * apart[right]
    mean = p * first[1:last] + q * second[1:last]
    matrix = p * first[last:] + q * second[last:] + p * q * square
    skew = first[last:] - second[last:] + (q - p) / 3.0 * square
    split = (p * q * (1.0 - p * q)) ** 0.25 * apart
    head, tilt = total[None], jnp.log(first[0] / second[0])[None]
    return jnp.stack([jnp.concatenate([head, mean, matrix]), jnp.concatenate([tilt, split, skew])])


def parted(model: AbstractDensity, atom: Float[Array, " q"], differences: Float[Array, " q"]) -> Float[Array, "2 q"]:
    """The two rows of a merged atom and the differences."""
    left, right = model.places()
    last = 1 + model.joint
    p, q = jax.nn.sigmoid(differences[0]), jax.nn.sigmoid(-differences[0])
    apart = differences[1:last] / (p * q * (1.0 - p * q)) ** 0.25
    square = apart[left] * apart[right]
    matrix = atom[last:] - p * q * square
    skew = differences[last:] - (q - p) / 3.0 * square
    first = jnp.concatenate([p * atom[:1], atom[1:last] + q * apart, matrix + q * skew])
    second = jnp.concatenate([q * atom[:1], atom[1:last] - p * apart, matrix - p * skew])
    return jnp.stack([first, second])


def enter(model: AbstractDensity, merges: Merges, rows: Float[Array, "k q"]) -> Float[Array, "k q"]:
    """Moment coordinates of rows, in units of one."""
    for kept, spent in zip(merges.kept, merges.spent, strict=True):
        pair = merged(model, rows[kept], rows[spent])
        rows = rows.at[kept].set(pair[0]).at[spent].set(pair[1])
    return rows


def leave(model: AbstractDensity, merges: Merges, moments: Float[Array, "k q"]) -> Float[Array, "k q"]:
    """Rows of moment coordinates."""
    for kept, spent in zip(merges.kept[::-1], merges.spent[::-1], strict=True):
        pair = parted(model, moments[kept], moments[spent])
        moments = moments.at[kept].set(pair[0]).at[spent].set(pair[1])
    return moments


def choose(
    model: AbstractDensity,
    rows: Float[Array, "k q"],
    levels: int,
    scale: Float[Array, " D"],
    n: Float[Array, ""],
) -> Merges:
    """Merge the closest atoms first.

    Args:
        model, rows: where.
        levels: how many merges, at most k - 1.
        scale: size of each coordinate of mu, as ``separation`` takes it.
        n: sample size, for the units.
    """
    k, q = rows.shape
    now, alive = rows, jnp.ones(k, bool)
    kept, spent = [], []
    unit = jnp.broadcast_to(_row_unit(model, scale), (k, q))
    for _ in range(levels):
        distance = jax.vmap(jax.vmap(lambda a, b: separation(model, scale, a, b), (None, 0)), (0, None))(now, now)
        barred = ~(alive[:, None] & alive[None]) | jnp.eye(k, dtype=bool)
        first, second = jnp.divmod(jnp.argmin(jnp.where(barred, jnp.inf, distance)), k)
        pair = merged(model, now[first], now[second])
        unit = unit.at[second].set(_split_unit(model, pair[1], scale, n))
        now, alive = now.at[first].set(pair[0]), alive.at[second].set(False)
        kept.append(first)
        spent.append(second)
    nothing = jnp.zeros(0, jnp.int64)
    return Merges(jnp.stack(kept) if kept else nothing, jnp.stack(spent) if spent else nothing, unit)


def separation(
    model: AbstractDensity, scale: Float[Array, " D"], first: Float[Array, " q"], second: Float[Array, " q"]
) -> Float[Array, ""]:
    """Squared distance of two atoms, mu in units of ``scale`` and S in units of its products."""
    left, right = model.places()
    last = 1 + model.joint
    mean = (first[1:last] - second[1:last]) / scale
    matrix = (first[last:] - second[last:]) / (scale[left] * scale[right])
    return jnp.sum(mean**2) + jnp.sum(matrix**2)


def _row_unit(model: AbstractDensity, scale: Float[Array, " D"]) -> Float[Array, " q"]:
    left, right = model.places()
    return jnp.concatenate([jnp.ones(1), scale, scale[left] * scale[right]])


def _split_unit(
    model: AbstractDensity, differences: Float[Array, " q"], scale: Float[Array, " D"], n: Float[Array, ""]
) -> Float[Array, " q"]:
    """Units in which the differences are of order one: their own sizes, down to a share of the statistical ones."""
    last = 1 + model.joint
    whole = _row_unit(model, scale)
    size = differences / whole
    split = jnp.minimum(1.0, jnp.linalg.norm(size[1:last]) + STATISTICAL_UNIT * n**-0.125)
    skew = jnp.minimum(1.0, jnp.linalg.norm(size[last:]) + STATISTICAL_UNIT * n**-0.375)
    return jnp.concatenate([jnp.ones(1), split * whole[1:last], skew * whole[last:]])
