"""Axes: points, laws, bands, references, slopes, shares and legends stand where the numbers say."""

import numpy as np
import pytest

from moe_theory.study.figures import COMPARED, draw, plotted
from moe_theory.study.panels import Panel, Series, claim_panel, curve_of
from moe_theory.theory.summaries import local_slopes
from tests.study.drawn import COLUMNS, SIZES, legend_texts, line, log_medians, points, results


def test_medians_and_the_fitted_law_are_drawn_as_measured():
    frame = results()
    figure = draw([claim_panel("claim", frame, fit_from=1e5)])
    for column in COLUMNS:
        n, medians = points(line(figure, f"{column}:median"))
        np.testing.assert_array_equal(n, SIZES)
        np.testing.assert_allclose(medians, log_medians(frame, column), rtol=1e-12)
        x, y = points(line(figure, f"{column}:law"))
        assert (x[0], x[-1]) == pytest.approx((1e5, 1e12))
        slope = np.log(y[-1] / y[0]) / np.log(x[-1] / x[0])
        assert slope == pytest.approx(-0.25 if column == "overfitted_error" else -0.5, abs=0.02)


def test_the_band_holds_the_quartiles():
    frame = results()
    band = draw([claim_panel("claim", frame, columns=["D_12"])]).axes[0].collections[0].get_paths()[0]
    quartiles = np.concatenate([frame.groupby("n")["D_12"].quantile(level) for level in (0.25, 0.75)])
    heights = np.asarray(band.vertices)[:, 1]
    # Through the logarithm, whose interpolation differs a little from the linear one.
    assert np.isclose(quartiles[:, None], heights[None, :], rtol=0.02).any(axis=1).all()


def test_the_legend_says_law_exponent_interval_and_prediction():
    panel = claim_panel("claim", results(), references={"D_12": -0.5, "overfitted_error": -0.25})
    texts = legend_texts(draw([panel]))
    series = panel.series[0]
    assert series.interval is not None
    assert f"[{series.interval[0]:.3f}, {series.interval[1]:.3f}]".replace("-", "−") in texts[0]
    assert texts[0].endswith("predicted −1/2")
    assert texts[3].startswith("over-fitted atoms: −0.2")
    assert texts[3].endswith("predicted −1/4")
    assert "plateau 0." in legend_texts(draw([claim_panel("claim", results(plateau=True))]))[0]


def test_reference_slopes_are_straight_and_avoid_the_data():
    figure = draw([claim_panel("claim", results())])
    for slope in (-0.5, -0.25):
        x, y = points(line(figure, f"reference {slope:g}"))
        assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(slope)
    medians = [points(line(figure, f"{column}:median"))[1] for column in COLUMNS]
    below, above = (points(line(figure, f"reference {slope}"))[1] for slope in ("-0.5", "-0.25"))
    assert below[0] < min(y[0] for y in medians) <= max(y[0] for y in medians) < above[0]
    assert below[1] < min(y[-1] for y in medians)


def test_local_slopes_are_drawn_between_their_sizes():
    frame = results()
    x, y = points(line(draw([claim_panel("claim", frame, columns=["D_12"])]), "D_12:slopes", row=1))
    curve, _ = curve_of(frame, "D_12")
    assert curve is not None
    np.testing.assert_allclose(y, local_slopes(curve).slope)
    np.testing.assert_allclose(x, np.sqrt(np.array(SIZES[1:]) * np.array(SIZES[:-1], dtype=float)))


def test_certified_shares_and_those_below_the_axis():
    frame = results()
    frame["certified"] = ~((frame["n"] == 1000) & (frame["replication"] < 16))
    frame["certified"] = frame["certified"].astype(object)
    frame.loc[(frame["n"] == 10**6) & (frame["replication"] == 0), "certified"] = None
    figure = draw([claim_panel("claim", frame)])
    n, share = points(line(figure, "certified", row=2))
    assert n.tolist() == SIZES[1:]
    assert share[n == 1e6] == [63 / 64]
    assert points(line(figure, "certified: below the axis", row=2))[0].tolist() == [1000]
    assert [text.get_text() for text in figure.axes[2].texts] == ["0.75"]


def test_a_panel_without_a_single_certified_fit_keeps_its_layout():
    figure = draw([claim_panel("claim", results()), claim_panel("claim", results().assign(certified=False))])
    assert not [each for each in figure.axes[6].lines if each.get_gid() == "certified"]
    assert points(line(figure, "certified: below the axis", panel=1, row=2))[0].tolist() == SIZES
    left, right = (figure.axes[place].get_position() for place in (0, 4))
    assert left.width == pytest.approx(right.width, rel=0.2)


def test_missing_values_are_counted_and_shown():
    frame = results()
    frame.loc[frame["n"] == 1000, "overfitted_error"] = np.nan
    frame.loc[(frame["n"] == 10**4) & (frame["replication"] < 8), "overfitted_error"] = np.nan
    panel = claim_panel("claim", frame)
    table = plotted([panel]).query("series == 'overfitted_error'").set_index("n")
    assert table["missing"].tolist()[:3] == [64, 8, 0]
    assert table["replications"].tolist()[:3] == [0, 56, 64]
    assert np.isnan(table.loc[1000.0, ["center", "lower_quartile", "fitted"]].to_numpy(dtype=float)).all()
    figure = draw([panel])
    hollow = line(figure, "overfitted_error:median of few")
    assert points(hollow)[0].tolist() == [10**4]
    assert hollow.get_markerfacecolor() == "white"
    assert points(line(figure, "overfitted_error:median"))[0].tolist() == SIZES[2:]
    assert any("more than 5 %" in text for text in legend_texts(figure))


def test_the_identified_set_and_the_tail_in_a_comparison():
    lora, replora = results(plateau=True), results()
    left = claim_panel("LoRA", lora, columns=COMPARED, tail_level=0.9)
    right = claim_panel("RepLoRA", replora, columns=COMPARED)
    table = plotted([left, right]).set_index(["panel", "series"])
    rows = table.loc[("LoRA", "D_12")]
    np.testing.assert_allclose(rows["identified_lowest"], lora.groupby("n")["D_12_lowest"].median(), rtol=1e-9)
    np.testing.assert_allclose(rows["identified_highest"], lora.groupby("n")["D_12_highest"].median(), rtol=1e-9)
    assert table.loc["RepLoRA", "identified_lowest"].isna().all()
    figure = draw([left, right])
    assert figure.axes[0].get_ylim() == figure.axes[4].get_ylim()
    hatched = [each for each in figure.axes[0].collections if each.get_hatch()]
    assert len(hatched) == 1
    _, tail = points(line(figure, "overfitted_error:tail"))
    np.testing.assert_allclose(tail, lora.groupby("n")["overfitted_error"].quantile(0.9))
    assert "$D_{12}$: range over the identified set" in legend_texts(figure)
    assert "over-fitted atoms: 90 % quantile" in legend_texts(figure)
    assert not any("quantile" in text for text in legend_texts(figure, panel=1))


def test_an_identified_set_that_reaches_zero_does_not_stretch_the_axis():
    frame = results(plateau=True).assign(D_12_lowest=0.0)
    figure = draw([claim_panel("LoRA", frame)])
    assert figure.axes[0].get_ylim()[0] > 1e-9
    unknown = frame.assign(D_12_lowest=np.nan)
    assert claim_panel("LoRA", unknown).series[0].identified is None


def test_a_set_as_narrow_as_its_curve_is_kept_in_the_table_but_neither_drawn_nor_named():
    frame = results()
    frame = frame.assign(D_12_lowest=0.95 * frame["D_12"], D_12_highest=1.05 * frame["D_12"])
    panel = claim_panel("HoRA", frame)
    figure = draw([panel])
    assert not any(each.get_hatch() for each in figure.axes[0].collections)
    assert not any("identified set" in text for text in legend_texts(figure))
    assert plotted([panel]).set_index("series").loc["D_12", "identified_lowest"].notna().all()


def test_every_series_of_a_panel_looks_different():
    curve, _ = curve_of(results(SIZES[:2]), "D_12")
    assert curve is not None
    series = [Series("mine", "mine", curve), Series("mine", "mine too", curve), Series("D_12", "D", curve, look=0)]
    figure = draw([Panel("own", series)])
    drawn = [each for each in figure.axes[0].lines if str(each.get_gid()).endswith(":median")]
    assert len({each.get_color() for each in drawn}) == len({str(each.get_marker()) for each in drawn}) == 3
    assert "not recorded" in [text.get_text() for text in figure.axes[2].texts]


def test_a_lower_bound_has_the_colour_of_its_error_and_one_line_of_the_legend():
    bounds = {name: (lambda n, c=c: c * n**-0.5) for name, c in (("D_12", 0.1), ("singleton_error", 0.2))}
    figure = draw([claim_panel("claim", results(), bounds=bounds)])
    for name, constant in (("D_12", 0.1), ("singleton_error", 0.2)):
        bound, law = line(figure, f"{name}:bound"), line(figure, f"{name}:law")
        assert bound.get_color() == law.get_color()
        n, values = points(bound)
        np.testing.assert_allclose(values, constant * n**-0.5)
    assert sum("no mean error below" in text for text in legend_texts(figure)) == 1
    assert not any("no mean error below" in text for text in legend_texts(draw([claim_panel("claim", results())])))
