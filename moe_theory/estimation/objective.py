"""Least squares in statistical units, with its exact gradient and Hessian.

    F(G) = 1/2 sum_m (N_m / sigma^2) || f_G(x_m) - mean_m ||^2  =  (n / sigma^2) L(G),     f_G = sum_h O_h f_{h,G},

so that a difference of 1 in F is one unit of log-likelihood whatever n is, and every tolerance is absolute.

The derivatives are taken where they are cheap: with respect to the atoms' coefficients (log-weight, score, output),
in which scores and outputs are linear, they are matrix products with features of the support shared by all lanes.
For heads h and g, with p_i the softmax, e_i = h_i - f_h, r = f - mean, r_h = O_h' r, W = O_h' O_g, omega = N / sigma^2
and t_i = r_h . e_i, at each support point (the terms with r and t only for h = g)

    dF/ds_i         = omega p_i t_i                      dF/dh_i = omega p_i r_h
    d2F/ds_i ds_j   = omega [ p_i p_j (e_i' W e_j - t_i - t_j) + delta_ij p_i t_i ]
    d2F/ds_i dh_j   = omega [ p_i p_j W' e_i + p_j (delta_ij - p_i) r_h ]
    d2F/dh_i dh_j   = omega p_i p_j W.

A flat model is one head with O = I; its coefficients and design may come without the head axis. Source: our
derivation; tests hold it against automatic differentiation. One lane; vmapped by the caller.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.regression import Coefficients, Design, RegressionModel
from moe_theory.sampling.statistics import Statistics


class HeadedDesign(NamedTuple):
    """Features of all support points for every head, and what the heads' outputs add up with.

    Attributes:
        heads: leaves with a leading axis H.
        outputs: O_h.
    """

    heads: Design
    outputs: Float[Array, "H d_out d_v"]


def design_of(model: RegressionModel | HierarchicalModel, support: Float[Array, "M d"]) -> Design | HeadedDesign:
    """Features of the support points, computed once for every fit on them."""
    if isinstance(model, HierarchicalModel):
        return HeadedDesign(model.design(support), model.outputs)
    return model.design(support)


class Mixture(NamedTuple):
    """The heads' softmax mixtures at the support points.

    Attributes:
        gates: p_i of the free atoms.
        outputs: h_i.
        heads: f_h.
        prediction: f_G.
    """

    gates: Float[Array, "H k M"]
    outputs: Float[Array, "H k d_v M"]
    heads: Float[Array, "H d_v M"]
    prediction: Float[Array, "d_out M"]


def _headed(coefficients: Coefficients, design: Design | HeadedDesign) -> tuple[Coefficients, HeadedDesign]:
    if isinstance(design, HeadedDesign):
        return coefficients, design
    identity = jnp.eye(coefficients.output.shape[-2], dtype=coefficients.output.dtype)
    stacked: tuple[Coefficients, Design] = jax.tree.map(lambda leaf: leaf[None], (coefficients, design))
    return stacked[0], HeadedDesign(stacked[1], identity[None])


def mix(coefficients: Coefficients, design: Design | HeadedDesign) -> Mixture:
    """Evaluate the mixture at the support points, frozen atoms included.

    Args:
        coefficients: leaves (H, k, ...), or (k, ...) with a flat design.
        design: of the support.
    """
    coefficients, headed = _headed(coefficients, design)
    gates, outputs, heads = jax.vmap(_mix_head)(coefficients, headed.heads)
    return Mixture(gates, outputs, heads, jnp.einsum("hov,hvm->om", headed.outputs, heads))


def _mix_head(coefficients: Coefficients, design: Design) -> tuple[Array, Array, Array]:
    k = coefficients.log_weight.shape[0]
    logits = jnp.concatenate([_rows(coefficients) @ design.score.T, design.frozen_logits])
    outputs = jnp.einsum("kov,mv->kom", coefficients.output, design.output)
    gates = jax.nn.softmax(logits, axis=0)
    prediction = jnp.sum(gates[:k, None] * outputs, axis=0)
    if design.frozen_logits.shape[0]:
        prediction = prediction + jnp.sum(gates[k:, None] * design.frozen_outputs, axis=0)
    return gates[:k], outputs, prediction


def _rows(coefficients: Coefficients) -> Float[Array, "*H k s1"]:
    return jnp.concatenate([coefficients.log_weight[..., None], coefficients.score], axis=-1)


def _value(residual: Array, data: Statistics) -> Float[Array, ""]:
    return 0.5 * jnp.sum(data.precision * jnp.sum(residual**2, axis=0))


def objective(coefficients: Coefficients, design: Design | HeadedDesign, data: Statistics) -> Float[Array, ""]:
    """F(G) in units of sigma^2 / n."""
    return _value(mix(coefficients, design).prediction - data.mean, data)


def gradient(
    coefficients: Coefficients, design: Design | HeadedDesign, data: Statistics
) -> tuple[Float[Array, ""], Coefficients]:
    """F and dF with respect to the coefficients, in their own shapes."""
    mixture = mix(coefficients, design)
    _, headed = _headed(coefficients, design)
    residual = mixture.prediction - data.mean
    slopes = _gradient(mixture, residual, headed, data)
    if isinstance(design, Design):
        slopes = jax.tree.map(lambda leaf: leaf[0], slopes)
    return _value(residual, data), slopes


def _gradient(mixture: Mixture, residual: Array, design: HeadedDesign, data: Statistics) -> Coefficients:
    def of_head(p: Array, outputs: Array, f: Array, own: Design, to_out: Array) -> Coefficients:
        pulled = to_out.T @ residual
        weighted = data.precision[None] * p
        along = jnp.sum(pulled[None] * (outputs - f[None]), axis=1)
        by_score = jnp.einsum("km,ms->ks", weighted * along, own.score)
        by_output = jnp.einsum("kom,mv->kov", weighted[:, None] * pulled[None], own.output)
        return Coefficients(by_score[:, 0], by_score[:, 1:], by_output)

    return jax.vmap(of_head)(mixture.gates, mixture.outputs, mixture.heads, design.heads, design.outputs)


class SecondOrder(NamedTuple):
    """F with both derivatives in the flat coordinates of ``flatten``: value (), gradient (u,), Hessian (u, u)."""

    value: Float[Array, ""]
    gradient: Float[Array, " u"]
    hessian: Float[Array, "u u"]


def flatten(coefficients: Coefficients) -> Float[Array, " u"]:
    """Head by head: all score rows (log-weight first), then all output matrices; k (1 + s) + k d_v v numbers each."""
    leading = coefficients.log_weight.shape[:-1]
    parts = [_rows(coefficients).reshape(*leading, -1), coefficients.output.reshape(*leading, -1)]
    return jnp.concatenate(parts, axis=-1).reshape(-1)


def second_order(coefficients: Coefficients, design: Design | HeadedDesign, data: Statistics) -> SecondOrder:
    """F, its gradient and its exact Hessian with respect to ``flatten(coefficients)``."""
    mixture = mix(coefficients, design)
    _, headed = _headed(coefficients, design)
    residual = mixture.prediction - data.mean
    heads = jnp.arange(mixture.gates.shape[0])

    def of_pair(first: Array, second: Array) -> Array:
        return _pair_hessian(mixture, residual, headed, data, first, second)

    blocks = jax.vmap(jax.vmap(of_pair, (None, 0)), (0, None))(heads, heads)
    size = heads.shape[0] * blocks.shape[-1]
    slope = flatten(_gradient(mixture, residual, headed, data))
    return SecondOrder(_value(residual, data), slope, blocks.transpose(0, 2, 1, 3).reshape(size, size))


def _pair_hessian(
    mixture: Mixture, residual: Array, design: HeadedDesign, data: Statistics, first: Array, second: Array
) -> Float[Array, "u u"]:
    """The block of two heads."""
    same = (first == second).astype(residual.dtype)
    p, q = mixture.gates[first], mixture.gates[second]
    one, other = (jax.tree.map(lambda leaf, h=h: leaf[h], design.heads) for h in (first, second))
    joint = design.outputs[first].T @ design.outputs[second]
    pulled = same * (design.outputs[first].T @ residual)
    excess = mixture.outputs[first] - mixture.heads[first][None]
    opposite = mixture.outputs[second] - mixture.heads[second][None]
    (k, points), d_v = p.shape, excess.shape[1]
    s1, v = one.score.shape[1], one.output.shape[1]

    along = jnp.sum(pulled[None] * excess, axis=1)
    weighted = jnp.asarray(data.precision)[None] * p
    pairs = weighted[:, None] * q[None]
    own = jnp.eye(k)[:, :, None] * weighted[None]
    moved = jnp.einsum("iom,op->ipm", excess, joint)
    cross = jnp.einsum("ipm,jpm->ijm", moved, opposite) - along[:, None] - along[None]
    score_score = (pairs * cross + own * along[None]).reshape(k * k, points)
    score_square = (one.score[:, :, None] * other.score[:, None, :]).reshape(points, s1 * s1)
    ss = (score_score @ score_square).reshape(k, k, s1, s1).transpose(0, 2, 1, 3).reshape(k * s1, k * s1)

    def score_output(weights: Array, scores: Array, outputs: Array) -> Array:
        square = (scores[:, :, None] * outputs[:, None, :]).reshape(points, s1 * v)
        block = (weights.reshape(k * k * d_v, points) @ square).reshape(k, k, d_v, s1, v)
        return block.transpose(0, 3, 1, 2, 4).reshape(k * s1, k * d_v * v)

    turned = (own - pairs)[:, :, None] * pulled[None, None]
    so = score_output(pairs[:, :, None] * moved[:, None] + turned, one.score, other.output)
    if mixture.gates.shape[0] == 1:
        os = so.T
    else:
        back = jnp.einsum("op,jpm->jom", joint, opposite)
        swapped = jnp.swapaxes(pairs, 0, 1)[:, :, None] * back[:, None] + turned
        os = score_output(swapped, other.score, one.output).T

    output_square = (one.output[:, :, None] * other.output[:, None, :]).reshape(points, v * v)
    oo = (pairs.reshape(k * k, points) @ output_square).reshape(k, k, v, v)
    oo = jnp.einsum("ijvw,op->iovjpw", oo, joint).reshape(k * d_v * v, k * d_v * v)
    return jnp.block([[ss, so], [os, oo]])
