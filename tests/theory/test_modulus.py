"""The modulus: its envelope, known slopes, and that every point of it is a measure that was evaluated."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.theory.families import density_mixture
from moe_theory.theory.margins import cells_of, first_order, second_order
from moe_theory.theory.modulus import envelope, first_order_motions, modulus

pytestmark = pytest.mark.usefixtures("quick")
GRID = np.linspace(-9.0, 9.0, 361)[:, None]


def test_the_envelope_keeps_the_largest_loss_within_each_distance():
    found = envelope([(1e-2, 1.0), (1e-4, 0.5), (1e-3, 0.2), (1e-20, 0.1)])
    np.testing.assert_allclose(found.distances, [1e-12, 1e-4, 1e-2])
    np.testing.assert_allclose(found.losses, [0.1, 0.5, 1.0])
    np.testing.assert_allclose(found.at(np.array([1e-13, 1e-12, 5e-4, 1.0])), [0.0, 0.1, 0.5, 1.0])


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.25])
def test_the_slope_of_a_power_is_its_exponent(slope):
    distances = np.geomspace(1e-7, 1.0, 40)
    found = envelope(list(zip(distances.tolist(), (3 * distances**slope).tolist(), strict=True)))
    assert found.slope == pytest.approx(slope, abs=0.03)


def test_a_plateau_has_slope_zero_and_bounds_every_estimator():
    found = envelope([(1e-16, 6.4), (1e-3, 6.4), (1e-1, 6.5)])
    assert abs(found.slope) < 0.01
    np.testing.assert_allclose(found.least_resolved(np.array([1e3, 1e12]), 1.0), [6.4, 6.4])


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
    ((distance, loss),) = first_order_motions(mixture, first, (1e-4,))
    assert distance == pytest.approx(1e-4 * first.margin, rel=1e-3)
    assert loss >= 1e-4 * 0.99
