"""A user's own functions as margins see them: experts F(x, atom) -> (score, output), and densities p(x, atom)."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.theory.families import (
    AbstractView,
    Flat,
    LinearSet,
    SoftmaxSet,
    blocks_of,
    points_of,
    weighted_points,
)
from moe_theory.theory.voronoi import losses


class FunctionView(AbstractView):
    """A user's model F(x, atom) -> (score, output).

    Attributes:
        function: of one input and one atom.
        support: inputs.
        example: one atom; its structure is all that counts.
    """

    function: Callable[[Any, Any], tuple[Any, Any]] = eqx.field(static=True)
    support: Float[Array, "M d"]
    example: Any

    def seen(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[Float[Array, "H M"], Float[Array, "H d_v M"]]:
        """F at the support points."""
        one = ravel_pytree(self.example)[1](atom)
        score, output = jax.vmap(lambda x: self.function(x, one))(self.support)
        return score.reshape(1, -1), output.reshape(self.support.shape[0], -1).T[None]

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """The score up to a constant, which the weight repeats, and the output, as functions in L2(mu)."""
        return self._coordinates(*self.seen(atom, common))

    def _coordinates(self, score: Float[Array, "H M"], output: Float[Array, "H d_v M"]) -> Float[Array, " e"]:
        each = [(score - jnp.mean(score)).reshape(-1), output.reshape(-1)]
        return jnp.concatenate(each) / jnp.sqrt(1.0 * self.support.shape[0])

    def loss(self, fitted: Flat, true: Flat, frozen: tuple[Float[Array, "H f M"], Float[Array, "H f d_v M"]]) -> Array:
        """D_12 in these coordinates; frozen atoms have weight 1, and without one the weights have no scale."""
        count = frozen[0].shape[1]
        held = weighted_points(jnp.ones(count), jax.vmap(self._coordinates, 1)(*frozen))
        points = points_of(self.coordinates, fitted), points_of(self.coordinates, true)
        return losses(*points, held, count == 0).d_12

    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """None."""
        return ()


def user_mixture(
    function: Callable[[Any, Any], tuple[Any, Any]],
    atoms: Sequence[Any],
    support: Float[np.ndarray, "M d"],
    weights: Sequence[float] | None = None,
    frozen: Sequence[Any] = (),
) -> tuple[SoftmaxSet, ...]:
    """A user's mixture of experts f_G(x) = sum_i softmax_i(c_i + s(x; theta_i)) h(x; theta_i).

    Args:
        function: F(x, atom) -> (score, output), for one input and one atom (any pytree of float64 arrays).
        atoms: the true atoms.
        support: points that mu is uniform on; at least as many as there are parameters.
        weights: exp(c_i); all 1 where not given.
        frozen: known atoms of weight 1 that anchor the softmax, of the atoms' structure.

    Raises:
        InputError: without atoms, or for weights that do not fit or are not positive.
    """
    own = _checked_weights(atoms, weights)
    view = FunctionView(function, jnp.asarray(support), atoms[0])
    nothing = jnp.zeros(0)
    flat = jnp.stack([ravel_pytree(atom)[0] for atom in atoms])
    score, output = view.seen(flat[0], nothing)
    held = [view.seen(ravel_pytree(atom)[0], nothing) for atom in frozen]
    logits = [score for score, _ in held] or [score[:0]]
    outputs = [output for _, output in held]
    return (
        SoftmaxSet(
            weights=own, atoms=flat, common=nothing, blocks=blocks_of(atoms[0]), common_blocks=blocks_of(()), view=view,
            frozen_logits=jnp.concatenate(logits)[None],
            frozen_outputs=jnp.concatenate(outputs)[None] if outputs else jnp.zeros((1, 0, *output.shape[1:])),
            outputs=jnp.eye(output.shape[1])[None],
        ),
    )  # fmt: skip


def density_mixture(
    density: Callable[[Any, Any], Any],
    atoms: Sequence[Any],
    grid: Float[np.ndarray, "points d"],
    volume: float,
    weights: Sequence[float],
) -> tuple[LinearSet, ...]:
    """A mixture of densities p_G = sum_i w_i p(x; theta_i), measured in units of its own noise.

    Distances are ||(p_G - p_{G*}) / sqrt(p_{G*})|| of L2(dx): at small distances n times its square is twice the
    log-likelihood ratio, which puts densities on the scale of regression with sigma = 1.

    Args:
        density: p(x, atom) at one point.
        atoms: the true atoms.
        grid: points on which sums stand for integrals.
        volume: of the cell around each.
        weights: w_i.

    Raises:
        InputError: without atoms, or for weights that do not fit or are not positive.
    """
    own = _checked_weights(atoms, weights)
    points = jnp.asarray(grid)

    def on_grid(atom: Any) -> Array:
        return jax.vmap(lambda x: density(x, atom))(points)

    true = sum(weight * on_grid(atom) for weight, atom in zip(np.asarray(own), atoms, strict=True))
    floor = 1e-300
    scale = jnp.sqrt(volume / jnp.maximum(jnp.asarray(true), floor)) * (jnp.asarray(true) > floor)
    flat = jnp.stack([ravel_pytree(atom)[0] for atom in atoms])
    return (
        LinearSet(
            weights=own, atoms=flat, common=jnp.zeros(0), blocks=blocks_of(atoms[0]), common_blocks=blocks_of(()),
            function=on_grid, scale=scale, example=atoms[0],
        ),
    )  # fmt: skip


def _checked_weights(atoms: Sequence[Any], weights: Sequence[float] | None) -> Float[Array, " k"]:
    if not atoms:
        raise InputError("a mixture needs at least one true atom: give them as a sequence of pytrees")
    own = jnp.ones(len(atoms)) if weights is None else jnp.asarray(weights, jnp.float64)
    if own.shape != (len(atoms),) or not bool(jnp.all(own > 0)):
        raise InputError(f"weights must be {len(atoms)} positive numbers, one per atom, got {weights!r}")
    return own
