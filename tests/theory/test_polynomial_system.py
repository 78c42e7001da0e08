"""rbar(2) = 4 and rbar(3) = 6: elimination for two atoms, search for two and three."""

import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.theory.polynomial_system import least_residual, moments


def test_moments_are_those_of_a_gaussian_mixture():
    """Against NumPy's Gauss-Hermite quadrature (positive variances)."""
    weights, first, second = np.array([0.3, 0.7]), np.array([0.4, -0.2]), np.array([0.1, 0.25])
    nodes, mass = np.polynomial.hermite_e.hermegauss(30)
    mass = mass / mass.sum()
    expected = []
    factorial = 1.0
    for s in range(1, 7):
        factorial *= s
        raw = [mass @ (mean + np.sqrt(2 * half) * nodes) ** s for mean, half in zip(first, second, strict=True)]
        expected.append(weights @ raw / factorial)
    np.testing.assert_allclose(moments(weights, first, second, 6), expected, rtol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5])
def test_two_atoms_cancel_three_cumulants_and_never_the_fourth(share):
    """The elimination's solution of r = 3, and its remainder -2/3 p q (1 - p q) delta^4 at r = 4."""
    p, q, delta = share, 1.0 - share, 0.8
    skew = (p - q) / 3.0 * delta**2
    mean_variance = -p * q * delta**2
    variance = np.array([mean_variance + q * skew, mean_variance - p * skew])
    found = moments(np.array([p, q]), np.array([q * delta, -p * delta]), variance / 2.0, 4)
    np.testing.assert_allclose(found[:3], 0.0, atol=1e-15)
    assert found[3] * 24.0 == pytest.approx(-2.0 / 3.0 * p * q * (1 - p * q) * delta**4, rel=1e-12)


@pytest.mark.parametrize(("m", "rbar"), [(2, 4), pytest.param(3, 6, marks=pytest.mark.slow)])
def test_rbar_by_search(m, rbar):
    below = least_residual(m, rbar - 1, starts=6)
    assert below.solvable
    assert np.min(below.weights) >= 0.05
    np.testing.assert_allclose(moments(*below[1:4], rbar - 1), 0.0, atol=1e-12)
    at = least_residual(m, rbar, starts=8)
    assert at.least > 1e-5
    assert least_residual(m, rbar, starts=8, seed=1).least == pytest.approx(at.least, rel=1e-4)


def test_impossible_requests_are_refused():
    with pytest.raises(InputError, match="at least 2"):
        least_residual(1, 3)
