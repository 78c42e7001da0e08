"""Densities of Gaussian mixtures of experts against SciPy, and what their rows mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from moe_theory.errors import InputError
from moe_theory.models.density import GaussianGated, SoftmaxGated
from moe_theory.models.measure import MixingMeasure
from tests.models.mixtures import MODELS, random_measure, slow_log_density

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("name", MODELS)
def test_log_density_equals_scipy(name):
    model, rng = MODELS[name], np.random.default_rng(1)
    measure = random_measure(model, 3, rng)
    x, y = rng.normal(size=(20, model.dimension)), rng.normal(size=(20, model.outputs))
    found = jax.vmap(model.log_density, (None, 0, 0))(measure, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, slow_log_density(model, measure, x, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_log_density_is_finite_where_the_density_underflows(name):
    model, rng = MODELS[name], np.random.default_rng(2)
    measure = random_measure(model, 2, rng)
    x, y = np.full((1, model.dimension), 60.0), np.full((1, model.outputs), -90.0)
    found = float(model.log_density(measure, jnp.asarray(x[0]), jnp.asarray(y[0])))
    assert found < -800.0
    assert found == pytest.approx(float(slow_log_density(model, measure, x, y)[0]), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_rows_and_measures_are_the_same_thing(name):
    model = MODELS[name]
    measure = random_measure(model, 4, np.random.default_rng(3))
    again = model.measure(model.rows(measure))
    for one, other in zip(jax.tree.leaves(measure), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_a_gaussian_gated_model_is_a_joint_gaussian_mixture():
    model, rng = MODELS["gaussian-3-2"], np.random.default_rng(4)
    measure = random_measure(model, 3, rng)
    rows, z = model.rows(measure), rng.normal(size=5)
    expected = 0.0
    for row in rows:
        covariance: Any = np.asarray(model.matrix(row))
        expected += float(row[0]) * float(multivariate_normal.pdf(z, np.asarray(model.mean(row)), covariance))
    assert float(jnp.exp(model.log_density(measure, jnp.asarray(z[:3]), jnp.asarray(z[3:])))) == pytest.approx(
        expected, rel=1e-12
    )


def test_a_conditional_density_integrates_to_one_and_is_blind_to_the_common_shift():
    model = SoftmaxGated(1)
    measure = random_measure(model, 3, np.random.default_rng(5))

    def density(y: float) -> float:
        return float(jnp.exp(model.log_density(measure, jnp.asarray([0.7]), jnp.asarray([y]))))

    assert quad(density, -15.0, 15.0)[0] == pytest.approx(1.0, abs=1e-9)
    atoms = measure.atoms._replace(gate=measure.atoms.gate + 2.5)
    shifted = type(measure)(measure.log_weights - 4.0, atoms)
    one, other = (float(model.log_density(each, jnp.asarray([0.7]), jnp.asarray([0.2]))) for each in (measure, shifted))
    assert one == pytest.approx(other, rel=1e-13)


def test_impossible_models_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        GaussianGated(0)
    with pytest.raises(InputError, match="'full' or 'diagonal'"):
        GaussianGated(1, 1, "round")


def test_a_factor_common_to_all_gates_is_invisible_where_every_atom_is_fitted_twice():
    """sum_i exp(beta0_i + beta1_i x) grows by cosh(delta x) in numerator and denominator: the density is the same."""
    model, rng = MODELS["softmax"], np.random.default_rng(6)
    truth = random_measure(model, 2, rng)
    apart = (3.0, -3.0)
    gates = jnp.concatenate([truth.atoms.gate + shift for shift in apart])
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), truth)
    atoms = twice.atoms._replace(gate=gates)
    doubled = MixingMeasure(twice.log_weights, atoms)
    x, y = jnp.asarray(rng.normal(size=(40, 1))), jnp.asarray(rng.normal(size=(40, 1)))
    density = jax.vmap(model.log_density, (None, 0, 0))
    np.testing.assert_allclose(density(doubled, x, y), density(truth, x, y), rtol=1e-12, atol=1e-13)
    once = MixingMeasure(twice.log_weights[:3], jax.tree.map(lambda leaf: leaf[:3], atoms))
    assert float(jnp.max(jnp.abs(density(once, x, y) - density(truth, x, y)))) > 0.01
