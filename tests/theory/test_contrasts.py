"""Contrasts of two systems, on errors of known law."""

import numpy as np
import pytest

from moe_theory.theory.contrasts import Estimate, contrast, log_constant
from moe_theory.theory.summaries import summarise

SIZES = np.array([1e5, 1e7, 1e9, 1e11])


def curve(seed, constant, exponent=-0.5, replications=16):
    rng = np.random.default_rng(seed)
    noise = np.exp(0.3 * rng.standard_normal((len(SIZES), replications)))
    return summarise(SIZES, constant * SIZES[:, None] ** exponent * noise)


def test_a_system_with_thrice_the_error_needs_nine_times_the_samples_and_the_interval_covers_that():
    """95 % intervals over 400 pairs: the share that covers is at most three of its standard errors below that. (It is
    0.99: the smoothed bootstrap and a Birge ratio of at least 1 are on the safe side.)"""
    hits = np.zeros(2)
    for seed in range(400):
        found = contrast(curve(seed, 3.0), curve(10_000 + seed, 1.0), -0.5)
        low, high = found.log_ratio.interval()
        hits[0] += low <= np.log(9.0) <= high
        low, high = found.exponents.interval()
        hits[1] += low <= 0.0 <= high
    assert np.all(hits / 400 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)), hits


def test_a_quarter_power_needs_the_fourth_power_of_the_ratio():
    found = contrast(curve(0, 2.0, -0.25), curve(1, 1.0, -0.25), -0.25)
    assert abs(found.log_ratio.value - np.log(16.0)) < 4 * found.log_ratio.standard_error


def test_different_exponents_are_told_apart():
    found = contrast(curve(0, 1.0, -0.25), curve(1, 1.0, -0.5), -0.25)
    low, high = found.exponents.interval()
    assert 0.2 < low < 0.25 < high < 0.3


def test_a_curve_that_is_no_such_power_has_a_wider_interval():
    bent, straight = curve(0, 1.0, -0.25), curve(0, 1.0, -0.5)
    assert log_constant(bent, -0.5).standard_error > 10 * log_constant(straight, -0.5).standard_error


def test_a_difference_adds_variances_and_pools_degrees_of_freedom():
    difference = Estimate(3.0, 0.3, 10.0).minus(Estimate(1.0, 0.4, 10.0))
    assert difference.value == 2.0
    assert difference.standard_error == pytest.approx(0.5)
    assert 10.0 < difference.dof < 20.0


def test_a_common_exponent_must_be_negative():
    with pytest.raises(ValueError, match="negative"):
        contrast(curve(0, 1.0), curve(1, 1.0), 0.5)
