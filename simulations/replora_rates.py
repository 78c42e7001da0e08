"""RepLoRA's rates: n^-1/2 when the number of atoms is known, n^-1/4 for the atoms of an over-fitted cell.

python simulations/replora_rates.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import main

CLAIMS = ("replora-linear-exact", "replora-linear-over", "replora-tanh-exact", "replora-tanh-over")
SIZES = "1e3:1e12:10"
REPLICATIONS = 64
SEED = 0

if __name__ == "__main__":
    main(CLAIMS, SIZES, REPLICATIONS, SEED, __doc__)
