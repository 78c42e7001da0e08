"""Exact sufficient statistics of n i.i.d. draws from a finite input law (theory section 5).

n draws (x_i, y_i), x uniform on M points, y = f(x) + sigma z, enter least squares only through the counts N and the
cell means: N ~ Multinomial(n; 1/M), mean_m | N ~ N(f(x_m), sigma^2 / N_m). Drawing these two directly *is* drawing n
samples, at a cost independent of n.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from moe_theory.errors import InputError

LARGEST_N = 10**15


class Statistics(NamedTuple):
    """What least squares sees of n draws.

    Attributes:
        precision: N_m / sigma^2, shape (M,); 0 where a point was never drawn.
        mean: cell means, shape (d_out, M); f itself where a point was never drawn (its weight is 0).
    """

    precision: Float[np.ndarray, "*batch M"]
    mean: Float[np.ndarray, "*batch d_out M"]


def replication_generator(seed: int, n: int, replication: int) -> np.random.Generator:
    """The random stream of one replication: a function of (seed, n, replication) and of nothing else.

    Extending a grid, regrouping batches or adding devices therefore changes no data. Philox on the host, not the
    accelerator's generator, so that every machine draws the same numbers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(n, replication))))


def draw_statistics(
    truth: Float[np.ndarray, "d_out M"], sigma: float, n: int, seed: int, replication: int
) -> Statistics:
    """Draw (N, mean) of n i.i.d. samples.

    Args:
        truth: f_{G*} at the support points, shape (d_out, M).
        sigma: noise standard deviation.
        n: sample size, 1 to 10^15.
        seed, replication: see ``replication_generator``.

    Raises:
        InputError: for n out of range or sigma not positive.
    """
    if not 1 <= n <= LARGEST_N:
        raise InputError(f"n must be between 1 and {LARGEST_N:.0e}, got {n}")
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma must be positive, got {sigma}")
    generator = replication_generator(seed, n, replication)
    points = truth.shape[1]
    counts = generator.multinomial(n, np.full(points, 1.0 / points)).astype(np.float64)
    noise = generator.standard_normal(truth.shape)
    spread = sigma / np.sqrt(np.maximum(counts, 1.0))
    return Statistics(counts / sigma**2, truth + np.where(counts > 0, spread, 0.0) * noise)


def draw_raw(
    truth: Float[np.ndarray, "d_out M"], sigma: float, n: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d_out"]]:
    """n raw i.i.d. draws from the same finite law: support indices and responses y."""
    index = generator.integers(truth.shape[1], size=n)
    return index, truth.T[index] + sigma * generator.standard_normal((n, truth.shape[0]))


def summarise_raw(
    index: Int[np.ndarray, " n"],
    y: Float[np.ndarray, "n d_out"],
    truth: Float[np.ndarray, "d_out M"],
    sigma: float,
) -> Statistics:
    """The sufficient statistics of raw draws: counts and cell means (the truth stands in where a cell is empty)."""
    points = truth.shape[1]
    counts = np.bincount(index, minlength=points).astype(np.float64)
    sums = np.stack([np.bincount(index, weights=column, minlength=points) for column in y.T])
    return Statistics(counts / sigma**2, np.where(counts > 0, sums / np.maximum(counts, 1.0), truth))
