"""Derivatives of what consists of atoms: an image and slacks of which every entry depends on one atom.

An entry that belongs to atom i of a chart is a function of

    a_i = (w_i, theta_i, common)

alone, so one directional derivative can move all atoms at once, and 1 + q + c of them hold every first or second
derivative (compressed differentiation: Curtis, Powell and Reid, 1974), where differentiating by z takes k times as
many. A Hessian in the coordinates y of a step is then made of small blocks,

    sum_ij T_i' (J_i' H_ij J_j + delta_ij B_i) T_j,     T_i = d a_i / dy,

with J_i an atom's image by a_i, H_ij the outer Hessian and B_i the curvature of the image itself; J_i T_i is formed
first, for two large products are faster than many small ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe_theory.estimation.frames import Frame, unfold
from moe_theory.estimation.space import Chart


class Pieces(NamedTuple):
    """First derivatives of image and slacks by the a_i, and the curvature of what is weighed.

    Attributes:
        image: of every entry by its own a_i.
        slacks: of every set's slacks by the a_i of the set.
        bend: B_i of <weights, image> - <multipliers, s>.
    """

    image: Float[Array, "u a"]
    slacks: Float[Array, "s n k a"]
    bend: Float[Array, "s k a a"]


class Along(NamedTuple):
    """An image's derivatives on the way to y.

    Attributes:
        pieces: by the a_i.
        owners: the atom of every entry, counted set by set.
        turn: d a / dy of every set.
    """

    pieces: Pieces
    owners: Int[np.ndarray, " u"]
    turn: Float[Array, "s k a y"]

    @property
    def by_set(self) -> Float[Array, "s e y"]:
        """d image / dy of every set, whose own entries follow each other."""
        sets, k, a, _ = self.turn.shape
        own = self.pieces.image.reshape(sets, -1, 1, a)
        seats = np.eye(k)[self.owners % k].reshape(*own.shape[:2], k, 1)
        return (jnp.asarray(seats) * own).reshape(sets, -1, k * a) @ self._flat

    @property
    def matrix(self) -> Float[Array, "u z"]:
        """d image / dy in full."""
        each = self.by_set
        return each[0] if each.shape[0] == 1 else jax.scipy.linalg.block_diag(*each)

    @property
    def slack_slopes(self) -> Float[Array, "c z"]:
        """d slacks / dy."""
        sets, n = self.pieces.slacks.shape[:2]
        each = self.pieces.slacks.reshape(sets, n, -1) @ self._flat
        return each[0] if sets == 1 else jax.scipy.linalg.block_diag(*each)

    def by_atoms(self, gradient: Float[Array, " u"]) -> Float[Array, "s k a"]:
        """The gradient, by the a_i, of a function of the image."""
        sets, k, a, _ = self.turn.shape
        seats = jnp.asarray(np.eye(sets * k)[self.owners])
        return (seats.T @ (gradient[:, None] * self.pieces.image)).reshape(sets, k, a)

    def slope(self, by_atoms: Float[Array, "s k a"]) -> Float[Array, " z"]:
        """That gradient by y."""
        return jnp.einsum("ska,skay->sy", by_atoms, self.turn).reshape(-1)

    def bent(self) -> Float[Array, "z z"]:
        """The curvature of image and slacks, by y."""
        each = jnp.einsum("skay,skab,skbx->syx", self.turn, self.pieces.bend, self.turn)
        return each[0] if each.shape[0] == 1 else jax.scipy.linalg.block_diag(*each)

    def congruence(self, hessian: Float[Array, "u u"]) -> Float[Array, "z z"]:
        """J' H J by y, for an outer Hessian H, set by set."""
        own = self.by_set
        sets, entries, size = own.shape
        half = jnp.einsum("sey,seu->syu", own, hessian.reshape(sets, entries, -1))
        whole = jnp.einsum("yte,tex->ytx", half.reshape(sets * size, sets, entries), own)
        return whole.reshape(sets * size, sets * size)

    @property
    def _flat(self) -> Float[Array, "s ka y"]:
        sets, k, a, size = self.turn.shape
        return self.turn.reshape(sets, k * a, size)


def stacked(chart: Chart, zeta: Float[Array, " z"]) -> Float[Array, "k a"]:
    """All a_i of the open coordinates of one set (``Chart.closed``)."""
    weights, factors, common = chart.parts(zeta)
    return jnp.concatenate([weights[:, None], factors, jnp.tile(common[None], (chart.k, 1))], axis=1)


def gathered(chart: Chart, by_atoms: Float[Array, "s k a"]) -> Float[Array, " z"]:
    """A gradient by the a_i as one by the open coordinates."""
    q = chart.atom_size
    factors = by_atoms[:, :, 1 : 1 + q].reshape(chart.sets, -1)
    return jnp.concatenate([by_atoms[:, :, 0], factors, jnp.sum(by_atoms[:, :, 1 + q :], axis=1)], axis=1).reshape(-1)


def turn(chart: Chart, frame: Frame, y: Float[Array, " z"]) -> Float[Array, "s k a y"]:
    """d a / dy of every set."""
    if chart.sets > 1:
        return chart.by_set(turn, frame, y.reshape(chart.sets, -1))[:, 0]
    return jax.jacfwd(lambda point: stacked(chart, unfold(chart, frame, point)))(y)[None]


def differentiate(
    chart: Chart,
    image: Callable[[Array], Array],
    zeta: Float[Array, " z"],
    weights: Float[Array, " u"],
    multipliers: Float[Array, " c"],
) -> Pieces:
    """All derivatives by the a_i that a step needs.

    Args:
        chart: Theta.
        image: of open coordinates.
        zeta: where.
        weights, multipliers: what the curvature is weighed with.
    """
    held = chart.slack_parts(multipliers)

    def parts(point: Array) -> tuple[Array, Array, Array]:
        z = chart.closed(point)
        of_atoms, of_common = chart.atom_slacks(z), chart.common_slacks(z)
        return image(point), of_atoms.reshape(held.atoms.shape), of_common.reshape(held.common.shape)

    def weighed(point: Array) -> Array:
        value, of_atoms, of_common = parts(point)
        return jnp.vdot(weights, value) - jnp.vdot(held.atoms, of_atoms) - jnp.vdot(held.common, of_common)

    still = jnp.zeros(1 + chart.atom_size + chart.common_size)
    by_image, by_atoms, by_common = jax.jacfwd(lambda shift: parts(zeta + _everywhere(chart, shift)))(still)
    turned = jax.jacfwd(lambda shift: jax.grad(weighed)(zeta + _everywhere(chart, shift)))(still)
    return Pieces(by_image, _slack_slopes(chart, by_atoms, by_common), _bend(chart, turned))


def _everywhere(chart: Chart, shift: Float[Array, " a"]) -> Float[Array, " z"]:
    """The motion of zeta that moves every a_i by the same."""
    q = chart.atom_size
    one = jnp.concatenate([jnp.full(chart.k, shift[0]), jnp.tile(shift[1 : 1 + q], chart.k), shift[1 + q :]])
    return jnp.tile(one, chart.sets)


def _slack_slopes(
    chart: Chart, by_atoms: Float[Array, "s k m a"], by_common: Float[Array, "s n a"]
) -> Float[Array, "s c k a"]:
    """In the order of ``Chart.slacks``: floors and cap are linear in the weights; common slacks see what the set
    shares, for which its first atom stands."""
    sets, k, m, a = by_atoms.shape
    linear = np.zeros((k + 1, k, a))
    linear[:k, :, 0] = np.eye(k) - chart.space.weight_floor
    linear[k, :, 0] = -1.0 / chart.space.weight_cap
    of_weights = jnp.asarray(np.tile(linear, (sets, 1, 1, 1)))
    of_atoms = jnp.asarray(np.eye(k)[None, :, None, :, None]) * by_atoms[:, :, :, None]
    common = by_common.at[..., : 1 + chart.atom_size].set(0.0)
    of_common = jnp.asarray(np.eye(k)[:1].reshape(1, 1, k, 1)) * common[:, :, None]
    return jnp.concatenate([of_weights, of_atoms.reshape(sets, k * m, k, a), of_common], axis=1)


def _bend(chart: Chart, turned: Float[Array, "z a"]) -> Float[Array, "s k a a"]:
    """B_i of the directional derivatives of a gradient; what is common to a set stands with its first atom."""
    q, k, a = chart.atom_size, chart.k, turned.shape[1]
    each = turned.reshape(chart.sets, -1, a)
    weights, factors, common = each[:, :k, None], each[:, k : k + k * q], each[:, k + k * q :]
    own = jnp.concatenate([weights, factors.reshape(chart.sets, k, q, a)], axis=2)
    if not chart.common_size:
        return own
    back = jnp.swapaxes(own[..., 1 + q :], 2, 3)
    alone = jnp.zeros((chart.sets, k, a - 1 - q, a - 1 - q)).at[:, 0].set(common[..., 1 + q :])
    return jnp.concatenate([own, jnp.concatenate([back, alone], axis=3)], axis=2)
