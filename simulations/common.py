"""What the simulation scripts share: run claims, print their verdicts, draw them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_theory.study.drawing import Drawn, draw_claims
from moe_theory.study.report import report
from moe_theory.study.store import Store
from moe_theory.study.sweep import SMOKE, run_claims, sweep_of
from moe_theory.study.tables import verdict_table
from moe_theory.theory.claims import claim_named


def options(description: str | None) -> argparse.Namespace:
    """What every script takes: --smoke, --results, --figures, --workers."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; decides nothing")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of stored results")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="folder for figures")
    parser.add_argument("--workers", type=int, default=None, help="processes; one per processor by default")
    return parser.parse_args()


def run(
    claims: Sequence[str],
    sizes: str,
    replications: int,
    seed: int,
    given: argparse.Namespace,
    accuracies: Sequence[float] | None = None,
) -> list[Drawn]:
    """Run the claims with the script's numbers (or smoke sizes) and print the verdict table."""
    settings: dict[str, Any] = {"sizes": sizes, "replications": replications}
    changes = SMOKE if given.smoke else settings
    sweeps = [(claim, sweep_of(claim, seed=seed, **changes)) for claim in map(claim_named, claims)]
    computed = run_claims(sweeps, Store(given.results), given.workers)
    drawn = [
        (report(claim, sweep, rows, accuracies=accuracies), rows)
        for (claim, sweep), rows in zip(sweeps, computed, strict=True)
    ]
    print(verdict_table([made for made, _ in drawn]))
    return drawn


def main(claims: Sequence[str], sizes: str, replications: int, seed: int, description: str | None) -> None:
    """Run the claims, print the verdict table, draw one figure for each claim."""
    given = options(description)
    for path in draw_claims(run(claims, sizes, replications, seed, given), given.figures):
        print(path)
