"""Lattices: what they hold, what they leave out, and that the likelihood of their counts is the restricted model's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from moe_theory.errors import InputError
from moe_theory.estimation.adapted_likelihood import AdaptedProblem
from moe_theory.estimation.likelihood import objective
from moe_theory.estimation.space import Chart
from moe_theory.sampling.lattice import CONDITIONAL_TAIL, JOINT_SPACING, JOINT_TAIL, lattice
from moe_theory.study.adapted_problem import AdaptedSetup, build_adapted
from moe_theory.study.adapted_spec import AdaptedProblemSpec

pytestmark = pytest.mark.usefixtures("quick")

PROBLEMS: dict[str, dict[str, Any]] = {
    "joint": {"adapter": "replora"},
    "conditional": {"adapter": "replora", "density": "conditional", "anchored": True},
}


@pytest.fixture(scope="module", params=PROBLEMS)
def setup(request) -> AdaptedSetup:
    return build_adapted(AdaptedProblemSpec(**PROBLEMS[request.param]))


def log_densities(setup: AdaptedSetup, rows: Any) -> np.ndarray:
    return np.asarray(jax.jit(setup.density.base.log_densities)(rows, setup.grid.x, setup.grid.y))


def other_rows(setup: AdaptedSetup) -> jax.Array:
    """Another measure: all expert matrices turned a little."""
    atoms = jax.tree.map(lambda leaf: 1.02 * leaf, setup.regression.truth.atoms)
    truth = setup.regression.truth
    return setup.density.rows(type(truth)(truth.log_weights, atoms, truth.common))


def test_cells_hold_the_truth_and_say_how_much_they_miss(setup):
    grid, density = setup.grid, setup.density
    assert grid.probability.sum() + grid.outside == pytest.approx(1.0, abs=1e-14)
    assert (grid.outside > 0.0) == density.joint
    rows = density.rows(setup.regression.truth)
    mass = np.exp(log_densities(setup, rows) + grid.log_volume)
    tail = JOINT_TAIL if density.joint else CONDITIONAL_TAIL
    if density.joint:
        total = np.atleast_1d(mass.sum() / np.exp(setup.regression.truth.log_weights).sum())
    else:
        total = np.bincount(grid.input, weights=mass)
    assert np.all(np.abs(total - 1.0) <= grid.error + tail)
    assert grid.error < 1e-4
    if density.joint:
        noise = np.sqrt(float(density.noise))
        np.testing.assert_allclose(grid.spacing, JOINT_SPACING * np.array([1.0, 1.0, noise, noise]), rtol=1e-12)


def test_draws_are_n_counts_that_the_truth_expects(setup):
    points = setup.points(10**12, 0, 3)
    assert float(points.size) == 10**12
    rows = setup.density.rows(setup.regression.truth)
    expected, counts = np.exp(log_densities(setup, rows) + points.log_base), points.weight
    if setup.density.joint:
        assert points.outside is not None
        expected = np.append(expected, 10**12 - expected.sum())
        counts = np.append(counts, points.outside[0])
        assert expected[-1] == pytest.approx(10**12 * setup.grid.outside, rel=1e-9)
    assert expected.sum() == pytest.approx(10**12, rel=1e-12 if setup.density.joint else 1e-5)
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_square - len(expected)) < 6.0 * np.sqrt(2.0 * len(expected))


def test_with_a_free_mass_the_objective_is_the_likelihood_of_cells_and_outside():
    """min over the weights' scale of F = - multinomial log-likelihood, up to a constant."""
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["joint"]))
    points = setup.points(10**5, 0, 0)
    assert points.outside is not None
    assert float(points.outside[0]) > 0
    gaps = []
    for rows in (setup.density.rows(setup.regression.truth), other_rows(setup)):
        share = np.exp(log_densities(setup, rows) + setup.grid.log_volume) / float(np.sum(rows[:, 0]))
        share = share / (1.0 + setup.grid.excess)
        multinomial = float(points.weight @ np.log(share) + points.outside[0] * np.log1p(-share.sum()))
        value = jax.jit(lambda s, data, rows=rows: objective(setup.density.base, rows.at[:, 0].multiply(s), data))
        least: Any = minimize_scalar(
            lambda s, value=value: float(value(s, points)), bounds=(0.8, 1.2), options={"xatol": 1e-9}
        )
        gaps.append(float(least.fun) + multinomial)
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-5)


@pytest.mark.parametrize("freed", [{}, {"noise": "free", "spread": "free"}], ids=["known", "free"])
def test_no_atom_of_theta_fills_the_cells_beyond_their_excess(freed):
    """Narrow atoms in the middle of the lattice, between its points and on them."""
    setup = build_adapted(AdaptedProblemSpec(adapter="replora", **freed))
    density, grid = setup.density, setup.grid
    least = density.least_shares
    assert np.all(least == (0.25 if freed else 1.0))
    base, q = density.base, density.base.row_size
    cell = int(np.argmax(grid.probability))
    point = np.append(grid.x[cell], grid.y[cell])
    matrix = np.diag(least * np.append(np.ones(2), np.full(2, float(density.noise))))
    sums = []
    for shift in (0.0, 0.5, 0.25):
        row = np.concatenate([[1.0], point + shift * grid.spacing, matrix[base.places()]])
        sums.append(np.exp(log_densities(setup, jnp.asarray(row).reshape(1, q)) + grid.log_volume).sum())
    assert max(sums) <= 1.0 + grid.excess
    if freed:
        assert max(sums) > 1.0 + 0.5 * grid.excess


def test_an_atom_that_no_cell_sees_is_refused():
    """A twentieth of the weight put far away costs about n / 20 log(1 / outside), however large the weights are."""
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["joint"]))
    rows = setup.density.rows(setup.regression.truth)
    n = 10**6
    points = setup.points(n, 0, 0)
    away = jnp.concatenate([rows, rows[:1].at[0, 0].multiply(0.05).at[0, 1].add(60.0)])
    value = jax.jit(lambda rows, points: objective(setup.density.base, rows, points))
    gain = float(value(away, points) - value(rows, points))
    assert gain > 100.0
    assert gain > 0.5 * float(points.size) * 0.05 * float(rows[0, 0] / rows[:, 0].sum())
    blind = points._replace(outside=None)
    assert float(value(away, blind)) == pytest.approx(float(value(rows, blind)), abs=1e-6)


def test_what_a_conditional_lattice_misses_moves_no_fit():
    """Without noise the truth is short of the minimum by 1/2 g' H^-1 g; a shift of 10^-3 deviations costs 5 10^-7."""
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["conditional"]))
    own = setup.regression
    points = jax.tree.map(jnp.asarray, setup.points_of(1e15, 1e15 * setup.grid.probability))
    chart = Chart(own.model, own.space, own.truth.k)
    problem = AdaptedProblem(chart, setup.density, points)
    z = jnp.asarray(chart.coordinates(own.truth))

    @jax.jit
    def decrement(z: jax.Array) -> jax.Array:
        nothing = jnp.zeros_like(problem.slacks(z))
        seen, held, view = problem.sight(z, nothing)
        at = view.derivatives(view.enter(seen), held)
        basis = view.across(view.enter(seen)).basis
        slope = basis.T @ at.slope
        return 0.5 * slope @ jnp.linalg.solve(basis.T @ at.hessian @ basis, slope)

    assert 0.0 <= float(decrement(z)) < 5e-7


def test_least_squares_sees_the_means_of_the_same_draws():
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["conditional"]))
    points = setup.points(10**6, 0, 1)
    data = setup.statistics(points)
    count, place = np.asarray(points.weight), setup.grid.input
    for m in (0, 7, 31):
        here = place == m
        assert data.precision[m] * setup.regression.sigma**2 == pytest.approx(count[here].sum())
        np.testing.assert_allclose(data.mean[:, m], count[here] @ points.y[here] / count[here].sum(), atol=1e-5)
    spread = np.sqrt(setup.regression.sigma**2 + 4.0)
    gap = (data.mean - setup.regression.values) * np.sqrt(data.precision) / spread
    assert np.sqrt(np.mean(gap**2)) < 2.0


def test_least_squares_sees_the_true_mean_where_nothing_is_random():
    """Of expected counts: else the cells' own mean is further from f_{G*} than the noise at n = 10^15."""
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["conditional"]))
    expected = setup.points_of(1e15, 1e15 * setup.grid.probability)
    data, values = setup.statistics(expected), setup.regression.values
    np.testing.assert_allclose(data.mean, values, atol=1e-14)
    count, place = np.asarray(expected.weight), setup.grid.input
    own = np.stack([np.bincount(place, weights=count * column) for column in setup.grid.y.T]) / np.bincount(
        place, count
    )
    assert np.max(np.abs(own - values) * np.sqrt(data.precision)) > 1.0


def test_a_box_that_is_too_large_is_refused():
    setup = build_adapted(AdaptedProblemSpec(**PROBLEMS["joint"]))
    far = setup.regression.truth
    atoms = jax.tree.map(lambda leaf: 20.0 * leaf, far.atoms)
    with pytest.raises(InputError, match="too large"):
        lattice(setup.density, type(far)(far.log_weights, atoms), np.zeros((0, 2)))
