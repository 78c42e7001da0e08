"""The planner's shares against the calibration, and its choice."""

import numpy as np
import pytest

from moe_theory.study.calibration import calibrate_cell, grid, power
from moe_theory.study.planner import assumed_truths, measured_log_sd, plan, simulate_shares
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import summarise

HALF = Prediction("power", -0.5)


@pytest.mark.parametrize(("decades", "sizes", "replications"), [(5, 6, 16), (3, 6, 64)])
def test_shares_agree_with_the_calibration(decades, sizes, replications):
    truth, trials = power(-0.5, "n^-1/2"), 150
    right, wrong = simulate_shares(HALF, truth, grid(decades, sizes), replications, simulations=trials, seed=1)
    cell = calibrate_cell(truth, decades, sizes, replications, "lognormal", trials, seed=5)
    assert abs(right + wrong - cell.decided) < 3 * (2 * 0.25 / trials) ** 0.5
    assert wrong < 0.01 + 3 * (0.01 / trials) ** 0.5


def test_plan_chooses_the_cheapest_option_that_decides():
    found = plan(HALF, 0.5, grids=((3, 6), (9, 10)), replications=(16, 64), simulations=40)
    assert len(found.options) == 4
    assert found.chosen is not None
    assert (found.chosen.decades, found.chosen.replications) == (9, 16)
    assert found.chosen.correct >= 0.9
    assert found.chosen.fits == 160
    assert found.table().count("chosen") == 1
    assert len(found.table().splitlines()) == 6


def test_plan_says_when_nothing_decides():
    found = plan(Prediction("power", -0.125), grids=((3, 6),), replications=(16,), simulations=40)
    assert found.chosen is None
    assert "chosen" not in found.table()


def test_no_power_is_planned_for_plateau_and_logarithm():
    assert [truth.law for truth in assumed_truths(Prediction("no-power"))] == ["plateau", "inverse-log"]


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_measured_log_sd_is_recovered(statistic):
    rng = np.random.default_rng(0)
    n = grid(9, 10)
    curve = summarise(n, np.exp(0.3 * rng.standard_normal((10, 200))), statistic)
    assert measured_log_sd(curve) == pytest.approx(0.3, rel=0.2)


def test_bad_plans_are_refused():
    with pytest.raises(ValueError, match="positive"):
        plan(HALF, 0.0)
    with pytest.raises(ValueError, match="at least one grid"):
        plan(HALF, 0.5, grids=())
