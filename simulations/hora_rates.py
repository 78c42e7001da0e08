"""HoRA against multi-head LoRA: sharing by heads, by query and value, by both, by none.

python simulations/hora_rates.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import main

CLAIMS = ("hora-exact", "hora-over", "mh-lora-over", "mh-replora-over", "hora-heads-over")
SIZES = None  # of every claim its own, as `moe-theory run`
REPLICATIONS = None
SEED = 0

if __name__ == "__main__":
    main(CLAIMS, SIZES, REPLICATIONS, SEED, __doc__)
