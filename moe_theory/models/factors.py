"""Products act(B) act(A) of two thin factors: their gauge, their balanced and aligned members, their range.

A low-rank update is such a product, with the identity for LoRA and a bounded activation for generated factors. For
every invertible S the factors (act(B) S, S^-1 act(A)) give the same product: GL(r), pulled back through act.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.gates import general_linear_tangents


class Factors(NamedTuple):
    """The raw factors (B, A) of one product; with a leading axis, tangents of them."""

    left: Float[Array, "*batch rows r"]
    right: Float[Array, "*batch r columns"]


class Activation(NamedTuple):
    """An elementwise activation with what the parameter space needs to know of it.

    ``lowest`` and ``highest`` bound the entries of act(B) act(A) per unit of rank; the compact parameter space keeps
    a margin of a tenth of the range from bounds that finite factors only approach. ``odd`` says whether
    act(-x) = -act(x), so that the signs of a column of B and a row of A may be flipped together.
    """

    apply: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    lowest: float
    highest: float
    odd: bool


def _logit(y: Array) -> Array:
    return jnp.log(y) - jnp.log1p(-y)


ACTIVATIONS = {
    "identity": Activation(lambda x: x, lambda y: y, jnp.ones_like, -np.inf, np.inf, True),
    "tanh": Activation(jnp.tanh, jnp.arctanh, lambda x: 1.0 / jnp.cosh(x) ** 2, -1.0, 1.0, True),
    "sigmoid": Activation(jax.nn.sigmoid, _logit, lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), 0.0, 1.0, False),
}


def activation_named(name: str) -> Activation:
    """The activation of that name.

    Raises:
        InputError: for an unknown name.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def product(act: Activation, factors: Factors) -> Float[Array, "rows columns"]:
    """act(B) act(A)."""
    return act.apply(factors.left) @ act.apply(factors.right)


def activated(act: Activation, factors: Factors) -> Factors:
    """(act(B), act(A))."""
    return Factors(act.apply(factors.left), act.apply(factors.right))


def pulled_back(act: Activation, factors: Factors, tangents: tuple[Array, Array]) -> Factors:
    """Tangents of (B, A) that move (act(B), act(A)) along the given ones (leading axis: how many)."""
    left, right = (act.derivative(factor)[None] for factor in factors)
    return Factors(tangents[0] / left, tangents[1] / right)


def orbit(act: Activation, factors: Factors) -> Factors:
    """Tangents of the GL(r) orbit: the r^2 motions of (B, A) that keep the product."""
    return pulled_back(act, factors, general_linear_tangents(*activated(act, factors)))


def balanced(act: Activation, factors: Factors) -> Factors:
    """Equal largest entries in column i of act(B) and row i of act(A), which keeps both inside act's range."""
    left, right = activated(act, factors)
    left_size, right_size = jnp.max(jnp.abs(left), axis=0), jnp.max(jnp.abs(right), axis=1)
    usable = (left_size > 0) & (right_size > 0)
    scale = jnp.sqrt(jnp.where(usable, right_size, 1.0) / jnp.where(usable, left_size, 1.0))
    return Factors(act.inverse(left * scale[None, :]), act.inverse(right / scale[:, None]))


def same_signs(act: Activation, factors: Factors, reference: Factors) -> Factors:
    """Flip column i of B and row i of A together where that brings act(B) closer to the reference's; odd act only."""
    if not act.odd:
        return factors
    near = jnp.sum(act.apply(factors.left) * act.apply(reference.left), axis=0)
    sign = jnp.where(near < 0, -1.0, 1.0)
    return Factors(factors.left * sign[None, :], factors.right * sign[:, None])


def towards(factors: Factors, reference: Factors) -> Factors:
    """The member (B S, S^-1 A) of a product's orbit that shares the reference's better-matching factor.

    Two atoms of one cell may differ by order one in A while they share B (or the reverse); in the gauge where the
    shared factors coincide the product is linear in the other ones. Where neither matches within half its size,
    only signs are chosen. For products without activation.
    """
    left, right = factors
    by_left = jnp.linalg.pinv(left) @ reference.left
    by_right = right @ jnp.linalg.pinv(reference.right)
    miss_left = jnp.linalg.norm(left @ by_left - reference.left) / jnp.linalg.norm(reference.left)
    miss_right = jnp.linalg.norm(right - by_right @ reference.right) / jnp.linalg.norm(right)
    turn = jnp.where(miss_left < miss_right, by_left, by_right)
    turned = Factors(left @ turn, jnp.linalg.pinv(turn) @ right)
    signed = same_signs(ACTIVATIONS["identity"], factors, reference)
    close = jnp.minimum(miss_left, miss_right) < 0.5
    return Factors(jnp.where(close, turned.left, signed.left), jnp.where(close, turned.right, signed.right))


def ball(delta: Float[Array, "rows columns"], radius: float | Float[Array, ""]) -> Float[Array, "1"]:
    """The slack 1 - ||Delta||_F^2 / R^2."""
    return 1.0 - jnp.sum(delta**2, keepdims=True).reshape(1) / radius**2


def range_slacks(act: Activation, rank: int, delta: Float[Array, "rows columns"]) -> Float[Array, " entries"]:
    """Every entry of act(B) act(A) inside 90 % of its range; none for an unbounded activation."""
    if np.isinf(act.highest):
        return jnp.zeros(0, delta.dtype)
    highest = 0.9 * act.highest * rank
    lowest = 0.9 * act.lowest * rank + (0.02 if act.lowest == 0.0 else 0.0)
    return ((delta - lowest) * (highest - delta) / (0.5 * (highest - lowest)) ** 2).reshape(-1)


def drawn(act: Activation, key: Array, shape: tuple[int, int], rank: int, scale: float) -> Factors:
    """Random balanced factors, ||act(B) act(A)||_F of the order of ``scale``.

    Gaussian with E ||B A||_F^2 = scale^2; for a bounded activation act's entries are uniform inside its range.
    """
    key_left, key_right = jax.random.split(key)
    rows, columns = shape
    if np.isinf(act.highest):
        size = np.sqrt(scale / np.sqrt(rank))
        left = jax.random.normal(key_left, (rows, rank), dtype=jnp.float64) * (size / np.sqrt(rows))
        right = jax.random.normal(key_right, (rank, columns), dtype=jnp.float64) * (size / np.sqrt(columns))
        return Factors(left, right)
    size = min(0.8, float(np.sqrt(scale / np.sqrt(rows * columns))) * 1.3)
    low = size * act.lowest + (0.2 if act.lowest == 0.0 else 0.0)
    left = jax.random.uniform(key_left, (rows, rank), jnp.float64, low, size * act.highest)
    right = jax.random.uniform(key_right, (rank, columns), jnp.float64, low, size * act.highest)
    return Factors(act.inverse(left), act.inverse(right))
