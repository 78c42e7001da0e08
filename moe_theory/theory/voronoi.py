"""Voronoi losses between a fitted and a true mixing measure (theory section 3), frozen atoms included.

Weights w_i = exp(c_i). Cell of true atom j: V_j = { i : || phi_i - phi*_j || <= || phi_i - phi*_l || for all l },

    D_r  = sum_j | sum_{V_j} w_i - w*_j | + sum_j sum_{V_j} w_i || phi_i - phi*_j ||^r
    D_12 = the same weight term + power 1 in cells of one fitted atom, power 2 in cells of several.

**Frozen atoms are atoms of the truth.** A fitted atom at a frozen atom's place with weight w, all other weights times
1 + w, gives *exactly* the same f_G: the softmax sees one atom of weight 1 + w there. Against the estimated atoms
alone such a fit has a large loss that no sample size removes. So every frozen atom has a cell too, and all weights
are taken relative to the weight that the frozen cells hold. ``losses(..., anchored=False)`` keeps the definition
without frozen cells, so that the difference can be shown. Source: theory section 3; the frozen cells are our
derivation.

Without a frozen atom nothing sees what all scores have in common. The scale of the weights is divided out by the
a = w*_j / w(V_j) that minimises the loss (the loss is piecewise linear and convex in a, so its minimum is at one of
these). A shift of all atoms' score coefficients, where they are coordinates of their own (queries that share nothing
with values), is divided out by the one that gives the least D_12 among none and those that align the mean score of
the fitted atoms whose values are nearest to one true atom's: within a factor, that does not depend on the fit, of the
least of all shifts. Shifts that no member of the class has are not excluded: one that is not small would move no value
and both scores alike, so the class has it.

Hierarchical models: with separate atoms the loss is the sum over heads (heads are known and not permuted); atoms that
all heads share are one set of points, phi all heads' coordinates together, and have one loss. Where such atoms have a
log-weight per head, it is the mean over heads of the losses with that head's weights and the common cells.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel


class Losses(NamedTuple):
    """Errors of one fitted measure in one coordinate map.

    Attributes:
        d_1, d_2, d_12: Voronoi losses.
        weight: the weight term.
        singleton: root of sum w ||.||^2 / sum w over atoms alone in the cell of an estimated true atom; NaN if none.
        overfitted: the same over atoms that share such a cell; NaN if none.
        farthest: the largest distance of an atom that shares such a cell, whatever its weight; NaN if none. Without a
            weight floor an atom of vanishing weight may stay away for ever, which ``overfitted`` hides.
        frozen: the same over fitted atoms in a frozen atom's cell; NaN if none.
        query, value: the over-fitted error of the query and value blocks apart.
        pattern: fitted atoms per estimated true atom's cell, then in frozen cells, as decimal digits.
    """

    d_1: Float[Array, ""]
    d_2: Float[Array, ""]
    d_12: Float[Array, ""]
    weight: Float[Array, ""]
    singleton: Float[Array, ""]
    overfitted: Float[Array, ""]
    farthest: Float[Array, ""]
    frozen: Float[Array, ""]
    query: Float[Array, ""]
    value: Float[Array, ""]
    pattern: Int[Array, ""]


class Points(NamedTuple):
    """Atoms in a coordinate map: query and value blocks (either may be empty), and weights."""

    query: Float[Array, "k q"]
    value: Float[Array, "k v"]
    weights: Float[Array, "*heads k"]


def effective_points(model: RegressionModel | HierarchicalModel, measure: MixingMeasure) -> Points:
    """Atoms in effective coordinates: what acts of an update, free of every gauge (theory section 2).

    Atoms that several heads share have all heads' coordinates; their weights may have a leading head axis.
    """
    query, value = jax.vmap(model.effective)(jax.vmap(model.update, (0, None))(measure.atoms, measure.common))
    return Points(query, value, jnp.exp(measure.log_weights))


def factor_points(model: RegressionModel, measure: MixingMeasure) -> Points:
    """Atoms in raw, balanced factors: never identified (gauge), shown but not judged."""
    atoms = jax.vmap(model.adapter.balance)(measure.atoms)
    flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(atoms)], axis=1)
    return Points(jnp.zeros((flat.shape[0], 0), flat.dtype), flat, jnp.exp(measure.log_weights))


def frozen_points(model: RegressionModel) -> Points:
    """The frozen atoms in effective coordinates."""
    query, value = jax.vmap(model.effective)(model.frozen.updates)
    return Points(query, value, jnp.exp(model.frozen.log_weights))


def effective_losses(
    model: RegressionModel | HierarchicalModel, fitted: MixingMeasure, truth: MixingMeasure, anchored: bool = True
) -> Losses:
    """Losses in effective coordinates, the ones that verdicts use."""
    if isinstance(model, HierarchicalModel):
        return _effective_losses_of_heads(model, fitted, truth, anchored)
    frozen = frozen_points(model) if anchored else jax.tree.map(lambda leaf: leaf[:0], frozen_points(model))
    shift = model.frozen.count == 0
    return losses(effective_points(model, fitted), effective_points(model, truth), frozen, shift)


def factor_losses(model: RegressionModel | HierarchicalModel, fitted: MixingMeasure, truth: MixingMeasure) -> Losses:
    """Losses in raw factors; frozen atoms have Delta = 0 and no factors of their own, so they get no cell."""
    if isinstance(model, HierarchicalModel):
        if not model.shared_atoms:
            return summed(jax.vmap(factor_losses)(model.heads, fitted, truth))
        points = factor_points(model.heads, fitted), factor_points(model.heads, truth)
        none = Points(points[0].query[:0], points[0].value[:0], jnp.zeros((model.count, 0), jnp.float64))
        return _mean_over_weights(model, *points, none)
    true = factor_points(model, truth)
    none = jax.tree.map(lambda leaf: leaf[:0], true)
    return losses(factor_points(model, fitted), true, none, model.frozen.count == 0)


def _effective_losses_of_heads(
    model: HierarchicalModel, fitted: MixingMeasure, truth: MixingMeasure, anchored: bool
) -> Losses:
    if not model.shared_atoms:

        def of_head(head: RegressionModel, own: MixingMeasure, true: MixingMeasure) -> Losses:
            return effective_losses(head, own, true, anchored)

        return summed(jax.vmap(of_head)(model.heads, fitted, truth))
    frozen = Points(*jax.vmap(model.effective)(model.frozen_updates), jnp.exp(model.heads.frozen.log_weights))
    if not anchored:
        frozen = Points(frozen.query[:0], frozen.value[:0], frozen.weights[:, :0])
    return _mean_over_weights(model, effective_points(model, fitted), effective_points(model, truth), frozen)


def _mean_over_weights(model: HierarchicalModel, fitted: Points, true: Points, frozen: Points) -> Losses:
    """Losses of shared atoms; weights with a leading head axis, or one set for all heads."""

    def of_head(own: Array, target: Array, held: Array) -> Losses:
        points = (fitted._replace(weights=own), true._replace(weights=target), frozen._replace(weights=held))
        return losses(*points, model.heads.frozen.count == 0)

    weights = (fitted.weights, true.weights, frozen.weights)
    each = jax.vmap(of_head, tuple(0 if own.ndim == 2 else None for own in weights))(*weights)
    means = jax.tree.map(jnp.mean, each._replace(pattern=jnp.zeros(1)))
    return means._replace(pattern=each.pattern[0])


def summed(each: Losses) -> Losses:
    """Losses of several heads in one: losses add up, atom errors are the root mean square over heads that have one.

    Args:
        each: leaves of shape (H,). The pattern is the heads' common one, or -1 where they differ.
    """

    def root_mean_square(leaf: Float[Array, " H"]) -> Float[Array, ""]:
        known = ~jnp.isnan(leaf)
        mean = jnp.sum(jnp.where(known, leaf, 0.0) ** 2) / jnp.maximum(jnp.sum(known), 1)
        return jnp.where(jnp.any(known), jnp.sqrt(mean), jnp.nan)

    totals = {name: jnp.sum(getattr(each, name)) for name in ("d_1", "d_2", "d_12", "weight")}
    errors = {
        name: root_mean_square(getattr(each, name)) for name in ("singleton", "overfitted", "frozen", "query", "value")
    }
    pattern = jnp.where(jnp.all(each.pattern == each.pattern[0]), each.pattern[0], -1)
    farthest = jnp.where(jnp.all(jnp.isnan(each.farthest)), jnp.nan, jnp.max(jnp.nan_to_num(each.farthest)))
    return Losses(**totals, **errors, farthest=farthest, pattern=pattern)


def losses(fitted: Points, true: Points, frozen: Points, without_anchor: bool) -> Losses:
    """All losses of one fitted measure.

    Args:
        fitted, true: estimated atoms.
        frozen: known atoms of both measures, possibly none.
        without_anchor: divide out what no softmax sees, a common scale of the weights and a common shift of the query
            block.
    """
    if not without_anchor or not true.query.shape[1]:
        return _losses(fitted, true, frozen, without_anchor)
    shifts = _aligning_shifts(fitted, true)
    every = jax.vmap(lambda shift: _losses(fitted._replace(query=fitted.query - shift[None]), true, frozen, True))(
        shifts
    )
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(every.d_12)], every)
    return best._replace(d_1=jnp.min(every.d_1), d_2=jnp.min(every.d_2))


def _aligning_shifts(fitted: Points, true: Points) -> Float[Array, "shifts q"]:
    """No shift, and for every true atom the one that aligns the mean query of the atoms nearest to it by value."""
    apart = jnp.sum((fitted.value[:, None] - true.value[None]) ** 2, axis=-1)
    member = jnp.argmin(apart, axis=1)[:, None] == jnp.arange(true.weights.shape[0])[None]
    masses = jnp.where(member, fitted.weights[:, None], 0.0)
    total = jnp.sum(masses, axis=0)[:, None]
    means = masses.T @ fitted.query / jnp.where(total > 0, total, 1.0)
    return jnp.concatenate([jnp.zeros_like(means[:1]), jnp.where(total > 0, means - true.query, 0.0)])


def _losses(fitted: Points, true: Points, frozen: Points, divide_scale: bool) -> Losses:
    k_true, k_frozen = true.weights.shape[0], frozen.weights.shape[0]
    query = jnp.concatenate([true.query, frozen.query])
    value = jnp.concatenate([true.value, frozen.value])
    target = jnp.concatenate([true.weights, frozen.weights])
    by_query = jnp.sum((fitted.query[:, None] - query[None]) ** 2, axis=-1)
    by_value = jnp.sum((fitted.value[:, None] - value[None]) ** 2, axis=-1)
    squared = by_query + by_value
    cell = jnp.argmin(squared, axis=1)
    member = cell[:, None] == jnp.arange(k_true + k_frozen)[None]
    in_frozen = cell >= k_true

    weights = fitted.weights
    held = jnp.concatenate([jnp.zeros(k_true, target.dtype), frozen.weights])
    if k_frozen:
        scale = jnp.sum(frozen.weights) / (jnp.sum(frozen.weights) + jnp.sum(jnp.where(in_frozen, weights, 0.0)))
        weights, held = weights * scale, held * scale

    distance = jnp.sqrt(jnp.min(squared, axis=1))
    count = jnp.sum(member, axis=0)
    alone = count[cell] == 1

    def loss(powered: Float[Array, " k"]) -> Float[Array, ""]:
        spread = jnp.sum(weights * powered)
        mass = jnp.sum(jnp.where(member, weights[:, None], 0.0), axis=0) + held
        if not divide_scale:
            return jnp.sum(jnp.abs(mass - target)) + spread
        scales = jnp.where(mass > 0, target / jnp.where(mass > 0, mass, 1.0), jnp.inf)
        at = jnp.sum(jnp.abs(scales[:, None] * mass[None] - target[None]), axis=1) + scales * spread
        return jnp.min(jnp.where(jnp.isfinite(scales), at, jnp.inf))

    def atom_error(which: Array, square: Array) -> Float[Array, ""]:
        total = jnp.sum(jnp.where(which, weights, 0.0))
        mean = jnp.sum(jnp.where(which, weights * square, 0.0)) / jnp.where(total > 0, total, 1.0)
        return jnp.where(total > 0, jnp.sqrt(mean), jnp.nan)

    crowded = ~alone & ~in_frozen
    own = jnp.take_along_axis(by_query, cell[:, None], axis=1)[:, 0]
    other = jnp.take_along_axis(by_value, cell[:, None], axis=1)[:, 0]
    digits = jnp.concatenate([count[:k_true], jnp.sum(count[k_true:], keepdims=True)])
    return Losses(
        d_1=loss(distance),
        d_2=loss(distance**2),
        d_12=loss(jnp.where(alone, distance, distance**2)),
        weight=loss(jnp.zeros_like(distance)),
        singleton=atom_error(alone & ~in_frozen, distance**2),
        overfitted=atom_error(crowded, distance**2),
        farthest=jnp.where(jnp.any(crowded), jnp.max(jnp.where(crowded, distance, 0.0)), jnp.nan),
        frozen=atom_error(in_frozen, distance**2),
        query=atom_error(crowded, own),
        value=atom_error(crowded, other),
        pattern=jnp.sum(digits * 10 ** jnp.arange(k_true, -1, -1)),
    )
