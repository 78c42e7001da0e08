"""From a specification to the objects that are computed with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe_theory.errors import InputError
from moe_theory.estimation.objective import HeadedDesign, design_of
from moe_theory.estimation.space import Chart, ParameterSpace
from moe_theory.jitting import at_once
from moe_theory.models.adapters import AbstractAdapter, Dial, Lora, Projections, RepLora
from moe_theory.models.decomposed import DecomposedAtom, dora, doran
from moe_theory.models.embedded import Embedded
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AbstractGate, AttentionGate, DensityGate, GaussianGate
from moe_theory.models.hierarchy import HierarchicalModel, hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel, frozen_pretrained
from moe_theory.precision import require_x64
from moe_theory.sampling.inputs import finite_support
from moe_theory.study.spec import DECOMPOSED, EMBEDDED, ProblemSpec

NO_FLOOR = 1e-9
"""Least share of an atom's weight where no floor is asked for: it keeps log-weights finite and never binds."""

UPDATE_SIZE = 1.5
"""|| Delta ||_F of each matrix of a true atom; the pre-trained matrices have singular values 0.5 (query), 1 (value)."""


DECOMPOSED_SIZE = 0.8
"""|| Delta_0 ||_F of a true atom of DoRA and DoRAN, beside pre-trained columns of norm 0.5 (query) and 1 (value)."""


POSITION = 1.5
"""|| u || of a density gate, whose Gamma is the identity."""


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

    model: RegressionModel | HierarchicalModel
    truth: MixingMeasure
    design: HeadedDesign
    values: np.ndarray
    space: ParameterSpace
    k_fit: int
    sigma: float


def build(problem: ProblemSpec, truth_seed: int | None = None) -> Setup:
    """The fixed, stated instance of a problem.

    For every head M_Q is half a random orthogonal matrix, M_V and M_K are random orthogonal, kappa ~ N(0, I/4), u has
    length 1.5, the embeddings U and R are random orthogonal; O_h is a random orthogonal matrix over sqrt(H), and I for
    one head. True atoms have c = 0 and random rank-r updates with || Delta ||_F = 1.5 (|| Delta_0 ||_F = 0.8 before
    normalisation; bounded activations: entries inside their range). All are functions of ``problem_seed`` alone.

    Args:
        problem: which.
        truth_seed: of another truth of the same size, which need not lie in Theta.

    Raises:
        InputError: if float64 is off, or the problem's own truth does not lie in Theta.
    """
    require_x64()
    rng = np.random.default_rng(problem.problem_seed)
    d = problem.dimension
    heads = [_head(problem, rng) for _ in range(problem.heads)]
    shared = problem.adapter in EMBEDDED
    if problem.heads == 1 and not shared:
        model = heads[0]
    else:
        outputs = np.stack([_orthogonal(rng, d) if problem.heads > 1 else np.eye(d) for _ in heads])
        model = hierarchical(heads, jnp.asarray(outputs / np.sqrt(problem.heads)), shared_atoms=shared)
    support = finite_support(problem.input_law, problem.support, d, problem.problem_seed)
    truth = drawn_truth(problem, model, problem.problem_seed + 1 if truth_seed is None else truth_seed)
    values = np.asarray(jax.vmap(model.predict, (None, 0))(truth, jnp.asarray(support)).T)
    space = ParameterSpace(problem.radius, max(problem.weight_floor, NO_FLOOR), problem.weight_cap)
    if truth_seed is None:
        check_inside(Chart(model, space, problem.k_true), truth)
    return Setup(model, truth, design_of(model, jnp.asarray(support)), values, space, problem.k_fit, problem.sigma)


def check_inside(chart: Chart, truth: MixingMeasure) -> None:
    """Raise InputError where the truth does not lie inside Theta."""
    least = float(at_once(lambda: jnp.min(chart.slacks(chart.coordinates(truth)))))
    if least <= 0.0:
        raise InputError(
            f"the truth does not lie inside the parameter space (slack {least:.2g}): enlarge radius or weight_cap, or "
            "choose another problem_seed"
        )


def _orthogonal(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def _head(problem: ProblemSpec, rng: np.random.Generator) -> RegressionModel:
    d = problem.dimension
    pretrained = Projections(jnp.asarray(0.5 * _orthogonal(rng, d)), jnp.asarray(_orthogonal(rng, d)))
    gate, frozen = _gate(problem, rng), frozen_pretrained(pretrained, int(problem.anchored))
    return RegressionModel(gate, LinearExpert(), _adapter(problem, rng), pretrained, frozen)


def _gate(problem: ProblemSpec, rng: np.random.Generator) -> AbstractGate:
    if problem.gate == "attention":
        return AttentionGate(jnp.asarray(_orthogonal(rng, problem.dimension)))
    drawn = rng.standard_normal(problem.dimension)
    if problem.gate == "density":
        return DensityGate(jnp.asarray(POSITION * drawn / np.linalg.norm(drawn)), jnp.eye(problem.dimension))
    return GaussianGate(jnp.asarray(0.5 * drawn))


def _adapter(problem: ProblemSpec, rng: np.random.Generator) -> AbstractAdapter:
    rank, activation = problem.rank, problem.activation
    if problem.adapter in EMBEDDED:
        inner = RepLora(rank, activation) if problem.adapter == "hora" else Lora(rank, activation)
        left, right = (jnp.asarray(_orthogonal(rng, problem.dimension)) for _ in range(2))
        return Embedded(inner, left, right)
    return {
        "lora": lambda: Lora(rank),
        "replora": lambda: RepLora(rank, activation),
        "dora": lambda: dora(rank, problem.magnitudes, problem.tau),
        "doran": lambda: doran(rank, activation, problem.magnitudes, problem.tau),
        "dial": lambda: Dial(rank, problem.eta),
    }[problem.adapter]()


def drawn_truth(problem: ProblemSpec, model: RegressionModel | HierarchicalModel, seed: int) -> MixingMeasure:
    """A truth of the problem's size for a model: a function of the seed alone."""
    return at_once(lambda: _drawn(problem, model, seed))


def _drawn(problem: ProblemSpec, model: RegressionModel | HierarchicalModel, seed: int) -> MixingMeasure:
    keys = jax.random.split(jax.random.key(seed), problem.k_true)
    size = DECOMPOSED_SIZE if problem.adapter in DECOMPOSED else UPDATE_SIZE

    def draw(key: jax.Array) -> Any:
        if isinstance(model, HierarchicalModel):
            return model.draw(key, size)[0]
        return model.adapter.draw(key, model.pretrained, size)

    atoms, common = jax.vmap(draw)(keys), model.draw(keys[0], size)[1]
    if problem.activation == "identity":
        atoms = _normalised(atoms, size)
    weights = jnp.zeros(problem.k_true, jnp.float64)
    if isinstance(model, HierarchicalModel) and not model.shared_atoms:
        atoms = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), atoms)
        weights = jnp.zeros((model.count, problem.k_true), jnp.float64)
    return MixingMeasure(weights, atoms, common)


def _normalised(atoms: Any, size: float) -> Any:
    """Rank one: || B || = || A || = sqrt(size), so that || B A ||_F = size; higher ranks: of that order."""
    if isinstance(atoms, DecomposedAtom):
        return atoms._replace(low_rank=_normalised(atoms.low_rank, size))
    return jax.tree.map(
        lambda factors: factors * jnp.sqrt(size) / jnp.linalg.norm(factors, axis=(-2, -1), keepdims=True), atoms
    )
