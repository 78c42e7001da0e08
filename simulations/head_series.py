"""HoRA against multi-head LoRA as the number of heads grows: how many more samples LoRA needs for the same error.

python simulations/head_series.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import options, run

from moe_theory.study.comparing import compare, comparison_table
from moe_theory.study.drawing import lasting
from moe_theory.study.phases import ratio_figure
from moe_theory.study.provenance import provenance
from moe_theory.theory.comparisons import COMPARISONS

COMPARISON = COMPARISONS["hora-vs-mh-lora"]
CLAIMS = COMPARISON.parts
SIZES = "1e7:1e13:4"
REPLICATIONS = 16
SEED = 0


def main() -> None:
    """Run the series, print the verdicts, draw the ratios."""
    given = options(__doc__)
    drawn = run(CLAIMS, SIZES, REPLICATIONS, SEED, given)
    made = compare(COMPARISON, {report.claim.id: rows for report, rows in drawn})
    print(comparison_table(made))
    labels = "heads $H$", "samples for equal error: multi-head LoRA / HoRA"
    for path in ratio_figure(made, *labels, given.figures / "hora-vs-mh-lora", lasting(provenance())):
        print(path)


if __name__ == "__main__":
    main()
