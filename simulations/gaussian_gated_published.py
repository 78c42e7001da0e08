"""Gaussian-gated mixtures of experts: the published sizes and replications, then the range in which the rates are seen.

The published protocol (d = 1, 100 sizes from 10^2 to 10^5, 20 replications) with certified fits; the same problem from
10^8 to 10^15.

python simulations/gaussian_gated_published.py [--claims ID ...] [--published-only] [--smoke]
    [--results DIR] [--figures DIR]
"""

from common import main_published

CLAIMS = ("gaussian-gated-type1-k4", "gaussian-gated-type2-k4", "gaussian-gated-type1-k5", "gaussian-gated-type2-k5")
PUBLISHED_SIZES, PUBLISHED_REPLICATIONS = "1e2:1e5:100", 20
SIZES = "1e8:1e15:8"
REPLICATIONS = 64
SEED = 0

if __name__ == "__main__":
    main_published(CLAIMS, (PUBLISHED_SIZES, PUBLISHED_REPLICATIONS), (SIZES, REPLICATIONS), SEED, __doc__)
