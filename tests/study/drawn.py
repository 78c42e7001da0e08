"""Replications made up for figures, and how to find in a figure what was drawn of them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moe_theory.study.panels import curve_of
from moe_theory.study.verdict import Verdict, judge
from moe_theory.theory.laws import Prediction

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


def log_medians(frame: pd.DataFrame, column: str) -> np.ndarray:
    """exp(median of logs): of an even number of errors the geometric, not the arithmetic mean of the middle two."""
    return np.exp(frame[column].map(np.log).groupby(frame["n"]).median().to_numpy())
