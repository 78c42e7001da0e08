"""Panels: what is drawn is what was measured and judged, and what cannot be drawn is told."""

import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.figures import draw
from moe_theory.study.panels import claim_panel
from moe_theory.theory.laws import Prediction
from tests.study.drawn import SIZES, line, log_medians, points, results, verdict_on


def test_the_judged_column_shows_the_verdict():
    frame = results()
    verdict = verdict_on(frame, Prediction("power", -0.5))
    panel = claim_panel("claim", frame, verdict, fit_from=1e9)
    first = panel.series[0]
    assert (first.exponent, first.interval, first.reference) == (verdict.exponent, verdict.interval, -0.5)
    assert first.fit is not None
    assert first.fit.n_range == (verdict.evidence["n_min"], 1e12)
    other = panel.series[1].fit
    assert other is not None
    assert other.n_range == (1e9, 1e12)
    assert panel.subtitle == "prediction for $D_{12}$, $n^{-1/2}$: SUPPORTED"
    plateau = results(plateau=True)
    refuted = claim_panel("lora", plateau, verdict_on(plateau, Prediction("no-power")))
    assert refuted.subtitle == "prediction for $D_{12}$, no power law: SUPPORTED"


def test_a_verdict_that_fitted_nothing_draws_no_law():
    frame = results(SIZES[:3])
    panel = claim_panel("claim", frame, verdict_on(frame, Prediction("power", -0.5)))
    assert panel.series[0].fit is None
    assert panel.subtitle == "prediction for $D_{12}$: UNDECIDED"
    x, y = points(line(draw([panel]), "D_12:law"))
    np.testing.assert_array_equal(x, SIZES[:3])
    np.testing.assert_allclose(y, log_medians(frame, "D_12"), rtol=1e-12)


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES[:2]])
def test_few_sizes_are_drawn_without_a_law(sizes):
    panel = claim_panel("smoke", results(sizes))
    assert [series.fit for series in panel.series] == [None] * 4
    assert points(line(draw([panel]), "D_12:median"))[0].tolist() == sizes
    assert claim_panel("smoke", results(), fit_from=1e13).series[0].fit is None


def test_a_column_without_any_value_is_left_out():
    frame = results().assign(singleton_error=np.nan)
    assert [series.name for series in claim_panel("claim", frame).series] == [
        "D_12",
        "function_error",
        "overfitted_error",
    ]
    with pytest.raises(InputError, match="none of the columns singleton_error has a value"):
        claim_panel("claim", frame, columns=["singleton_error"])


def test_an_exact_claim_shows_d_1():
    frame = results().rename(columns={"D_12": "D_1"}).drop(columns="overfitted_error")
    assert claim_panel("claim", frame).series[0].label == "$D_1$"
