"""Raw i.i.d. draws from the continuous law that a finite support represents (theory section 5).

Every x is new, so nothing can be summarised: the n draws are a support of their own, each point drawn once,

    x_i ~ mu,   y_i = f(x_i) + sigma z_i,   precision_i = 1 / sigma^2,   mean_i = y_i,

and every estimator that reads `Statistics` and a `Design` runs on them unchanged. Memory is of order n, which keeps n
up to about 10^6; f is evaluated block by block.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.sampling.inputs import to_law
from moe_theory.sampling.statistics import Statistics, replication_generator

LARGEST_RAW_N = 10**6
STREAM = 2
"""Separates the random stream of raw draws from those of statistics and of starts."""


class RawDraws(NamedTuple):
    """n draws as a support that is drawn once.

    Attributes:
        inputs: x, shape (n, d); `RegressionModel.design` of them is the design.
        data: y as statistics of one draw per point.
    """

    inputs: Float[np.ndarray, "n d"]
    data: Statistics


def draw_continuous(
    function: Callable[[Float[np.ndarray, "block d"]], Float[np.ndarray, "d_out block"]],
    law: str,
    dimension: int,
    sigma: float,
    n: int,
    seed: int,
    replication: int,
    block: int = 10_000,
) -> RawDraws:
    """Draw n samples (x, y) with x from the continuous law, block by block.

    Args:
        function: f at a block of inputs of shape (block, d); its value has shape (d_out, block).
        law: 'uniform' or 'gaussian', mean 0 and identity covariance, see ``to_law``.
        dimension: d.
        sigma: noise standard deviation.
        n: sample size, 1 to 10^6.
        seed, replication: see ``replication_generator``; the draws are independent of those of ``draw_statistics``.
        block: inputs at a time; it changes the draws.

    Raises:
        InputError: for n out of range, sigma or block not positive, or an unknown law.
    """
    if not 1 <= n <= LARGEST_RAW_N:
        raise InputError(f"raw draws need n between 1 and {LARGEST_RAW_N:.0e}, got {n}: use draw_statistics beyond")
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma must be positive, got {sigma}")
    if block < 1:
        raise InputError(f"a block must hold at least one input, got {block}")
    key = replication_generator(seed, n, replication).integers(2**63, size=4) + STREAM
    generator = np.random.default_rng(key)
    inputs, responses = [], []
    for first in range(0, n, block):
        # ndtri is infinite at 0, which random() may return.
        unit = np.maximum(generator.random((min(block, n - first), dimension)), 2.0**-54)
        x = to_law(unit, law)
        exact = function(x)
        inputs.append(x)
        responses.append(exact + sigma * generator.standard_normal(exact.shape))
    return RawDraws(np.concatenate(inputs), Statistics(np.full(n, sigma**-2.0), np.concatenate(responses, axis=1)))
