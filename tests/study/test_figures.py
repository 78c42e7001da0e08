"""Figure files: they hold what is plotted, repeat byte for byte, and failures are told clearly."""

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
from matplotlib.legend import Legend

from moe_theory.errors import InputError, StoreError
from moe_theory.study.figures import COMPARED, claim_figure, comparison_figure, draw, rate_figure
from moe_theory.study.panels import claim_panel, curve_of
from moe_theory.theory.laws import Prediction
from tests.study.drawn import COLUMNS, REPLICATIONS, SIZES, results, verdict_on


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
        "center",
        "lower_quartile",
        "upper_quartile",
        "standard_error_log_center",
        "replications",
        "missing",
        "certified_share",
    ]
    assert len(table) == len(COLUMNS) * len(SIZES)
    curve, _ = curve_of(frame, "singleton_error")
    assert curve is not None
    rows = table[table["series"] == "singleton_error"]
    np.testing.assert_allclose(rows["center"], np.exp(curve.log_center), rtol=1e-9)
    np.testing.assert_allclose(rows["standard_error_log_center"], curve.standard_error, rtol=1e-9)
    assert rows["replications"].tolist() == [REPLICATIONS] * len(SIZES)
    assert rows["certified_share"].tolist() == [1.0] * len(SIZES)
    assert pd.isna(np.asarray(rows["fitted"])).tolist() == [True] * 2 + [False] * 8
    described = json.loads(paths[3].read_text())
    assert described["provenance"] == {"seed": 3}
    assert described["versions"]["matplotlib"] == matplotlib.__version__
    assert [fit["law"] for fit in described["series"]] == ["power"] * 4


def test_the_json_holds_the_verdict(tmp_path):
    frame = results()
    verdict = verdict_on(frame, Prediction("power", -0.5))
    described = json.loads(claim_figure("claim", frame, verdict, None, tmp_path / "a", ["D_12"])[3].read_text())
    assert described["provenance"]["verdict"] == {"status": "SUPPORTED", "reason": verdict.reason}


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
