"""Voronoi losses of Gaussian mixtures of experts, with a power for every block of parameters (theory section 6).

In a cell of m fitted atoms the blocks that the density feels at first order only through sums (c and b; beta1 and b)
count with the power rbar(m), those tied to them by d2/db2 = 2 d/dnu and its like (Gamma, nu, A; a, nu) with rbar(m)/2:

    D = sum_j | w(V_j) - w*_j | + sum_{|V_j| = 1} w_i sum_blocks ||.|| + sum_{|V_j| = m > 1} w_i sum_blocks ||.||^power.

``D_published`` has A to the power 2 in every cell of several atoms, as the published Type I statement has.

Distances are in a stated scaled metric: with s_x^2 the mean true variance of x in an atom (of the inputs where the gate
is a softmax) and s_y^2 that of y given x, c / s_x, Gamma / s_x^2, A s_x / s_y, b / s_y, nu / s_y^2, beta1 s_x.

A softmax gate is blind to a common shift of (beta0, beta1). Before measuring, it is divided out by the shift that gives
the least loss among those that align the mass and the mean gate of one true atom's cell. Source: theory sections 3 and
6; Nguyen et al. 2023, 2024; the alignment is our derivation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe_theory.models.density import GaussianGated, SoftmaxGated
from moe_theory.models.measure import MixingMeasure
from moe_theory.theory.cells import KINDS

FIRST_ORDER = ("center", "gate", "intercept")
"""Blocks with the power rbar(m); the others have rbar(m) / 2."""
RBAR = (1, 1, 4, 6, 7)
"""rbar(m) by m; from m = 4 on at least 7 (``theory.polynomial_system`` checks 2 and 3)."""
PUBLISHED_SLOPE_POWER = 2


class BlockLosses(NamedTuple):
    """Errors of one fitted measure.

    Attributes:
        d: D above.
        d_published: with A (or a) to the power 2.
        d_1: power 1 everywhere, the loss of the exact-specified claims.
        weight: the weight term.
        errors: ``<kind>_<block>`` and ``<kind>`` (all blocks) -> ( sum w ||.||^2 / sum w )^(1/2) over atoms in cells of
            that kind: singleton, pair, triple (exactly two, three atoms), over (two or more); NaN if there is none.
        pattern: fitted atoms per true atom's cell as decimal digits.
    """

    d: Float[Array, ""]
    d_published: Float[Array, ""]
    d_1: Float[Array, ""]
    weight: Float[Array, ""]
    errors: dict[str, Float[Array, ""]]
    pattern: Int[Array, ""]


class Metric(NamedTuple):
    """s_x and s_y."""

    x: float
    y: float


def metric_of(
    model: GaussianGated | SoftmaxGated, truth: MixingMeasure, inputs: Float[np.ndarray, "Q d"] | None = None
) -> Metric:
    """The stated scaled metric of a truth.

    Args:
        model, truth: what is estimated.
        inputs: support of x, for a softmax gate.
    """
    noise = float(np.mean(np.diagonal(np.asarray(truth.atoms.noise), axis1=1, axis2=2)))
    if isinstance(model, GaussianGated):
        spread = float(np.mean(np.diagonal(np.asarray(truth.atoms.spread), axis1=1, axis2=2)))
    else:
        assert inputs is not None
        spread = float(np.mean(np.var(inputs, axis=0)))
    return Metric(spread**0.5, noise**0.5)


def blocks_of(atoms: Any, metric: Metric) -> dict[str, Float[Array, "k s"]]:
    """Blocks of parameters in the scaled metric, flat."""
    unit = {
        "center": 1 / metric.x,
        "gate": metric.x,
        "spread": metric.x**-2,
        "slope": metric.x / metric.y,
        "intercept": 1 / metric.y,
        "noise": metric.y**-2,
    }
    parts = atoms._asdict()
    return {name: (leaf * unit[name]).reshape(leaf.shape[0], -1) for name, leaf in parts.items()}


def block_losses(
    model: GaussianGated | SoftmaxGated, fitted: MixingMeasure, truth: MixingMeasure, metric: Metric
) -> BlockLosses:
    """All losses of one fitted measure; vmap over measures.

    Args:
        model: decides whether a gate must be aligned first.
        fitted, truth: measures; weights are exp(log_weights).
        metric: see ``metric_of``.
    """
    mine, true = blocks_of(fitted.atoms, metric), blocks_of(truth.atoms, metric)
    weights, target = jnp.exp(fitted.log_weights), jnp.exp(truth.log_weights)
    if isinstance(model, GaussianGated):
        return _losses(mine, weights, true, target)
    experts = _member({name: mine[name] for name in mine if name != "gate"}, true)
    masses = experts * weights[:, None]
    total = jnp.sum(masses, axis=0)
    known = total > 0
    safe = jnp.where(known, total, 1.0)
    gates = masses.T @ mine["gate"] / safe[:, None]

    def aligned(j: Array) -> BlockLosses:
        moved = {**mine, "gate": mine["gate"] - (gates[j] - true["gate"][j])[None]}
        return _losses(moved, weights * target[j] / safe[j], true, target)

    every = jax.vmap(aligned)(jnp.arange(target.shape[0]))
    best = jnp.argmin(jnp.where(known, every.d, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[best], every)


def _squared(mine: dict[str, Array], true: dict[str, Array]) -> Float[Array, "k k_true"]:
    return sum((jnp.sum((mine[name][:, None] - true[name][None]) ** 2, axis=-1) for name in mine), start=jnp.zeros(()))  # pyright: ignore[reportReturnType]


def _member(mine: dict[str, Array], true: dict[str, Array]) -> Float[Array, "k k_true"]:
    squared = _squared(mine, true)
    return jnp.asarray(jnp.argmin(squared, axis=1)[:, None] == jnp.arange(squared.shape[1])[None], jnp.float64)


def _losses(
    mine: dict[str, Array], weights: Float[Array, " k"], true: dict[str, Array], target: Float[Array, " k_true"]
) -> BlockLosses:
    member = _member(mine, true)
    count = jnp.sum(member, axis=0)
    own = member @ count
    away = {name: jnp.sqrt(jnp.sum((mine[name] - member @ true[name]) ** 2, axis=-1)) for name in mine}
    rbar = jnp.asarray(RBAR)[jnp.minimum(own.astype(int), len(RBAR) - 1)].astype(jnp.float64)
    weight = jnp.sum(jnp.abs(member.T @ weights - target))

    def spread(name: str, published: bool) -> Float[Array, " k"]:
        power = rbar if name in FIRST_ORDER else 0.5 * rbar
        if published and name == "slope":
            power = jnp.full_like(rbar, PUBLISHED_SLOPE_POWER)
        return away[name] ** jnp.where(own == 1, 1.0, power)

    def total(published: bool) -> Float[Array, ""]:
        return weight + sum((jnp.sum(weights * spread(name, published)) for name in mine), start=jnp.zeros(()))

    whole = jnp.sqrt(sum((away[name] ** 2 for name in mine), start=jnp.zeros(())))
    errors = {}
    for kind in (*KINDS, "over"):
        which = own >= 2 if kind == "over" else own == KINDS[kind]
        errors[kind] = _root_mean_square(whole, weights, which)
        for name in mine:
            errors[f"{kind}_{name}"] = _root_mean_square(away[name], weights, which)
    digits = count.astype(int) * 10 ** jnp.arange(count.shape[0] - 1, -1, -1)
    d_1 = weight + jnp.sum(weights * whole)
    return BlockLosses(total(False), total(True), d_1, weight, errors, jnp.sum(digits))


def _root_mean_square(
    away: Float[Array, " k"], weights: Float[Array, " k"], which: Float[Array, " k"] | Array
) -> Float[Array, ""]:
    mass = jnp.sum(jnp.where(which, weights, 0.0))
    mean = jnp.sum(jnp.where(which, weights * away**2, 0.0)) / jnp.where(mass > 0, mass, 1.0)
    return jnp.where(mass > 0, jnp.sqrt(mean), jnp.nan)
