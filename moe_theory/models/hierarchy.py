"""Hierarchical mixtures: several heads, each a mixture with its own known matrices, added through known outputs.

    f_G(x) = sum_h O_h sum_i softmax_i( c_{h,i} + s_h(x; theta_{h,i}) ) h_h(x; theta_{h,i})

Every head is a ``RegressionModel``; a hierarchical model holds them stacked, every array with a leading head axis.
The kinds differ only in which head sees which atoms:

- separate atoms (multi-head LoRA, DoRA, RepLoRA, DoRAN): every leaf of the measure has a leading head axis;
- shared atoms (HoRA): one set of atoms for all heads, c shared too, or with ``own_weights`` one c per head.

For an estimator all models are alike: coefficients and design with a leading head axis, and f = sum_h O_h f_h. A flat
model is one head with O = I (``as_hierarchical``), and its measure stays as it is. Source: theory section 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractAdapter, Projections
from moe_theory.models.gauge import gauge_tangents
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import Coefficients, Design, RegressionModel


class HierarchicalModel(eqx.Module):
    """f_G(x) = sum_h O_h f_{h,G}(x).

    Attributes:
        heads: all heads in one, every array with a leading axis H; see ``hierarchical``.
        outputs: O_h, (H, d_out, d_v).
        shared_atoms: whether all heads see one set of atoms.
        own_weights: with shared atoms, whether every head has its own log-weights, (H, k).

    Raises:
        InputError: if the outputs do not fit the heads.
    """

    heads: RegressionModel
    outputs: Float[Array, "H d_out d_v"]
    shared_atoms: bool = eqx.field(static=True)
    own_weights: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        count, rows, _ = self.heads.pretrained.value.shape
        if self.outputs.shape[0] != count or self.outputs.shape[2] != rows:
            raise InputError(
                f"{count} heads with {rows} outputs each need output matrices of shape ({count}, d_out, {rows}); got "
                f"{self.outputs.shape}"
            )

    @property
    def count(self) -> int:
        """H."""
        return self.outputs.shape[0]

    @property
    def adapter(self) -> AbstractAdapter:
        """The heads' adapter; what depends on a head's own matrices has a leading head axis."""
        return self.heads.adapter

    @property
    def frozen_count(self) -> int:
        """Number of frozen atoms of a head."""
        return self.heads.frozen.count

    @property
    def frozen_updates(self) -> Projections:
        """Delta of the frozen atoms in all heads, leaves (f, H, ...), as ``effective`` takes them."""
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), self.heads.frozen.updates)

    @property
    def frozen_weights(self) -> Float[Array, " f"]:
        """Weights of the frozen atoms, averaged over heads."""
        return jnp.mean(jnp.exp(self.heads.frozen.log_weights), axis=0)

    def per_head(self, function: Callable[[RegressionModel, MixingMeasure], Any], measure: MixingMeasure) -> Any:
        """function(head, the head's measure) for every head; leading axis H."""
        atoms = None if self.shared_atoms else 0
        weights = None if self.shared_atoms and not self.own_weights else 0

        def of_head(head: RegressionModel, log_weights: Array, own: Any, common: Any) -> Any:
            return function(head, MixingMeasure(log_weights, own, common))

        mapped = jax.vmap(of_head, (0, weights, atoms, atoms))
        return mapped(self.heads, measure.log_weights, measure.atoms, measure.common)

    def _of_atom(self, function: Callable[[RegressionModel, Any, Any], Any], atom: Any, common: Any) -> Any:
        """function(head, the head's atom, the head's common parameters) for every head; leading axis H."""
        axis = None if self.shared_atoms else 0
        return jax.vmap(function, (0, axis, axis))(self.heads, atom, common)

    def predict(self, measure: MixingMeasure, x: Float[Array, " d"]) -> Float[Array, " d_out"]:
        """f_G at one sample; vmap over x for many.

        Args:
            measure: leaves (H, k, ...) with separate atoms, (k, ...) with shared ones.
            x: one input, shape (d,).

        Raises:
            InputError: as ``RegressionModel.predict``.
        """
        self._check_atoms(measure)
        each = self.per_head(lambda head, own: head.predict(own, x), measure)
        return jnp.einsum("hov,hv->o", self.outputs, each)

    def _check_atoms(self, measure: MixingMeasure) -> None:
        own = (measure.atoms, measure.common)
        for place in range(self.count):
            head = jax.tree.map(lambda leaf, at=place: leaf[at], self.heads)
            seen = own if self.shared_atoms else jax.tree.map(lambda leaf, at=place: leaf[at], own)
            head.adapter.check_atoms(*seen, head.pretrained)

    def coefficients(self, measure: MixingMeasure) -> Coefficients:
        """The free atoms as coefficients of the design's features, leaves (H, k, ...)."""
        return self.per_head(lambda head, own: head.coefficients(own), measure)

    def design(self, support: Float[Array, "M d"]) -> Design:
        """Features of the support points for every head, leaves (H, ...)."""
        return jax.vmap(lambda head: head.design(support))(self.heads)

    def update(self, atom: Any, common: Any = ()) -> Projections:
        """(Delta_Q, Delta_V) in every head, leaves (H, ., d).

        Args:
            atom: one atom; with separate atoms one per head, leaves (H, ...).
            common: the measure's.
        """
        return self._of_atom(lambda head, own, held: head.update(own, held), atom, common)

    def effective(self, delta: Projections) -> Projections:
        """All heads' effective coordinates of an update, one after the other."""
        query, value = jax.vmap(lambda head, own: head.effective(own))(self.heads, delta)
        return Projections(query.reshape(-1), value.reshape(-1))

    def scored(self, delta: Projections) -> Float[Array, " s"]:
        """What all gates see of an update."""
        return jax.vmap(lambda head, own: head.scored(own))(self.heads, delta).reshape(-1)

    def seen(self, atom: Any, common: Any = ()) -> Float[Array, " coordinates"]:
        """All that f_G sees of an atom (or of one atom per head) beside its weight."""
        return self._of_atom(lambda head, own, held: head.seen(own, held), atom, common).reshape(-1)

    def gauge(self, atom: Any, common: Any = ()) -> Any:
        """Tangents of the motions that leave f_G unchanged.

        Separate atoms: those of every head's atom, leaves (H, gauge dimension, ...). Shared atoms: those that no head
        sees, leaves (gauge dimension, ...).
        """
        if not self.shared_atoms:
            return self._of_atom(lambda head, own, held: head.gauge(own, held), atom, common)
        return gauge_tangents(self, self.heads.adapter.orbit(atom), False, atom, common)

    def interior(self, atom: Any, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """All heads' slacks of one atom (or of one atom per head)."""
        slacks = self._of_atom(lambda head, own, held: head.interior(own, held, radius), atom, common)
        return slacks.reshape(-1)

    def draw(self, key: Array, scale: float = 1.0) -> tuple[Any, Any]:
        """A random atom and random common parameters; with separate atoms one of each per head."""
        if not self.shared_atoms:
            return jax.vmap(lambda head, own: head.draw(own, scale))(self.heads, jax.random.split(key, self.count))
        return self.heads.draw(key, scale)


def hierarchical(
    heads: Sequence[RegressionModel],
    outputs: Float[Array, "H d_out d_v"],
    shared_atoms: bool = False,
    own_weights: bool = False,
) -> HierarchicalModel:
    """A hierarchical model of these heads.

    Args:
        heads: models of one structure and of equal shapes.
        outputs: O_h.
        shared_atoms, own_weights: see ``HierarchicalModel``.

    Raises:
        InputError: if the heads differ in structure or shapes, or the outputs do not fit.
    """
    kinds = {(jax.tree.structure(head), tuple(leaf.shape for leaf in jax.tree.leaves(head))) for head in heads}
    if len(kinds) != 1:
        raise InputError("all heads need one kind of gate, expert and adapter, equal shapes and as many frozen atoms")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *heads)
    return HierarchicalModel(stacked, outputs, shared_atoms, own_weights)


def as_hierarchical(model: RegressionModel | HierarchicalModel) -> HierarchicalModel:
    """A flat model as one head with O = I, for the same measures; a hierarchical model itself."""
    if isinstance(model, HierarchicalModel):
        return model
    identity = jnp.eye(model.pretrained.value.shape[0], dtype=jnp.float64)
    return hierarchical([model], identity[None], shared_atoms=True)
