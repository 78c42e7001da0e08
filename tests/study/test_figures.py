"""Figures: what is drawn is what was measured, the files repeat byte for byte, and failures are told clearly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from moe_theory.errors import InputError, StoreError
from moe_theory.study.figures import (
    COMPARED,
    Panel,
    Series,
    claim_figure,
    claim_panel,
    comparison_figure,
    curve_of,
    draw,
    plotted,
    rate_figure,
)
from moe_theory.study.verdict import Verdict, judge
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import local_slopes

SIZES = [10**e for e in range(3, 13)]
REPLICATIONS = 64
COLUMNS = ["D_12", "function_error", "singleton_error", "overfitted_error"]


def results(sizes: list[int] | None = None, plateau: bool = False, seed: int = 0) -> pd.DataFrame:
    """Replications with lognormal noise: n^-1/2, over-fitted atoms n^-1/4, or a plateau of D and atoms."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.array(sizes or SIZES, dtype=np.int64), REPLICATIONS)
    laws = {"D_12": (9.0, 0.5), "function_error": (2.0, 0.5), "singleton_error": (4.0, 0.5)}
    laws["overfitted_error"] = (2.0, 0.25)
    if plateau:
        laws |= {"D_12": (0.5, 0.0), "overfitted_error": (0.9, 0.0)}
    frame = pd.DataFrame({"n": n, "replication": np.tile(np.arange(REPLICATIONS), n.size // REPLICATIONS)})
    frame["certified"] = True
    for column, (constant, rate) in laws.items():
        frame[column] = constant * n**-rate * np.exp(0.3 * rng.standard_normal(n.size))
    if plateau:
        frame["D_12_lowest"], frame["D_12_highest"] = 0.2 * frame["D_12"], 3 * frame["D_12"]
    return frame


def verdict_on(frame: pd.DataFrame, prediction: Prediction) -> Verdict:
    curve, _ = curve_of(frame, "D_12")
    assert curve is not None
    return judge(prediction, curve)


def log_medians(frame: pd.DataFrame, column: str) -> np.ndarray:
    """exp(median of logs): of an even number of errors the geometric, not the arithmetic mean of the middle two."""
    return np.exp(frame[column].map(np.log).groupby(frame["n"]).median().to_numpy())


def line(figure: Figure, gid: str, panel: int = 0, row: int = 0) -> Line2D:
    """The line of that name; a panel's axes are its errors, slopes, certified share and legend, in this order."""
    found = [each for each in figure.axes[4 * panel + row].lines if each.get_gid() == gid]
    assert len(found) == 1
    return found[0]


def points(found: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(found.get_xdata(), dtype=float), np.asarray(found.get_ydata(), dtype=float)


def legend_texts(figure: Figure, panel: int = 0) -> list[str]:
    legend = figure.axes[4 * panel + 3].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


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


def test_missing_values_are_counted_and_shown():
    frame = results()
    frame.loc[frame["n"] == 1000, "overfitted_error"] = np.nan
    frame.loc[(frame["n"] == 10**4) & (frame["replication"] < 8), "overfitted_error"] = np.nan
    panel = claim_panel("claim", frame)
    table = plotted([panel]).query("series == 'overfitted_error'").set_index("n")
    assert table["missing"].tolist()[:3] == [64, 8, 0]
    assert table["replications"].tolist()[:3] == [0, 56, 64]
    assert np.isnan(table.loc[1000.0, ["median", "lower_quartile", "fitted"]].to_numpy(dtype=float)).all()
    figure = draw([panel])
    hollow = line(figure, "overfitted_error:median of few")
    assert points(hollow)[0].tolist() == [10**4]
    assert hollow.get_markerfacecolor() == "white"
    assert points(line(figure, "overfitted_error:median"))[0].tolist() == SIZES[2:]
    assert any("more than 5 %" in text for text in legend_texts(figure))


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


def test_the_csv_holds_what_is_plotted(tmp_path):
    frame = results()
    paths = claim_figure("claim", frame, None, 1e5, tmp_path / "new" / "v1.0", provenance={"seed": 3})
    assert [path.name for path in paths] == ["v1.0.png", "v1.0.pdf", "v1.0.csv", "v1.0.json"]
    assert all(path.stat().st_size > 0 for path in paths)
    table = pd.read_csv(paths[2])
    assert list(table.columns[:10]) == [
        "panel",
        "series",
        "n",
        "median",
        "lower_quartile",
        "upper_quartile",
        "standard_error_log_median",
        "replications",
        "missing",
        "certified_share",
    ]
    assert len(table) == len(COLUMNS) * len(SIZES)
    curve, _ = curve_of(frame, "singleton_error")
    assert curve is not None
    rows = table[table["series"] == "singleton_error"]
    np.testing.assert_allclose(rows["median"], np.exp(curve.log_center), rtol=1e-9)
    np.testing.assert_allclose(rows["standard_error_log_median"], curve.standard_error, rtol=1e-9)
    assert rows["replications"].tolist() == [REPLICATIONS] * len(SIZES)
    assert rows["certified_share"].tolist() == [1.0] * len(SIZES)
    assert rows["fitted"].isna().tolist() == [True] * 2 + [False] * 8
    described = json.loads(paths[3].read_text())
    assert described["provenance"] == {"seed": 3}
    assert described["versions"]["matplotlib"] == matplotlib.__version__
    assert [fit["law"] for fit in described["series"]] == ["power"] * 4


def test_the_json_holds_the_verdict(tmp_path):
    frame = results()
    verdict = verdict_on(frame, Prediction("power", -0.5))
    described = json.loads(claim_figure("claim", frame, verdict, None, tmp_path / "a", ["D_12"])[3].read_text())
    assert described["provenance"]["verdict"] == {"status": "SUPPORTED", "reason": verdict.reason}


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


def test_every_series_of_a_panel_looks_different():
    curve, _ = curve_of(results(SIZES[:2]), "D_12")
    assert curve is not None
    series = [Series("mine", "mine", curve), Series("mine", "mine too", curve), Series("D_12", "D", curve, look=0)]
    figure = draw([Panel("own", series)])
    drawn = [each for each in figure.axes[0].lines if str(each.get_gid()).endswith(":median")]
    assert len({each.get_color() for each in drawn}) == len({str(each.get_marker()) for each in drawn}) == 3
    assert "not recorded" in [text.get_text() for text in figure.axes[2].texts]


def test_nothing_is_cut_off_and_legends_keep_to_their_panel():
    lora = results(plateau=True)
    lora.loc[(lora["n"] == 1000) & (lora["replication"] < 32), "overfitted_error"] = np.nan
    left = claim_panel("LoRA", lora, verdict_on(lora, Prediction("no-power")), columns=COMPARED, tail_level=0.9)
    right = claim_panel("RepLoRA", results(), references=dict.fromkeys(COLUMNS, -0.25))
    figure = draw([left, right])
    FigureCanvasAgg(figure).draw()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    legends = [legend for legend in figure.findobj(Legend) if isinstance(legend, Legend)]
    assert len(legends) == 2
    first, second = sorted((legend.get_window_extent() for legend in legends), key=lambda box: box.x0)
    assert first.x1 < second.x0
    assert min(first.y0, second.y0) > figure.dpi * 0.12  # the key line beneath


def test_files_repeat_byte_for_byte(tmp_path):
    left, right = (claim_panel("a", results(SIZES[:4], plateau=flat), columns=["D_12"]) for flat in (True, False))
    first = comparison_figure(left, right, tmp_path / "one", {"seed": 1})
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "lines.linewidth": 5}):
        second = comparison_figure(left, right, tmp_path / "two", {"seed": 1})
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert dict(matplotlib.rcParams) == before


SCRIPT = """
import hashlib, sys
import numpy as np, pandas as pd
from moe_theory.study.figures import claim_figure
n = np.repeat([1000, 10000, 100000, 1000000], 8)
frame = pd.DataFrame({"n": n, "certified": True, "D_12": n**-0.5 * np.tile(np.arange(1.0, 9.0), 4)})
for path in claim_figure("claim", frame, None, None, sys.argv[1]):
    print(hashlib.sha256(path.read_bytes()).hexdigest())
assert not {"jax", "matplotlib.pyplot"} & set(sys.modules)
"""


def test_files_repeat_in_another_process_without_display_jax_or_pyplot(tmp_path):
    root = Path(__file__).resolve().parents[2]
    printed = []
    for seed in ("1", "2"):
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
        environment |= {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / seed)]
        printed.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 4


def test_an_unwritable_folder_is_told_and_nothing_is_half_written(tmp_path):
    panel = claim_panel("claim", results(SIZES[:3]), columns=["D_12"])
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot be written .*: choose a writable folder"):
        rate_figure([panel], tmp_path / "file" / "figure")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(StoreError, match=r"taken\.png cannot be written"):
        rate_figure([panel], tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


def test_bad_input_is_told(tmp_path):
    frame = results(SIZES[:3])
    with pytest.raises(InputError, match="no column D_7"):
        claim_panel("claim", frame, columns=["D_7"])
    with pytest.raises(InputError, match="no column certified"):
        claim_panel("claim", frame.drop(columns="certified"))
    with pytest.raises(InputError, match=r"D_12: n = 1000: 1 of 64 errors are zero, negative or infinite"):
        claim_panel("claim", frame.assign(D_12=frame["D_12"].mask(frame.index == 0, 0.0)))
    with pytest.raises(InputError, match="at least one panel"):
        rate_figure([], tmp_path / "a")
    with pytest.raises(InputError, match="provenance of a figure"):
        rate_figure([claim_panel("claim", frame, columns=["D_12"])], tmp_path / "a", {"path": tmp_path})
    assert not list(tmp_path.iterdir())
