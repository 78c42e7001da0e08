"""Input laws: a finite support of scrambled Sobol points, and the continuous law that it represents."""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from moe_theory.errors import InputError

LAWS = ("uniform", "gaussian")


def to_law(unit: Float[np.ndarray, "points d"], law: str) -> Float[np.ndarray, "points d"]:
    """Map points of the unit cube to a law with mean 0 and identity covariance.

    uniform: x = sqrt(12) (u - 1/2) on [-sqrt 3, sqrt 3]^d; gaussian: x = Phi^-1(u), N(0, I).

    Raises:
        InputError: for a law that is not one of ``LAWS``.
    """
    if law == "uniform":
        return np.sqrt(12.0) * (unit - 0.5)
    if law == "gaussian":
        return ndtri(unit)
    raise InputError(f"unknown input law {law!r}: choose one of {', '.join(LAWS)}")


def finite_support(law: str, points: int, dimension: int, seed: int) -> Float[np.ndarray, "points d"]:
    """M support points: scrambled Sobol points mapped to the law; mu is uniform on them.

    Args:
        law: 'uniform' or 'gaussian'.
        points: M, a power of two keeps the points balanced.
        dimension: d.
        seed: of the scrambling.

    Raises:
        InputError: for an unknown law or a non-positive size.
    """
    if points < 1 or dimension < 1:
        raise InputError(f"support points and dimension must be positive, got {points} and {dimension}")
    from scipy.stats import qmc  # takes half a second, which densities of x need not wait for

    sampler = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(seed))
    exponent = int(np.ceil(np.log2(points)))
    return to_law(sampler.random_base2(exponent)[:points], law)
