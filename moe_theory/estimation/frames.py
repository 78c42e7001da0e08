"""Moment coordinates: the frame in which a step is taken.

When two atoms (a, b) fit one true atom, the valley of the objective is straight only in the moments of the pair,

    W = w_a + w_b,   t = log(w_a / w_b),
    m = (w_a theta_a + w_b theta_b) / W,   eta = sqrt(w_a w_b) (theta_a - theta_b) / W,

because f_G feels W and m at first order, eta eta' at second and t only at third: moving t alone keeps the two first
moments and the second. A fitted atom next to a frozen one has the same kind of valley, straight in t = log w_a,
eta = sqrt(w_a) theta_a and the other weights relative to the frozen atom's cell, w_l / (w_frozen + w_a). Each step is
therefore taken in the frame of the closest pair of atoms, fitted or frozen. Source: our derivation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from moe_theory.estimation.smooth import GaugeSlice
from moe_theory.estimation.space import Chart


class Frame(NamedTuple):
    """Which coordinates a step uses; the closest pair has been sorted to the front.

    Attributes:
        beside_frozen: the closest pair is the first fitted atom and a frozen one (otherwise the first two atoms).
        scale: unit of each coordinate, see ``split_scale``.
    """

    beside_frozen: Bool[Array, "*H"]
    scale: Float[Array, "*H z"]


class Seen(NamedTuple):
    """A point of Theta made ready for a step: atoms reordered and aligned, and the frame to take the step in.

    Attributes:
        z: the same measure, its closest pair in front and in nearby members of the gauge orbit.
        order: which atom each place had before.
        frame: moment coordinates of that pair.
    """

    z: Float[Array, " z"]
    order: Int[Array, "*H k"]
    frame: Frame


def see(chart: Chart, z: Float[Array, " z"], precision: Float[Array, ""]) -> Seen:
    """Choose the frame of z.

    Only a pair of fitted atoms is aligned: beside a frozen atom the second one is no partner, and turning its factors
    towards tiny ones would unbalance them.

    Args:
        chart, z: where.
        precision: n / sigma^2, see ``split_scale``.
    """
    if chart.sets > 1:
        seen = chart.by_set(lambda own, point: see(own, point, precision), z.reshape(chart.sets, -1))
        return seen._replace(z=seen.z.reshape(-1))
    order, beside_frozen = closest_pair(chart, z)
    sorted_z = chart.reordered(z, order)
    sorted_z = jnp.where(beside_frozen, sorted_z, chart.aligned(sorted_z))
    return Seen(sorted_z, order, Frame(beside_frozen, split_scale(chart, beside_frozen, sorted_z, precision)))


def closest_pair(chart: Chart, z: Float[Array, " z"]) -> tuple[Int[Array, " k"], Bool[Array, ""]]:
    """The order of the atoms that brings the closest pair to the front, and its kind.

    Two fitted atoms are as close as the gate finds them: with equal scores their outputs may differ at will, and f_G
    sees the mean output alone. A fitted atom is close to a frozen one only if its output is too.
    """
    model, k = chart.model, chart.k
    updates = jax.vmap(model.update, (0, None))(chart.atoms(z), chart.common(z))
    flat = jax.vmap(lambda delta: jnp.concatenate(model.effective(delta)))
    points = flat(updates)
    scores = jax.vmap(model.scored)(updates)
    apart = jnp.sum((scores[:, None] - scores[None]) ** 2, axis=-1) + jnp.diag(jnp.full(k, jnp.inf))
    first, second = jnp.divmod(jnp.argmin(apart), k)
    order = jnp.argsort(jnp.where(jnp.arange(k) == first, -2, jnp.where(jnp.arange(k) == second, -1, jnp.arange(k))))
    if not model.frozen_count:
        return order, jnp.asarray(False)
    anchors = flat(model.frozen_updates)
    to_frozen = jnp.min(jnp.sum((points[:, None] - anchors[None]) ** 2, axis=-1), axis=1)
    nearest = jnp.argmin(to_frozen)
    beside_frozen = to_frozen[nearest] < jnp.min(apart)
    other = jnp.argsort(jnp.where(jnp.arange(k) == nearest, -1, jnp.arange(k)))
    return jnp.where(beside_frozen, other, order), beside_frozen


def split_scale(
    chart: Chart, beside_frozen: Bool[Array, ""], z: Float[Array, " z"], precision: Float[Array, ""]
) -> Float[Array, " z"]:
    """Units in which a step is of order one: for each factor of the split eta its own size, 1 for the rest.

    Products of small factors (B_Q with B_V, B with A) are what f_G feels, so the valley of a split is hyperbolic: one
    factor may shrink as another grows. In units of the factors' sizes it is straight, and the part of the relative
    gauge that remains after projection is borne by the smaller factor. The units end at a tenth of the statistical
    scale n^-1/4.

    Args:
        chart, beside_frozen, z: as in ``enter``.
        precision: n / sigma^2.
    """
    y = _moments(chart, beside_frozen, z)
    row = jnp.where(beside_frozen | (chart.k == 1), 0, 1)
    _, factors, common = chart.parts(y)
    smallest = 0.1 * precision**-0.25
    split = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.linalg.norm(leaf) + smallest), chart.unravel(factors[row])
    )
    units = jnp.ones_like(factors).at[row].set(jnp.minimum(ravel_pytree(split)[0], 1.0))
    return jnp.concatenate([jnp.ones(chart.k), units.reshape(-1), jnp.ones_like(common)])


def enter(chart: Chart, frame: Frame, z: Float[Array, " z"]) -> Float[Array, " z"]:
    """Moment coordinates of z, in the frame's units."""
    if chart.sets > 1:
        return chart.by_set(enter, frame, z.reshape(chart.sets, -1)).reshape(-1)
    return _moments(chart, frame.beside_frozen, z) / frame.scale


def _moments(chart: Chart, beside_frozen: Bool[Array, ""], z: Float[Array, " z"]) -> Float[Array, " z"]:
    weights, (_, factors, common) = chart.weights(z), chart.parts(z)
    pair = jnp.concatenate([_enter_pair(weights, factors), common]) if chart.k > 1 else z
    if not chart.model.frozen_count:
        return pair
    beside = jnp.concatenate([_enter_frozen(weights, factors, _anchor(chart)), common])
    return jnp.where(beside_frozen, beside, pair)


def leave(chart: Chart, frame: Frame, y: Float[Array, " z"]) -> Float[Array, " z"]:
    """z of moment coordinates in the frame's units."""
    return chart.closed(unfold(chart, frame, y))


def unfold(chart: Chart, frame: Frame, y: Float[Array, " z"]) -> Float[Array, " z"]:
    """Open coordinates (``Chart.closed``) of moment coordinates in the frame's units."""
    if chart.sets > 1:
        return chart.by_set(unfold, frame, y.reshape(chart.sets, -1)).reshape(-1)
    y = y * frame.scale
    pair = _leave_pair(chart, y) if chart.k > 1 else jnp.concatenate([chart.weights(y), y[chart.k :]])
    if not chart.model.frozen_count:
        return pair
    return jnp.where(frame.beside_frozen, _leave_frozen(chart, y), pair)


def unfolding_bend(chart: Chart, frame: Frame, y: Float[Array, " z"], pull: Float[Array, " z"]) -> Float[Array, "z z"]:
    """Hessian of pull . ``unfold``(y).

    ``unfold`` is linear but for the coordinate t (log of a ratio or of a weight) and its products with the others, so
    each set has one row and one column, which one directional derivative finds for all sets.
    """
    turning = jnp.where(frame.beside_frozen, 0, min(1, chart.k - 1)).reshape(chart.sets)
    along = jax.nn.one_hot(turning, y.shape[0] // chart.sets, dtype=y.dtype)
    slope = jax.grad(lambda point: jnp.vdot(pull, unfold(chart, frame, point)))
    row = jax.jvp(slope, (y,), (along.reshape(-1),))[1].reshape(along.shape)
    rest = row - 0.5 * jnp.sum(row * along, axis=1, keepdims=True) * along
    half = along[:, :, None] * rest[:, None]
    blocks = half + jnp.swapaxes(half, 1, 2)
    return blocks[0] if chart.sets == 1 else jax.scipy.linalg.block_diag(*blocks)


CROSSING = 0.1
"""Least determinant of the cosines between a slice's normals and the gauge orbit's tangents. All of them are at most
one, so none is smaller than it: a gradient that is nothing in the slice is at most ten times that outside it."""


def gauge_slice(chart: Chart, frame: Frame, y: Float[Array, " z"], scale_is_seen: bool = False) -> GaugeSlice:
    """The slice that every gauge orbit crosses once, in which steps are taken.

    Each atom's row of factors, in the frame's units, moves across the tangents of the gauge at that atom; the closest
    pair's two rows, see ``_pair_slice``: normals and basis are made of blocks, so that entries of very different size
    do not mix. Without an anchor the common scale of the weights is fixed too, unless
    ``scale_is_seen`` (a density pays for its mass).
    """
    if chart.sets > 1:
        each = chart.by_set(gauge_slice, frame, y.reshape(chart.sets, -1))
        return GaugeSlice(*(jax.scipy.linalg.block_diag(*blocks) for blocks in each))
    k, common = chart.k, chart.common(y)
    (_, rows, shared), (_, units, _) = chart.parts(y * frame.scale), chart.parts(frame.scale)
    atoms = chart.parts(leave(chart, frame, y))[1]

    def tangents(atom: Float[Array, " q"]) -> Float[Array, "q g"]:
        gauge = chart.model.gauge(chart.unravel(atom), common)
        if jax.tree.leaves(gauge)[0].shape[0] == 0:
            return jnp.zeros((atom.shape[0], 0))
        return jax.vmap(lambda tangent: ravel_pytree(tangent)[0])(gauge).T

    own = jax.vmap(tangents)(atoms)
    still = jnp.zeros((k, 0)) if chart.model.frozen_count or scale_is_seen else y[:k, None]
    still = still.at[1].set(0.0) if k > 1 else still
    if k > 1:
        pair = _pair_slice(own[:2], tangents(rows[0]), units[:2], jax.nn.sigmoid(y[1]), frame.beside_frozen)
    else:
        pair = _upright(own[0] / units[0][:, None])
    weights = GaugeSlice(*_split_space(still), jnp.zeros((k, 0)))
    blocks = [weights, pair, *map(_upright, own[2:] / units[2:, :, None])]
    joined = (jax.scipy.linalg.block_diag(*part) for part in zip(*blocks, strict=True))
    normals, inside, orbit = (jnp.pad(part, ((0, shared.shape[0]), (0, 0))) for part in joined)
    free = jnp.eye(y.shape[0])[:, y.shape[0] - shared.shape[0] :]
    return GaugeSlice(normals, jnp.concatenate([inside, free], axis=1), orbit)


def _upright(tangents: Float[Array, "q g"]) -> GaugeSlice:
    """The slice at right angles to the orbit."""
    along, across = _split_space(tangents)
    return GaugeSlice(along, across, along)


def _pair_slice(
    own: Float[Array, "2 q g"],
    mean: Float[Array, "q g"],
    units: Float[Array, "2 q"],
    share: Float[Array, ""],
    beside_frozen: Bool[Array, ""],
) -> GaugeSlice:
    """The slice for the rows of the mean m and the split eta, or of an atom beside a frozen one and another.

    Of a pair, both rows get the tangents at the mean. A common gauge motion is thereby fixed in m alone and a relative
    one in eta alone, in its smaller factor; the orthogonal complement of the orbit would mix them, and a product of two
    small motions is not small where the objective is stiff. That is a slice as long as the two atoms are alike. Where
    their orbit does not cross it (``CROSSING``), it would hold a gauge motion and leave out one that F feels, and a
    lane could end where F still falls: there the orthogonal complement is taken.

    Args:
        own: tangents at the two atoms.
        mean: those at the pair's mean.
        units: of the two rows.
        share: the first atom's of the pair's weight.
        beside_frozen: whether the rows are the atoms' own.
    """
    first, second = (jnp.where(beside_frozen, each, mean) for each in own)
    parts = zip(_split_space(first / units[0][:, None]), _split_space(second / units[1][:, None]), strict=True)
    normals, inside = (jax.scipy.linalg.block_diag(*part) for part in parts)
    if not mean.shape[1]:
        return GaugeSlice(normals, inside, normals)
    spread = jnp.sqrt(share * (1.0 - share))
    orbit = jnp.block([[share * own[0], (1.0 - share) * own[1]], [spread * own[0], -spread * own[1]]])
    along, across = _split_space(orbit / units.reshape(-1)[:, None])
    crossed = beside_frozen | (jnp.abs(jnp.linalg.det(normals.T @ along)) > CROSSING)
    orbit = jnp.where(beside_frozen, normals, along)
    return GaugeSlice(jnp.where(crossed, normals, along), jnp.where(crossed, inside, across), orbit)


def _split_space(tangents: Float[Array, "q g"]) -> tuple[Float[Array, "q g"], Float[Array, "q s"]]:
    """Orthonormal bases of the columns' span and of its complement."""
    count = tangents.shape[1]
    if count == 0:
        return tangents, jnp.eye(tangents.shape[0])
    full = jnp.linalg.qr(tangents, mode="complete")[0]
    return full[:, :count], full[:, count:]


def _anchor(chart: Chart) -> Float[Array, ""]:
    return jnp.sum(chart.model.frozen_weights)


def _enter_pair(weights: Float[Array, " k"], factors: Float[Array, "k q"]) -> Float[Array, " z"]:
    total = weights[0] + weights[1]
    mean = (weights[0] * factors[0] + weights[1] * factors[1]) / total
    split = jnp.sqrt(weights[0] * weights[1]) / total * (factors[0] - factors[1])
    head = jnp.stack([total, jnp.log(weights[0] / weights[1])])
    return jnp.concatenate([head, weights[2:], mean, split, factors[2:].reshape(-1)])


def _leave_pair(chart: Chart, y: Float[Array, " z"]) -> Float[Array, " z"]:
    k = chart.k
    _, factors, common = chart.parts(y)
    tilt = jnp.exp(0.5 * y[1])
    share = jax.nn.sigmoid(y[1])
    weights = jnp.concatenate([jnp.stack([y[0] * share, y[0] * (1.0 - share)]), y[2:k]])
    pair = jnp.stack([factors[0] + factors[1] / tilt, factors[0] - factors[1] * tilt])
    return jnp.concatenate([weights, pair.reshape(-1), factors[2:].reshape(-1), common])


def _enter_frozen(
    weights: Float[Array, " k"], factors: Float[Array, "k q"], anchor: Float[Array, ""]
) -> Float[Array, " z"]:
    relative = weights[1:] / (anchor + weights[0])
    near = jnp.sqrt(weights[0]) * factors[0]
    return jnp.concatenate([jnp.log(weights[:1]), relative, near, factors[1:].reshape(-1)])


def _leave_frozen(chart: Chart, y: Float[Array, " z"]) -> Float[Array, " z"]:
    k = chart.k
    _, factors, common = chart.parts(y)
    weight = jnp.exp(y[:1])
    weights = jnp.concatenate([weight, y[1:k] * (_anchor(chart) + weight)])
    return jnp.concatenate([weights, factors[0] / jnp.sqrt(weight), factors[1:].reshape(-1), common])
