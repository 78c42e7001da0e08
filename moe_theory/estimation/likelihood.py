"""Maximum likelihood in statistical units: weighted points, the objective F and its exact derivatives.

Raw data, counts on a grid and weighted data are all *weighted points* (x_m, y_m, N_m). On a grid the model gives the
cell of point m an expected count E_m = exp(log p(m) + log_base_m), and

    F(G) = sum_m [ E_m - N_m - N_m log(E_m / N_m) ] = sum_m N_m phi(E_m / N_m),   phi(u) = u - 1 - log u,

a cell without counts contributing E_m. Weights w_i of a joint density are free: F is then the likelihood of Poisson
counts, whose maximum has sum E = n, so it is the multinomial one of the model renormalised on the grid. Raw points have
no cells (log_base = -inf) and a joint density pays its mass instead, F = n sum_i w_i - sum_m N_m log p(m). A difference
of 1 in F is one unit of log-likelihood whatever n is.

Cells need not hold everything. Draws that fell outside all of them are one more cell, in which atom i expects what is
left of its C w_i draws, O_i = C w_i - sum_m E_im with E_im = w_i f_i(m) exp(log_base_m): a mixture of the same weights
again, with the score (C e_1 - sum_m E_im s_i(m)) / O_i, e_1 = (1, 0, ...). Without it an atom far from all cells would
expect nothing anywhere and cost nothing.

With z = log(E/N), N phi = N (expm1(z) - z); for small z the series keeps all digits, as it must: at n = 10^15 the
counts of a cell are 10^12 and z is 10^-6. Derivatives, with r = E - N (N without cells: r = -N), rho the
responsibilities, s_i the scores of atom i (``models.density``), D = sum_i rho_i s_i:

    dF = sum r D,     d2F = sum N D D' + sum_i sum_m r rho_i (s_i s_i' + h_i),

and the opposite sign for a softmax gate's normaliser. D is formed point by point in the coordinates of the step before
it is squared: along the flat directions of an over-fitted cell it is as small as n^-1/2, and a Hessian that is formed
first and transformed afterwards would know it only to rounding of the stiff directions. Source: our derivation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.models.density import AbstractDensity

SERIES_BELOW = 0.03


class Points(NamedTuple):
    """Weighted points.

    Attributes:
        x: inputs, (M, d).
        y: outputs, (M, d_out).
        weight: N_m, counts or weights; 0 where nothing was drawn.
        log_base: log of the expected count of a cell per unit of density, (M,); -inf for points without a cell.
        mass: n for raw points of a joint density, otherwise 0.
        outside: (draws outside all cells, C) of a joint density, C the draws that an atom expects per unit of weight in
            all cells and outside together; None where what the cells miss is beyond all digits.
    """

    x: Float[Array, "*lanes M d"]
    y: Float[Array, "*lanes M o"]
    weight: Float[Array, "*lanes M"]
    log_base: Float[Array, "*lanes M"]
    mass: Float[Array, "*lanes"]
    outside: Float[Array, "*lanes 2"] | None = None

    @property
    def size(self) -> Float[Array, "*lanes"]:
        """n."""
        return jnp.sum(self.weight, axis=-1) + (0.0 if self.outside is None else self.outside[..., 0])

    @property
    def counts(self) -> "Counts":
        """What was drawn in every cell, the one outside all others last."""
        if self.outside is None:
            return Counts(self.weight, self.log_base)
        return Counts(jnp.append(self.weight, self.outside[0]), jnp.append(self.log_base, 0.0))


class Counts(NamedTuple):
    """Weights and bases of ``Points``, with the cell outside all others where there is one (base 0)."""

    weight: Float[Array, " C"]
    log_base: Float[Array, " C"]


class Fitted(NamedTuple):
    """A model at the points, C of them with the cell outside all others.

    Attributes:
        value: F.
        excess: r_m = E_m - N_m, dF/d log p(m).
        responsibility: rho, (k, C).
        gate: the same of the softmax gate's normaliser; None for a joint density.
    """

    value: Float[Array, ""]
    excess: Float[Array, " C"]
    responsibility: Float[Array, "k C"]
    gate: Float[Array, "k M"] | None


def phi_of_log(z: Float[Array, "*M"]) -> Float[Array, "*M"]:
    """phi(e^z) = e^z - 1 - z, to full relative accuracy."""
    small = jnp.abs(z) < SERIES_BELOW
    near = jnp.where(small, z, 0.0)
    series = 0.5 * near**2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5 * (1 + near / 6 * (1 + near / 7)))))
    return jnp.where(small, series, jnp.expm1(z) - z)


def expected_by_atom(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Float[Array, "k M"]:
    """E_im, draws that atom i expects in cell m."""
    return jnp.exp(model.log_terms(rows, points.x, points.y) + points.log_base[None])


def _left(rows: Float[Array, "k q"], capacity: Float[Array, ""], inside: Float[Array, "k M"]) -> Float[Array, " k"]:
    """O_i, draws that atom i expects outside all cells."""
    return rows[:, 0] * capacity - jnp.sum(inside, axis=1)


def _log_terms(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Float[Array, "k C"]:
    """log(w_i f_i), and log O_i outside."""
    terms = model.log_terms(rows, points.x, points.y)
    if points.outside is None:
        return terms
    left = _left(rows, points.outside[1], expected_by_atom(model, rows, points))
    return jnp.concatenate([terms, jnp.log(left)[:, None]], axis=1)


def _scores(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Float[Array, "k C q"]:
    """Derivatives of those in the atom's own row."""
    scores = model.scores(rows, points.x, points.y)
    if points.outside is None:
        return scores
    inside = expected_by_atom(model, rows, points)
    everywhere = jnp.zeros_like(rows).at[:, 0].set(points.outside[1])
    slope = everywhere - jnp.einsum("km,kmq->kq", inside, scores)
    return jnp.concatenate([scores, (slope / _left(rows, points.outside[1], inside)[:, None])[:, None]], axis=1)


def _curvatures(
    model: AbstractDensity,
    rows: Float[Array, "k q"],
    points: Points,
    scores: Float[Array, "k C q"],
    v: Float[Array, "k C"],
) -> Float[Array, "k q q"]:
    """sum_m v_im times the Hessian of log(w_i f_i), or of log O_i, in the atom's own row.

    O_i has the Hessian -sum_m E_im (s_i s_i' + h_i), and log O_i that over O_i less the square of its own score.
    """
    if points.outside is None:
        return jax.vmap(lambda row, own: model.curvature(row, points.x, points.y, own))(rows, v)
    inside = expected_by_atom(model, rows, points)
    share = (v[:, -1] / _left(rows, points.outside[1], inside))[:, None] * inside
    curved = jax.vmap(lambda row, own: model.curvature(row, points.x, points.y, own))(rows, v[:, :-1] - share)
    squares = jnp.concatenate([share, v[:, -1:]], axis=1)
    return curved - jnp.einsum("km,kmp,kmq->kpq", squares, scores, scores)


def fitted(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Fitted:
    """F and what its derivatives need."""
    terms, gate = _log_terms(model, rows, points), model.log_gate(rows, points.x)
    weight, log_base = points.counts
    total = jax.nn.logsumexp(terms, axis=0)
    log_density = total if gate is None else total - jax.nn.logsumexp(gate, axis=0)
    drawn, celled = weight > 0, jnp.isfinite(log_base)
    log_expected = log_density + log_base
    gap = jnp.where(drawn & celled, log_expected - jnp.log(jnp.where(drawn, weight, 1.0)), 0.0)
    expected = jnp.where(celled, jnp.exp(jnp.where(celled, log_expected, 0.0)), 0.0)
    in_cells = jnp.where(drawn, weight * phi_of_log(gap), expected)
    alone = jnp.where(drawn, -weight * log_density, 0.0)
    value = jnp.sum(jnp.where(celled, in_cells, alone)) + points.mass * (jnp.sum(rows[:, 0]) - 1.0)
    excess = jnp.where(drawn & celled, weight * jnp.expm1(gap), expected - weight)
    share = jax.nn.softmax(terms, axis=0)
    return Fitted(value, excess, share, None if gate is None else jax.nn.softmax(gate, axis=0))


def objective(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Float[Array, ""]:
    """F, in units of log-likelihood."""
    return fitted(model, rows, points).value


def _gate_scores(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> Float[Array, "k M q"]:
    """Derivatives of log(w_i) + beta1_i . x in the row of atom i."""
    rest = jnp.zeros((points.x.shape[0], rows.shape[1] - 1 - model.dimension))

    def of_row(row: Float[Array, " q"]) -> Float[Array, "M q"]:
        return jnp.concatenate([jnp.full((points.x.shape[0], 1), 1.0 / row[0]), points.x, rest], axis=1)

    return jax.vmap(of_row)(rows)


def _mass_slope(rows: Float[Array, "k q"], points: Points) -> Float[Array, "k q"]:
    return jnp.zeros_like(rows).at[:, 0].set(points.mass)


def gradient(
    model: AbstractDensity, rows: Float[Array, "k q"], points: Points
) -> tuple[Float[Array, ""], Float[Array, "k q"]]:
    """F and dF in the rows."""
    at = fitted(model, rows, points)
    slope = jnp.einsum("km,kmq->kq", at.excess[None] * at.responsibility, _scores(model, rows, points))
    if at.gate is not None:
        slope = slope - jnp.einsum("km,kmq->kq", at.excess[None] * at.gate, _gate_scores(model, rows, points))
    return at.value, slope + _mass_slope(rows, points)


class SecondOrder(NamedTuple):
    """F at rows, ready to be squared in other coordinates.

    Attributes:
        value, gradient: F and dF in the rows.
        jacobian: D = d log p(m) in the flat rows, (C, k q).
        weight: N.
        rest: sum_i sum_m r rho_i (s_i s_i' + h_i), what the Hessian has beside sum N D D'; (k q, k q).
    """

    value: Float[Array, ""]
    gradient: Float[Array, "k q"]
    jacobian: Float[Array, "C p"]
    weight: Float[Array, " C"]
    rest: Float[Array, "p p"]

    def hessian(self, along: Float[Array, "p y"]) -> Float[Array, "y y"]:
        """The Hessian in coordinates y with rows = rows(y), without the curvature of that map.

        Args:
            along: d rows / d y.
        """
        steep = jnp.sqrt(self.weight)[:, None] * (self.jacobian @ along)
        return steep.T @ steep + along.T @ self.rest @ along


def second_order(model: AbstractDensity, rows: Float[Array, "k q"], points: Points) -> SecondOrder:
    """F with its exact first and second derivatives."""
    at = fitted(model, rows, points)
    scores = _scores(model, rows, points)
    slope, jacobian, rest = _mixed(at.responsibility, scores, at.excess)
    rest = rest + _curvatures(model, rows, points, scores, at.excess[None] * at.responsibility)
    crossed = jnp.zeros(())
    if at.gate is not None:
        by_gate = _mixed(at.gate, _gate_scores(model, rows, points), at.excess)
        # log p = Y - Z: D = D_Y - D_Z, and N D D' stands for the E D D' - r D_Y D_Y' + r D_Z D_Z' of d2 F.
        turned = (at.excess[:, None] * by_gate[1]).T @ (by_gate[1] - jacobian)
        crossed = turned + turned.T
        slope, jacobian, rest = slope - by_gate[0], jacobian - by_gate[1], rest - by_gate[2]
        rest = rest.at[:, 0, 0].add(jnp.sum(at.excess[None] * at.gate, axis=1) / rows[:, 0] ** 2)
    k, q = rows.shape
    blocks = jnp.einsum("ij,iab->iajb", jnp.eye(k), rest).reshape(k * q, k * q) + crossed
    return SecondOrder(at.value, slope + _mass_slope(rows, points), jacobian, points.counts.weight, blocks)


def _mixed(
    share: Float[Array, "k C"], scores: Float[Array, "k C q"], excess: Float[Array, " C"]
) -> tuple[Float[Array, "k q"], Float[Array, "C p"], Float[Array, "k q q"]]:
    """Of log sum_i exp(term_i): sum r D by atom, D flat, and sum r rho_i s_i s_i' by atom."""
    weighted = share[:, :, None] * scores
    slope = jnp.einsum("m,kmq->kq", excess, weighted)
    flat = jnp.moveaxis(weighted, 0, 1).reshape(share.shape[1], -1)
    return slope, flat, jnp.einsum("kmp,kmq->kpq", excess[None, :, None] * weighted, scores)
