"""The compact parameter space Theta, its coordinates z, and the slacks of its constraints.

The theorems assume a compact Theta and so do we (theory section 4): every adapted matrix has ||Delta||_F <= R,
every fitted atom at least the share w_min of the total fitted weight, the total fitted weight at most W. Coordinates
are z = (v, factors) with w_i = v_i + b sum_l v_l, b = w_min / (1 - k w_min); then w_i - w_min sum_l w_l = v_i, so the
weight floor is the plain bound v_i >= 0, and the weights are linear in z. Source: our derivation.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from moe_theory.errors import InputError
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel


class ParameterSpace(NamedTuple):
    """The numbers that make Theta compact.

    Attributes:
        radius: R, Frobenius bound of each adapted matrix's update.
        weight_floor: w_min, least share of an atom in the total fitted weight; 1e-9 stands for none.
        weight_cap: W, largest total fitted weight (relative to a frozen atom of weight 1).
    """

    radius: float = 3.0
    weight_floor: float = 0.05
    weight_cap: float = 20.0


class Chart(eqx.Module):
    """z <-> mixing measures with k atoms inside a parameter space."""

    model: RegressionModel
    space: ParameterSpace
    k: int = eqx.field(static=True)
    example: Any

    def __init__(self, model: RegressionModel, space: ParameterSpace, k: int):
        if not 0.0 < space.weight_floor * k < 1.0:
            raise InputError(
                f"a weight floor of {space.weight_floor} for each of {k} atoms leaves no room: it must lie between 0 "
                f"(1e-9 stands for none) and {1 / k:.3g}"
            )
        self.model, self.space, self.k = model, space, k
        key = jax.random.key(0)
        self.example = model.adapter.draw(key, model.pretrained, 1.0)

    @property
    def size(self) -> int:
        """Length of z."""
        return self.k * (1 + ravel_pytree(self.example)[0].shape[0])

    def atoms(self, z: Float[Array, " z"]) -> Any:
        """The atoms' factors, leaves with a leading axis k."""
        unravel = ravel_pytree(self.example)[1]
        return jax.vmap(unravel)(z[self.k :].reshape(self.k, -1))

    def weights(self, z: Float[Array, " z"]) -> Float[Array, " k"]:
        """w_i = v_i + b sum v."""
        floor = self.space.weight_floor
        return z[: self.k] + floor / (1.0 - self.k * floor) * jnp.sum(z[: self.k])

    def measure(self, z: Float[Array, " z"]) -> MixingMeasure:
        """The mixing measure at z."""
        return MixingMeasure(jnp.log(self.weights(z)), self.atoms(z))

    def coordinates(self, measure: MixingMeasure) -> Float[Array, " z"]:
        """z of a measure; a weight below the floor gives a negative entry."""
        weights = jnp.exp(measure.log_weights)
        return self._join(weights - self.space.weight_floor * jnp.sum(weights), measure.atoms)

    def _join(self, excess: Float[Array, " k"], atoms: Any) -> Float[Array, " z"]:
        factors = jax.vmap(lambda atom: ravel_pytree(atom)[0])(atoms)
        return jnp.concatenate([excess, factors.reshape(-1)])

    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " constraints"]:
        """Positive inside Theta: v_i (k of them), 1 - sum w / W, then each atom's own (balls first)."""
        interior = jax.vmap(lambda atom: self.model.interior(atom, (), self.space.radius))(self.atoms(z))
        cap = 1.0 - jnp.sum(self.weights(z), keepdims=True) / self.space.weight_cap
        return jnp.concatenate([z[: self.k], cap, interior.reshape(-1)])

    def reordered(self, z: Float[Array, " z"], order: Int[Array, " k"]) -> Float[Array, " z"]:
        """The same measure with its atoms listed in another order."""
        return jnp.concatenate([z[: self.k][order], z[self.k :].reshape(self.k, -1)[order].reshape(-1)])

    def reordered_slacks(
        self, per_constraint: Float[Array, " constraints"], order: Int[Array, " k"]
    ) -> Float[Array, " constraints"]:
        """A vector over the constraints (as ``slacks``) after the atoms are listed in another order."""
        interior = per_constraint[self.k + 1 :].reshape(self.k, -1)[order]
        return jnp.concatenate(
            [per_constraint[: self.k][order], per_constraint[self.k : self.k + 1], interior.reshape(-1)]
        )

    def aligned(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """The same measure with the second atom's factors turned towards the first one's, inside its gauge orbit."""
        if self.k < 2:
            return z
        first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], self.atoms(z)) for i in (0, 1))
        turned = ravel_pytree(self.model.adapter.aligned(second, first))[0]
        start = self.k + turned.shape[0]
        return z.at[start : start + turned.shape[0]].set(turned)

    def balanced(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """The same measure with factors of equal size."""
        return self._join(z[: self.k], jax.vmap(self.model.adapter.balance)(self.atoms(z)))
