"""Densities as margins see them: what one atom adds to p_G, in units of the noise of n draws.

    joint         p_G - p_{G*} = sum_i w_i f(theta_i) - sum_j w*_j f(theta*_j)
    conditional   p_G - p_{G*} = (1/D_G) [ sum_i w_i H(theta_i) - sum_j w*_j H(theta*_j) ],
                  H = g(x; theta) ( N(y; A x + b, nu) - p_{G*}(y | x) ),   D_G = sum_i w_i g(x; theta_i)

with the gate's g = N(x; c, Gamma) or exp(beta1 . x), divided by sqrt(p_{G*}), in L2 of the cells: n times a squared
norm is twice a log-likelihood ratio where both are small. Source: theory section 8; the densities' form is our
derivation.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.models.adapted_density import AdaptedDensity
from moe_theory.models.density import AbstractDensity, GaussianGated, SoftmaxGated
from moe_theory.models.free_moments import SpreadAtom
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.grid import Grid
from moe_theory.theory.families import REACHED, AbstractSet, Blocks, blocks_of
from moe_theory.theory.mixture_losses import Metric, block_losses
from moe_theory.theory.mixture_losses import blocks_of as scaled_blocks
from moe_theory.theory.voronoi import effective_losses


class AbstractDensitySet(AbstractSet):
    """The atoms of a density whose atoms are moment rows.

    Attributes:
        x, y: the cells.
        volume: of each; under a conditional density times the share of its x.
        true: log p_{G*} there.
        log_norm: log D_{G*}; zeros for a joint density.
        example: one atom and the common parameters; their structure is all that counts.
    """

    x: eqx.AbstractVar[Float[Array, "N d"]]
    y: eqx.AbstractVar[Float[Array, "N o"]]
    volume: eqx.AbstractVar[Float[Array, " N"]]
    true: eqx.AbstractVar[Float[Array, " N"]]
    log_norm: eqx.AbstractVar[Float[Array, " N"]]
    example: eqx.AbstractVar[Any]

    @property
    def has_gate(self) -> bool:
        """An atom is one function."""
        return False

    @property
    def is_identified(self) -> bool:
        """A joint density is a finite mixture of Gaussians, which it determines (Yakowitz and Spragins 1968)."""
        return isinstance(self.base, GaussianGated)

    @property
    @abc.abstractmethod
    def base(self) -> AbstractDensity:
        """p_G of rows."""

    @abc.abstractmethod
    def rows(self, measure: MixingMeasure) -> Float[Array, "k q"]:
        """The rows of a measure."""

    def response(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " N"]:
        """f(theta), or H(theta) / D_{G*}."""
        rows = self.rows(self.measure(jnp.ones(1), atom[None], common))
        own, gate = rows[:1], self.base.log_gate(rows[:1], self.x)
        half = 0.5 * self.true
        if gate is None:
            return jnp.sqrt(self.volume) * jnp.exp(self.base.log_densities(rows, self.x, self.y) - half)
        expert = self.base.log_densities(own, self.x, self.y)
        return jnp.sqrt(self.volume) * jnp.exp(gate[0] - self.log_norm) * (jnp.exp(expert - half) - jnp.exp(half))

    def moved(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, " N"]:
        """p_G - p_{G*}, scaled."""
        log_densities = _log_densities(self.base, self.rows(self.measure(weights, atoms, common)), self.x, self.y)
        return jnp.sqrt(self.volume) * jnp.exp(0.5 * self.true) * jnp.expm1(log_densities - self.true)

    def at(self, weights: Float[Array, " k"], atoms: Float[Array, "k q"], common: Float[Array, " c"]) -> AbstractSet:
        """The same cells at another truth."""
        true, log_norm = _at_truth(self.base, self.rows(self.measure(weights, atoms, common)), self.x, self.y)
        moved = super().at(weights, atoms, common)
        return eqx.tree_at(lambda own: (own.true, own.log_norm), moved, (true, log_norm))

    def tree(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> tuple[Any, Any]:
        """One atom and the common parameters as pytrees."""
        return ravel_pytree(self.example[0])[1](atom), ravel_pytree(self.example[1])[1](common)

    def measure(
        self, weights: Float[Array, " k"], atoms: Float[Array, "k q"], common: Float[Array, " c"]
    ) -> MixingMeasure:
        """The measure of flat atoms."""
        trees, shared = jax.vmap(lambda atom: self.tree(atom, common)[0])(atoms), self.tree(atoms[0], common)[1]
        return MixingMeasure(jnp.log(weights), trees, shared)


class AdaptedSet(AbstractDensitySet):
    """The atoms of a low-rank density.

    Attributes:
        density: p_G.
    """

    weights: Float[Array, " k"]
    atoms: Float[Array, "k q"]
    common: Float[Array, " c"]
    blocks: Blocks
    common_blocks: Blocks
    x: Float[Array, "N d"]
    y: Float[Array, "N o"]
    volume: Float[Array, " N"]
    true: Float[Array, " N"]
    log_norm: Float[Array, " N"]
    example: Any
    density: AdaptedDensity

    @property
    def base(self) -> AbstractDensity:
        """Of the adapted matrices."""
        return self.density.base

    def rows(self, measure: MixingMeasure) -> Float[Array, "k q"]:
        """The density's; a frozen atom's are the last."""
        return self.density.rows(measure)

    def is_frozen(self, atom: Float[Array, " q"]) -> bool:
        """Whether its gate and its density of y are those of a frozen one."""
        count = self.density.model.frozen_count
        if not count:
            return False
        own, *frozen = np.asarray(self.rows(self.measure(jnp.ones(1), atom[None], self.common)))[:, 1:]
        return any(np.max(np.abs(own - each)) <= REACHED * np.max(np.abs(each)) for each in frozen)

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """Effective coordinates, the center alone of a query update, and Gamma where it is free."""
        one, shared = self.tree(atom, common)
        model = self.density.model
        parts = list(model.effective(model.update(one, shared)))
        return jnp.concatenate([*parts, one.spread] if isinstance(one, SpreadAtom) else parts)

    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """D_12 in effective coordinates, the simulations' own."""
        fitted, true = self.measure(weights, atoms, common), self.measure(self.weights, self.atoms, self.common)
        return effective_losses(self.density.model, fitted, true).d_12


class MixtureSet(AbstractDensitySet):
    """The atoms of a Gaussian-gated or softmax-gated mixture, every parameter free.

    Attributes:
        model: p_G.
        metric: in which parameters are measured.
    """

    weights: Float[Array, " k"]
    atoms: Float[Array, "k q"]
    common: Float[Array, " c"]
    blocks: Blocks
    common_blocks: Blocks
    x: Float[Array, "N d"]
    y: Float[Array, "N o"]
    volume: Float[Array, " N"]
    true: Float[Array, " N"]
    log_norm: Float[Array, " N"]
    example: Any
    model: GaussianGated | SoftmaxGated
    metric: Metric = eqx.field(static=True)

    @property
    def base(self) -> AbstractDensity:
        """The model itself."""
        return self.model

    @property
    def sizes(self) -> Float[Array, " q"]:
        """Root mean squares of every parameter by itself: locations are large where variances are small."""
        return jnp.sqrt(jnp.mean(self.atoms**2, axis=0))

    def rows(self, measure: MixingMeasure) -> Float[Array, "k q"]:
        """The model's."""
        return self.model.rows(measure)

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """All parameters in the scaled metric of ``mixture_losses``."""
        one = jax.tree.map(lambda leaf: leaf[None], self.tree(atom, common)[0])
        return jnp.concatenate([block[0] for block in scaled_blocks(one, self.metric).values()])

    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """D of ``mixture_losses``, with the powers rbar(m), the simulations' own."""
        fitted, true = self.measure(weights, atoms, common), self.measure(self.weights, self.atoms, self.common)
        return block_losses(self.model, fitted, true, self.metric).d


def adapted_mixture(density: AdaptedDensity, truth: MixingMeasure, grid: Grid) -> tuple[AdaptedSet, ...]:
    """A low-rank density at a truth, its factors balanced.

    Args:
        density, truth: p_{G*}.
        grid: its cells.
    """
    atoms = jax.vmap(density.model.adapter.balance)(truth.atoms)
    balanced = MixingMeasure(truth.log_weights, atoms, truth.common)
    return (AdaptedSet(density=density, **_parts(density.base, density.rows(truth), balanced, grid)),)


def free_mixture(
    model: GaussianGated | SoftmaxGated, truth: MixingMeasure, grid: Grid, metric: Metric
) -> tuple[MixtureSet, ...]:
    """A Gaussian-gated or softmax-gated mixture at a truth.

    Args:
        model, truth: p_{G*}.
        grid: its cells.
        metric: of its parameters.
    """
    return (MixtureSet(model=model, metric=metric, **_parts(model, model.rows(truth), truth, grid)),)


def _log_densities(
    base: AbstractDensity, rows: Float[Array, "k q"], x: Float[Array, "N d"], y: Float[Array, "N o"]
) -> Float[Array, " N"]:
    """log p_G at the cells. Derivatives in many directions at once are one product with the scores, each atom's times
    its share of p_G: a quarter of the time of pushing every direction through p_G."""

    @jax.custom_jvp
    def log_p(rows: Float[Array, "k q"]) -> Float[Array, " N"]:
        return base.log_densities(rows, x, y)

    @log_p.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (at,), (moved,) = primals, tangents
        slopes = jax.nn.softmax(base.log_terms(at, x, y), axis=0)[..., None] * base.scores(at, x, y)
        change, gate = jnp.einsum("knq,kq->n", slopes, moved), base.log_gate(at, x)
        if gate is not None:
            moved_gate = jax.jvp(lambda rows: base.log_gate(rows, x), (at,), (moved,))[1]
            change = change - jnp.sum(jax.nn.softmax(gate, axis=0) * moved_gate, axis=0)
        return log_p(at), change

    return log_p(rows)


def _at_truth(
    base: AbstractDensity, rows: Float[Array, "k q"], x: Float[Array, "N d"], y: Float[Array, "N o"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """log p and log D at the cells."""
    true, gate = base.log_densities(rows, x, y), base.log_gate(rows, x)
    return true, jnp.zeros_like(true) if gate is None else jax.nn.logsumexp(gate, axis=0)


def _parts(base: AbstractDensity, rows: Float[Array, "k q"], truth: MixingMeasure, grid: Grid) -> dict[str, Any]:
    example = jax.tree.map(lambda leaf: leaf[0], truth.atoms), truth.common
    x, y = jnp.asarray(grid.x), jnp.asarray(grid.y)
    true, log_norm = _at_truth(base, rows, x, y)
    return {
        "weights": jnp.exp(truth.log_weights),
        "atoms": jax.vmap(lambda atom: ravel_pytree(atom)[0])(truth.atoms),
        "common": jnp.asarray(ravel_pytree(truth.common)[0], jnp.float64),
        "blocks": blocks_of(example[0]),
        "common_blocks": blocks_of(truth.common),
        "x": x,
        "y": y,
        "volume": jnp.asarray(grid.probability) * jnp.exp(-true),
        "true": true,
        "log_norm": log_norm,
        "example": example,
    }
