"""The sharing dial's phase diagram and the figure of sample sizes, on errors of known law."""

import json

import numpy as np
import pandas as pd
import pytest

from moe_theory.errors import InputError
from moe_theory.study.phases import (
    ACCURACIES,
    SET_COLUMN,
    dial_figure,
    dial_table,
    dialled,
    needed,
    needed_figure,
    needed_table,
)
from moe_theory.study.report import judge_measure
from moe_theory.theory.claims import Measure
from moe_theory.theory.laws import Prediction

SIZES = (10**5, 10**7, 10**9, 10**11)


def rows_of(law, spread=0.05, replications=16):
    rng = np.random.default_rng(0)
    n = np.repeat(np.array(SIZES, float), replications)
    errors = law(n) * np.exp(spread * rng.standard_normal(n.size))
    return pd.DataFrame({"n": n, "certified": True, SET_COLUMN: errors})


POWER, PLATEAU = rows_of(lambda n: 300 * n**-0.5), rows_of(lambda n: 6.0 + 0 * n, spread=0.005)


def judged(rows, prediction):
    return judge_measure(Measure(SET_COLUMN, "set", prediction), rows, 1.0, accuracies=ACCURACIES)


def test_local_slopes_tell_a_plateau_from_a_power():
    table = dial_table(dialled({1.0: POWER, 0.0: PLATEAU}))
    assert table["eta"].tolist() == [0.0] * 4 + [1.0] * 4
    np.testing.assert_allclose(table["local_slope"], [0.0] * 4 + [-0.5] * 4, atol=0.03)


def test_the_phase_diagram_is_written_with_its_numbers(tmp_path):
    between = rows_of(lambda n: 0.06 + 300 * n**-0.5)
    paths = dial_figure(dialled({0.0: PLATEAU, 0.9: between, 1.0: POWER}), tmp_path / "dial", {"seed": 0})
    assert [path.suffix for path in paths] == [".png", ".pdf", ".csv", ".json"]
    assert len(pd.read_csv(paths[2])) == 12
    described = json.loads(paths[3].read_text())
    assert [each["eta"] for each in described["heights"]] == [0.0, 0.9, 1.0]
    assert described["heights"][1]["error"] == pytest.approx(0.06, rel=0.1)
    assert described["provenance"] == {"seed": 0}


def test_a_dial_needs_its_column_values_and_two_settings(tmp_path):
    with pytest.raises(InputError, match=r"eta = 0\.5 have no D_12_truth_highest"):
        dialled({0.5: POWER.drop(columns=SET_COLUMN)})
    with pytest.raises(InputError, match=r"no replication of eta = 0\.5"):
        dialled({0.5: POWER.assign(**{SET_COLUMN: np.nan})})
    with pytest.raises(InputError, match="two settings"):
        dial_figure(dialled({0.5: POWER}), tmp_path / "dial")


def test_sample_sizes_of_a_power_law_are_its_inverse_and_a_plateau_has_none_below_it():
    power = needed("RepLoRA", judged(POWER, Prediction("power", -0.5)))
    for each in power.sizes:
        assert each.n == pytest.approx((300 / each.accuracy) ** 2, rel=0.3)
        assert each.lower < (300 / each.accuracy) ** 2 < each.upper
    plateau = needed("LoRA", judged(PLATEAU, Prediction("no-power")))
    assert {each.accuracy > 6.0: np.isfinite(each.n) for each in plateau.sizes} == {True: True, False: False}


def test_sample_sizes_are_drawn_and_written(tmp_path):
    systems = [needed("RepLoRA", judged(POWER, Prediction("power", -0.5)))]
    systems.append(needed("LoRA", judged(PLATEAU, Prediction("no-power"))))
    paths = needed_figure(systems, tmp_path / "needed")
    written = pd.read_csv(paths[2])
    assert len(written) == len(needed_table(systems))
    assert set(written["system"]) == {"RepLoRA", "LoRA"}


def test_sample_sizes_need_a_system_and_a_law(tmp_path):
    with pytest.raises(InputError, match="at least one system"):
        needed_figure([], tmp_path / "needed")
    short = POWER.loc[POWER["n"] < 10**8]
    with pytest.raises(InputError, match="LoRA has no law"):
        needed("LoRA", judged(short, Prediction("no-power")))
