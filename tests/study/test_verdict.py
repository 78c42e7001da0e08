"""The verdict on curves whose law is known, its obstacles, its reasons and its margins."""

from itertools import pairwise

import numpy as np
import pytest

from moe_theory.study.verdict import (
    CANDIDATE_EXPONENTS,
    LEAST_REPLICATIONS,
    Status,
    Terms,
    equivalence_margin,
    judge,
)
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import ErrorCurve

WIDE = np.logspace(3, 12, 10)
NARROW = np.logspace(3, 6, 6)
LAWS = {
    "half": lambda n: -0.5 * np.log(n),
    "quarter": lambda n: -0.25 * np.log(n),
    "eighth": lambda n: -0.125 * np.log(n),
    "inverse-log": lambda n: -np.log(np.log(n)),
    "inverse-log-squared": lambda n: -2 * np.log(np.log(n)),
    "plateau": np.zeros_like,
}
NO_POWER = Prediction("no-power")


def curve(law: str, n=WIDE, standard_error=0.03, count=64, missing=0) -> ErrorCurve:
    """A curve exactly on its law, but with the standard errors of a noisy one."""
    center = LAWS[law](n) + 1
    full = np.full(n.size, count)
    return ErrorCurve(
        n,
        center,
        np.full(n.size, standard_error),
        np.exp(center - 0.3),
        np.exp(center + 0.3),
        full,
        np.full(n.size, missing),
    )


@pytest.mark.parametrize(
    ("law", "prediction", "status", "found"),
    [
        ("half", Prediction("power", -0.5), "SUPPORTED", "power"),
        ("half", Prediction("power", -0.25), "REFUTED", "power"),
        ("half", NO_POWER, "REFUTED", "power"),
        ("quarter", Prediction("power", -0.25), "SUPPORTED", "power"),
        ("eighth", Prediction("power", -0.125), "SUPPORTED", "power"),
        ("eighth", Prediction("power", -0.25), "REFUTED", "power"),
        ("inverse-log", Prediction("power", -0.125), "REFUTED", "inverse-log"),
        ("inverse-log", NO_POWER, "SUPPORTED", "inverse-log"),
        ("inverse-log-squared", Prediction("power", -0.125), "REFUTED", "inverse-log"),
        ("inverse-log-squared", NO_POWER, "SUPPORTED", "inverse-log"),
        ("plateau", Prediction("power", -0.5), "REFUTED", "plateau"),
        ("plateau", NO_POWER, "SUPPORTED", "plateau"),
    ],
)
def test_wide_grid_decides(law, prediction, status, found):
    verdict = judge(prediction, curve(law))
    assert verdict.status == status
    assert verdict.law == found
    assert verdict.exponent is not None
    assert f"{verdict.exponent:.4f}" in verdict.reason or "rejected" in verdict.reason
    assert verdict.reason.endswith(".")


@pytest.mark.parametrize(
    ("law", "prediction"),
    [
        ("eighth", Prediction("power", -0.125)),
        ("eighth", NO_POWER),
        ("inverse-log", NO_POWER),
        ("inverse-log", Prediction("power", -1 / 12)),
        ("inverse-log-squared", Prediction("power", -1 / 4)),
        ("inverse-log-squared", NO_POWER),
    ],
)
def test_three_decades_cannot_tell_a_slow_power_from_a_logarithm(law, prediction):
    verdict = judge(prediction, curve(law, NARROW, standard_error=0.08))
    assert verdict.status == Status.UNDECIDED
    assert verdict.law == "undetermined"
    assert "would tell" in verdict.reason


def test_an_exponent_not_separated_from_zero_is_no_power():
    verdict = judge(Prediction("power", -1 / 12), curve("plateau", NARROW, standard_error=0.5))
    assert verdict.status == Status.UNDECIDED
    assert verdict.law == "undetermined"


def test_margin_separates_neighbours():
    assert equivalence_margin(-0.5) == pytest.approx(0.05)
    assert equivalence_margin(0.25) == pytest.approx(0.45 / 12)
    assert equivalence_margin(-0.125) == pytest.approx(0.45 / 24)
    for first, second in pairwise(CANDIDATE_EXPONENTS):
        assert first + equivalence_margin(first) < second - equivalence_margin(second)
    assert CANDIDATE_EXPONENTS[0] - equivalence_margin(CANDIDATE_EXPONENTS[0]) > 0


def test_interval_must_lie_within_the_margin():
    n = np.logspace(3, 12, 5)
    verdict = judge(Prediction("power", -0.5), curve("half", n, standard_error=0.6))
    assert verdict.law == "undetermined" or "times the replications" in verdict.reason
    assert verdict.status == Status.UNDECIDED


def test_obstacles_leave_everything_undecided():
    prediction = Prediction("power", -0.5)
    uncertified = judge(prediction, curve("half"), terms=Terms(certified_share=0.98))
    assert uncertified.status == Status.UNDECIDED
    assert "98.0 %" in uncertified.reason
    missing = judge(prediction, curve("half", missing=10))
    assert missing.status == Status.UNDECIDED
    assert "100 of 740" in missing.reason
    assert missing.evidence["missing"] == 100
    few = judge(prediction, curve("half", count=LEAST_REPLICATIONS - 1))
    assert few.status == Status.UNDECIDED
    assert judge(prediction, curve("half", count=LEAST_REPLICATIONS)).status == Status.SUPPORTED


def test_short_grids_are_undecided_without_a_fit():
    verdict = judge(Prediction("power", -0.5), curve("half"), n_min=1e11)
    assert verdict.status == Status.UNDECIDED
    assert verdict.exponent is None
    assert "2 sizes" in verdict.reason
    assert judge(NO_POWER, curve("plateau", np.logspace(3, 4, 5))).status == Status.UNDECIDED


def test_transient_is_dropped_and_said():
    plateau = curve("plateau")
    bent = ErrorCurve(
        WIDE,
        np.log(1 + 300 * WIDE**-0.5),
        np.full(10, 0.03),
        plateau.lower,
        plateau.upper,
        plateau.count,
        plateau.missing,
    )
    verdict = judge(NO_POWER, bent)
    assert verdict.status == Status.SUPPORTED
    assert verdict.evidence["n_min"] > 1e3
    assert verdict.reason.startswith("From n = ")
    fixed = judge(NO_POWER, bent, n_min=1e3)
    assert fixed.status == Status.UNDECIDED
    assert "No law fits" in fixed.reason
    assert judge(Prediction("power", -0.5), bent).status == Status.REFUTED


def test_evidence_has_the_numbers():
    evidence = judge(Prediction("power", -0.5), curve("half")).evidence
    assert evidence["margin"] == 0.05
    assert evidence["n_max"] == 1e12
    assert evidence["best_by_aicc"] == "power"
    assert set(evidence["rejection_p"]) == {"power", "inverse-log", "plateau"}


def test_replications_without_the_cell_are_told_and_leave_the_verdict_standing():
    verdict = judge(Prediction("power", -0.5), curve("half", count=48, missing=16), terms=Terms(conditional=True))
    assert verdict.status == Status.SUPPORTED
    assert verdict.reason.endswith("Of 640 replications 160 have no such cell and no value.")
    assert verdict.evidence["missing"] == 160
    complete = judge(Prediction("power", -0.5), curve("half"), terms=Terms(conditional=True))
    assert "no such cell" not in complete.reason
    few = judge(Prediction("power", -0.5), curve("half", count=4, missing=60), terms=Terms(conditional=True))
    assert few.status == Status.UNDECIDED


def test_the_sample_sizes_of_accuracies_are_evidence():
    found = judge(Prediction("power", -0.5), curve("half")).evidence["sample_complexity"]
    assert [each["accuracy"] for each in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])
    assert [each["n"] for each in found] == pytest.approx([np.e**2 * 10.0**p for p in (4, 6, 8, 10)], rel=1e-6)
    assert all(each["lower"] < each["n"] < each["upper"] and not each["extrapolated"] for each in found)


def test_only_a_power_law_is_followed_beyond_the_sizes_measured():
    wanted = Terms(wanted=(1e-3, 1e-9))
    inside, beyond = judge(Prediction("power", -0.5), curve("half"), terms=wanted).evidence["sample_complexity"]
    assert not inside["extrapolated"]
    assert beyond["extrapolated"]
    assert beyond["n"] == pytest.approx(np.e**2 * 1e18, rel=1e-6)
    for law in ("plateau", "inverse-log"):
        found = judge(NO_POWER, curve(law), terms=wanted).evidence["sample_complexity"]
        assert [each["n"] for each in found] == [np.inf, np.inf]
        assert all("not reached" in each["statement"] for each in found)
    default = judge(NO_POWER, curve("plateau")).evidence["sample_complexity"]
    assert [(each["accuracy"], each["n"]) for each in default] == [(pytest.approx(1.0), np.inf)]


def test_an_undetermined_law_is_not_extrapolated():
    verdict = judge(NO_POWER, curve("eighth", NARROW, standard_error=0.08), terms=Terms(wanted=(0.8, 1e-3)))
    assert verdict.law == "undetermined"
    inside, beyond = verdict.evidence["sample_complexity"]
    assert inside["lower"] < (np.e / 0.8) ** 8 < inside["upper"]
    assert beyond["n"] == np.inf


def test_growing_error_is_not_a_rate():
    n = WIDE
    base = curve("half")
    growing = ErrorCurve(n, 0.3 * np.log(n), base.standard_error, base.lower, base.upper, base.count, base.missing)
    verdict = judge(Prediction("power", -0.5), growing)
    assert verdict.status == Status.REFUTED
    assert verdict.law == "undetermined"
