"""Four softmax-gated atoms for two: fits whose cells have gates apart, and fits whose gates are together.

Where every true atom is fitted twice and the gates of both cells are apart by the same amounts, the density does not
change: beta1 has no rate, and b, a and nu are at n^-1/2. Where the gates are together they are as in a cell of two.
Read from the fits of the claim with two atoms in each cell.

python simulations/softmax_gated_populations.py [--smoke] [--results DIR] [--figures DIR]
"""

import pandas as pd
from common import options, run

from moe_theory.study.panels import curve_of
from moe_theory.study.tables import aligned
from moe_theory.theory.density_claims import WORDS
from moe_theory.theory.laws import compare_laws

CLAIMS = ("softmax-gated-k4",)
SIZES = REPLICATIONS = None
SEED = 0
TWO_AND_TWO = 22
"""Atoms in the cells as digits."""
APART = 0.1
"""Error of beta1 in cells of two, in the scaled metric, above which gates count as apart: a cut, not a gap. Cells of
two beside a single atom have at most 0.14 at n = 10^8, and 0.003 at 10^15."""
BLOCKS = ("intercept", "slope", "noise")


def populations(rows: pd.DataFrame) -> str:
    """Number of fits by size, and the slope over all sizes of the mean error of each block."""
    pairs = rows.loc[rows["cells"] == TWO_AND_TWO]
    apart = pairs["pair_gate_error"] > APART
    table = [["fits", "how many, by size", *(WORDS[block] for block in BLOCKS)]]
    for name, fits in (("gates apart", pairs.loc[apart]), ("gates together", pairs.loc[~apart]), ("both", pairs)):
        slopes = [slope_of(fits, f"pair_{block}_error") for block in BLOCKS]
        counts = fits["n"].value_counts().reindex(sorted(rows["n"].unique()), fill_value=0)
        table.append([name, " ".join(map(str, counts)), *slopes])
    return aligned(table)


def slope_of(fits: pd.DataFrame, column: str) -> str:
    """Slope of log mean error in log n, without an interval: few fits."""
    curve = curve_of(fits, column, "mean")[0] if len(fits) else None
    if curve is None or curve.n.size < 3:
        return "-"
    return f"{compare_laws(curve).fits['power'].parameters['exponent']:+.3f}"


def main() -> None:
    """Run or read the claim, print its verdict and its populations."""
    given = options(__doc__)
    for made, rows in run(CLAIMS, SIZES, REPLICATIONS, SEED, given):
        print(f"{made.claim.id}: fits with two atoms in each cell, by whether their gates are more than {APART} apart")
        print(populations(rows))


if __name__ == "__main__":
    main()
