"""Random Gaussian mixtures of experts, and their densities by NumPy and SciPy alone."""

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from moe_theory.models.density import (
    AbstractDensity,
    GaussianGated,
    GaussianGatedAtom,
    SoftmaxGated,
    SoftmaxGatedAtom,
)
from moe_theory.models.measure import MixingMeasure

MODELS = {
    "gaussian": GaussianGated(1),
    "gaussian-3-2": GaussianGated(3, 2),
    "diagonal": GaussianGated(2, 1, "diagonal"),
    "softmax": SoftmaxGated(1),
    "softmax-2-2": SoftmaxGated(2, 2),
}


def random_measure(model: AbstractDensity, k: int, rng: np.random.Generator, spread: float = 1.0) -> MixingMeasure:
    """k atoms with locations about ``spread`` apart and covariances of order one."""
    d, o = model.dimension, model.outputs

    def positive(size: int) -> np.ndarray:
        root = 0.3 * rng.standard_normal((k, size, size))
        return root @ root.transpose(0, 2, 1) + 0.4 * np.eye(size)

    slope, intercept = 0.5 * rng.standard_normal((k, o, d)), spread * rng.standard_normal((k, o))
    if isinstance(model, GaussianGated):
        gamma = positive(d)
        if model.gate_covariance == "diagonal":
            gamma = gamma * np.eye(d)
        atoms = GaussianGatedAtom(
            *map(jnp.asarray, (spread * rng.standard_normal((k, d)), gamma, slope, intercept, positive(o)))
        )
    else:
        atoms = SoftmaxGatedAtom(*map(jnp.asarray, (rng.standard_normal((k, d)), slope, intercept, positive(o))))
    return MixingMeasure(jnp.log(jnp.asarray(rng.dirichlet(np.full(k, 5.0)))), atoms)


def slow_terms(model: AbstractDensity, measure: MixingMeasure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log(w_i f_i) at one point, the softmax gate normalised, atom by atom."""
    c = np.asarray(measure.log_weights)
    atoms = [np.asarray(part) for part in measure.atoms]
    terms = []
    for i in range(measure.k):
        if isinstance(model, GaussianGated):
            center, gamma, slope, intercept, noise = (part[i] for part in atoms)
            gate = multivariate_normal.logpdf(x, center, gamma)
        else:
            beta, slope, intercept, noise = (part[i] for part in atoms)
            gate = beta @ x - logsumexp([c[j] + atoms[0][j] @ x for j in range(measure.k)])
        terms.append(c[i] + gate + multivariate_normal.logpdf(y, slope @ x + intercept, noise))
    return np.array(terms)


def slow_log_density(model: AbstractDensity, measure: MixingMeasure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log p at every point."""
    return np.array([logsumexp(slow_terms(model, measure, *point)) for point in zip(x, y, strict=True)])
