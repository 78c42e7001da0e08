"""The regression function f_G of a mixture of adapted experts, and the coordinates in which errors are measured."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractAdapter, Projections
from moe_theory.models.experts import AbstractExpert
from moe_theory.models.gates import AbstractGate
from moe_theory.models.gauge import gauge_tangents
from moe_theory.models.measure import MixingMeasure


class FrozenAtoms(eqx.Module):
    """Known atoms, not estimated, that share the softmax with the free ones and anchor it.

    Attributes:
        log_weights: c, shape (f,).
        updates: their Delta, leaves of shape (f, ., d).
    """

    log_weights: Float[Array, "*heads f"]
    updates: Projections

    @property
    def count(self) -> int:
        """Number of frozen atoms; 0 for the un-anchored model."""
        return self.log_weights.shape[-1]


def frozen_pretrained(pretrained: Projections, count: int = 1) -> FrozenAtoms:
    """The default anchor: ``count`` frozen atoms (1, or 0 for none) with Delta = 0 and c = 0."""
    zeros = jax.tree.map(lambda matrix: jnp.zeros((count, *matrix.shape), jnp.float64), pretrained)
    return FrozenAtoms(jnp.zeros(count, jnp.float64), zeros)


class Coefficients(eqx.Module):
    """Atoms as the softmax sees them: s_i(x) = log_weight_i + score_i . features(x), h_i(x) = output_i features(x)."""

    log_weight: Float[Array, "*batch k"]
    score: Float[Array, "*batch k s"]
    output: Float[Array, "*batch k d_out v"]


class Design(eqx.Module):
    """Features of all support points, and the frozen atoms evaluated at them.

    Attributes:
        score: (M, 1 + s); the first column is 1 and multiplies the log-weight.
        output: (M, v).
        frozen_logits: (f, M).
        frozen_outputs: (f, d_out, M).
    """

    score: Float[Array, "M s1"]
    output: Float[Array, "M v"]
    frozen_logits: Float[Array, "f M"]
    frozen_outputs: Float[Array, "f d_out M"]


class RegressionModel(eqx.Module):
    """f_G(x) = sum_i softmax_i( c_i + s(x; W_Q,i) ) h(x; W_V,i), frozen atoms in the same softmax.

    Gate, expert and adapter are values that combine freely. Source: theory section 1.

    Attributes:
        gate, expert, adapter: see their modules.
        pretrained: M_Q of shape (q, d) and M_V of shape (d_out, d).
        frozen: known atoms; with none the model is blind to a common shift of the log-weights.

    Raises:
        InputError: if the adapter cannot act on the pre-trained matrices.
    """

    gate: AbstractGate
    expert: AbstractExpert
    adapter: AbstractAdapter
    pretrained: Projections
    frozen: FrozenAtoms

    def __check_init__(self):
        self.adapter.check(self.pretrained)
        if not isinstance(self.frozen, FrozenAtoms):
            raise InputError("frozen must be FrozenAtoms: use frozen_pretrained(pretrained, count)")

    @property
    def frozen_count(self) -> int:
        """Number of frozen atoms."""
        return self.frozen.count

    @property
    def frozen_updates(self) -> Projections:
        """Delta of the frozen atoms, leaves (f, ...), as ``effective`` takes them."""
        return self.frozen.updates

    @property
    def frozen_weights(self) -> Float[Array, " f"]:
        """Weights of the frozen atoms."""
        return jnp.exp(self.frozen.log_weights)

    def update(self, atom: Any, common: Any = ()) -> Projections:
        """(Delta_Q, Delta_V) of one atom."""
        return self.adapter.update(atom, common, self.pretrained)

    def adapted(self, atom: Any, common: Any = ()) -> Projections:
        """(W_Q, W_V) = (M_Q + Delta_Q, M_V + Delta_V) of one atom."""
        return self._with_update(self.update(atom, common))

    def _with_update(self, delta: Projections) -> Projections:
        return Projections(self.pretrained.query + delta.query, self.pretrained.value + delta.value)

    def predict(self, measure: MixingMeasure, x: Float[Array, " d"]) -> Float[Array, " d_out"]:
        """f_G at one sample; vmap over x for many.

        Args:
            measure: the free atoms, k of them.
            x: one input, shape (d,).

        Raises:
            InputError: where an adapted matrix does not exist (a column of norm 0 that is to be normalised).
        """
        self.adapter.check_atoms(measure.atoms, measure.common, self.pretrained)
        frozen = jax.vmap(self._with_update)(self.frozen.updates)
        free = jax.vmap(self.adapted, (0, None))(measure.atoms, measure.common)
        matrices = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), free, frozen)
        log_weights = jnp.concatenate([measure.log_weights, self.frozen.log_weights])
        scores = jax.vmap(self.gate.score, (0, None))(matrices.query, x)
        outputs = jax.vmap(self.expert.output, (0, None))(matrices.value, x)
        return jax.nn.softmax(log_weights + scores) @ outputs

    def coefficients(self, measure: MixingMeasure) -> Coefficients:
        """The free atoms as coefficients of the design's features."""
        matrices = jax.vmap(self.adapted, (0, None))(measure.atoms, measure.common)
        return Coefficients(
            measure.log_weights,
            jax.vmap(self.gate.coefficients)(matrices.query),
            jax.vmap(self.expert.coefficients)(matrices.value),
        )

    def design(self, support: Float[Array, "M d"]) -> Design:
        """Features of the support points, computed once for every fit on them."""
        score = jax.vmap(self.gate.features)(support)
        output = jax.vmap(self.expert.features)(support)
        frozen = jax.vmap(self._with_update)(self.frozen.updates)
        logits = jax.vmap(self.gate.coefficients)(frozen.query) @ score.T + self.frozen.log_weights[:, None]
        outputs = jnp.einsum("fov,mv->fom", jax.vmap(self.expert.coefficients)(frozen.value), output)
        ones = jnp.ones((support.shape[0], 1), score.dtype)
        return Design(jnp.concatenate([ones, score], axis=1), output, logits, outputs)

    def gauge(self, atom: Any, common: Any = ()) -> Any:
        """Tangents, at one atom, of the motions that leave f_G unchanged (leading axis: gauge dimension)."""
        known, complete = self.adapter.gauge(atom, self.gate), self.adapter.gauge_is_known(self.pretrained)
        return gauge_tangents(self, known, complete, atom, common)

    def seen(self, atom: Any, common: Any = ()) -> Float[Array, " coordinates"]:
        """All that f_G sees of an atom beside its weight: the gate's coefficients of W_Q, and Delta_V."""
        delta = self.update(atom, common)
        return jnp.concatenate([self.scored(delta), delta.value.reshape(-1)])

    def interior(self, atom: Any, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """Slacks of one atom, positive inside the compact parameter space."""
        return self.adapter.interior(atom, common, self.pretrained, radius)

    def draw(self, key: Array, scale: float = 1.0) -> tuple[Any, Any]:
        """A random atom and random common parameters."""
        key_atom, key_common = jax.random.split(key)
        atom = self.adapter.draw(key_atom, self.pretrained, scale)
        return atom, self.adapter.draw_common(key_common, self.pretrained)

    def effective(self, delta: Projections) -> Projections:
        """What acts of an update, free of every gauge, as a query and a value vector (theory section 2).

        The gate's coefficients of M_Q + Delta_Q, and Delta_V. Where Delta_V alone determines Delta_Q it is identified
        through the value, so the query block would repeat it and is empty.
        """
        if self.adapter.value_tells_query:
            return Projections(jnp.zeros(0, delta.value.dtype), delta.value.reshape(-1))
        return Projections(self.scored(delta), delta.value.reshape(-1))

    def scored(self, delta: Projections) -> Float[Array, " s"]:
        """What the gate sees of an update: the coefficients of the score."""
        return self.gate.coefficients(self.pretrained.query + delta.query)
