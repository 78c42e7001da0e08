"""Exact sampling on a grid: its error bound, its moments, and the same law as raw draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, ks_2samp

from moe_theory.errors import InputError
from moe_theory.sampling import grid as grids
from moe_theory.sampling.grid import (
    DROPPED,
    conditional_grid,
    draw_conditional,
    draw_counts,
    draw_joint,
    joint_grid,
    log_densities_by_input,
)
from moe_theory.study.density_problem import published_gaussian, published_softmax

pytestmark = pytest.mark.usefixtures("quick")

FLOOR = np.array([0.065, 0.061])


@pytest.fixture(scope="module")
def joint():
    model, truth = published_gaussian("type-1")
    return model, truth, joint_grid(model, truth, FLOOR)


def test_grid_sums_equal_integrals(joint):
    """Total mass, and mean and covariance of (x, y), to rounding; the stated bound holds."""
    model, truth, grid = joint
    mass = np.exp(
        np.asarray(model.log_densities(model.rows(truth), jnp.asarray(grid.x), jnp.asarray(grid.y))) + grid.log_volume
    )
    assert abs(mass.sum() - 1.0) < 1e-14
    assert grid.error < 2 * DROPPED
    z = np.concatenate([grid.x, grid.y], axis=1)
    weights = np.exp(np.asarray(truth.log_weights))
    means = np.asarray(jax.vmap(model.mean)(model.rows(truth)))
    matrices = np.asarray(jax.vmap(model.matrix)(model.rows(truth)))
    mean = weights @ means
    second = np.einsum("i,ijk->jk", weights, matrices + means[:, :, None] * means[:, None])
    np.testing.assert_allclose(grid.probability @ z, mean, atol=1e-14)
    np.testing.assert_allclose((grid.probability[:, None] * z).T @ z, second, atol=1e-14)


def test_narrow_models_of_theta_are_summed_to_rounding_too(joint):
    """The narrowest Gaussian that the floors allow, anywhere between the grid's points."""
    _, _, grid = joint
    for shift in np.linspace(0.0, 1.0, 5):
        center = np.array([0.1, 0.05]) + shift * grid.spacing
        apart = (np.concatenate([grid.x, grid.y], axis=1) - center) / FLOOR
        mass = np.prod(grid.spacing) * np.exp(-0.5 * np.sum(apart**2, axis=1)) / (2 * np.pi * np.prod(FLOOR))
        assert abs(mass.sum() - 1.0) < 1e-14


def test_counts_are_exact_at_10_to_the_15_and_depend_on_their_key_alone(joint):
    grid = joint[2]
    counts = draw_counts(grid, 10**15, 0, 3)
    assert counts.sum() == 10**15
    np.testing.assert_array_equal(counts, draw_counts(grid, 10**15, 0, 3))
    assert np.any(counts != draw_counts(grid, 10**15, 0, 4))
    large = grid.probability > 1e-6
    deviation = (counts - 1e15 * grid.probability)[large] / np.sqrt(1e15 * grid.probability[large])
    assert abs(deviation.std() - 1.0) < 4.0 / np.sqrt(2.0 * large.sum())


def test_raw_draws_have_the_law_of_the_grid(joint):
    """Mean and covariance of raw draws against the grid's, by a chi-square test on their standard errors."""
    model, truth, grid = joint
    n = 40_000
    x, y = draw_joint(model, truth, n, 0, 0)
    z = np.concatenate([grid.x, grid.y], axis=1)
    features = lambda points: np.column_stack([points, points**2, points[:, :1] * points[:, 1:]])  # noqa: E731
    expected = grid.probability @ features(z)
    spread = (grid.probability[:, None] * (features(z) - expected)).T @ (features(z) - expected)
    gap = features(np.concatenate([x, y], axis=1)).mean(axis=0) - expected
    statistic = n * gap @ np.linalg.solve(spread, gap)
    assert chi2.sf(statistic, 5) > 1e-4


def test_conditional_draws_have_the_law_of_the_grid():
    model, truth = published_softmax()
    support = (np.arange(8)[:, None] + 0.5) / 8
    grid = conditional_grid(model, truth, support, np.array([0.2]))
    assert grid.error < 2 * DROPPED
    np.testing.assert_allclose(np.bincount(grid.input, weights=grid.probability), 1 / 8, atol=1e-14)
    rng = np.random.default_rng(0)
    raw = draw_conditional(model, truth, np.repeat(support[2:3], 3000, axis=0), 0, 0)[:, 0]
    own = grid.input == 2
    cells = rng.choice(grid.y[own, 0], size=3000, p=grid.probability[own] / grid.probability[own].sum())
    cells = cells + grid.spacing[0] * rng.uniform(-0.5, 0.5, size=3000)
    _, p = ks_2samp(raw, cells)
    assert float(p) > 1e-4  # pyright: ignore[reportArgumentType]


def test_impossible_requests_are_refused(joint):
    model, truth, grid = joint
    with pytest.raises(InputError, match="between 1 and 1e"):
        draw_counts(grid, 10**16, 0, 0)
    with pytest.raises(InputError, match="raise the variance floors"):
        joint_grid(model, truth, np.array([1e-4, 1e-4]))
    with pytest.raises(InputError, match="at least 1"):
        draw_joint(model, truth, 0, 0, 0)
    assert bool(jnp.all(jnp.asarray(grid.probability) > 0))


def test_a_grid_of_two_inputs_sums_to_the_integrals_and_keeps_few_of_its_cells():
    """d = 2, the published values on each axis: mean and covariance of (x, y) to rounding, within the stated bound."""
    model, truth = published_gaussian("type-1", 2)
    deviation = 0.95 * np.sqrt(np.array([0.01, 0.01, 0.00887672]))
    grid = joint_grid(model, truth, deviation)
    assert grid.error < 2 * DROPPED
    z = np.concatenate([grid.x, grid.y], axis=1)
    weights = np.exp(np.asarray(truth.log_weights))
    means = np.asarray(jax.vmap(model.mean)(model.rows(truth)))
    matrices = np.asarray(jax.vmap(model.matrix)(model.rows(truth)))
    second = np.einsum("i,ijk->jk", weights, matrices + means[:, :, None] * means[:, None])
    np.testing.assert_allclose(grid.probability @ z, weights @ means, atol=1e-14)
    np.testing.assert_allclose((grid.probability[:, None] * z).T @ z, second, atol=1e-14)
    assert draw_counts(grid, 10**15, 0, 0).sum() == 10**15
    spans = np.ptp(z, axis=0) / grid.spacing + 1
    assert len(z) < 0.5 * np.prod(spans)


def test_a_grid_that_is_too_large_says_what_to_do(monkeypatch):
    model, truth = published_gaussian("type-1", 2)
    with pytest.raises(InputError, match="raise the variance floors, use fewer dimensions, or fit raw draws"):
        joint_grid(model, truth, np.full(3, 1e-3))
    monkeypatch.setattr(grids, "MOST_KEPT", 1000)
    with pytest.raises(InputError, match="more than 1,000 are worth keeping"):
        joint_grid(*published_gaussian("type-1"), FLOOR)


def test_densities_do_not_depend_on_what_fills_their_shape_up():
    """To the last bit: stored replications were drawn from cells looked at one input at a time."""
    model, truth = published_softmax()
    rows, support = model.rows(truth), np.array([[0.1], [0.4], [0.9]])
    cells = [np.linspace(-20.0, 20.0, count)[:, None] for count in (201, 57, 130)]
    found = list(log_densities_by_input(model, rows, support, cells))
    for point, y, filled in zip(support, cells, found, strict=True):
        x = np.broadcast_to(point, (len(y), 1))
        np.testing.assert_array_equal(filled, model.log_densities(rows, jnp.asarray(x), jnp.asarray(y)))


def test_cells_that_fill_a_grid_up_have_no_probability(joint):
    grid = joint[2]
    filled = grid.filled(len(grid.x) + 7)
    assert len(filled.x) == len(filled.y) == len(filled.log_volume) == len(filled.input) == len(grid.x) + 7
    np.testing.assert_array_equal(filled.probability[: len(grid.x)], grid.probability)
    assert not filled.probability[len(grid.x) :].any()
    np.testing.assert_array_equal(filled.x[len(grid.x) :], np.repeat(grid.x[-1:], 7, axis=0))
