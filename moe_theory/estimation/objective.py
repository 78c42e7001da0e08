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

Each is a sum over the support of a weight times a product of two features, so products that are multiples of each
other (of x x' with x x', say: 46 monomials in four dimensions for 121 products) are summed once. A flat model is one
head with O = I; its coefficients come without the head axis. Source: our derivation; tests hold it against automatic
differentiation. One lane; vmapped by the caller.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.regression import Coefficients, Design, RegressionModel
from moe_theory.sampling.statistics import Statistics


class Products(NamedTuple):
    """All products of a feature from one family with one from another, as multiples of few distinct ones.

    Attributes:
        distinct: the u distinct products at the support points.
        spread: product (a, b) of the families is sum_u distinct_u spread_uab; each has one term.
    """

    distinct: Float[Array, "M u"]
    spread: Float[Array, "u a b"]


PROPORTIONAL = 1e-13
"""Two products are the same but for a factor if they are to this share of their largest value."""


def products_of(left: Float[Array, "M a"], right: Float[Array, "M b"]) -> Products:
    """The distinct products of two families of features, found by their values at the support; on the host."""
    first, second = np.asarray(left), np.asarray(right)
    columns = (first[:, :, None] * second[:, None, :]).reshape(first.shape[0], -1)
    peaks = columns[np.argmax(np.abs(columns), axis=0), np.arange(columns.shape[1])]
    scaled = columns / np.where(peaks == 0.0, 1.0, peaks)
    sums = scaled.T @ np.random.default_rng(0).standard_normal(len(scaled))
    kept: list[int] = []
    spread = np.zeros(columns.shape[1:] * 2)
    for place in np.argsort(sums, kind="stable"):
        if not kept or np.max(np.abs(scaled[:, place] - scaled[:, kept[-1]])) > PROPORTIONAL:
            kept.append(int(place))
        spread[len(kept) - 1, place] = 1.0 if place == kept[-1] else peaks[place] / peaks[kept[-1]]
    shape = (len(kept), first.shape[1], second.shape[1])
    return Products(jnp.asarray(columns[:, kept]), jnp.asarray(spread[: len(kept)].reshape(shape)))


class HeadedDesign(NamedTuple):
    """Features of all support points for every head, and what the heads' outputs add up with.

    Attributes:
        heads: leaves with a leading axis H; the features are the same in every head.
        outputs: O_h.
        score_score, score_output, output_output: products of the features; None where there are as many features as
            points (a user's function, ``models.function``), for which ``second_order`` would be the long way round.
    """

    heads: Design
    outputs: Float[Array, "H d_out d_v"]
    score_score: Products | None
    score_output: Products | None
    output_output: Products | None

    @property
    def has_products(self) -> bool:
        """Whether ``second_order`` can be asked for."""
        return self.score_score is not None


def design_of(model: RegressionModel | HierarchicalModel, support: Float[Array, "M d"]) -> HeadedDesign:
    """Features of the support points, computed once for every fit on them; not under ``jax.jit``."""
    if isinstance(model, HierarchicalModel):
        heads, outputs = model.design(support), model.outputs
    else:
        own = model.design(support)
        heads: Design = jax.tree.map(lambda leaf: leaf[None], own)
        outputs = jnp.eye(own.frozen_outputs.shape[1])[None]
    score, output = heads.score[0], heads.output[0]
    if output.shape[1] >= support.shape[0]:
        return HeadedDesign(heads, outputs, None, None, None)
    both = products_of(score, score), products_of(score, output), products_of(output, output)
    return HeadedDesign(heads, outputs, *both)


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


def _headed(coefficients: Coefficients) -> Coefficients:
    flat = coefficients.log_weight.ndim == 1
    return jax.tree.map(lambda leaf: leaf[None], coefficients) if flat else coefficients


def mix(coefficients: Coefficients, design: HeadedDesign) -> Mixture:
    """Evaluate the mixture at the support points, frozen atoms included.

    Args:
        coefficients: leaves (H, k, ...), or (k, ...) of a flat model.
        design: of the support.
    """
    gates, outputs, heads = jax.vmap(_mix_head)(_headed(coefficients), design.heads)
    return Mixture(gates, outputs, heads, jnp.einsum("hov,hvm->om", design.outputs, heads))


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


def objective(coefficients: Coefficients, design: HeadedDesign, data: Statistics) -> Float[Array, ""]:
    """F(G) in units of sigma^2 / n."""
    return _value(mix(coefficients, design).prediction - data.mean, data)


def gradient(
    coefficients: Coefficients, design: HeadedDesign, data: Statistics
) -> tuple[Float[Array, ""], Coefficients]:
    """F and dF with respect to the coefficients, in their own shapes."""
    mixture = mix(coefficients, design)
    residual = mixture.prediction - data.mean
    slopes = _gradient(mixture, residual, design, data)
    if coefficients.log_weight.ndim == 1:
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
    """Atom by atom, head by head: log-weight, score and output matrix; 1 + s + d_v v numbers each."""
    outputs = coefficients.output.reshape(*coefficients.log_weight.shape, -1)
    return jnp.concatenate([_rows(coefficients), outputs], axis=-1).reshape(-1)


def second_order(coefficients: Coefficients, design: HeadedDesign, data: Statistics) -> SecondOrder:
    """F, its gradient and its exact Hessian with respect to ``flatten(coefficients)``."""
    mixture = mix(coefficients, design)
    residual = mixture.prediction - data.mean
    heads = mixture.gates.shape[0]
    within = jax.vmap(lambda head: _head_hessian(mixture, residual, design, data, head))(jnp.arange(heads))
    if heads == 1:
        blocks = within[None]
    else:
        first, second = np.triu_indices(heads, 1)
        across = jax.vmap(lambda one, other: _pair_hessian(mixture, design, data, one, other))(
            jnp.asarray(first), jnp.asarray(second)
        )
        both = jnp.concatenate([within, across, jnp.swapaxes(across, 1, 2)])
        place = np.zeros((heads, heads), int)
        place[np.diag_indices(heads)] = np.arange(heads)
        place[first, second] = heads + np.arange(first.size)
        place[second, first] = heads + first.size + np.arange(first.size)
        blocks = both[place]
    size = heads * within.shape[-1]
    slope = flatten(_gradient(mixture, residual, design, data))
    return SecondOrder(_value(residual, data), slope, blocks.transpose(0, 2, 1, 3).reshape(size, size))


def _head_hessian(
    mixture: Mixture, residual: Array, design: HeadedDesign, data: Statistics, head: Array
) -> Float[Array, "u u"]:
    """The block of one head with itself."""
    p, to_out = mixture.gates[head], design.outputs[head]
    pulled, joint = to_out.T @ residual, to_out.T @ to_out
    excess = mixture.outputs[head] - mixture.heads[head][None]
    along = jnp.sum(pulled[None] * excess, axis=1)
    weighted = jnp.asarray(data.precision)[None] * p
    pairs = weighted[:, None] * p[None]
    own = jnp.eye(p.shape[0])[:, :, None] * weighted[None]
    moved = jnp.einsum("iom,op->ipm", excess, joint)
    cross = jnp.einsum("ipm,jpm->ijm", moved, excess) - along[:, None] - along[None]
    by_both = pairs[:, :, None] * moved[:, None] + (own - pairs)[:, :, None] * pulled[None, None]
    score_output = _summed(by_both, design.score_output)
    score_score = _summed(pairs * cross + own * along[None], design.score_score)
    return _assembled(score_score, score_output, score_output, _summed(pairs, design.output_output), joint)


def _pair_hessian(
    mixture: Mixture, design: HeadedDesign, data: Statistics, first: Array, second: Array
) -> Float[Array, "u u"]:
    """The block of two different heads."""
    p, q = mixture.gates[first], mixture.gates[second]
    joint = design.outputs[first].T @ design.outputs[second]
    excess = mixture.outputs[first] - mixture.heads[first][None]
    opposite = mixture.outputs[second] - mixture.heads[second][None]
    pairs = (jnp.asarray(data.precision)[None] * p)[:, None] * q[None]
    moved = jnp.einsum("iom,op->ipm", excess, joint)
    back = jnp.einsum("op,jpm->jom", joint, opposite)
    return _assembled(
        _summed(pairs * jnp.einsum("ipm,jpm->ijm", moved, opposite), design.score_score),
        _summed(pairs[:, :, None] * moved[:, None], design.score_output),
        _summed(jnp.swapaxes(pairs, 0, 1)[:, :, None] * back[:, None], design.score_output),
        _summed(pairs, design.output_output),
        joint,
    )


def _assembled(
    by_scores: Float[Array, "k k s1 s1"],
    by_both: Float[Array, "k k d_v s1 v"],
    by_both_back: Float[Array, "k k d_v s1 v"],
    by_outputs: Float[Array, "k k v v"],
    joint: Float[Array, "d_v d_v"],
) -> Float[Array, "u u"]:
    """A block in ``flatten``'s order from its parts, listed by (atom of one head, atom of the other)."""
    k, _, s1, _ = by_scores.shape
    outputs = by_both.shape[2] * by_both.shape[4]
    upper = by_both.transpose(0, 3, 1, 2, 4).reshape(k, s1, k, outputs)
    lower = by_both_back.transpose(1, 2, 4, 0, 3).reshape(k, outputs, k, s1)
    corner = jnp.einsum("ijvw,op->iovjpw", by_outputs, joint).reshape(k, outputs, k, outputs)
    above = jnp.concatenate([by_scores.transpose(0, 2, 1, 3), upper], axis=3)
    size = k * (s1 + outputs)
    return jnp.concatenate([above, jnp.concatenate([lower, corner], axis=3)], axis=1).reshape(size, size)


def _summed(weights: Float[Array, "*w M"], products: Products | None) -> Float[Array, "*w a b"]:
    """sum_m weight_m product_m for every product."""
    assert products is not None, "a design with as many features as points has no products: differentiate F instead"
    flat = weights.reshape(-1, weights.shape[-1]) @ products.distinct
    spread = products.spread
    return (flat @ spread.reshape(spread.shape[0], -1)).reshape(*weights.shape[:-1], *spread.shape[1:])
