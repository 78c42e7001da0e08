"""Sample sizes that accuracies need: laws inverted, intervals that cover, nothing unknown extrapolated."""

import numpy as np
import pytest

from moe_theory.theory.complexity import accuracies, sample_complexity, sizes_needed
from moe_theory.theory.laws import fit_law
from moe_theory.theory.summaries import ErrorCurve

N = np.logspace(3, 9, 7)


def known_curve(log_center, standard_error) -> ErrorCurve:
    center = np.asarray(log_center, dtype=float)
    width = np.broadcast_to(np.asarray(standard_error, dtype=float), center.shape).copy()
    count, missing = np.full(center.size, 32), np.zeros(center.size, dtype=int)
    return ErrorCurve(N, center, width, np.exp(center - 1), np.exp(center + 1), count, missing)


def test_sample_complexity_inverts_the_laws():
    power = sample_complexity(known_curve(-0.25 * np.log(N), 0.01), 10**-1.5)
    assert power.law == "power"
    assert power.n == pytest.approx(1e6, rel=1e-6)
    assert power.lower < 1e6 < power.upper
    assert not power.extrapolated
    slow = sample_complexity(fit_law("inverse-log", known_curve(-np.log(np.log(N)), 0.01)), 1 / np.log(1e15))
    assert slow.n == pytest.approx(1e15, rel=1e-5)
    assert slow.extrapolated
    assert "extrapolation" in slow.statement
    flat = fit_law("plateau", known_curve(0 * N, 0.01))
    assert sample_complexity(flat, 0.5).n == np.inf
    assert "never" in sample_complexity(flat, 0.5).statement
    assert sample_complexity(flat, 2.0).n == N[0]
    assert sample_complexity(fit_law("power", known_curve(0.1 * np.log(N), 0.01)), 0.1).upper == np.inf


def test_sample_complexity_interval_covers():
    rng = np.random.default_rng(0)
    trials, covered = 600, 0
    for _ in range(trials):
        fit = fit_law("power", known_curve(-0.25 * np.log(N) + 0.2 * rng.standard_normal(N.size), 0.2))
        found = sample_complexity(fit, 10**-2.5)
        covered += found.lower <= 1e10 <= found.upper
    assert covered / trials > 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5


def test_weak_slope_leaves_the_sample_size_unbounded():
    wobble = 0.1 * np.array([1, -1, 1, 0, -1, 1, -1])
    fit = fit_law("power", known_curve(wobble - 1e-3 * np.log(N), 0.1))
    found = sample_complexity(fit, 0.5)
    assert found.upper == np.inf
    assert found.lower < found.n


def test_accuracies_are_powers_of_ten_inside_the_measured_range():
    quarter, half = (fit_law("power", known_curve(np.log(3.0) + rate * np.log(N), 0.01)) for rate in (-0.25, -0.5))
    assert accuracies(quarter) == pytest.approx((0.1,))  # from 0.53 to 0.017
    assert accuracies(half) == pytest.approx((1e-2, 1e-3, 1e-4))  # from 0.095 to 0.000095


def test_a_range_without_a_power_of_ten_asks_for_the_next_one_below():
    for level, below in ((0.5, 0.1), (40.0, 10.0), (1.0, 0.1)):
        plateau = fit_law("plateau", known_curve(np.log(level) + 0 * N, 0.01))
        assert accuracies(plateau) == pytest.approx((below,))
        assert sample_complexity(plateau, below).n == np.inf


def test_only_an_established_law_is_extrapolated():
    fit = fit_law("inverse-log", known_curve(-np.log(np.log(N)), 0.01))
    inside, beyond = sizes_needed(fit, (0.1, 0.02), extrapolate=False)
    assert inside.n == pytest.approx(np.exp(10))
    assert not inside.extrapolated
    assert beyond.n == beyond.upper == np.inf
    assert "not reached at the sizes measured, 1e+03 to 1e+09" in beyond.statement
    trusted = sizes_needed(fit, (0.02,), extrapolate=True)[0]
    assert trusted.n == pytest.approx(np.exp(50), rel=1e-6)
    assert trusted.extrapolated


def test_what_is_reached_before_the_first_size_is_told_as_an_extrapolation():
    fit = fit_law("power", known_curve(-0.5 * np.log(N), 0.01))
    early = sizes_needed(fit, (0.1,), extrapolate=False)[0]
    assert early.n == pytest.approx(100, rel=1e-6)
    assert "extrapolation" in early.statement


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_an_accuracy_must_be_positive(eps):
    with pytest.raises(ValueError, match="positive"):
        sample_complexity(known_curve(-0.5 * np.log(N), 0.01), eps)
