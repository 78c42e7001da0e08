"""What the simulation scripts share: run claims, print their verdicts, draw them."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from moe_theory.compiled import keep_compiled
from moe_theory.study.drawing import Drawn, draw_claims
from moe_theory.study.panels import curve_of
from moe_theory.study.report import predicted_words, report
from moe_theory.study.store import Store
from moe_theory.study.sweep import run_claims, smoke_of, sweep_of
from moe_theory.study.tables import exponent_words, verdict_table
from moe_theory.study.verdict import standing_laws
from moe_theory.theory.claims import Claim, claim_named
from moe_theory.theory.laws import compare_laws


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """What every script takes: --smoke, --results, --figures, --workers."""
    keep_compiled()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; decides nothing")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of stored results")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="folder for figures")
    parser.add_argument("--workers", type=int, default=None, help="processes; one per processor by default")
    return parser


def options(description: str | None) -> argparse.Namespace:
    """The options that were given to a script that takes no others."""
    return options_parser(description).parse_args()


def asked(sizes: str | None, replications: int | None) -> dict[str, Any]:
    """The settings of a sweep that a script does not leave to the claim."""
    settings = {"sizes": sizes, "replications": replications}
    return {name: value for name, value in settings.items() if value is not None}


def run(
    claims: Sequence[str],
    sizes: str | None,
    replications: int | None,
    seed: int,
    given: argparse.Namespace,
) -> list[Drawn]:
    """Run the claims with the script's numbers (None: every claim's own) or smoke sizes; print the verdict table."""
    settings = asked(sizes, replications)
    sweeps = [
        (claim, sweep_of(claim, seed=seed, **(smoke_of(claim) if given.smoke else settings)))
        for claim in map(claim_named, claims)
    ]
    computed = run_claims(sweeps, Store(given.results), given.workers)
    drawn = [(report(claim, sweep, rows), rows) for (claim, sweep), rows in zip(sweeps, computed, strict=True)]
    print(verdict_table([made for made, _ in drawn]))
    return drawn


def main(
    claims: Sequence[str], sizes: str | None, replications: int | None, seed: int, description: str | None
) -> None:
    """Run the claims, print the verdict table, draw one figure for each claim."""
    given = options(description)
    for path in draw_claims(run(claims, sizes, replications, seed, given), given.figures):
        print(path)


def main_published(
    claims: Sequence[str],
    published: tuple[str, int],
    extended: tuple[str, int],
    seed: int,
    description: str | None,
) -> None:
    """Run the claims at the published sizes, for the slopes seen there, and at the extended ones, for the verdicts.

    Args:
        claims: ids.
        published, extended: grid of sizes, and replications.
        seed: root of the random streams.
        description: of the script.
    """
    parser = options_parser(description)
    parser.add_argument("--claims", nargs="+", choices=claims, default=claims, help="these alone; all by default")
    parser.add_argument("--published-only", action="store_true", help="leave out the sizes beyond the published ones")
    given = parser.parse_args()
    sizes, replications = ("1e2:1e5:4", 4) if given.smoke else published
    settings = {"sizes": sizes, "replications": replications, "starts": "smoke" if given.smoke else "near"}
    for claim in map(claim_named, given.claims):
        begun, spent = time.monotonic(), _processor_time()
        sweep = sweep_of(claim, seed=seed, **settings)
        (rows,) = run_claims([(claim, sweep)], Store(given.results), given.workers)
        print(told_of_short_range(claim, rows, sizes))
        wall, spent = time.monotonic() - begun, _processor_time() - spent
        print(f"  {len(rows)} fits in {wall:.0f} s, {spent:.0f} s of processor time")
    if not given.published_only:
        for path in draw_claims(run(given.claims, *extended, seed, given), given.figures):
            print(path)


def _processor_time() -> float:
    """Of this process and of its workers that have ended."""
    return sum(os.times()[:4])


def told_of_short_range(claim: Claim, rows: pd.DataFrame, sizes: str) -> str:
    """What a range too short for a verdict shows: slopes, whether they hold the prediction, which laws it leaves."""
    share = rows.loc[rows["n"] >= 1000, "certified"].mean()
    lines = [f"{claim.id}: slopes over {sizes}, too short for a verdict; {100 * share:.1f} % certified from 10^3 on"]
    for measure in (claim.main, *claim.others):
        curve, _ = curve_of(rows, measure.column, measure.statistic)
        if curve is None or curve.n.size < 3:
            continue
        laws = compare_laws(curve)
        power = laws.fits["power"]
        exponent, (low, high) = power.parameters["exponent"], power.intervals["exponent"]
        predicted = measure.prediction.exponent
        held = "" if predicted is None else ", inside" if low <= predicted <= high else ", outside"
        left = " or ".join(sorted(standing_laws(laws))) or "none of power, inverse-log, plateau"
        lines.append(
            f"  {measure.words}: {exponent_words(exponent, (low, high))}, predicted "
            f"{predicted_words(measure.prediction)}{held}; laws not rejected: {left}"
        )
    return "\n".join(lines)
