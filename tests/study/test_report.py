"""Reports: rows of a known law get the verdict that it deserves, and the JSON is complete and strict."""

import json
from dataclasses import replace

import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.report import FEWEST, judge_measure, predicted_words, report
from moe_theory.study.sweep import SMOKE, sweep_of
from moe_theory.study.tables import verdict_table
from moe_theory.theory.claims import HALF, NO_POWER, QUARTER, claim_named

SIZES = tuple(10**e for e in range(3, 13))
OVER, EXACT, LORA = (claim_named(name) for name in ("replora-linear-over", "replora-linear-exact", "lora-over"))
KEYS = (
    "id",
    "model",
    "specification",
    "loss",
    "predicted",
    "exponent",
    "interval",
    "law",
    "verdict",
    "reason",
    "remark",
    "certified_share",
    "replications",
    "n",
)


def strict(value):
    """The object as a strict reader sees it; fails for NaN and infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(json.dumps(value), parse_constant=refuse)


def test_rows_on_the_predicted_laws_support_every_measure(synthetic_rows):
    made = report(OVER, sweep_of(OVER, sizes=SIZES), synthetic_rows(SIZES, 64))
    assert [judged.verdict.status for judged in (made.main, *made.others)] == ["SUPPORTED"] * 6
    assert made.main.verdict.exponent == pytest.approx(-0.5, abs=0.02)
    assert {judged.measure.column: judged.measure.prediction for judged in made.others} == {
        "overfitted_error": QUARTER,
        "singleton_error": HALF,
        "function_error": HALF,
        "D_12_truth_highest": HALF,
        "farthest_error": QUARTER,
    }
    assert (made.certified_share, made.replications) == (1.0, 64)


@pytest.mark.parametrize("exponent", [-0.25, 0.0])
def test_rows_on_another_law_refute(synthetic_rows, exponent):
    made = report(EXACT, sweep_of(EXACT, sizes=SIZES), synthetic_rows(SIZES, 64, D_1=exponent))
    assert made.main.verdict.status == "REFUTED"
    assert [judged.verdict.status for judged in made.others] == ["SUPPORTED"]


def test_a_plateau_supports_that_there_is_no_power_law(synthetic_rows):
    flat = dict.fromkeys(
        ("overfitted_value_error", "D_12", "D_12_highest", "D_12_confidence_highest", "D_12_truth_highest"), 0.0
    )
    made = report(LORA, sweep_of(LORA, sizes=SIZES), synthetic_rows(SIZES, 64, **flat))
    assert [judged.verdict.status for judged in (made.main, *made.others)] == ["SUPPORTED"] * 6
    statistics = [judged.curve.statistic for judged in (made.main, *made.others)]
    assert statistics == ["median", "mean", "mean", "mean", "median", "median"]
    assert made.main.verdict.law == "plateau"
    assert made.as_json()["predicted"] == "no power law"


def test_mean_and_median_are_both_judged(synthetic_rows):
    rows = synthetic_rows(SIZES, 64)
    median, mean = (report(EXACT, sweep_of(EXACT), rows, statistic) for statistic in ("median", "mean"))
    assert (median.main.curve.statistic, mean.main.curve.statistic) == ("median", "mean")
    assert mean.main.verdict.status == "SUPPORTED"
    assert (mean.main.curve.log_center > median.main.curve.log_center).mean() > 0.8


def test_the_json_has_every_key_and_no_nan(synthetic_rows):
    described = strict(report(OVER, sweep_of(OVER, sizes=SIZES), synthetic_rows(SIZES, 64)).as_json())
    assert tuple(described)[: len(KEYS)] == KEYS
    assert described["id"] == "replora-linear-over"
    assert (described["specification"], described["loss"], described["predicted"]) == ("over", "D_12", "n^-0.5")
    assert described["n"] == list(SIZES)
    assert described["replications"] == 64
    lower, upper = described["interval"]
    assert lower < described["exponent"] < upper
    assert [measure["loss"] for measure in described["measures"]] == [m.column for m in OVER.others]
    for measure in described["measures"]:
        of_the_claim = {"id", "model", "specification", "certified_share", "n", "measures", "replications"}
        of_the_claim |= {"starts", "unseen"}
        assert set(measure) == set(described) - of_the_claim


def test_a_grid_too_short_to_fit_is_undecided_with_nulls(synthetic_rows):
    sweep = sweep_of(OVER, **SMOKE)
    described = strict(report(OVER, sweep, synthetic_rows(sweep.sizes, 8)).as_json())
    assert described["verdict"] == "UNDECIDED"
    assert described["exponent"] is None
    assert described["interval"] is None
    assert "too few" in described["reason"]
    assert described["fits"] == {"median": None, "mean": None}
    assert described["sample_complexity"] == []


def test_uncertified_fits_decide_nothing(synthetic_rows):
    rows = synthetic_rows(SIZES, 64)
    rows.loc[(rows["n"] == SIZES[-1]) & (rows["replication"] < 2), "certified"] = False
    made = report(OVER, sweep_of(OVER, sizes=SIZES), rows)
    assert made.certified_share == pytest.approx(62 / 64)  # of the worst size, not of all rows
    assert made.main.verdict.status == "UNDECIDED"
    assert "certified" in made.main.verdict.reason


def test_replications_without_the_cell_are_counted_and_leave_the_law_standing(synthetic_rows):
    rows = synthetic_rows(SIZES, 64)
    rows.loc[rows["replication"] % 4 == 0, "singleton_error"] = np.nan
    judged = judge_measure(OVER.others[1], rows, 1.0)
    assert judged.curve.count.tolist() == [48] * len(SIZES)
    assert judged.curve.missing.tolist() == [16] * len(SIZES)
    assert (judged.missing, judged.failed) == (160, 0)
    assert judged.verdict.status == "SUPPORTED"
    assert "Of 512 replications 128 have no such cell" in judged.verdict.reason  # the eight sizes that are judged
    described = strict(report(OVER, sweep_of(OVER, sizes=SIZES), rows).as_json())
    measure = described["measures"][1]
    assert (measure["missing"], measure["missing_uncertified"]) == (160, 0)
    assert measure["evidence"]["missing"] == 128
    assert measure["curve"]["missing"] == [16] * len(SIZES)


def test_a_value_that_every_fit_should_have_is_a_failure_when_missing(synthetic_rows):
    rows = synthetic_rows(SIZES, 64)
    rows.loc[rows["replication"] % 4 == 0, ["D_12", "certified"]] = [np.nan, False]
    judged = judge_measure(OVER.main, rows, 1.0)
    assert (judged.missing, judged.failed) == (160, 160)
    assert judged.verdict.status == "UNDECIDED"
    assert "128 of 512 replications have no error" in judged.verdict.reason


def test_a_size_with_too_few_values_is_left_out_of_the_curve_but_not_of_the_count(synthetic_rows):
    rows = synthetic_rows(SIZES, 16)
    gone = (rows["n"] == SIZES[4]) & (rows["replication"] >= FEWEST - 1)
    for measure, status in ((OVER.main, "UNDECIDED"), (OVER.others[1], "SUPPORTED")):
        judged = judge_measure(measure, rows.assign(**{measure.column: rows[measure.column].mask(gone)}), 1.0)
        assert judged.curve.n.tolist() == [float(n) for n in SIZES if n != SIZES[4]]
        assert judged.left_out == {float(SIZES[4]): 16}
        assert (judged.missing, judged.replications) == (16 - (FEWEST - 1), 160)
        assert judged.verdict.evidence["missing"] == 16  # no value, or one that the curve could not use
        assert judged.verdict.status == status


def test_sample_sizes_are_in_the_json_and_strict(synthetic_rows):
    rows = synthetic_rows(SIZES, 64).assign(D_1=lambda rows: 3 * rows["D_1"])  # judged from 0.03 to 0.000003
    found = strict(report(EXACT, sweep_of(EXACT, sizes=SIZES), rows).as_json())["sample_complexity"]
    assert [each["accuracy"] for each in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])
    for each in found:
        assert each["lower"] < each["n"] < each["upper"]
        # The interval spans about four standard errors.
        assert abs(np.log(each["n"] * (each["accuracy"] / 3) ** 2)) < np.log(each["upper"] / each["lower"])
    flat = report(LORA, sweep_of(LORA, sizes=SIZES), synthetic_rows(SIZES, 64, D_12_truth_highest=0.0))
    (none,) = strict(flat.as_json())["sample_complexity"]
    assert none["n"] is None
    assert "not reached" in none["statement"]
    wanted = report(EXACT, sweep_of(EXACT, sizes=SIZES), rows, accuracies=[1e-9]).as_json()["sample_complexity"]
    assert [each["extrapolated"] for each in wanted] == [True]


def test_laws_on_medians_and_on_means_are_both_in_the_json(synthetic_rows):
    rows = synthetic_rows(SIZES, 64)
    for statistic in ("median", "mean"):
        made = report(EXACT, sweep_of(EXACT, sizes=SIZES), rows, statistic)
        fits = strict(made.as_json())["fits"]
        assert fits[statistic]["exponent"] == made.main.verdict.exponent
        assert fits[statistic]["aicc_weights"] == made.main.verdict.evidence["aicc_weights"]
        assert fits["median"]["exponent"] != fits["mean"]["exponent"]
        assert fits["mean"]["fitted_n"] == fits["median"]["fitted_n"] == [1e4, 1e12]
        for fit in fits.values():
            lower, upper = fit["interval"]
            assert lower < fit["exponent"] < upper
            assert abs(fit["exponent"] + 0.5) < 4 * fit["standard_error"]
            assert sum(fit["aicc_weights"].values()) == pytest.approx(1)


def test_slopes_by_decade_and_bootstrap_errors_are_in_the_json(synthetic_rows):
    described = strict(report(EXACT, sweep_of(EXACT, sizes=SIZES), synthetic_rows(SIZES, 64)).as_json())
    assert [(each["from_n"], each["to_n"]) for each in described["slopes"]] == [
        (10.0**e, 10.0 ** (e + 1)) for e in range(3, 12)
    ]
    pulls = [(each["slope"] + 0.5) / each["standard_error"] for each in described["slopes"]]
    assert np.abs(pulls).max() < 4
    errors = np.array(described["curve"]["bootstrap_standard_error_log"])
    expected = 0.3 * (np.pi / 2 / 64) ** 0.5  # of the median of 64 lognormal errors with log-sd 0.3, to first order
    assert np.median(errors) == pytest.approx(expected, rel=0.25)


def test_without_any_value_or_row_it_says_what_to_do(synthetic_rows):
    rows = synthetic_rows(SIZES, 8)
    with pytest.raises(InputError, match="use more --reps"):
        judge_measure(OVER.main, rows.assign(D_12=np.nan), 1.0)
    with pytest.raises(InputError, match="run `moe-theory run replora-linear-over` first"):
        report(OVER, sweep_of(OVER), rows.iloc[:0])


def test_predictions_in_words():
    assert predicted_words(QUARTER) == "n^-0.25"
    assert predicted_words(NO_POWER) == "no power law"


def test_a_refuted_law_says_why_it_need_not_hold(synthetic_rows):
    told = replace(OVER.others[0], prediction=HALF, remark="it is a bound")
    claim = replace(OVER, others=(told,))
    made = report(claim, sweep_of(claim, sizes=SIZES), synthetic_rows(SIZES, 64))
    assert (made.others[0].verdict.status, made.others[0].remark) == ("REFUTED", "it is a bound")
    assert "It is a bound." in verdict_table([made])
    kept = report(OVER, sweep_of(OVER, sizes=SIZES), synthetic_rows(SIZES, 64))
    assert all(judged.remark == "" for judged in kept.others)


def test_a_kind_of_cell_that_hardly_any_fit_has_is_named_and_not_judged(synthetic_rows):
    rows = synthetic_rows(SIZES, 16)
    rows.loc[rows["replication"] > FEWEST - 2, "overfitted_error"] = np.nan
    made = report(OVER, sweep_of(OVER, sizes=SIZES), rows)
    assert [measure.column for measure in made.unseen] == ["overfitted_error"]
    assert "overfitted_error" not in [judged.measure.column for judged in made.others]
    assert strict(made.as_json())["unseen"] == ["overfitted_error"]
    assert "over-fitted atoms: hardly any fit has such a cell, not judged" in verdict_table([made])
