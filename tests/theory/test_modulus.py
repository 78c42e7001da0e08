"""The modulus: its envelope, known slopes, and that every point of it is a measure that was evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from moe_theory.models.measure import MixingMeasure
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.envelope import chi_of, envelope
from moe_theory.theory.margins import cells_of, first_order
from moe_theory.theory.modulus import distance_and_loss, first_order_motions, modulus
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.second_order import second_order
from moe_theory.theory.user_families import density_mixture, user_mixture
from moe_theory.theory.voronoi import effective_losses

pytestmark = pytest.mark.usefixtures("quick")
GRID = np.linspace(-9.0, 9.0, 361)[:, None]


def test_the_envelope_keeps_the_largest_loss_within_each_distance():
    found = envelope([(1e-2, 1.0), (1e-4, 0.5), (1e-3, 0.2), (1e-20, 0.1)])
    np.testing.assert_allclose(found.distances, [1e-12, 1e-4, 1e-2])
    np.testing.assert_allclose(found.losses, [0.1, 0.5, 1.0])
    np.testing.assert_allclose(found.at(np.array([1e-13, 1e-12, 5e-4, 1.0])), [0.0, 0.1, 0.5, 1.0])


@pytest.mark.parametrize(("loss", "slope"), [(1e-14, 1.0), (0.5, 0.0)])
def test_a_measure_that_does_not_move_f_is_a_plateau_unless_it_is_the_truth(loss, slope):
    found = envelope([(1e-16, loss), *((delta, delta) for delta in np.geomspace(1e-7, 1.0, 40).tolist())])
    assert found.slope == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.25])
def test_the_slope_of_a_power_is_its_exponent(slope):
    distances = np.geomspace(1e-7, 1.0, 40)
    found = envelope(list(zip(distances.tolist(), (3 * distances**slope).tolist(), strict=True)))
    assert found.slope == pytest.approx(slope, abs=0.03)


def test_a_plateau_has_slope_zero_and_bounds_every_estimator():
    found = envelope([(1e-16, 6.4), (1e-17, 6.4), (1e-3, 6.4), (1e-1, 6.5)])
    assert found.slope == 0.0
    np.testing.assert_allclose(found.losses, [6.4, 6.5])
    np.testing.assert_allclose(found.two_points(np.array([1e3, 1e12]), 1.0), [3.2, 3.2], rtol=1e-5)


def _risk_of_the_likelihood_ratio(moves, loss, n, sigma, draws=40_000):
    """Mean over two values of f of the error of the best guess between them, 0 or ``loss``, with its standard error."""
    rng = np.random.default_rng(5)
    counts = rng.multinomial(n, np.full(len(moves), 1 / len(moves)), draws)
    size = np.sqrt(counts @ moves**2) / sigma
    wrong = [size / 2 < rng.standard_normal(draws) for _ in range(2)]
    errors = loss * np.mean(wrong, axis=0)
    return errors.mean(), errors.std(ddof=1) / np.sqrt(draws)


@pytest.mark.parametrize("moves", [np.full(4, 0.03), np.array([0.0, 0.0, 0.02, 0.06])])
@pytest.mark.parametrize("n", [10, 1000, 10_000])
def test_two_points_are_told_apart_no_better_than_le_cam_allows(moves, n):
    """The best test attains the bound where f moves by the same everywhere, and misses it by Jensen's gap elsewhere."""
    sigma, loss = 0.7, 2.5
    bound = envelope([(float(np.sqrt(np.mean(moves**2))), loss)]).two_points(np.array([1.0 * n]), sigma)[0]
    risk, error = _risk_of_the_likelihood_ratio(moves, loss, n, sigma)
    assert bound <= risk + 4 * error
    if np.ptp(moves) == 0.0:
        assert bound == pytest.approx(risk, abs=4 * error)


@pytest.mark.parametrize("apart", [0.003, 0.05, 0.4])
@pytest.mark.parametrize("n", [1, 100, 10_000])
def test_two_densities_are_told_apart_no_better_than_le_cam_allows(apart, n):
    """Normal laws ``apart`` from each other, where the best test errs with probability Phi(-sqrt(n) apart / 2)."""
    loss, chi = 2.5, np.sqrt(np.expm1(apart**2))
    bound = envelope([(float(chi), loss)]).two_densities(np.array([1.0 * n]))[0]
    risk = loss * stats.norm.sf(np.sqrt(n) * apart / 2)
    assert bound <= risk
    assert bound >= 0.5 * loss * (1.0 - np.sqrt(n) * apart)


@pytest.mark.parametrize("apart", [1e-7, 0.003, 0.4])
def test_hellinger_distances_stand_for_the_affinity_itself(apart):
    """Normal laws: 1 - h^2 = exp(-apart^2 / 8); the chi of that is less than theirs, and the bound is higher."""
    h = np.sqrt(-np.expm1(-(apart**2) / 8))
    chi = chi_of(np.array([h]))
    np.testing.assert_allclose(chi, np.sqrt(np.expm1(apart**2 / 4)), rtol=1e-9)
    n = np.array([0.1 / apart**2])
    exact = 2.5 * 0.5 * (1.0 - np.sqrt(-np.expm1(-n * apart**2 / 4)))
    np.testing.assert_allclose(envelope([(float(chi[0]), 2.5)]).two_densities(n), exact, rtol=1e-9)
    assert exact <= 2.5 * stats.norm.sf(np.sqrt(n) * apart / 2)


def test_densities_that_are_one_leave_half_of_the_loss():
    found = envelope([(0.0, 6.4), (1e-3, 6.5)])
    np.testing.assert_allclose(found.two_densities(np.array([1e3, 1e12])), [3.2, 3.2], rtol=2e-6)


@pytest.mark.parametrize("own_model", [False, True])
def test_an_atom_at_a_frozen_ones_place_is_no_error(own_model):
    """It has the frozen atom's cell, as in the simulations: with all weights times 1 + w nothing moves."""
    if own_model:
        atoms = [jnp.array([0.3, -0.5]), jnp.array([-0.7, 0.4])]
        frozen = jnp.array([0.1, 0.2])
        x = np.random.default_rng(0).normal(size=(32, 2))
        (own,) = user_mixture(lambda x, t: (x @ t, jnp.tanh(x @ t[::-1])), atoms, x, frozen=[frozen])
    else:
        setup = build(ProblemSpec(dimension=2, support=64, adapter="replora"))
        (own,) = mixture_of(setup.model, setup.truth, setup.design)
        frozen = jnp.zeros(own.atoms.shape[1])
    w = 0.37
    moved = jnp.append((1 + w) * own.weights, w), jnp.vstack([own.atoms, frozen]), own.common
    assert float(jnp.linalg.norm(own.moved(*moved))) < 1e-14
    assert float(own.loss(*moved)) < 1e-14
    assert float(own.loss(moved[0], jnp.vstack([own.atoms, frozen + 1.0]), own.common)) > 0.1


def test_the_loss_is_that_of_the_simulations():
    setup = build(ProblemSpec(dimension=2, support=64, adapter="hora", heads=2))
    (own,) = mixture_of(setup.model, setup.truth, setup.design)
    atoms = jax.vmap(lambda key: setup.model.draw(key, 1.0)[0])(jax.random.split(jax.random.key(3), 3))
    fitted = MixingMeasure(jnp.array([0.1, -0.4, 0.3]), atoms, setup.truth.common)
    flat = jax.vmap(lambda atom: ravel_pytree(atom)[0])(atoms)
    expected = effective_losses(setup.model, fitted, setup.truth).d_12
    np.testing.assert_allclose(own.loss(jnp.exp(fitted.log_weights), flat, own.common), expected, rtol=1e-12)


@pytest.mark.parametrize(("variance_is_free", "slope"), [(False, 1.0), (True, 0.5)])
def test_gaussian_mixtures_have_the_slopes_of_their_orders(variance_is_free, slope):
    """D_12 has power two in the split t, and the distance is of order t^q: slope 2 / q."""

    def density(x, t):
        variance = t["variance"][0] if variance_is_free else 1.0
        return jnp.exp(-0.5 * (x[0] - t["mean"][0]) ** 2 / variance) / jnp.sqrt(2 * jnp.pi * variance)

    atom = {"mean": jnp.zeros(1)} | ({"variance": jnp.ones(1)} if variance_is_free else {})
    mixture = density_mixture(density, [atom], GRID, 0.05, [1.0])
    cells, first = cells_of(mixture), first_order(mixture)
    found = modulus(mixture, first, [(cells[0], second_order(first, cells, starts=4))], (0.4, 0.2, 0.1, 0.05, 0.025))
    assert found.slope == pytest.approx(slope, abs=0.06)


def test_the_first_order_motion_moves_f_by_the_margin():
    mixture = density_mixture(
        lambda x, t: jnp.exp(-0.5 * (x[0] - t[0]) ** 2) / jnp.sqrt(2 * jnp.pi), [jnp.zeros(1)], GRID, 0.05, [1.0]
    )
    first = first_order(mixture)
    (measure,) = first_order_motions(mixture, first, (1e-4,))
    distance, loss = distance_and_loss(mixture, measure)
    assert distance == pytest.approx(1e-4, rel=1e-3)
    assert loss >= 0.99e-4 / first.margin
