"""Which figures are drawn of which claims."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from moe_theory.study.figures import claim_figure, comparison_figure
from moe_theory.study.panels import Panel, claim_panel
from moe_theory.study.provenance import provenance
from moe_theory.study.report import Report
from moe_theory.theory.envelope import Modulus

Drawn = tuple[Report, pd.DataFrame]
"""A report and the rows that it judges."""


Bounds = Mapping[str, Modulus]
"""Moduli of continuity by claim: their two-point bound is drawn under the errors."""


def draw_claims(drawn: Sequence[Drawn], folder: Path, bounds: Bounds = MappingProxyType({})) -> list[Path]:
    """One figure per claim, named after it."""
    paths = []
    for made, rows in drawn:
        measures = [made.claim.main, *made.claim.others]
        paths += claim_figure(
            f"{made.claim.model}, {made.claim.specification}-specified" if made.claim.specification == "exact"
            else f"{made.claim.model}, over-specified",
            rows,
            made.main.verdict,
            made.claim.main.from_size or None,
            folder / made.claim.id,
            columns=[measure.column for measure in measures],
            references=_references(made),
            provenance=lasting(provenance()),
            statistics={measure.column: measure.statistic for measure in measures},
            bound=_bound(made, bounds),
        )  # fmt: skip
    return paths


def draw_headline(drawn: Sequence[Drawn], folder: Path, bounds: Bounds = MappingProxyType({})) -> list[Path]:
    """One figure per claim, and LoRA beside RepLoRA, over-specified, on one error axis."""
    paths = draw_claims(drawn, folder, bounds)
    by_id = {made.claim.id: (made, rows) for made, rows in drawn}
    if {"lora-over", "replora-linear-over"} <= by_id.keys():
        panels = [_over_panel(*by_id[name]) for name in ("lora-over", "replora-linear-over")]
        paths += comparison_figure(panels[0], panels[1], folder / "lora-against-replora", lasting(provenance()))
    return paths


def _bound(made: Report, bounds: Bounds) -> Callable[[np.ndarray], np.ndarray] | None:
    """The two-point bound of a claim's loss as a function of n."""
    found = bounds.get(made.claim.id)
    if found is None:
        return None
    sigma = float(made.sweep.problem.sigma)
    return lambda n: found.two_points(n, sigma)


def _over_panel(made: Report, rows: pd.DataFrame) -> Panel:
    columns = ["D_12_truth_highest", "D_12", "overfitted_error", "function_error"]
    return claim_panel(
        f"{made.claim.model}, over-specified",
        rows,
        None,
        1e5,
        columns,
        _references(made),
        tail_level=0.9,
        statistics={"D_12": "mean"},
    )


def _references(made: Report) -> dict[str, float]:
    """The powers that are predicted, by column."""
    predictions = {each.column: each.prediction.exponent for each in (made.claim.main, *made.claim.others)}
    return {column: exponent for column, exponent in predictions.items() if exponent is not None}


def lasting(described: dict) -> dict:
    """Provenance without the time, so that a figure drawn twice from the same rows is the same file."""
    return {name: value for name, value in described.items() if name != "written_at"}
