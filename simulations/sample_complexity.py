"""Samples that an accuracy needs, n(eps), for every system: what each needs to confine the fits as good as the truth.

Every claim at its own sizes, so that after `moe-theory run singles` this only draws.

python simulations/sample_complexity.py [--smoke] [--results DIR] [--figures DIR]
"""

import sys

from common import options, run

from moe_theory.errors import InputError
from moe_theory.study.drawing import Drawn, lasting
from moe_theory.study.phases import ACCURACIES, SET_COLUMN, needed, needed_figure
from moe_theory.study.provenance import provenance
from moe_theory.study.report import Judged, report

SYSTEMS = {
    "LoRA": "lora-over",
    "DoRA, free magnitudes": "dora-over",
    "LoRA, 2 heads": "mh-lora-over",
    "RepLoRA": "replora-linear-over",
    "DoRAN, global magnitudes": "doran-over",
    "HoRA, 2 heads": "hora-over",
}
CLAIMS = tuple(SYSTEMS.values())
SIZES = None
REPLICATIONS = None
SEED = 0


def judged_set(drawn: Drawn) -> Judged:
    """The measure of `SET_COLUMN` of a claim, with the sample size of every accuracy that is drawn."""
    made, rows = drawn
    finely = report(made.claim, made.sweep, rows, accuracies=ACCURACIES)
    return next(each for each in (finely.main, *finely.others) if each.measure.column == SET_COLUMN)


def main() -> None:
    """Run every system, print the verdicts, draw n(eps)."""
    given = options(__doc__)
    drawn = run(CLAIMS, SIZES, REPLICATIONS, SEED, given)
    systems = []
    for name, each in zip(SYSTEMS, drawn, strict=True):
        try:
            systems.append(needed(name, judged_set(each)))
        except InputError as error:
            print(f"not drawn: {error}", file=sys.stderr)
    for path in needed_figure(systems, given.figures / "sample-complexity", lasting(provenance())):
        print(path)


if __name__ == "__main__":
    main()
