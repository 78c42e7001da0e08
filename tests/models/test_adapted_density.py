"""Low-rank densities against NumPy and SciPy, their gauge, their groups, and what a split moves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from moe_theory.errors import InputError
from moe_theory.models.adapted_density import AdaptedDensity
from moe_theory.models.adapters import Lora, Projections, RepLora
from moe_theory.models.embedded import Embedded
from moe_theory.models.experts import LinearExpert
from moe_theory.models.free_moments import FreeNoise, FreeSpread, SpreadAtom
from moe_theory.models.gates import AttentionGate, DensityGate
from moe_theory.models.hierarchy import hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel, frozen_pretrained

D, K, NOISE = 2, 3, 0.7
RNG = np.random.default_rng(5)
GATE = DensityGate(jnp.asarray(RNG.standard_normal(D)), jnp.asarray(np.eye(D) + 0.2 * RNG.standard_normal((D, D))))
X, Y = RNG.standard_normal((6, D)), RNG.standard_normal((6, D))


def head(adapter: Any, frozen: int = 0, seed: int = 1) -> RegressionModel:
    rng = np.random.default_rng(seed)
    pretrained = Projections(*(jnp.asarray(rng.standard_normal((D, D))) for _ in range(2)))
    return RegressionModel(GATE, LinearExpert(), adapter, pretrained, frozen_pretrained(pretrained, frozen))


def drawn(model: Any, k: int = K, seed: int = 0) -> MixingMeasure:
    """k random atoms; Gamma moved too where it is free."""
    keys = jax.random.split(jax.random.key(seed), k)
    atoms, common = jax.vmap(lambda key: model.draw(key)[0])(keys), model.draw(keys[0])[1]
    if isinstance(atoms, SpreadAtom):
        atoms = atoms._replace(spread=0.2 * jnp.asarray(np.random.default_rng(seed).standard_normal((k, 3))))
    return MixingMeasure(0.3 * jnp.arange(k, dtype=jnp.float64), atoms, common)


def normal_logpdf(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """scipy's; its stubs know no matrix of covariances."""
    return float(multivariate_normal(mean, covariance).logpdf(x))  # pyright: ignore[reportArgumentType]


def log_density(density: AdaptedDensity, measure: MixingMeasure) -> np.ndarray:
    return np.asarray(density.base.log_densities(density.rows(measure), jnp.asarray(X), jnp.asarray(Y)))


def slow_terms(model: RegressionModel, measure: MixingMeasure, nu: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log w, log N(x; c, Gamma), log N(y; A x, nu) of every atom, by SciPy."""
    found = []
    for i in range(measure.k):
        atom = jax.tree.map(lambda leaf, i=i: leaf[i], measure.atoms)
        query, value = (np.asarray(part) for part in model.adapted(atom, measure.common))
        center = query @ np.asarray(GATE.position)
        own = GAMMA
        if isinstance(atom, SpreadAtom):
            a, b, c = np.asarray(atom.spread)
            own = GAMMA + np.array([[a, b], [b, c]])
        found.append((float(measure.log_weights[i]), normal_logpdf(x, center, own),
                      normal_logpdf(y, value @ x, nu * np.eye(D))))  # fmt: skip
    return np.array(found)


GAMMA = np.linalg.inv(np.asarray(GATE.root).T @ np.asarray(GATE.root))


@pytest.mark.parametrize("adapter", [Lora(1), RepLora(1), FreeSpread(Lora(1)), FreeNoise(FreeSpread(RepLora(1)), 0.4)])
def test_the_joint_density_is_that_of_scipy(adapter):
    model = head(adapter)
    measure = drawn(model)
    density = AdaptedDensity(model, jnp.asarray(NOISE), joint=True)
    nu = 0.4 if isinstance(adapter, FreeNoise) else NOISE
    slow = [logsumexp(np.sum(slow_terms(model, measure, nu, x, y), axis=1)) for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(log_density(density, measure), slow, rtol=1e-12)


def test_the_conditional_density_is_that_of_scipy_with_its_frozen_atom():
    model = head(Lora(1), frozen=1)
    measure = drawn(model)
    density = AdaptedDensity(model, jnp.asarray(NOISE), joint=False)
    slow = []
    for x, y in zip(X, Y, strict=True):
        terms = slow_terms(model, measure, NOISE, x, y)
        query, value = (np.asarray(part) for part in model.pretrained)
        gate = normal_logpdf(x, query @ np.asarray(GATE.position), GAMMA)
        terms = np.vstack([terms, [0.0, gate, normal_logpdf(y, value @ x, NOISE * np.eye(D))]])
        slow.append(logsumexp(terms.sum(axis=1)) - logsumexp(terms[:, :2].sum(axis=1)))
    np.testing.assert_allclose(log_density(density, measure), slow, rtol=1e-12)


def test_the_regression_function_is_the_mean_of_the_conditional_density():
    model = head(RepLora(1), frozen=1)
    measure = drawn(model)
    density = AdaptedDensity(model, jnp.asarray(NOISE), joint=False)
    axis = np.linspace(-14.0, 14.0, 121)
    y = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, D)
    for x in X[:3]:
        p = np.exp(
            density.base.log_densities(density.rows(measure), jnp.tile(jnp.asarray(x), (len(y), 1)), jnp.asarray(y))
        )
        assert np.sum(p) * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(p @ y / p.sum(), model.predict(measure, jnp.asarray(x)), atol=1e-11)


def test_one_group_without_embedding_is_the_flat_model():
    unit = jnp.eye(D)
    flat, one = head(RepLora(1, "tanh")), head(Embedded(RepLora(1, "tanh"), unit, unit))
    grouped = hierarchical([one], unit[None], shared_atoms=True)
    measure = drawn(flat)
    np.testing.assert_allclose(
        log_density(AdaptedDensity(grouped, jnp.asarray(NOISE), True), measure),
        log_density(AdaptedDensity(flat, jnp.asarray(NOISE), True), measure),
        rtol=1e-13,
    )


def test_groups_have_equal_weights_and_matrices_of_their_own():
    unit = jnp.eye(D)
    heads = [head(Embedded(RepLora(1), unit, unit), seed=seed) for seed in (1, 2)]
    measure = drawn(heads[0])
    grouped = AdaptedDensity(hierarchical(heads, jnp.stack([unit, unit]), shared_atoms=True), jnp.asarray(NOISE), True)
    each = [log_density(AdaptedDensity(own, jnp.asarray(NOISE), True), measure) for own in heads]
    np.testing.assert_allclose(log_density(grouped, measure), logsumexp(each, axis=0) - np.log(2.0), rtol=1e-12)


def test_factors_of_one_product_a_query_across_u_and_the_order_of_atoms_change_nothing():
    model = head(Lora(1))
    density, measure = AdaptedDensity(model, jnp.asarray(NOISE), True), drawn(model)
    across = jnp.asarray([-GATE.position[1], GATE.position[0]])
    atoms = measure.atoms._replace(
        query_left=2.0 * measure.atoms.query_left,
        query_right=0.5 * measure.atoms.query_right + 0.3 * across[None, None],
        value_left=-3.0 * measure.atoms.value_left,
        value_right=measure.atoms.value_right / -3.0,
    )
    moved = MixingMeasure(measure.log_weights[::-1], jax.tree.map(lambda leaf: leaf[::-1], atoms))
    np.testing.assert_allclose(log_density(density, moved), log_density(density, measure), rtol=1e-12)


def test_tangents_of_the_density_gate_are_all_that_it_does_not_see_of_a_product_of_rank_one():
    rng = np.random.default_rng(3)
    left, right = jnp.asarray(rng.standard_normal((D, 1))), jnp.asarray(rng.standard_normal((1, D)))
    tangents = GATE.product_symmetries(left, right)

    def seen(b: jax.Array, a: jax.Array) -> jax.Array:
        return GATE.coefficients(b @ a)

    moved = jax.vmap(lambda b, a: jax.jvp(seen, (left, right), (b, a))[1])(*tangents)
    np.testing.assert_allclose(moved, 0.0, atol=1e-12)
    flat = np.concatenate([np.asarray(part).reshape(len(part), -1) for part in tangents], axis=1)
    by_left, by_right = jax.jacfwd(seen, (0, 1))(left, right)
    jacobian = np.concatenate([by_left.reshape(-1, D), by_right.reshape(-1, D)], axis=1)
    assert np.linalg.matrix_rank(flat) == len(flat) == 2 * D - np.linalg.matrix_rank(jacobian)


def test_scores_are_log_densities_up_to_what_all_atoms_share():
    queries = [jnp.asarray(np.random.default_rng(seed).standard_normal((D, D))) for seed in range(3)]
    for x in X:
        scores = [float(GATE.score(query, jnp.asarray(x))) for query in queries]
        linear = [float(GATE.coefficients(query) @ GATE.features(jnp.asarray(x))) for query in queries]
        slow = [normal_logpdf(x, np.asarray(GATE.center(query)), GAMMA) for query in queries]
        np.testing.assert_allclose(np.diff(scores), np.diff(slow), rtol=1e-10)
        np.testing.assert_allclose(linear, scores, rtol=1e-12)


def split(measure: MixingMeasure, move: Any) -> MixingMeasure:
    """Every atom in two equal halves, moved by +move and -move."""
    halves = [jax.tree.map(lambda leaf, m, s=s: leaf + s * m, measure.atoms, move) for s in (1.0, -1.0)]
    atoms = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *halves)
    return MixingMeasure(jnp.tile(measure.log_weights - np.log(2.0), 2), atoms, measure.common)


@pytest.mark.parametrize("joint", [True, False])
def test_a_split_of_the_value_is_hidden_from_the_mean_and_seen_by_the_density_at_second_order(joint):
    model = head(Lora(1), frozen=0 if joint else 1)
    density, measure = AdaptedDensity(model, jnp.asarray(NOISE), joint), drawn(model, 1)
    still = jax.tree.map(jnp.zeros_like, measure.atoms)
    changes = []
    for size in (0.02, 0.01):
        moved = split(measure, still._replace(value_left=jnp.full_like(measure.atoms.value_left, size)))
        changes.append(np.max(np.abs(log_density(density, moved) - log_density(density, measure))))
        for x in X:
            means = [np.asarray(model.predict(each, jnp.asarray(x))) for each in (moved, measure)]
            np.testing.assert_allclose(*means, rtol=1e-12)
    assert changes[0] / changes[1] == pytest.approx(4.0, rel=0.02)
    assert changes[1] > 1e-6


def test_a_density_refuses_what_it_cannot_be():
    other = RegressionModel(
        AttentionGate(jnp.eye(D)), LinearExpert(), Lora(1), head(Lora(1)).pretrained, head(Lora(1)).frozen
    )
    with pytest.raises(InputError, match="DensityGate"):
        AdaptedDensity(other, jnp.asarray(NOISE), False)
    with pytest.raises(InputError, match="frozen"):
        AdaptedDensity(head(Lora(1), frozen=1), jnp.asarray(NOISE), True)
    with pytest.raises(InputError, match="free spread"):
        AdaptedDensity(head(FreeSpread(Lora(1)), frozen=1), jnp.asarray(NOISE), False)
    with pytest.raises(InputError, match="gauge is known"):
        head(FreeSpread(Lora(2)))
    heads = [head(RepLora(1), seed=seed) for seed in (1, 2)]
    apart = hierarchical(heads, jnp.stack([jnp.eye(D)] * 2), shared_atoms=False)
    with pytest.raises(InputError, match="share"):
        AdaptedDensity(apart, jnp.asarray(NOISE), True)
