"""From a specification to the objects that are computed with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe_theory.estimation.space import ParameterSpace
from moe_theory.models.adapters import AbstractAdapter, Lora, Projections, RepLora
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AbstractGate, AttentionGate, GaussianGate
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import Design, RegressionModel, frozen_pretrained
from moe_theory.precision import require_x64
from moe_theory.sampling.inputs import finite_support
from moe_theory.study.spec import ProblemSpec

NO_FLOOR = 1e-9
"""Least share of an atom's weight where no floor is asked for: it keeps log-weights finite and never binds."""

UPDATE_SIZE = 1.5
"""|| Delta ||_F of each matrix of a true atom; the pre-trained matrices have singular values 0.5 (query), 1 (value)."""


class Setup(NamedTuple):
    """Everything about a problem that does not depend on n or the replication.

    Attributes:
        model: f_G.
        truth: G*, k_true atoms.
        design: features of the support.
        values: f_{G*} at the support points, shape (d_out, M).
        space: Theta.
        k_fit: atoms of the fit.
        sigma: noise standard deviation.
    """

    model: RegressionModel
    truth: MixingMeasure
    design: Design
    values: np.ndarray
    space: ParameterSpace
    k_fit: int
    sigma: float


def build(problem: ProblemSpec) -> Setup:
    """The fixed, stated instance of a problem.

    M_Q is half a random orthogonal matrix, M_V and M_K are random orthogonal, kappa ~ N(0, I/4); true atoms have
    c = 0 and random rank-r updates with || Delta ||_F = 1.5 (bounded activations: entries inside their range).
    All are functions of ``problem_seed`` alone.

    Raises:
        InputError: if float64 is off.
    """
    require_x64()
    rng = np.random.default_rng(problem.problem_seed)
    d = problem.dimension
    pretrained = Projections(jnp.asarray(0.5 * _orthogonal(rng, d)), jnp.asarray(_orthogonal(rng, d)))
    gate = _gate(problem, rng)
    adapter = _adapter(problem)
    model = RegressionModel(
        gate, LinearExpert(), adapter, pretrained, frozen_pretrained(pretrained, int(problem.anchored))
    )
    support = finite_support(problem.input_law, problem.support, d, problem.problem_seed)
    truth = _truth(problem, model)
    values = np.asarray(jax.vmap(model.predict, (None, 0))(truth, jnp.asarray(support)).T)
    space = ParameterSpace(problem.radius, max(problem.weight_floor, NO_FLOOR), problem.weight_cap)
    return Setup(model, truth, model.design(jnp.asarray(support)), values, space, problem.k_fit, problem.sigma)


def _orthogonal(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def _gate(problem: ProblemSpec, rng: np.random.Generator) -> AbstractGate:
    if problem.gate == "attention":
        return AttentionGate(jnp.asarray(_orthogonal(rng, problem.dimension)))
    return GaussianGate(jnp.asarray(0.5 * rng.standard_normal(problem.dimension)))


def _adapter(problem: ProblemSpec) -> AbstractAdapter:
    return Lora(problem.rank) if problem.adapter == "lora" else RepLora(problem.rank, problem.activation)


def _truth(problem: ProblemSpec, model: RegressionModel) -> MixingMeasure:
    keys = jax.random.split(jax.random.key(problem.problem_seed + 1), problem.k_true)
    atoms = jax.vmap(lambda key: model.adapter.draw(key, model.pretrained, UPDATE_SIZE))(keys)
    if problem.activation == "identity":
        atoms = jax.tree.map(_normalised, atoms)
    return MixingMeasure(jnp.zeros(problem.k_true, jnp.float64), atoms)


def _normalised(factors: jax.Array) -> jax.Array:
    """Rank one: || B || = || A || = sqrt(1.5), so that || B A ||_F = 1.5; higher ranks: of that order."""
    return factors * jnp.sqrt(UPDATE_SIZE) / jnp.linalg.norm(factors, axis=(-2, -1), keepdims=True)
