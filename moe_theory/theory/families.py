"""Mixtures as margins see them: families of functions H(theta) on the support points, in L2(mu).

A mixture is a sum of sets of atoms. Of every set the theory needs (theory section 8)

    response   H(theta) / D_{G*},  H = exp(s) (h - f_{G*})     a density family: p(.; theta) / sqrt(p_{G*})
    moved      f_G - f_{G*} of the set, for any weights and atoms: exact, not linearised
    coordinates   phi(theta), in which motions are measured

with everything divided by sqrt(M), so that Euclidean norms are norms of L2(mu). A flat model, and one whose heads share
their atoms, is one set; heads with atoms of their own are a set each, and their f add up. A user's own model is a
function F(x, atom) -> (score, output), or a density p(x, atom). Parameters are flat vectors with named blocks.
"""

import abc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.estimation.objective import HeadedDesign
from moe_theory.models.hierarchy import HierarchicalModel, as_hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import Design, RegressionModel
from moe_theory.theory.voronoi import Points, effective_losses, losses

SYMBOLS = {
    "query_left": "B_Q", "query_right": "A_Q", "value_left": "B_V", "value_right": "A_V", "left": "B", "right": "A",
    "gains.query": "m_Q", "gains.value": "m_V", "tau.query": "tau_Q", "tau.value": "tau_V",
}  # fmt: skip
"""How the registered models' blocks are written; a user's keep the names of their pytree."""


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

    def at(self, weights: Float[Array, " k"], atoms: Float[Array, "k q"], common: Float[Array, " c"]) -> "AbstractSet":
        """The same model at another truth."""
        return eqx.tree_at(lambda own: (own.weights, own.atoms, own.common), self, (weights, atoms, common))


Flat = tuple[Float[Array, " _"], Float[Array, "_ q"], Float[Array, " c"]]
"""(weights, atoms, common) of one set, of any number of atoms."""


def points_of(coordinates: Callable[[Array, Array], Array], measure: Flat) -> Points:
    """Atoms in coordinates, for losses."""
    weights, atoms, common = measure
    return _points(weights, jax.vmap(coordinates, (0, None))(atoms, common))


def _points(weights: Float[Array, " k"], phi: Float[Array, "k e"]) -> Points:
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
        return losses(*points, _points(jnp.zeros(0), points[1].value[:0]), False).d_12

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """theta itself."""
        return atom


class ModelView(AbstractView):
    """One set of atoms of a registered model.

    Attributes:
        model: of one head, or of heads that share their atoms.
        score_features, output_features: of every head.
        example: one atom and the common parameters; their structure is all that counts.
    """

    model: RegressionModel | HierarchicalModel
    score_features: Float[Array, "H M s1"]
    output_features: Float[Array, "H M v"]
    example: Any

    def _tree(self, atom: Array, common: Array) -> tuple[Any, Any]:
        return ravel_pytree(self.example[0])[1](atom), ravel_pytree(self.example[1])[1](common)

    def seen(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[Float[Array, "H M"], Float[Array, "H d_v M"]]:
        """Coefficients times features."""
        score, output = self.coefficients(atom, common)
        scores = jnp.einsum("hms,hs->hm", self.score_features[..., 1:], score)
        return scores, jnp.einsum("hov,hmv->hom", output, self.output_features)

    def coefficients(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[Float[Array, "H s"], Float[Array, "H d_v v"]]:
        """Score and output as coefficients of the features: all that f_G sees of the atom."""
        one, shared = self._tree(atom, common)
        alone = MixingMeasure(jnp.zeros(1), jax.tree.map(lambda leaf: leaf[None], one), shared)
        seen = as_hierarchical(self.model).coefficients(alone)
        return seen.score[:, 0], seen.output[:, 0]

    def loss(self, fitted: Flat, true: Flat, frozen: tuple[Float[Array, "H f M"], Float[Array, "H f d_v M"]]) -> Array:
        """D_12 in effective coordinates; the model knows its frozen atoms."""
        return effective_losses(self.model, self._measure(fitted), self._measure(true)).d_12

    def _measure(self, flat: Flat) -> MixingMeasure:
        weights, atoms, common = flat
        tree = jax.vmap(ravel_pytree(self.example[0])[1])(atoms)
        return MixingMeasure(jnp.log(weights), tree, ravel_pytree(self.example[1])[1](common))

    def coordinates(self, atom: Float[Array, " q"], common: Float[Array, " c"]) -> Float[Array, " e"]:
        """Effective coordinates (theory section 2)."""
        return jnp.concatenate(self.model.effective(self.model.update(*self._tree(atom, common))))

    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """GL(r) of the products, and what else the gate is known not to see."""
        one, _ = self._tree(atom, common)
        flat = jax.vmap(lambda tangent: ravel_pytree(tangent)[0])
        known = [("GL(r) of the low-rank products", flat(self.model.adapter.orbit(one)))]
        if isinstance(self.model, RegressionModel):
            symmetries = flat(self.model.adapter.gauge(one, self.model.gate))
            known.append(("symmetries of the gate's score in the query product", symmetries))
        return tuple(known)


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
        held = _points(jnp.ones(count), jax.vmap(self._coordinates, 1)(*frozen))
        points = points_of(self.coordinates, fitted), points_of(self.coordinates, true)
        return losses(*points, held, count == 0).d_12

    def known_gauge(
        self, atom: Float[Array, " q"], common: Float[Array, " c"]
    ) -> tuple[tuple[str, Float[Array, "_ q"]], ...]:
        """None."""
        return ()


def mixture_of(
    model: RegressionModel | HierarchicalModel, truth: MixingMeasure, design: Design | HeadedDesign
) -> tuple[SoftmaxSet, ...]:
    """A registered model at a truth, its factors balanced: one set, or one per head with atoms of its own.

    Raises:
        InputError: for shared atoms with weights of their own in every head.
    """
    if isinstance(model, HierarchicalModel) and model.own_weights:
        raise InputError("margins need one weight per atom: use shared weights (own_weights=False)")
    if not isinstance(model, HierarchicalModel) or model.shared_atoms:
        headed = as_hierarchical(model)
        features = design.heads if isinstance(design, HeadedDesign) else jax.tree.map(lambda leaf: leaf[None], design)
        return (_set_of(model, truth, features, headed.outputs),)
    assert isinstance(design, HeadedDesign)
    sets = []
    for place in range(model.count):
        head, own, features = jax.tree.map(
            lambda leaf, at=place: leaf[at], (model.heads, truth, design.heads)
        )  # fmt: skip
        features = jax.tree.map(lambda leaf: leaf[None], features)
        sets.append(_set_of(head, own, features, model.outputs[place : place + 1]))
    return tuple(sets)


def _set_of(
    model: RegressionModel | HierarchicalModel, truth: MixingMeasure, design: Design, outputs: Float[Array, "H o v"]
) -> SoftmaxSet:
    atoms = jax.vmap(model.adapter.balance)(truth.atoms)
    example = jax.tree.map(lambda leaf: leaf[0], atoms), truth.common
    return SoftmaxSet(
        weights=jnp.exp(truth.log_weights),
        atoms=jax.vmap(lambda atom: ravel_pytree(atom)[0])(atoms),
        common=jnp.asarray(ravel_pytree(truth.common)[0], jnp.float64),
        blocks=blocks_of(example[0]),
        common_blocks=blocks_of(truth.common),
        view=ModelView(model, design.score, design.output, example),
        frozen_logits=design.frozen_logits,
        frozen_outputs=design.frozen_outputs,
        outputs=outputs,
    )


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
