"""Mixtures as margins see them: families of functions H(theta) on the support points, in L2(mu).

A mixture is a sum of sets of atoms. Of every set the theory needs (theory section 8)

    response   H(theta) / D_{G*},  H = exp(s) (h - f_{G*})     a density family: p(.; theta) / sqrt(p_{G*})
    moved      f_G - f_{G*} of the set, for any weights and atoms: exact, not linearised
    coordinates   phi(theta), in which motions are measured

with everything divided by sqrt(M), so that Euclidean norms are norms of L2(mu). A flat model, and one whose heads share
their atoms, is one set; heads with atoms of their own are a set each, and their f add up. Parameters are flat vectors
with named blocks. Here is what all sets have in common; where their atoms come from is told in ``registered_families``
(adapters under a gate), ``density_families`` (the same as densities) and ``user_families`` (functions of a user).
"""

import abc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.theory.voronoi import Points, losses

SYMBOLS = {
    "query_left": "B_Q", "query_right": "A_Q", "value_left": "B_V", "value_right": "A_V", "left": "B", "right": "A",
    "gains.query": "m_Q", "gains.value": "m_V", "tau.query": "tau_Q", "tau.value": "tau_V",
}  # fmt: skip
"""How the registered models' blocks are written; a user's keep the names of their pytree."""
REACHED = 1e-12
"""Relative distance at which an atom is at a frozen one's place."""


class Blocks(eqx.Module):
    """Names and places of a flat vector's parts.

    Attributes:
        names: one per block.
        shapes: of each.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each block lies."""
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))


def blocks_of(tree: Any) -> Blocks:
    """The blocks of a pytree, in the order of ``ravel_pytree``."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [".".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)
             for path, _ in leaves]  # fmt: skip
    names = [SYMBOLS.get(name.removeprefix("low_rank."), name or "theta") for name in names]
    return Blocks(tuple(names), tuple(np.shape(leaf) for _, leaf in leaves))


class AbstractSet(eqx.Module):
    """A set of k true atoms, and the functions that margins need of them.

    Attributes:
        weights: w*_j = exp(c*_j).
        atoms: theta*_j, flat.
        common: what the atoms share, flat.
        blocks, common_blocks: their parts.
    """

    weights: eqx.AbstractVar[Float[Array, " k"]]
    atoms: eqx.AbstractVar[Float[Array, "k q"]]
    common: eqx.AbstractVar[Float[Array, " c"]]
    blocks: eqx.AbstractVar[Blocks]
    common_blocks: eqx.AbstractVar[Blocks]

    @abc.abstractmethod
    def response(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " N"]:
        """H(theta) divided by the truth's normaliser, in L2(mu)."""

    @abc.abstractmethod
    def moved(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, " N"]:
        """f_G - f_{G*} of this set, in L2(mu)."""

    @abc.abstractmethod
    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """phi(theta)."""

    @abc.abstractmethod
    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """D_12 of this set, with cells for frozen atoms; of a registered model the simulations' own (``voronoi``)."""

    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """Motions of one atom that are known in closed form to change nothing, with their names."""
        return ()

    def seen(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> tuple[Array, Array]:
        """Score and output of one atom at the support points; a density is all output."""
        return jnp.zeros(1), self.response(atom, common)

    @property
    def has_gate(self) -> bool:
        """Whether an atom is a score and an output; a density's is one function."""
        return True

    @property
    def is_identified(self) -> bool:
        """Whether, by a theorem, measures with the same f_G have the same phi(theta) of their atoms: no split hides."""
        return False

    def is_frozen(self, atom: Float[Array, " q"]) -> bool:
        """Whether an atom has the score, up to a constant, and the output of a frozen one, with what is common as true.

        False where there is none."""
        return False

    @property
    def sizes(self) -> Float[Array, "*q"]:
        """By how much atoms differ, as the unit of truths near by: the root mean square of all their numbers."""
        return jnp.sqrt(jnp.mean(self.atoms**2)) + 1e-3

    def at(self, weights: Float[Array, " k"], atoms: Float[Array, "k q"], common: Float[Array, " c"]) -> "AbstractSet":
        """The same model at another truth."""
        return eqx.tree_at(lambda own: (own.weights, own.atoms, own.common), self, (weights, atoms, common))


Flat = tuple[Float[Array, " _"], Float[Array, "_ q"], Float[Array, " c"]]
"""(weights, atoms, common) of one set, of any number of atoms."""


def points_of(coordinates: Callable[[Array, Array], Array], measure: Flat) -> Points:
    """Atoms in coordinates, for losses."""
    weights, atoms, common = measure
    return weighted_points(weights, jax.vmap(coordinates, (0, None))(atoms, common))


def weighted_points(weights: Float[Array, " k"], phi: Float[Array, "k e"]) -> Points:
    """Points without a query block."""
    return Points(jnp.zeros((phi.shape[0], 0)), phi, weights)


class AbstractView(eqx.Module):
    """Score and output of one atom at all support points, in every head that sees it."""

    @abc.abstractmethod
    def seen(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[Float[Array, "H M"], Float[Array, "H d_v M"]]:
        """(scores, outputs)."""

    @abc.abstractmethod
    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """phi(theta)."""

    @abc.abstractmethod
    def loss(self, fitted: Flat, true: Flat, frozen: tuple[Float[Array, "H f M"], Float[Array, "H f d_v M"]]) -> Array:
        """D_12 of a fitted measure against the true one, beside frozen atoms of these scores and outputs."""

    @abc.abstractmethod
    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """See ``AbstractSet.known_gauge``."""


class SoftmaxSet(AbstractSet):
    """Atoms that share one softmax, with frozen atoms in it, in every head that sees them.

    Attributes:
        view: what the softmax sees of an atom.
        frozen_logits, frozen_outputs: of the frozen atoms at the support points.
        outputs: O_h.
    """

    weights: Float[Array, " k"]
    atoms: Float[Array, "k q"]
    common: Float[Array, " c"]
    blocks: Blocks
    common_blocks: Blocks
    view: AbstractView
    frozen_logits: Float[Array, "H f M"]
    frozen_outputs: Float[Array, "H f d_v M"]
    outputs: Float[Array, "H d_out d_v"]

    def response(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " N"]:
        """sum_h O_h exp(s_h - log D_h) (h_h - f_h), at the true f_h and D_h."""
        log_norm, true = self._mixed(self.weights, self.atoms, self.common)
        score, output = self.view.seen(atom, common)
        return self._added(jnp.exp(score - log_norm)[:, None] * (output - true))

    def moved(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, " N"]:
        """sum_h O_h (f_h - f*_h)."""
        true = self._mixed(self.weights, self.atoms, self.common)[1]
        return self._added(self._mixed(weights, atoms, common)[1] - true)

    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """The view's."""
        frozen = self.frozen_logits, self.frozen_outputs
        return self.view.loss((weights, atoms, common), (self.weights, self.atoms, self.common), frozen)

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """The view's."""
        return self.view.coordinates(atom, common)

    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """The view's."""
        return self.view.known_gauge(atom, common)

    def is_frozen(self, atom: Float[Array, " q"]) -> bool:
        """To ``REACHED`` of the largest output."""
        if not self.frozen_logits.shape[1]:
            return False
        score, output = self.view.seen(atom, self.common)
        scores = self.frozen_logits - score[:, None]
        apart = np.ptp(np.asarray(scores), axis=2) + np.max(np.abs(self.frozen_outputs - output[:, None]), axis=(2, 3))
        return bool(np.any(np.all(apart <= REACHED * np.max(np.abs(self.frozen_outputs)), axis=0)))

    def seen(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> tuple[Array, Array]:
        """The view's."""
        return self.view.seen(atom, common)

    def _mixed(self, weights: Array, atoms: Array, common: Array) -> tuple[Float[Array, "H M"], Float[Array, "H v M"]]:
        scores, outputs = jax.vmap(self.view.seen, (0, None), 1)(atoms, common)
        logits = jnp.concatenate([scores + jnp.log(weights)[None, :, None], self.frozen_logits], axis=1)
        every = jnp.concatenate([outputs, self.frozen_outputs], axis=1)
        log_norm = jax.nn.logsumexp(logits, axis=1)
        return log_norm, jnp.sum(jnp.exp(logits - log_norm[:, None])[:, :, None] * every, axis=1)

    def _added(self, heads: Float[Array, "H v M"]) -> Float[Array, " N"]:
        return jnp.einsum("hov,hvm->om", self.outputs, heads).reshape(-1) / jnp.sqrt(1.0 * heads.shape[-1])


class LinearSet(AbstractSet):
    """A mixture without a softmax: f_G = sum_i w_i H(theta_i), for densities.

    Attributes:
        function: one atom's pytree -> H at the support points.
        scale: what H is multiplied by there, 1 / sqrt(p_{G*}) times the root of the cell's volume for densities.
        example: one atom; its structure is all that counts.
    """

    weights: Float[Array, " k"]
    atoms: Float[Array, "k q"]
    common: Float[Array, " c"]
    blocks: Blocks
    common_blocks: Blocks
    function: Callable[[Any], Array] = eqx.field(static=True)
    scale: Float[Array, " N"]
    example: Any

    @property
    def has_gate(self) -> bool:
        """There is none."""
        return False

    def response(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " N"]:
        """H(theta), scaled."""
        return self.function(ravel_pytree(self.example)[1](atom)).reshape(-1) * self.scale

    def moved(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, " N"]:
        """sum_i w_i H(theta_i) - sum_j w*_j H(theta*_j)."""
        every = jnp.concatenate([atoms, self.atoms])
        return jnp.concatenate([weights, -self.weights]) @ jax.vmap(lambda atom: self.response(atom, common))(every)

    def loss(
        self, weights: Float[Array, " k_fit"], atoms: Float[Array, "k_fit q"], common: Float[Array, " c"]
    ) -> Float[Array, ""]:
        """D_12 in theta; weights of a density have a scale of their own and no frozen ones beside them."""
        fitted, true = (weights, atoms, common), (self.weights, self.atoms, self.common)
        points = points_of(self.coordinates, fitted), points_of(self.coordinates, true)
        return losses(*points, weighted_points(jnp.zeros(0), points[1].value[:0]), False).d_12

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """theta itself."""
        return atom
