"""The compact parameter space Theta, its coordinates z, and the slacks of its constraints.

The theorems assume a compact Theta and so do we (theory section 4): every adapted matrix has ||Delta||_F <= R,
every fitted atom at least the share w_min of the total fitted weight, the total fitted weight at most W. Coordinates
are z = (v, factors) with w_i = v_i + b sum_l v_l, b = w_min / (1 - k w_min); then w_i - w_min sum_l w_l = v_i, so the
weight floor is the plain bound v_i >= 0, and the weights are linear in z. Source: our derivation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from moe_theory.errors import InputError
from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import Coefficients, RegressionModel


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


class SlackParts(NamedTuple):
    """Numbers over the constraints of every set: weight floors, cap, of single atoms, of what all share."""

    weights: Float[Array, "s k"]
    cap: Float[Array, "s 1"]
    atoms: Float[Array, "s k m"]
    common: Float[Array, "s n"]


class Chart(eqx.Module):
    """z <-> mixing measures with k atoms inside a parameter space.

    One set of atoms has z = (v, factors, common): k weights, k atoms, and what all atoms share (global magnitudes, a
    free tau). Where every head has atoms of its own there are H such sets, one after the other, and everything here
    is done set by set.

    Attributes:
        model: f_G.
        space: Theta, for every set alike.
        k: atoms of a set.
        example: one atom and the common parameters; their shapes are all that counts.
    """

    model: RegressionModel | HierarchicalModel
    space: ParameterSpace = eqx.field(static=True)
    k: int = eqx.field(static=True)
    example: Any

    def __init__(self, model: RegressionModel | HierarchicalModel, space: ParameterSpace, k: int):
        if not 0.0 < space.weight_floor * k < 1.0:
            raise InputError(
                f"a weight floor of {space.weight_floor} for each of {k} atoms leaves no room: it must lie between 0 "
                f"(1e-9 stands for none) and {1 / k:.3g}"
            )
        self.model, self.space, self.k = model, space, k
        self.example = model.draw(jax.random.key(0), 1.0)

    @property
    def sets(self) -> int:
        """How many sets of atoms: H where every head has its own, otherwise 1."""
        if isinstance(self.model, HierarchicalModel) and not self.model.shared_atoms:
            return self.model.count
        return 1

    @property
    def each(self) -> "Chart":
        """The charts of single sets, every array with a leading axis; for several sets only."""
        assert isinstance(self.model, HierarchicalModel)
        return eqx.tree_at(lambda chart: chart.model, self, self.model.heads)

    def by_set(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(chart of one set, its arguments), for every set; arguments and results have a leading set axis."""
        return eqx.filter_vmap(function)(self.each, *arguments)

    @property
    def size(self) -> int:
        """Length of z."""
        return self.sets * self.k * (1 + self.atom_size) + ravel_pytree(self.example[1])[0].size

    @property
    def atom_size(self) -> int:
        """Parameters of one atom."""
        return ravel_pytree(self.example[0])[0].size // self.sets

    @property
    def loose(self) -> int:
        """Gauge motions of all atoms beyond the adapter's own orbit (GL(r) of the products, which keeps every slack):
        they may move one, for what the model does not see of W_Q, say, its bound holds too."""
        atom, common = self.example
        adapter = self.model.heads.adapter if isinstance(self.model, HierarchicalModel) else self.model.adapter
        keeping = jax.vmap(type(adapter).orbit) if self.sets > 1 else type(adapter).orbit
        counts = (
            jax.tree.leaves(jax.eval_shape(motions, *of))[0].shape[1 if self.sets > 1 else 0]
            for motions, of in ((self.model.gauge, (atom, common)), (keeping, (adapter, atom)))
        )
        seen, kept = counts
        return self.sets * self.k * (seen - kept)

    @property
    def common_size(self) -> int:
        """Parameters that the atoms of a set share."""
        return ravel_pytree(self.example[1])[0].size // self.sets

    def parts(self, z: Float[Array, " z"]) -> tuple[Float[Array, " k"], Float[Array, "k q"], Float[Array, " c"]]:
        """(v, factors, common) of one set."""
        last = self.k * (1 + self.atom_size)
        return z[: self.k], z[self.k : last].reshape(self.k, -1), z[last:]

    def unravel(self, factors: Float[Array, " q"]) -> Any:
        """One atom of its factors."""
        return ravel_pytree(self.example[0])[1](factors)

    def atoms(self, z: Float[Array, " z"]) -> Any:
        """The atoms' factors, leaves with a leading axis k (of one set)."""
        return jax.vmap(self.unravel)(self.parts(z)[1])

    def common(self, z: Float[Array, " z"]) -> Any:
        """What all atoms share (of one set)."""
        return ravel_pytree(self.example[1])[1](self.parts(z)[2])

    def weights(self, z: Float[Array, " z"]) -> Float[Array, "*H k"]:
        """w_i = v_i + b sum v."""
        if self.sets > 1:
            return self.by_set(Chart.weights, z.reshape(self.sets, -1))
        floor = self.space.weight_floor
        return z[: self.k] + floor / (1.0 - self.k * floor) * jnp.sum(z[: self.k])

    def closed(self, zeta: Float[Array, " z"]) -> Float[Array, " z"]:
        """z of the open coordinates zeta = (w, factors, common), which hold weights in place of what exceeds the floor:
        v_i = w_i - w_min sum_l w_l."""
        each = zeta.reshape(self.sets, -1)
        weights = each[:, : self.k]
        excess = weights - self.space.weight_floor * jnp.sum(weights, axis=1, keepdims=True)
        return jnp.concatenate([excess, each[:, self.k :]], axis=1).reshape(-1)

    def measure(self, z: Float[Array, " z"]) -> MixingMeasure:
        """The mixing measure at z."""
        if self.sets > 1:
            return self.by_set(Chart.measure, z.reshape(self.sets, -1))
        return MixingMeasure(jnp.log(self.weights(z)), self.atoms(z), self.common(z))

    def coefficients(self, z: Float[Array, " z"]) -> Coefficients:
        """The atoms as the softmax sees them."""
        return self.model.coefficients(self.measure(z))

    def coordinates(self, measure: MixingMeasure) -> Float[Array, " z"]:
        """z of a measure; a weight below the floor gives a negative entry."""
        if self.sets > 1:
            return self.by_set(Chart.coordinates, measure).reshape(-1)
        return self.closed(self._join(jnp.exp(measure.log_weights), measure.atoms, ravel_pytree(measure.common)[0]))

    def _join(self, first: Float[Array, " k"], atoms: Any, common: Float[Array, " c"]) -> Float[Array, " z"]:
        factors = jax.vmap(lambda atom: ravel_pytree(atom)[0])(atoms)
        return jnp.concatenate([first, factors.reshape(-1), common])

    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " constraints"]:
        """Positive inside Theta: v_i (k of them), 1 - sum w / W, each atom's own, and those of what all share."""
        if self.sets > 1:
            return self.by_set(Chart.slacks, z.reshape(self.sets, -1)).reshape(-1)
        cap = 1.0 - jnp.sum(self.weights(z), keepdims=True) / self.space.weight_cap
        return jnp.concatenate([z[: self.k], cap, self.atom_slacks(z).reshape(-1), self.common_slacks(z)])

    def atom_slacks(self, z: Float[Array, " z"]) -> Float[Array, "*H k m"]:
        """The slacks that belong to one atom."""
        if self.sets > 1:
            return self.by_set(Chart.atom_slacks, z.reshape(self.sets, -1))
        common = self.common(z)
        return jax.vmap(lambda atom: self.model.interior(atom, common, self.space.radius))(self.atoms(z))

    def common_slacks(self, z: Float[Array, " z"]) -> Float[Array, "*H m"]:
        """The slacks of what the atoms of a set share."""
        if self.sets > 1:
            return self.by_set(Chart.common_slacks, z.reshape(self.sets, -1))
        return self.model.adapter.common_interior(self.common(z), self.space.radius)

    def slack_parts(self, per_constraint: Float[Array, " constraints"]) -> "SlackParts":
        """A vector over the constraints (as ``slacks``), part by part."""
        each = per_constraint.reshape(self.sets, -1)
        common = jax.eval_shape(self.common_slacks, jnp.zeros(self.size)).shape[-1]
        last = each.shape[1] - common
        return SlackParts(
            each[:, : self.k],
            each[:, self.k : self.k + 1],
            each[:, self.k + 1 : last].reshape(self.sets, self.k, -1),
            each[:, last:],
        )

    def reordered(self, z: Float[Array, " z"], order: Int[Array, " k"]) -> Float[Array, " z"]:
        """The same measure with its atoms listed in another order (of one set)."""
        excess, factors, common = self.parts(z)
        return jnp.concatenate([excess[order], factors[order].reshape(-1), common])

    def reordered_slacks(
        self, per_constraint: Float[Array, " constraints"], order: Int[Array, "*H k"]
    ) -> Float[Array, " constraints"]:
        """A vector over the constraints (as ``slacks``) after the atoms are listed in another order."""
        if self.sets > 1:
            return self.by_set(Chart.reordered_slacks, per_constraint.reshape(self.sets, -1), order).reshape(-1)
        weights, cap, atoms, common = (part[0] for part in self.slack_parts(per_constraint))
        return jnp.concatenate([weights[order], cap, atoms[order].reshape(-1), common])

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
        if self.sets > 1:
            return self.by_set(Chart.balanced, z.reshape(self.sets, -1)).reshape(-1)
        excess, _, common = self.parts(z)
        return self._join(excess, jax.vmap(self.model.adapter.balance)(self.atoms(z)), common)


class TrueSet(NamedTuple):
    """The atoms of one set of the truth.

    Attributes:
        atoms: factors, (k_true, q).
        weights: (k_true,).
        common: what they share, (c,).
    """

    atoms: np.ndarray
    weights: np.ndarray
    common: np.ndarray


def true_sets(chart: Chart, truth: MixingMeasure) -> list[TrueSet]:
    """The truth set by set, flat, on the host."""
    sets = []
    for place in range(chart.sets):
        own = jax.tree.map(lambda leaf, at=place: leaf[at], truth) if chart.sets > 1 else truth
        atoms = np.asarray(jax.vmap(lambda atom: ravel_pytree(atom)[0])(own.atoms))
        sets.append(TrueSet(atoms, np.asarray(jnp.exp(own.log_weights)), np.asarray(ravel_pytree(own.common)[0])))
    return sets


def joined(space: ParameterSpace, weights: np.ndarray, atoms: np.ndarray, common: np.ndarray) -> np.ndarray:
    """z of one set of atoms, given flat, on the host."""
    return np.concatenate([weights - space.weight_floor * weights.sum(), atoms.ravel(), common])
