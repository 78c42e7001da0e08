"""Softmax-gated Gaussian mixtures of experts: the published sizes and replications, then the range of the rates.

The published protocol (d = 1, sizes from 10^2 to 10^5, 40 replications) with certified fits; the same problem from 10^8
to 10^15.

python simulations/softmax_gated_published.py [--claims ID ...] [--published-only] [--smoke]
    [--results DIR] [--figures DIR]
"""

from common import main_published

CLAIMS = ("softmax-gated-k2", "softmax-gated-k3", "softmax-gated-k4")
PUBLISHED_SIZES, PUBLISHED_REPLICATIONS = "1e2:1e5:20", 40
SIZES = "1e8:1e15:8"
REPLICATIONS = 64
SEED = 0

if __name__ == "__main__":
    main_published(CLAIMS, (PUBLISHED_SIZES, PUBLISHED_REPLICATIONS), (SIZES, REPLICATIONS), SEED, __doc__)
