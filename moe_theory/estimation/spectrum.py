"""The quadratic model of a step in the eigenbasis of its Hessian: what it promises, and its minimum in a ball.

Sources: More and Sorensen 1983 for the trust-region problem; the Rayleigh-Ritz step is textbook.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RESOLUTION = 3e-15
REFINED = 1e-9
REACH = 4.0
"""Longest distance to the boundary of Theta, in the frame's units of order one: a direction along which F could fall
by next to nothing over this distance is flat."""
SECULAR_STEPS = 8


class Spectrum(NamedTuple):
    """W = vectors diag(values) vectors' on the steps that may be taken, and the gradient of phi_mu in that basis.

    A curvature within ``rounding`` of zero is not resolved.
    """

    values: Float[Array, " s"]
    vectors: Float[Array, "z s"]
    slope: Float[Array, " s"]
    rounding: Float[Array, ""]

    @property
    def resolved(self) -> Bool[Array, " s"]:
        """Which curvatures are known to differ from zero."""
        return jnp.abs(self.values) > self.rounding


def decompose(basis: Float[Array, "z s"], slope_at: Float[Array, " z"], hessian: Float[Array, "z z"]) -> Spectrum:
    """Restrict (gradient, Hessian) to the span of a basis, orthonormal but for columns of zeros, and diagonalise.

    An eigensolver knows every eigenvalue to rounding of the largest one. The Hessian itself knows more: the entries of
    an atom whose weight is nearly nothing are small and exact. So the block that belongs to the smallest eigenvalues
    (at most half of them) is formed again from its eigenvectors and diagonalised by itself (one Rayleigh-Ritz step).
    """
    flat = basis.T @ hessian @ basis
    # a column of zeros is no step: it gets a curvature that is neither small nor negative
    flat = flat + jnp.diag(jnp.where(jnp.any(basis != 0.0, axis=0), 0.0, jnp.max(jnp.diag(flat))))
    values, vectors = jnp.linalg.eigh(flat, symmetrize_input=True)
    by_size = jnp.argsort(jnp.abs(values), stable=True)
    low, high = jnp.split(by_size, [(values.shape[0] + 1) // 2])
    small = jnp.abs(values[low]) <= REFINED * values[-1]
    block = jnp.where(small[:, None] & small[None], vectors[:, low].T @ flat @ vectors[:, low], 0.0)
    size = jnp.where(jnp.any(small), jnp.max(jnp.abs(block)), values[-1])
    apart = jnp.where(small, 0.0, size * (2.0 + jnp.arange(low.shape[0])))
    again, turn = jnp.linalg.eigh(block + jnp.diag(apart), symmetrize_input=True)
    again = jnp.where(jnp.arange(low.shape[0]) < jnp.sum(small), again, values[low])
    refined = jnp.concatenate([again, values[high]])
    order = jnp.argsort(refined)
    vectors = basis @ jnp.concatenate([vectors[:, low] @ turn, vectors[:, high]], axis=1)[:, order]
    return Spectrum(refined[order], vectors, vectors.T @ slope_at, RESOLUTION * size)


class PossibleGains(NamedTuple):
    """By how much F may still fall, in units of sigma^2 / n.

    Attributes:
        decrement: 1/2 g' W^-1 g over resolved curvature.
        unresolved: steepest slope along unresolved curvature, over ``REACH``.
        downward: most negative resolved curvature, over ``REACH``: 1/2 |least| REACH^2.
    """

    decrement: Float[Array, ""]
    unresolved: Float[Array, ""]
    downward: Float[Array, ""]


def possible_gains(spectrum: Spectrum) -> PossibleGains:
    """What the quadratic model promises along each kind of direction."""
    resolved, values = spectrum.resolved, spectrum.values
    gain = 0.5 * jnp.sum(jnp.where(resolved, spectrum.slope**2 / jnp.where(resolved, jnp.abs(values), 1.0), 0.0))
    unresolved = jnp.max(jnp.where(resolved, 0.0, jnp.abs(spectrum.slope)))
    least = jnp.min(jnp.where(resolved, values, 0.0))
    return PossibleGains(gain, REACH * unresolved, 0.5 * REACH**2 * jnp.maximum(-least, 0.0))


def trust_region_step(spectrum: Spectrum, radius: Float[Array, ""]) -> tuple[Float[Array, " s"], Float[Array, ""]]:
    """Minimise the quadratic model in the ball: the step in the eigenbasis and its shift l >= max(0, -least value).

    Outside the ball, Newton's method for 1 / ||step(l)|| = 1 / radius, which rises to the root from any l below it; the
    one it starts from makes every component no longer than the radius.
    """
    values, along = spectrum.values, spectrum.slope
    tiny = spectrum.rounding
    least = jnp.maximum(0.0, tiny - values[0])

    def newton(_: Any, shift: Array) -> Array:
        step = along / (values + shift)
        square = jnp.sum(step**2)
        return shift + square / jnp.sum(step**2 / (values + shift)) * (jnp.sqrt(square) / radius - 1.0)

    inside = jnp.linalg.norm(along / (values + least + tiny)) <= radius
    below = jnp.maximum(least + tiny, jnp.max(jnp.abs(along) / radius - values))
    outside = jax.lax.fori_loop(0, SECULAR_STEPS, newton, below)
    shift = jnp.where(inside, least + jnp.where(least > 0, tiny, 0.0), outside)
    step = -along / jnp.where(values + shift > 0, values + shift, tiny)
    step = step * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(step), 1e-300))
    to_boundary = jnp.sqrt(jnp.maximum(radius**2 - jnp.sum(step[1:] ** 2), 0.0))
    hard = (values[0] < -tiny) & inside
    first = jnp.where(hard, jnp.where(along[0] > 0, -to_boundary, to_boundary), step[0])
    return step.at[0].set(first), shift
