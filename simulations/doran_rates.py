"""DoRA's and DoRAN's rates: what the papers' claims need of magnitudes, sharing and tau, one row for each variant.

python simulations/doran_rates.py [--smoke] [--results DIR] [--figures DIR]
"""

from itertools import product

from common import main

CLAIMS = (
    "doran-exact",
    "doran-over",
    "dora-over",
    *(
        f"{adapter}-{magnitudes}-tau-{tau}"
        for adapter, magnitudes, tau in product(("dora", "doran"), ("fixed", "global", "free"), ("0", "0.5", "free"))
    ),
)
SIZES = "1e5:1e11:4"
REPLICATIONS = 16
SEED = 0

if __name__ == "__main__":
    main(CLAIMS, SIZES, REPLICATIONS, SEED, __doc__)
