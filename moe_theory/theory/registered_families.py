"""Registered models as margins see them: the sets of atoms of an adapter under a gate, in one head or several."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.estimation.objective import HeadedDesign
from moe_theory.models.hierarchy import HierarchicalModel, as_hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import Design, RegressionModel
from moe_theory.theory.families import AbstractView, Flat, SoftmaxSet, blocks_of
from moe_theory.theory.voronoi import effective_losses


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
