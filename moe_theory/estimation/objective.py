"""Least squares in statistical units, with its exact gradient and Hessian.

    F(G) = 1/2 sum_m (N_m / sigma^2) || f_G(x_m) - mean_m ||^2  =  (n / sigma^2) L(G),

so that a difference of 1 in F is one unit of log-likelihood whatever n is, and every tolerance is absolute.

The derivatives are taken where they are cheap: with respect to the atoms' coefficients (log-weight, score, output),
in which scores and outputs are linear, they are matrix products with features of the support shared by all lanes.
With p_i the softmax, e_i = h_i - f, r = f - mean, omega = N / sigma^2 and t_i = r . e_i, at each support point

    dF/ds_i         = omega p_i t_i                      dF/dh_i = omega p_i r
    d2F/ds_i ds_j   = omega [ p_i p_j (e_i . e_j - t_i - t_j) + delta_ij p_i t_i ]
    d2F/ds_i dh_j   = omega [ p_i p_j e_i + p_j (delta_ij - p_i) r ]
    d2F/dh_i dh_j   = omega p_i p_j I.

Source: our derivation; tests hold it against automatic differentiation. One lane; vmapped by the caller.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.models.regression import Coefficients, Design
from moe_theory.sampling.statistics import Statistics


class Mixture(NamedTuple):
    """The softmax mixture at the support points.

    Attributes:
        gates: p_i of the free atoms, (k, M).
        outputs: h_i, (k, d_out, M).
        prediction: f_G, (d_out, M).
    """

    gates: Float[Array, "k M"]
    outputs: Float[Array, "k d_out M"]
    prediction: Float[Array, "d_out M"]


def mix(coefficients: Coefficients, design: Design) -> Mixture:
    """Evaluate the mixture at the support points, frozen atoms included."""
    k = coefficients.log_weight.shape[0]
    stacked = jnp.concatenate([coefficients.log_weight[:, None], coefficients.score], axis=1)
    logits = jnp.concatenate([stacked @ design.score.T, design.frozen_logits])
    outputs = jnp.einsum("kov,mv->kom", coefficients.output, design.output)
    gates = jax.nn.softmax(logits, axis=0)
    prediction = jnp.sum(gates[:k, None] * outputs, axis=0)
    if design.frozen_logits.shape[0]:
        prediction = prediction + jnp.sum(gates[k:, None] * design.frozen_outputs, axis=0)
    return Mixture(gates[:k], outputs, prediction)


def objective(coefficients: Coefficients, design: Design, data: Statistics) -> Float[Array, ""]:
    """F(G) in units of sigma^2 / n."""
    residual = mix(coefficients, design).prediction - data.mean
    return 0.5 * jnp.sum(data.precision * jnp.sum(residual**2, axis=0))


def gradient(coefficients: Coefficients, design: Design, data: Statistics) -> tuple[Float[Array, ""], Coefficients]:
    """F and dF with respect to the coefficients."""
    mixture = mix(coefficients, design)
    residual = mixture.prediction - data.mean
    value = 0.5 * jnp.sum(data.precision * jnp.sum(residual**2, axis=0))
    return value, _gradient(mixture, residual, design, data)


def _gradient(mixture: Mixture, residual: Array, design: Design, data: Statistics) -> Coefficients:
    weighted = data.precision[None] * mixture.gates
    along = jnp.sum(residual[None] * (mixture.outputs - mixture.prediction[None]), axis=1)
    by_score = jnp.einsum("km,ms->ks", weighted * along, design.score)
    by_output = jnp.einsum("kom,mv->kov", weighted[:, None] * residual[None], design.output)
    return Coefficients(by_score[:, 0], by_score[:, 1:], by_output)


class SecondOrder(NamedTuple):
    """F with both derivatives in the flat coordinates of ``flatten``: value (), gradient (u,), Hessian (u, u)."""

    value: Float[Array, ""]
    gradient: Float[Array, " u"]
    hessian: Float[Array, "u u"]


def flatten(coefficients: Coefficients) -> Float[Array, " u"]:
    """All score rows (log-weight first), then all output matrices: u = k (1 + s) + k d_out v numbers."""
    score = jnp.concatenate([coefficients.log_weight[:, None], coefficients.score], axis=1)
    return jnp.concatenate([score.reshape(-1), coefficients.output.reshape(-1)])


def second_order(coefficients: Coefficients, design: Design, data: Statistics) -> SecondOrder:
    """F, its gradient and its exact Hessian with respect to ``flatten(coefficients)``."""
    mixture = mix(coefficients, design)
    p, f = mixture.gates, mixture.prediction
    k, points = p.shape
    d_out, s1, v = f.shape[0], design.score.shape[1], design.output.shape[1]
    residual = f - data.mean
    excess = mixture.outputs - f[None]
    along = jnp.sum(residual[None] * excess, axis=1)
    weighted = data.precision[None] * p
    pairs = weighted[:, None] * p[None]
    own = jnp.eye(k)[:, :, None] * weighted[None]

    cross = jnp.einsum("iom,jom->ijm", excess, excess) - along[:, None] - along[None]
    score_score = (pairs * cross + own * along[None]).reshape(k * k, points)
    score_square = (design.score[:, :, None] * design.score[:, None, :]).reshape(points, s1 * s1)
    ss = (score_score @ score_square).reshape(k, k, s1, s1).transpose(0, 2, 1, 3).reshape(k * s1, k * s1)

    score_output = pairs[:, :, None] * excess[:, None] + (own - pairs)[:, :, None] * residual[None, None]
    mixed_square = (design.score[:, :, None] * design.output[:, None, :]).reshape(points, s1 * v)
    so = (score_output.reshape(k * k * d_out, points) @ mixed_square).reshape(k, k, d_out, s1, v)
    so = so.transpose(0, 3, 1, 2, 4).reshape(k * s1, k * d_out * v)

    output_square = (design.output[:, :, None] * design.output[:, None, :]).reshape(points, v * v)
    oo = (pairs.reshape(k * k, points) @ output_square).reshape(k, k, v, v)
    oo = jnp.einsum("ijvw,op->iovjpw", oo, jnp.eye(d_out)).reshape(k * d_out * v, k * d_out * v)

    value = 0.5 * jnp.sum(data.precision * jnp.sum(residual**2, axis=0))
    slope = flatten(_gradient(mixture, residual, design, data))
    return SecondOrder(value, slope, jnp.block([[ss, so], [so.T, oo]]))
