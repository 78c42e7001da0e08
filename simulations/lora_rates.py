"""Plain LoRA: the exact-specified rate, and what becomes of the value atoms of an over-fitted cell.

python simulations/lora_rates.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import main

CLAIMS = ("lora-exact", "lora-over", "lora-over-gaussian")
SIZES = "1e3:1e12:10"
REPLICATIONS = 64
SEED = 0

if __name__ == "__main__":
    main(CLAIMS, SIZES, REPLICATIONS, SEED, __doc__)
