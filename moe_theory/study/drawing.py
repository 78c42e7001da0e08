"""Which figures are drawn of which claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.density_spec import AnyProblem, DensityProblemSpec
from moe_theory.study.figures import claim_figure, comparison_figure, rate_figure
from moe_theory.study.panels import Bounds, Panel, claim_panel
from moe_theory.study.provenance import provenance
from moe_theory.study.report import Report
from moe_theory.theory.claims import Measure
from moe_theory.theory.comparisons import COMPARISONS, Comparison
from moe_theory.theory.density_claims import ASYMPTOTIC_FROM
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.summaries import Statistic

Drawn = tuple[Report, pd.DataFrame]
"""A report and the rows that it judges."""


Moduli = Mapping[str, Mapping[str, Modulus]]
"""Moduli of continuity by claim and column: their two-point bound is drawn under the errors."""


MOST_PANELS = 4


def draw_claims(drawn: Sequence[Drawn], folder: Path, moduli: Moduli = MappingProxyType({})) -> list[Path]:
    """One figure per claim, named after it, and one per comparison of laws that has all its (few) claims here."""
    paths = [path for made, rows in drawn for path in _draw_claim(made, rows, folder / made.claim.id, moduli)]
    by_id = {made.claim.id: (made, rows) for made, rows in drawn}
    for comparison in COMPARISONS.values():
        few = comparison.question == "other law" and len(comparison.parts) <= MOST_PANELS
        if few and by_id.keys() >= set(comparison.parts):
            panels = [_compared_panel(comparison, *by_id[name]) for name in comparison.parts]
            paths += rate_figure(panels, folder / comparison.id, lasting(provenance()))
    return paths


def _compared_panel(comparison: Comparison, made: Report, rows: pd.DataFrame) -> Panel:
    columns = [aspect.column for aspect in (comparison.main, *comparison.others)]
    return claim_panel(made.claim.model, rows, None, comparison.from_size, columns, _references(made))


def _draw_claim(made: Report, rows: pd.DataFrame, stem: Path, moduli: Moduli) -> list[Path]:
    title = f"{made.claim.model}, {'exact' if made.claim.specification == 'exact' else 'over'}-specified"
    measures = _drawn_measures(made)
    described = lasting(provenance())
    if made.claim.kind == "density" and made.claim.specification == "over":
        judged = {"verdict": {"status": str(made.main.verdict.status), "reason": made.main.verdict.reason}}
        return rate_figure(_block_panels(title, made, rows, _bounds(made, moduli)), stem, {**described, **judged})
    return claim_figure(
        title,
        rows,
        made.main.verdict,
        made.claim.main.from_size or None,
        stem,
        columns=[measure.column for measure in measures],
        references=_references(made),
        provenance=described,
        statistics={measure.column: measure.statistic for measure in measures},
        bounds=_bounds(made, moduli),
    )


def _drawn_measures(made: Report) -> list[Measure]:
    """The measures that have a curve; of two laws for one column the first."""
    measures: dict[str, Measure] = {}
    for judged in (made.main, *made.others):
        measures.setdefault(judged.measure.column, judged.measure)
    return list(measures.values())


PARTS = {"pair": "cells of two atoms", "triple": "cells of three atoms", "": "what is estimated at $n^{-1/2}$"}


def _block_panels(title: str, made: Report, rows: pd.DataFrame, bounds: Bounds) -> list[Panel]:
    """One panel for each kind of cell with a curve for each block of parameters, and one for everything else."""
    panels = []
    left = _drawn_measures(made)
    references = _references(made)
    for kind, words in PARTS.items():
        chosen = [measure for measure in left if measure.column.startswith(kind)]
        left = [measure for measure in left if measure not in chosen]
        if not chosen:
            continue
        columns = [measure.column for measure in chosen]
        statistics: dict[str, Statistic] = {measure.column: measure.statistic for measure in chosen}
        slopes = tuple(sorted({references[column] for column in columns if column in references})) or (-0.5,)
        panel = claim_panel(f"{title}: {words}" if not panels else words, rows, None, ASYMPTOTIC_FROM, columns,
                            references, statistics=statistics, bounds=bounds)  # fmt: skip
        panels.append(replace(panel, slopes=slopes))
    return panels


def draw_headline(drawn: Sequence[Drawn], folder: Path, moduli: Moduli = MappingProxyType({})) -> list[Path]:
    """One figure per claim, and LoRA beside RepLoRA, over-specified, on one error axis."""
    paths = draw_claims(drawn, folder, moduli)
    by_id = {made.claim.id: (made, rows) for made, rows in drawn}
    if {"lora-over", "replora-linear-over"} <= by_id.keys():
        panels = [_over_panel(*by_id[name]) for name in ("lora-over", "replora-linear-over")]
        paths += comparison_figure(panels[0], panels[1], folder / "lora-against-replora", lasting(provenance()))
    return paths


def _bounds(made: Report, moduli: Moduli) -> Bounds:
    """The two-point bounds of a claim's errors as functions of n."""
    return {column: _bound(made.sweep.problem, found) for column, found in moduli.get(made.claim.id, {}).items()}


def _bound(problem: AnyProblem, found: Modulus) -> Callable[[np.ndarray], np.ndarray]:
    if isinstance(problem, DensityProblemSpec | AdaptedProblemSpec):
        return found.two_densities
    sigma = float(problem.sigma)
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
    predictions = {measure.column: measure.prediction.exponent for measure in _drawn_measures(made)}
    return {column: exponent for column, exponent in predictions.items() if exponent is not None}


def lasting(described: dict) -> dict:
    """Provenance without the time, so that a figure drawn twice from the same rows is the same file."""
    return {name: value for name, value in described.items() if name != "written_at"}
