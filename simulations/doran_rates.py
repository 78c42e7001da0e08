"""DoRA's and DoRAN's rates: what the papers' claims need of magnitudes, sharing and tau, one row for each variant; and
whether tau changes the law.

python simulations/doran_rates.py [--smoke] [--results DIR] [--figures DIR]
"""

from itertools import product

from common import options, run

from moe_theory.study.comparing import compare, comparison_table
from moe_theory.study.drawing import draw_claims
from moe_theory.theory.comparisons import COMPARISONS

CLAIMS = (
    "doran-exact",
    "doran-over",
    "dora-over",
    *(
        f"{adapter}-{magnitudes}-tau-{tau}"
        for adapter, magnitudes, tau in product(("dora", "doran"), ("fixed", "global", "free"), ("0", "0.5", "free"))
    ),
)
SIZES = None  # of every claim its own, as `moe-theory run`
REPLICATIONS = None
SEED = 0


def main() -> None:
    """Run every variant, print the verdicts, compare tau > 0 with tau = 0, draw one figure for each claim."""
    given = options(__doc__)
    drawn = run(CLAIMS, SIZES, REPLICATIONS, SEED, given)
    rows = {made.claim.id: each for made, each in drawn}
    print(comparison_table(compare(COMPARISONS["dora-tau-role"], rows)))
    for path in draw_claims(drawn, given.figures):
        print(path)


if __name__ == "__main__":
    main()
