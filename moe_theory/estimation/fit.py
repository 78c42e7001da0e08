"""Fit a Gaussian mixture of experts to data: arrays in; measure, certificate, standard errors, criteria out.

The data are centred and scaled (by half the spread of the middle 68 %, so that an outlier does not set the scale),
several starts that come from the data alone compete, each runs EM and then the trust-region method, and the lowest
certified end is the fit. A likelihood that grows without bound as a variance goes to 0 is stopped by the variance
floor; an end with a variance on its floor is such a degenerate solution, not an estimate, and is never returned as
certified.

Standard errors: H^-1 of the observed information in the rows, carried to the parameters by the delta method; only for
an interior minimum whose information matrix is regular. Source: Louis 1982 for the information; the rest is our
derivation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import softmax

from moe_theory.errors import InputError
from moe_theory.estimation.certificate import ACTIVE_SLACK, SPREAD, Certificate, certify, explain
from moe_theory.estimation.certified_em import certified_em
from moe_theory.estimation.degenerate import degeneracy, points_lacking
from moe_theory.estimation.em import em
from moe_theory.estimation.likelihood import Points, objective, second_order
from moe_theory.estimation.mixture import MixtureKind, MixtureSpace, slacks
from moe_theory.estimation.mixture_starts import MixturePlan, MixtureStartMaker
from moe_theory.estimation.pool import Lane, Pool
from moe_theory.estimation.trust_region import State
from moe_theory.estimation.user_data import Scaling, matrix_of, padded, points_of
from moe_theory.models.density import AbstractDensity, GaussianGated, SoftmaxGated
from moe_theory.models.measure import MixingMeasure

METHODS = ("trust-region", "em")

STARTS = 8
BLOCK = 4
DEVIATION_FLOOR = 0.01
"""Least standard deviation, in units of the data's scale."""
WEIGHT_FLOOR = 0.01
NODES = 64
"""Inputs over which the mean of a softmax gate is taken; fewer points are repeated."""
LEAST_EIGENVALUE = 1e-9
"""Of the information matrix scaled to a unit diagonal, from which on it counts as regular."""


@dataclass(frozen=True)
class DensityFit:
    """A maximum-likelihood fit.

    Attributes:
        model: p_G.
        measure: G; for a softmax gate the last atom has (beta0, beta1) = 0.
        certified: whether the fit is a certified minimum of the negative log-likelihood over the parameter space, with
            no variance on its floor.
        reason: why, in English.
        certificate: the numbers behind it.
        log_likelihood: sum of weights times log p.
        n: sum of weights.
        parameters: free ones.
        standard_errors: a measure of the same shape, its log-weights' errors those of the log-weights (a softmax gate's
            relative to the last atom's); None unless the information matrix is regular.
        starts_agreeing: certified starts that ended at the same minimum, of ``starts``.
        starts: how many were tried.
        method: what ended at this minimum: 'em' or 'trust-region'.
        sweeps: of EM on the way, where the method asked for was 'em'.
    """

    model: GaussianGated | SoftmaxGated
    measure: MixingMeasure
    certified: bool
    reason: str
    certificate: Certificate
    log_likelihood: float
    n: float
    parameters: int
    standard_errors: MixingMeasure | None
    starts_agreeing: int
    starts: int
    method: str = "trust-region"
    sweeps: int = 0

    @property
    def aic(self) -> float:
        """2 p - 2 log L."""
        return 2.0 * self.parameters - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """p log n - 2 log L."""
        return self.parameters * float(np.log(self.n)) - 2.0 * self.log_likelihood

    def gate(self, x: Any) -> Float[np.ndarray, "n k"]:
        """Probability of each atom given x alone: w_i N(x; c_i, Gamma_i) or exp(beta0_i + beta1_i . x), normalised.

        Args:
            x: inputs, (n, d) or (n,).

        Raises:
            InputError: for another width, or NaN.
        """
        inputs = matrix_of("x", x)
        if inputs.shape[1] != self.model.dimension:
            raise InputError(f"x must have {self.model.dimension} columns, got {inputs.shape[1]}")
        atoms = jax.tree.map(np.asarray, self.measure.atoms)
        logits = np.asarray(self.measure.log_weights)[None]
        if isinstance(self.model, SoftmaxGated):
            return softmax(logits + inputs @ atoms.gate.T, axis=1)
        kernels = []
        for center, spread in zip(atoms.center, atoms.spread, strict=True):
            root = np.linalg.cholesky(spread)
            whitened = solve_triangular(root, (inputs - center).T, lower=True)
            kernels.append(-0.5 * np.sum(whitened**2, axis=0) - np.sum(np.log(np.diag(root))))
        return softmax(logits + np.stack(kernels, axis=1), axis=1)

    def predict(self, x: Any) -> Float[np.ndarray, "n d_out"]:
        """E[y | x] = sum_i gate_i(x) (A_i x + b_i); arguments and errors as `gate`."""
        share, inputs = self.gate(x), matrix_of("x", x)
        atoms = self.measure.atoms
        experts = np.einsum("koi,ni->nko", np.asarray(atoms.slope), inputs) + np.asarray(atoms.intercept)[None]
        return np.einsum("nk,nko->no", share, experts)


def fit_gaussian_gated(
    x: Any,
    y: Any,
    k: int,
    weights: Any = None,
    *,
    gate_covariance: str = "full",
    weight_floor: float = WEIGHT_FLOOR,
    deviation_floor: float = DEVIATION_FLOOR,
    starts: int = STARTS,
    seed: int = 0,
    method: str = "trust-region",
) -> DensityFit:
    """Fit p(x, y) = sum_i w_i N(x; c_i, Gamma_i) N(y; A_i x + b_i, nu_i) by maximum likelihood.

    Args:
        x: inputs, (n, d) or (n,).
        y: outputs, (n, d_out) or (n,).
        k: atoms.
        weights: of the points, non-negative; counts are weights. None for one each.
        gate_covariance: Gamma 'full' or 'diagonal'.
        weight_floor: least share of an atom.
        deviation_floor: least standard deviation of Gamma and nu, in units of the data's scale by column.
        starts: how many compete.
        seed: of the starts.
        method: 'trust-region', or 'em': expectation maximisation until the same certificate holds, which hands over to
            the trust-region method where it crawls.

    Raises:
        InputError: for data that cannot be fitted: shapes, NaN, fewer distinct points than atoms, a constant column.
    """
    points = padded(points_of(x, y, weights, k))
    model = GaussianGated(points.x.shape[1], points.y.shape[1], gate_covariance)
    return _fit(model, points, k, Settings(weight_floor, deviation_floor, starts, seed, method))


def fit_softmax_gated(
    x: Any,
    y: Any,
    k: int,
    weights: Any = None,
    *,
    weight_floor: float = WEIGHT_FLOOR,
    deviation_floor: float = DEVIATION_FLOOR,
    starts: int = STARTS,
    seed: int = 0,
    method: str = "trust-region",
) -> DensityFit:
    """Fit p(y | x) = sum_i softmax_i(beta0_i + beta1_i . x) N(y; a_i x + b_i, nu_i) by maximum likelihood.

    Args: as `fit_gaussian_gated`; ``weight_floor`` bounds each atom's mean gate probability, ``deviation_floor`` nu.

    Raises:
        InputError: as `fit_gaussian_gated`.
    """
    points = padded(points_of(x, y, weights, k))
    model = SoftmaxGated(points.x.shape[1], points.y.shape[1])
    return _fit(model, points, k, Settings(weight_floor, deviation_floor, starts, seed, method))


def select_k(
    fit: Callable[..., DensityFit], x: Any, y: Any, ks: Sequence[int], criterion: str = "bic", **options: Any
) -> tuple[DensityFit, dict[int, DensityFit]]:
    """Fit every number of atoms and choose by an information criterion among the certified fits.

    Args:
        fit: `fit_gaussian_gated` or `fit_softmax_gated`.
        x, y, options: as it takes them.
        ks: numbers of atoms.
        criterion: 'aic' or 'bic'. Over-fitted mixtures are singular, so both are heuristics here.

    Raises:
        InputError: for another criterion, no k, or if no fit is certified.
    """
    if criterion not in ("aic", "bic"):
        raise InputError(f"criterion must be 'aic' or 'bic', got {criterion!r}")
    fits = {k: fit(x, y, k, **options) for k in ks}
    certified = [made for made in fits.values() if made.certified]
    if not certified:
        told = "; ".join(f"k = {k}: {made.reason}" for k, made in fits.items()) or "no k was given"
        raise InputError(f"no fit is certified ({told}): try other k, or a larger deviation_floor")
    return min(certified, key=lambda made: getattr(made, criterion)), fits


class Settings(NamedTuple):
    """How to fit; see `fit_gaussian_gated`."""

    weight_floor: float
    deviation_floor: float
    starts: int
    seed: int
    method: str

    def check(self, k: int) -> None:
        """Raise InputError for what is out of range."""
        if not (0 < self.deviation_floor < 1 and self.weight_floor > 0 and self.weight_floor * k < 1):
            raise InputError(
                "deviation_floor must lie in (0, 1) and weight_floor in (0, 1/k), got "
                f"{self.deviation_floor} and {self.weight_floor}"
            )
        if self.starts < 1 or self.method not in METHODS:
            raise InputError(
                f"starts must be 1 or more and method one of {', '.join(METHODS)}, got {self.starts} and "
                f"{self.method!r}"
            )


class End(NamedTuple):
    """Where one start ended, and how."""

    state: State
    certificate: Certificate
    method: str
    sweeps: int


def _fit(model: GaussianGated | SoftmaxGated, raw: Points, k: int, settings: Settings) -> DensityFit:
    settings.check(k)
    scaling = Scaling(raw)
    points = scaling.scaled(raw)
    n = float(jnp.sum(points.weight))
    if isinstance(model, GaussianGated):
        points = points._replace(mass=jnp.asarray(n))
    space = _space(model, points, settings)
    lacking = points_lacking(model, points)
    ends = _ends(MixtureKind(model, min(1, k - 1)), space, points, k, settings, lacking > 0)
    rows = [np.asarray(end.state.z).reshape(k, -1) for end in ends]
    troubles = [degeneracy(model, space, row, lacking) for row in rows]
    sound = [bool(end.certificate.passed) and not trouble for end, trouble in zip(ends, troubles, strict=True)]
    level = np.array([float(end.certificate.excess) for end in ends])
    level = np.where(np.isfinite(level), level, np.inf)
    best = int(np.argmin(np.where(sound, level, np.inf))) if any(sound) else int(np.argmin(level))
    measure = scaling.restored(model.measure(jnp.asarray(rows[best])))
    own = jax.tree.map(np.asarray, ends[best].certificate)
    reason = troubles[best] or explain(own)
    errors = _standard_errors(model, scaling, points, space, rows[best]) if sound[best] else None
    return DensityFit(
        model, measure, sound[best], reason, own, _log_likelihood(model, measure, raw), n,
        k * model.row_size - (1 if isinstance(model, GaussianGated) else 1 + model.dimension), errors,
        sum(s and bool(e <= level[best] + SPREAD) for s, e in zip(sound, level, strict=True)), settings.starts,
        ends[best].method, ends[best].sweeps,
    )  # fmt: skip


def _ends(
    kind: MixtureKind, space: MixtureSpace, points: Points, k: int, settings: Settings, only_em: bool
) -> list[End]:
    """The ends of all starts, which come from the data alone; EM's where there is no minimum to go on to."""
    maker = MixtureStartMaker(kind.model, space, k, None, MixturePlan((), untied=settings.starts, near=0))
    begun = [z for z in maker.make(max(int(points.size), 1), settings.seed, 0, points).z]
    ceiling = jnp.asarray(_one_atom(kind.model, space, points))
    swept = [0] * len(begun)
    done: dict[int, End] = {}
    if settings.method == "em" or only_em:
        for place, z in enumerate(begun):
            end = certified_em(kind, space, points, jnp.asarray(z).reshape(k, -1), ceiling)
            swept[place], begun[place] = end.sweeps, np.asarray(end.state.z)
            if only_em or not end.crawls:
                done[place] = End(end.state, end.certificate, "em", end.sweeps)
    left = [place for place in range(len(begun)) if place not in done]
    if left:
        pool = Pool(kind, (space,), min(BLOCK, settings.starts))
        for end in pool.run(Lane(0, points, maker.inside(begun[place].reshape(k, -1)).reshape(-1)) for place in left):
            place = left[end.order]
            certificate = _checked(kind, space, points, end.state, ceiling)
            done[place] = End(end.state, certificate, "trust-region", swept[place])
    return [done[place] for place in range(len(begun))]


def _log_likelihood(model: AbstractDensity, measure: MixingMeasure, raw: Points) -> float:
    return float(raw.weight @ model.log_densities(model.rows(measure), raw.x, raw.y))


def _one_atom(model: AbstractDensity, space: MixtureSpace, points: Points) -> float:
    """F of the best single atom, which k atoms must not exceed."""
    start = MixtureStartMaker(model, space, 1, None, MixturePlan((), 1, 0))
    rows = start.spread_out(points, np.random.default_rng(0))
    return float(_after_em(model, space, jnp.asarray(rows), points))


@partial(jax.jit, static_argnums=0)
def _after_em(model: AbstractDensity, space: MixtureSpace, rows: jax.Array, points: Points) -> jax.Array:
    return objective(model, em(model, space, rows, points, 2), points)


@partial(jax.jit, static_argnums=0)
def _checked(kind: MixtureKind, space: MixtureSpace, points: Points, state: State, ceiling: jax.Array) -> Certificate:
    return certify(kind(space, points), state, ceiling)


def _space(model: GaussianGated | SoftmaxGated, points: Points, settings: Settings) -> MixtureSpace:
    """Theta around standardised data: locations in its box and one scale more, variances up to its size squared."""
    drawn = np.asarray(points.weight) > 0
    x, y = np.asarray(points.x)[drawn], np.asarray(points.y)[drawn]
    d, o = model.dimension, model.outputs
    floor = np.full(d + o, settings.deviation_floor**2)
    reach = np.ptp(y, axis=0) + 1.0
    if isinstance(model, GaussianGated):
        z = np.concatenate([x, y], axis=1)
        low, high = z.min(axis=0) - 1.0, z.max(axis=0) + 1.0
        cap = 4.0 * (np.ptp(z, axis=0) + 1.0) ** 2
        scale, nodes = np.ones(d + o), np.zeros((1, d))
    else:
        gate = np.full(d, 200.0)
        low = np.concatenate([-gate, y.min(axis=0) - 10.0 * reach])
        high = np.concatenate([gate, y.max(axis=0) + 10.0 * reach])
        noise = 4.0 * reach**2
        slope = 200.0 * np.max(reach) / np.sqrt(noise.min())
        cap = np.concatenate([np.full(d, slope), noise])
        scale = np.concatenate([np.ones(d), np.ones(o)])
        order = np.argsort(x[:, 0])
        nodes = x[order[np.linspace(0, len(x) - 1, NODES).astype(int)]]
    parts = (np.asarray(settings.weight_floor), low, high, cap, floor, scale, nodes)
    return MixtureSpace(*(jnp.asarray(part, jnp.float64) for part in parts))


def _standard_errors(
    model: GaussianGated | SoftmaxGated, scaling: Scaling, points: Points, space: MixtureSpace, rows: np.ndarray
) -> MixingMeasure | None:
    """Delta method from the observed information; None where it is not regular or a constraint is active."""
    flat = jnp.asarray(rows.reshape(-1))
    if float(jnp.min(slacks(model, space, jnp.asarray(rows)))) < ACTIVE_SLACK:
        return None
    free = jnp.eye(flat.shape[0])
    if not isinstance(model, GaussianGated):
        held = (rows.shape[0] - 1) * rows.shape[1] + np.arange(1 + model.dimension)
        free = jnp.delete(free, held, axis=1)
    information = second_order(model, jnp.asarray(rows), points).hessian(free)
    unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.diagonal(information), 1e-300))
    scaled = information * unit[:, None] * unit[None]
    if not float(jnp.linalg.eigvalsh(scaled)[0]) > LEAST_EIGENVALUE:
        return None
    covariance = free @ (jnp.linalg.inv(scaled) * unit[:, None] * unit[None]) @ free.T

    def parameters(point: Any) -> Any:
        return ravel_pytree(scaling.restored(model.measure(point.reshape(rows.shape))))[0]

    jacobian = jax.jacfwd(parameters)(flat)
    errors = jnp.sqrt(jnp.maximum(jnp.sum((jacobian @ covariance) * jacobian, axis=1), 0.0))
    unravel = ravel_pytree(scaling.restored(model.measure(jnp.asarray(rows))))[1]
    return unravel(errors)
