"""Low-rank densities as margins see them: what one adapted atom adds to p_G, in units of the noise of n draws.

    joint         p_G - p_{G*} = sum_i w_i f(theta_i) - sum_j w*_j f(theta*_j)
    conditional   p_G - p_{G*} = (1/D_G) [ sum_i w_i H(theta_i) - sum_j w*_j H(theta*_j) ],
                  H = N(x; c, Gamma) ( N(y; A x, nu) - p_{G*}(y | x) ),   D_G = sum_i w_i N(x; c_i, Gamma)

divided by sqrt(p_{G*}), in L2 of the cells: n times a squared norm is twice a log-likelihood ratio where both are
small. Source: theory section 8; the densities' form is our derivation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.models.adapted_density import AdaptedDensity
from moe_theory.models.free_moments import SpreadAtom
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.grid import Grid
from moe_theory.theory.families import AbstractSet, Blocks, blocks_of
from moe_theory.theory.voronoi import effective_losses


class AdaptedSet(AbstractSet):
    """The atoms of a low-rank density.

    Attributes:
        density: p_G.
        x, y: the cells.
        scale: root of the cell's probability under the truth, over p_{G*} there.
        true: log p_{G*} there.
        log_norm: log D_{G*}; zeros for a joint density.
        example: one atom and the common parameters; their structure is all that counts.
    """

    weights: Float[Array, " k"]
    atoms: Float[Array, "k q"]
    common: Float[Array, " c"]
    blocks: Blocks
    common_blocks: Blocks
    density: AdaptedDensity
    x: Float[Array, "N d"]
    y: Float[Array, "N o"]
    scale: Float[Array, " N"]
    true: Float[Array, " N"]
    log_norm: Float[Array, " N"]
    example: Any

    def response(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " N"]:
        """f(theta), or H(theta) / D_{G*}."""
        rows = self._rows(jnp.ones(1), atom[None], common)
        if self.density.joint:
            return self.scale * jnp.exp(self.density.base.log_densities(rows, self.x, self.y))
        base, own = self.density.base, rows[:1]
        gate = base.log_gate(own, self.x)
        assert gate is not None
        expert = base.log_densities(own, self.x, self.y)
        return self.scale * jnp.exp(gate[0] - self.log_norm) * (jnp.exp(expert) - jnp.exp(self.true))

    def moved(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, " N"]:
        """p_G - p_{G*}, scaled."""
        log_densities = self.density.base.log_densities(self._rows(weights, atoms, common), self.x, self.y)
        return self.scale * jnp.exp(self.true) * jnp.expm1(log_densities - self.true)

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """Effective coordinates, the center alone of a query update, and Gamma where it is free."""
        one, shared = self._tree(atom, common)
        model = self.density.model
        parts = list(model.effective(model.update(one, shared)))
        return jnp.concatenate([*parts, one.spread] if isinstance(one, SpreadAtom) else parts)

    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """D_12 in effective coordinates, the simulations' own."""
        fitted, true = self._measure(weights, atoms, common), self._measure(self.weights, self.atoms, self.common)
        return effective_losses(self.density.model, fitted, true).d_12

    def _tree(self, atom: Array, common: Array) -> tuple[Any, Any]:
        return ravel_pytree(self.example[0])[1](atom), ravel_pytree(self.example[1])[1](common)

    def _rows(self, weights: Array, atoms: Array, common: Array) -> Float[Array, "k q"]:
        return self.density.rows(self._measure(weights, atoms, common))

    def _measure(self, weights: Array, atoms: Array, common: Array) -> MixingMeasure:
        trees, shared = jax.vmap(lambda atom: self._tree(atom, common)[0])(atoms), self._tree(atoms[0], common)[1]
        return MixingMeasure(jnp.log(weights), trees, shared)


def adapted_mixture(density: AdaptedDensity, truth: MixingMeasure, grid: Grid) -> tuple[AdaptedSet, ...]:
    """A low-rank density at a truth, its factors balanced.

    Args:
        density, truth: p_{G*}.
        grid: its cells.
    """
    atoms = jax.vmap(density.model.adapter.balance)(truth.atoms)
    example = jax.tree.map(lambda leaf: leaf[0], atoms), truth.common
    x, y = jnp.asarray(grid.x), jnp.asarray(grid.y)
    rows = density.rows(truth)
    true = density.base.log_densities(rows, x, y)
    gate = density.base.log_gate(rows, x)
    return (
        AdaptedSet(
            weights=jnp.exp(truth.log_weights),
            atoms=jax.vmap(lambda atom: ravel_pytree(atom)[0])(atoms),
            common=jnp.asarray(ravel_pytree(truth.common)[0], jnp.float64),
            blocks=blocks_of(example[0]),
            common_blocks=blocks_of(truth.common),
            density=density, x=x, y=y,
            scale=jnp.sqrt(jnp.asarray(grid.probability)) / jnp.exp(true),
            true=true,
            log_norm=jnp.zeros_like(true) if gate is None else jax.nn.logsumexp(gate, axis=0),
            example=example,
        ),
    )  # fmt: skip
