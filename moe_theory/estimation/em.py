"""Expectation maximisation for Gaussian mixtures of experts on weighted points.

E-step: rho_im = w_i f_i(m) / sum_l w_l f_l(m) (softmax gates included), R_im = N_m rho_im. M-step, with sums over m:

    Gaussian gate   w_i = sum R_i / n,  c_i, Gamma_i = mean and covariance of x under R_i
    softmax gate    the weighted multinomial logistic fit of R to x, by Newton steps that never lower it
    expert          (A_i, b_i) = least squares of y on (x, 1) under R_i,  nu_i = its residual covariance

under the floors of the parameter space, with which the M-step is still exact: eigenvalues of Gamma and nu below a floor
are raised to it; the weights above their floor share out what is left. EM never lowers the likelihood, but
along the flat directions of an over-fitted cell it crawls: it is a start for the trust-region method, and a check on
its ends.
Source: Jordan and Jacobs 1994; floors: our derivation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.mixture import MixtureSpace
from moe_theory.models.density import AbstractDensity, GaussianGated, GaussianGatedAtom, SoftmaxGatedAtom

GATE_STEPS = 4
"""Newton steps on a softmax gate in one M-step."""
HALVINGS = 12


def em_step(
    model: AbstractDensity, space: MixtureSpace, rows: Float[Array, "k q"], points: Points
) -> Float[Array, "k q"]:
    """One sweep.

    Args:
        model, space: the mixture and its floors; caps and boxes are not applied.
        rows: the measure, see ``models.density``.
        points: data; only weights count, so on a grid spacing and range must satisfy ``sampling.grid``.
    """
    share = jax.nn.softmax(model.log_terms(rows, points.x, points.y), axis=0)
    taken = points.weight[None] * share
    if isinstance(model, GaussianGated):
        return jax.vmap(lambda r, w: _gaussian_row(model, space, r, w, points))(taken, _weights(taken, space))
    gate = _softmax_gate(model, space, rows[:, : 1 + model.dimension], taken, points)
    return jax.vmap(lambda r, g: _softmax_row(model, space, r, g, points))(taken, gate)


def em(
    model: AbstractDensity, space: MixtureSpace, rows: Float[Array, "k q"], points: Points, sweeps: int
) -> Float[Array, "k q"]:
    """A fixed number of sweeps."""
    return jax.lax.fori_loop(0, sweeps, lambda _, now: em_step(model, space, now, points), rows)


def _weights(taken: Float[Array, "k M"], space: MixtureSpace) -> Float[Array, " k"]:
    """Shares of the counts; those below the floor are raised to it and the others keep their proportions."""
    share = jnp.sum(taken, axis=1)
    share = share / jnp.sum(share)

    def refill(_: Any, now: Float[Array, " k"]) -> Float[Array, " k"]:
        low = now <= space.weight_floor
        rest = jnp.sum(jnp.where(low, 0.0, share))
        return jnp.where(low, space.weight_floor, share * (1.0 - space.weight_floor * jnp.sum(low)) / rest)

    return jax.lax.fori_loop(0, share.shape[0], refill, share)


def _raised(matrix: Float[Array, "s s"], floor: Float[Array, " s"]) -> Float[Array, "s s"]:
    """The matrix with its eigenvalues relative to diag(floor) raised to 1."""
    root = jnp.sqrt(floor)
    values, vectors = jnp.linalg.eigh(matrix / (root[:, None] * root[None]))
    return root[:, None] * root[None] * ((vectors * jnp.maximum(values, 1.0)[None]) @ vectors.T)


def _expert(
    taken: Float[Array, " M"], points: Points, floor: Float[Array, " o"]
) -> tuple[Float[Array, "o d"], Float[Array, " o"], Float[Array, "o o"]]:
    """(A, b, nu): weighted least squares of y on (x, 1), in centred form."""
    total = jnp.maximum(jnp.sum(taken), 1e-300)
    x_mean, y_mean = taken @ points.x / total, taken @ points.y / total
    x, y = points.x - x_mean[None], points.y - y_mean[None]
    spread, cross = (taken[:, None] * x).T @ x / total, (taken[:, None] * y).T @ x / total
    # a ridge at rounding keeps a slope defined where all inputs of an atom coincide
    ridge = 1e-14 * (jnp.trace(spread) + 1e-280)
    slope = jnp.linalg.solve(spread + ridge * jnp.eye(x.shape[1]), cross.T).T
    left = y - x @ slope.T
    noise = (taken[:, None] * left).T @ left / total
    return slope, y_mean - slope @ x_mean, _raised(noise, floor)


def _gaussian_row(
    model: GaussianGated, space: MixtureSpace, taken: Float[Array, " M"], weight: Float[Array, ""], points: Points
) -> Float[Array, " q"]:
    d, total = model.dimension, jnp.maximum(jnp.sum(taken), 1e-300)
    center = taken @ points.x / total
    apart = points.x - center[None]
    spread = (taken[:, None] * apart).T @ apart / total
    if model.gate_covariance == "diagonal":
        spread = jnp.diag(jnp.maximum(jnp.diagonal(spread), space.floor[:d]))
    else:
        spread = _raised(spread, space.floor[:d])
    atom = GaussianGatedAtom(center, spread, *_expert(taken, points, space.floor[d:]))
    return _row(model, weight, *model.atom_row(atom))


def _softmax_row(
    model: AbstractDensity, space: MixtureSpace, taken: Float[Array, " M"], gate: Float[Array, " g"], points: Points
) -> Float[Array, " q"]:
    atom = SoftmaxGatedAtom(gate[1:], *_expert(taken, points, space.floor[model.dimension :]))
    return _row(model, gate[0], *model.atom_row(atom))


def _row(
    model: AbstractDensity, weight: Float[Array, ""], mean: Float[Array, " D"], matrix: Float[Array, "D D"]
) -> Float[Array, " q"]:
    return jnp.concatenate([weight[None], mean, matrix[model.places()]])


def _softmax_gate(
    model: AbstractDensity,
    space: MixtureSpace,
    gate: Float[Array, "k g"],
    taken: Float[Array, "k M"],
    points: Points,
) -> Float[Array, "k g"]:
    """Newton steps on sum_im R_im log g_i(x_m), the last atom's gate held; each is halved until it helps.

    The floor on mean probabilities is not applied here: it is a constraint of Theta, not of a sweep.
    """
    k, features = gate.shape[0], jnp.concatenate([jnp.ones_like(points.x[:, :1]), points.x], axis=1)
    total = jnp.sum(taken, axis=0)
    logs = jnp.concatenate([jnp.log(gate[:, :1]), gate[:, 1:]], axis=1)

    def level(now: Float[Array, "k g"]) -> Float[Array, ""]:
        return jnp.sum(taken * jax.nn.log_softmax(now @ features.T, axis=0))

    def advance(_: Any, now: Float[Array, "k g"]) -> Float[Array, "k g"]:
        p = jax.nn.softmax(now @ features.T, axis=0)[: k - 1]
        slope = ((taken[: k - 1] - total[None] * p) @ features).reshape(-1)
        pairs = total[None, None] * (jnp.eye(k - 1)[:, :, None] * p[:, None] - p[:, None] * p[None])
        hessian = jnp.einsum("ijm,ma,mb->iajb", pairs, features, features).reshape(slope.shape[0], -1)
        ridge = 1e-12 * jnp.trace(hessian) / max(slope.shape[0], 1) + 1e-280
        step = jnp.linalg.solve(hessian + ridge * jnp.eye(slope.shape[0]), slope).reshape(k - 1, -1)
        tried = jnp.stack([now.at[: k - 1].add(step * 0.5**power) for power in range(HALVINGS)])
        levels = jax.vmap(level)(tried)
        best = jnp.argmax(levels)
        return jnp.where(levels[best] > level(now), tried[best], now)

    fitted = jax.lax.fori_loop(0, GATE_STEPS, advance, logs) if k > 1 else logs
    shift = jnp.mean(fitted, axis=0, keepdims=True)
    fitted = fitted - shift
    return jnp.concatenate([jnp.exp(fitted[:, :1]), fitted[:, 1:]], axis=1)
