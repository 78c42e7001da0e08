"""Wrong verdicts stay rare on synthetic errors of known law, and wide grids decide."""

import numpy as np
import pytest

from moe_theory.study.calibration import (
    NOISES,
    PLATEAU,
    PREDICTIONS,
    TRUTHS,
    WRONG_LIMIT,
    calibrate,
    calibrate_cell,
    grid,
    inverse_log,
    is_right,
    main,
    noisy_errors,
    power,
    report,
)

HALF, INVERSE_LOG = power(-1 / 2, "n^-1/2"), inverse_log(1.0, "1/log n")


@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_its_median_and_spread(noise):
    n = grid(3, 4)
    rng = np.random.default_rng(0)
    draws = np.concatenate([np.log(noisy_errors(HALF, n, 4000, rng, noise)) for _ in range(40)], axis=1)
    np.testing.assert_allclose(np.median(draws, axis=1), -0.5 * np.log(n), atol=0.01)
    np.testing.assert_allclose(draws.std(axis=1), 0.5 * np.exp(0.15**2), rtol=0.1)


def test_every_truth_has_one_right_prediction():
    for truth in TRUTHS:
        assert sum(is_right(truth, prediction) for prediction in PREDICTIONS.values()) == 1


def test_wrong_verdicts_are_rare_where_they_are_likeliest():
    cells = list(calibrate(40, seed=11, grids=((3, 6), (5, 4)), replications=(16,), noises=("half-normal",)))
    curves = sum(cell.replicates for cell in cells)
    wrong = sum(cell.wrong * cell.replicates for cell in cells)
    assert wrong / curves < WRONG_LIMIT + 3 * (WRONG_LIMIT * (1 - WRONG_LIMIT) / curves) ** 0.5


@pytest.mark.parametrize("truth", [HALF, power(-1 / 4, "n^-1/4"), PLATEAU, INVERSE_LOG])
def test_wide_grid_decides(truth):
    cell = calibrate_cell(truth, 9, 10, 64, "lognormal", 40, seed=3)
    assert cell.decided > 0.95 - 3 * (0.95 * 0.05 / 40) ** 0.5
    assert cell.wrong <= WRONG_LIMIT + 3 * (WRONG_LIMIT / 40) ** 0.5


def test_cells_do_not_depend_on_their_company():
    alone = calibrate_cell(PLATEAU, 3, 4, 16, "gamma", 5, seed=1)
    among = list(calibrate(5, 1, truths=(HALF, PLATEAU), grids=((3, 4),), replications=(16,), noises=("gamma",)))
    assert among[1] == alone


def test_report_and_command(tmp_path, monkeypatch):
    cells = list(calibrate(3, 0, truths=(HALF, PLATEAU), grids=((3, 4),), replications=(16,)))
    text = report(cells, seed=0)
    assert sum(line.startswith("| n^-1/2 |") for line in text.splitlines()) == 1
    assert "Over all 6 cells" in text
    monkeypatch.setattr("moe_theory.study.calibration.calibrate", lambda replicates, seed: iter(cells))
    main(["--replicates", "3", "--output", str(tmp_path / "docs" / "page.md")])
    assert (tmp_path / "docs" / "page.md").read_text(encoding="utf-8") == text


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_wrong_verdicts_are_at_most_one_in_a_hundred(truth):
    for cell in calibrate(300, seed=2024, truths=(truth,), noises=("lognormal",)):
        assert cell.wrong < WRONG_LIMIT + 3 * (WRONG_LIMIT * (1 - WRONG_LIMIT) / cell.replicates) ** 0.5
