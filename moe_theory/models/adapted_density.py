"""Low-rank adapted experts as densities: the model of regression, read as p(x, y) or p(y | x) instead of as a mean.

A ``RegressionModel`` whose gate is a ``DensityGate`` has atoms with a center c_i = (M_Q + Delta_Q,i) u and an expert
matrix A_i = M_V + Delta_V,i, and from them two densities (intercept 0, Gamma and nu I as stated):

    joint         p_G(x, y)   = sum_i w_i N(x; c_i, Gamma_i) N(y; A_i x, nu I)            no frozen atoms
    conditional   p_G(y | x)  = sum_i softmax_i( log w_i + log N(x; c_i, Gamma) ) N(y; A_i x, nu I)

f_G is the conditional mean of the second: the same model, fitted by its mean or by its density. A hierarchical model
with shared atoms is a hierarchical mixture: its H heads are groups of equal, known weight 1/H, each with its own known
(M_Q, M_V), p_G = (1/H) sum_h p_{h,G}.

Known are u, the intercept and, unless said otherwise, Gamma and nu. ``FreeNoise`` makes nu a parameter that all atoms
share, ``FreeSpread`` gives every atom a Gamma of its own. Source: theory sections 1 and 6; the two readings are our
derivation.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractAdapter
from moe_theory.models.density import GaussianGated, GaussianGatedAtom, SoftmaxGated, SoftmaxGatedAtom
from moe_theory.models.free_moments import LEAST, FreeNoise, FreeSpread, symmetric
from moe_theory.models.gates import DensityGate
from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel


class AdaptedDensity(eqx.Module):
    """p_G of a regression model with a ``DensityGate``.

    Attributes:
        model: atoms and what they make; flat, or with heads that share their atoms.
        noise: nu, variance of every output; with ``FreeNoise`` what ``MixingMeasure.common`` holds takes its place.
        joint: whether x is modelled too.

    Raises:
        InputError: for another gate, a joint density with frozen atoms, or heads without shared atoms or weights.
    """

    model: RegressionModel | HierarchicalModel
    noise: Float[Array, ""]
    joint: bool = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.heads.gate, DensityGate):
            raise InputError("a density needs a DensityGate: the other gates are no density of x")
        model = self.model
        grouped = isinstance(model, HierarchicalModel)
        if grouped and (not self.joint or not model.shared_atoms or model.own_weights):
            raise InputError("a hierarchical density is joint, and its groups share atoms and weights")
        if not self.joint and isinstance(_without_noise(self.heads.adapter), FreeSpread):
            raise InputError("a conditional density has one known Gamma: a free spread needs a joint density")
        if self.joint and self.model.frozen_count:
            raise InputError("a joint density has no frozen atoms: nothing of it needs an anchor (anchored = false)")

    @property
    def heads(self) -> RegressionModel:
        """The flat model, or all heads in one."""
        return self.model.heads if isinstance(self.model, HierarchicalModel) else self.model

    @property
    def base(self) -> GaussianGated | SoftmaxGated:
        """The family of densities that the atoms belong to."""
        outputs, d = self.heads.pretrained.value.shape[-2:]
        return GaussianGated(d, outputs) if self.joint else SoftmaxGated(d, outputs)

    @property
    def least_shares(self) -> Float[np.ndarray, " axes"]:
        """The least variances that Theta allows, as shares of the known ones: of x, then of y."""
        outputs, d = self.heads.pretrained.value.shape[-2:]
        adapter = self.heads.adapter
        noise = LEAST if isinstance(adapter, FreeNoise) else 1.0
        spread = LEAST if isinstance(_without_noise(adapter), FreeSpread) else 1.0
        return np.append(np.full(d, spread), np.full(outputs, noise))

    def rows(self, measure: MixingMeasure) -> Float[Array, "k q"]:
        """All atoms as moment rows of ``base``, group by group; frozen atoms last."""
        if not isinstance(self.model, HierarchicalModel):
            return self._rows_of(self.model, measure)
        each = self.model.per_head(self._rows_of, measure)
        return each.at[:, :, 0].divide(self.model.count).reshape(-1, each.shape[-1])

    def _rows_of(self, head: RegressionModel, measure: MixingMeasure) -> Float[Array, "k q"]:
        free = jax.vmap(head.update, (0, None))(measure.atoms, measure.common)
        query, value = (
            known[None] + jnp.concatenate(updates)
            for known, *updates in zip(head.pretrained, free, head.frozen.updates, strict=True)
        )
        log_weights = jnp.concatenate([measure.log_weights, head.frozen.log_weights])
        gate = head.gate
        assert isinstance(gate, DensityGate)
        center = jax.vmap(gate.center)(query)
        k, (outputs, d) = center.shape[0], value.shape[1:]
        noise = jnp.broadcast_to(self._noise(measure.common) * jnp.eye(outputs), (k, outputs, outputs))
        nothing = jnp.zeros((k, outputs))
        precision = gate.root.T @ gate.root
        if not self.joint:
            tilt = log_weights - 0.5 * jnp.sum((center @ gate.root.T) ** 2, axis=1)
            return self.base.rows(MixingMeasure(tilt, SoftmaxGatedAtom(center @ precision, value, nothing, noise)))
        spread = jnp.broadcast_to(jnp.linalg.inv(precision), (k, d, d))
        if isinstance(_without_noise(head.adapter), FreeSpread):
            spread = spread + jax.vmap(lambda entries: symmetric(entries, d))(measure.atoms.spread)
        return self.base.rows(MixingMeasure(log_weights, GaussianGatedAtom(center, spread, value, nothing, noise)))

    def _noise(self, common: Any) -> Float[Array, ""]:
        return common[1] if isinstance(self.heads.adapter, FreeNoise) else self.noise


def _without_noise(adapter: AbstractAdapter) -> AbstractAdapter:
    return adapter.inner if isinstance(adapter, FreeNoise) else adapter
