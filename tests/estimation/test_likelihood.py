"""The likelihood in statistical units: against SciPy, against automatic differentiation, and its digits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from moe_theory.estimation.likelihood import Points, gradient, objective, phi_of_log, second_order
from moe_theory.models.density import GaussianGated
from tests.models.mixtures import MODELS, random_measure, slow_log_density

pytestmark = pytest.mark.usefixtures("quick")

K = 3


def made(name, celled, seed=0):
    """A model, its rows, and points with counts, some of them zero."""
    model, rng = MODELS[name], np.random.default_rng(seed)
    measure = random_measure(model, K, rng)
    x, y = rng.normal(size=(30, model.dimension)), rng.normal(size=(30, model.outputs))
    counts = rng.poisson(4.0, size=30).astype(float)
    counts[:3] = 0.0
    base = np.full(30, np.log(0.2 * counts.sum()) if celled else -np.inf)
    mass = counts.sum() if isinstance(model, GaussianGated) and not celled else 0.0
    return model, measure, Points(*map(jnp.asarray, (x, y, counts, base, mass)))


@pytest.mark.parametrize("celled", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_objective_equals_scipy(name, celled):
    model, measure, points = made(name, celled)
    log_density = slow_log_density(model, measure, np.asarray(points.x), np.asarray(points.y))
    counts = np.asarray(points.weight)
    if celled:
        expected = np.exp(log_density + np.asarray(points.log_base))
        drawn = counts > 0
        terms = expected - counts
        terms[drawn] -= counts[drawn] * np.log(expected[drawn] / counts[drawn])
        value = terms.sum()
    else:
        value = -counts @ log_density + float(points.mass) * (np.exp(logsumexp(measure.log_weights)) - 1.0)
    assert float(objective(model, model.rows(measure), points)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("celled", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_exact(name, celled):
    model, measure, points = made(name, celled)
    rows, turn = model.rows(measure), np.random.default_rng(1).normal(size=(K * model.row_size, K * model.row_size))
    slope, hessian, found, only, squared = derivatives(model, rows, points, jnp.asarray(turn))
    np.testing.assert_allclose(found.reshape(-1), slope, atol=1e-11 * np.max(np.abs(slope)))
    np.testing.assert_allclose(only, found, atol=1e-11 * np.max(np.abs(slope)))
    expected = turn.T @ np.asarray(hessian) @ turn
    np.testing.assert_allclose(squared, expected, atol=1e-12 * np.max(np.abs(expected)))


def with_outside(seed=0):
    """A line of cells that hold the middle of a mixture of three, and draws outside of it."""
    model, rng = GaussianGated(1), np.random.default_rng(seed)
    measure = random_measure(model, K, rng)
    x, y = (axis.reshape(-1, 1) for axis in np.meshgrid(np.arange(-2.0, 2.1, 0.4), np.arange(-2.0, 2.1, 0.4)))
    n, volume = 4000.0, 0.16
    density = np.exp(slow_log_density(model, measure, x, y))
    outside = float(rng.poisson(n * (1.0 - volume * density.sum())))
    counts = rng.poisson(n * volume * density).astype(float)
    base = np.full(len(x), np.log((counts.sum() + outside) * volume))
    beyond = np.array([outside, counts.sum() + outside])
    return model, measure, Points(*map(jnp.asarray, (x, y, counts, base, 0.0, beyond)))


def test_draws_outside_all_cells_are_one_more_cell():
    """F against a slow version, and its derivatives against automatic differentiation."""
    model, measure, points = with_outside()
    assert points.outside is not None
    cells = np.exp(slow_log_density(model, measure, np.asarray(points.x), np.asarray(points.y)))
    expected = cells * np.exp(np.asarray(points.log_base))
    total = np.exp(np.asarray(measure.log_weights)).sum()
    expected = np.append(expected, float(points.size) * total - expected.sum())
    counts = np.append(np.asarray(points.weight), float(points.outside[0]))
    assert expected[-1] > 100.0
    drawn = np.where(counts > 0, counts, 1.0)
    value = np.sum(expected - counts - np.where(counts > 0, counts * np.log(expected / drawn), 0.0))
    rows = model.rows(measure)
    assert float(objective(model, rows, points)) == pytest.approx(value, rel=1e-11)
    turn = np.random.default_rng(1).normal(size=(K * model.row_size, K * model.row_size))
    slope, hessian, found, only, squared = derivatives(model, rows, points, jnp.asarray(turn))
    np.testing.assert_allclose(found.reshape(-1), slope, atol=1e-10 * np.max(np.abs(slope)))
    np.testing.assert_allclose(only, found, atol=1e-11 * np.max(np.abs(slope)))
    squared_slow = turn.T @ np.asarray(hessian) @ turn
    np.testing.assert_allclose(squared, squared_slow, atol=1e-10 * np.max(np.abs(squared_slow)))


def test_an_atom_outside_all_cells_costs_what_it_takes_away():
    """A share a of the weight moved out of sight: n a draws are expected outside, where hardly any are."""
    model, measure, points = with_outside()
    unseen = points._replace(outside=None)
    rows = model.rows(measure)
    far = rows.at[0, 1].add(100.0)
    seen_cost = float(objective(model, far, points) - objective(model, rows, points))
    assert seen_cost > 0.1 * float(points.size * rows[0, 0])
    grown = far.at[:, 0].multiply(1e-9).at[1:, 0].set(rows[1:, 0])
    assert float(objective(model, far, unseen)) == pytest.approx(float(objective(model, grown, unseen)), rel=1e-6)


@partial(jax.jit, static_argnums=0)
def derivatives(model, rows, points, turn):
    """By automatic differentiation, then as the module has them."""

    def value(flat):
        return objective(model, flat.reshape(rows.shape), points)

    flat, at = rows.reshape(-1), second_order(model, rows, points)
    slope, hessian = jax.grad(value)(flat), jax.hessian(value)(flat)
    return slope, hessian, at.gradient, gradient(model, rows, points)[1], at.hessian(turn)


def test_raw_points_and_their_weighted_summary_have_the_same_likelihood():
    model, measure, points = made("gaussian", celled=False)
    times = np.asarray(points.weight).astype(int)
    one = Points(
        jnp.repeat(points.x, times, axis=0), jnp.repeat(points.y, times, axis=0), jnp.ones(times.sum()),
        jnp.full(times.sum(), -jnp.inf), points.mass,
    )  # fmt: skip
    rows = model.rows(measure)
    assert float(objective(model, rows, one)) == pytest.approx(float(objective(model, rows, points)), rel=1e-13)


def test_phi_keeps_its_digits_where_counts_are_10_to_the_12():
    z = np.array([1e-9, -1e-6, 1e-3, 0.0299, -0.031, 0.5, -3.0])
    exact = [2.0 * np.sinh(v / 2) ** 2 + (np.sinh(v) - v) for v in z]
    small = np.abs(z) < 1e-2
    series = z**2 / 2 + z**3 / 6 + z**4 / 24 + z**5 / 120
    expected = np.where(small, series, exact)
    np.testing.assert_allclose(phi_of_log(jnp.asarray(z)), expected, rtol=1e-13)
