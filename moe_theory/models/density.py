"""Gaussian mixtures of experts as densities: Gaussian-gated p(x, y) and softmax-gated p(y | x).

    Gaussian-gated   p_G(x, y) = sum_i w_i N(x; c_i, Gamma_i) N(y; A_i x + b_i, nu_i),            sum_i w_i = 1
    softmax-gated    p_G(y | x) = sum_i softmax_i( beta0_i + beta1_i . x ) N(y; a_i x + b_i, nu_i), w_i = exp(beta0_i)

**Moment rows.** Both are mixtures of Gaussians in z = (x, y), the second one formally: an atom is a row
(w, mu, S), D = d + d_out, with

    Gaussian-gated   mu = (c, A c + b),   S = [[Gamma, Gamma A'], [A Gamma, nu + A Gamma A']]   (exactly N(z; mu, S))
    softmax-gated    mu = (beta1, b),     S = [[0, a'], [a, nu]]    (the exponent in Fourier variables of x and y)

The identities that tie the parameters, d/dS_ij = (1/2 if i = j) d2/dmu_i dmu_j, are the same for both, and so are the
moment coordinates in which over-fitted cells are estimated (``estimation.merges``). Derivatives of log(w_i f_i)
are polynomials in g, where g = S^-1 (z - mu), respectively g = (x, nu^-1 (y - a x - b)):

    d/dw = 1/w,   d/dmu = g,   d/dS_ij = (1/2 if i = j) (g_i g_j - P_ij),   P = S^-1, respectively nu^-1 in its block.

Source: theory section 6; the rows are our derivation (the first is the known equivalence with a joint mixture).
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.measure import MixingMeasure

LOG_2PI = 1.8378770664093453


class GaussianGatedAtom(NamedTuple):
    """One atom of a Gaussian-gated model (leading axis k in a measure).

    Attributes:
        center: c, (d,).
        spread: Gamma, (d, d), positive definite.
        slope: A, (d_out, d).
        intercept: b, (d_out,).
        noise: nu, (d_out, d_out), positive definite; a covariance, not a standard deviation.
    """

    center: Float[Array, "*k d"]
    spread: Float[Array, "*k d d"]
    slope: Float[Array, "*k d_out d"]
    intercept: Float[Array, "*k d_out"]
    noise: Float[Array, "*k d_out d_out"]


class SoftmaxGatedAtom(NamedTuple):
    """One atom of a softmax-gated model (leading axis k in a measure); beta0 is its log-weight.

    Attributes:
        gate: beta1, (d,).
        slope: a, (d_out, d).
        intercept: b, (d_out,).
        noise: nu, (d_out, d_out), positive definite.
    """

    gate: Float[Array, "*k d"]
    slope: Float[Array, "*k d_out d"]
    intercept: Float[Array, "*k d_out"]
    noise: Float[Array, "*k d_out d_out"]


class AbstractDensity(eqx.Module):
    """A mixture whose atoms are moment rows."""

    dimension: eqx.AbstractVar[int]
    outputs: eqx.AbstractVar[int]

    @property
    def joint(self) -> int:
        """D = d + d_out."""
        return self.dimension + self.outputs

    @property
    @abstractmethod
    def free(self) -> tuple[tuple[int, int], ...]:
        """Entries (i, j), i <= j, of S that are free."""

    @property
    def row_size(self) -> int:
        """Length of a row."""
        return 1 + self.joint + len(self.free)

    @abstractmethod
    def atom_row(self, atom: Any) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
        """(mu, S) of one atom."""

    @abstractmethod
    def row_atom(self, mean: Float[Array, " D"], matrix: Float[Array, "D D"]) -> Any:
        """The atom of (mu, S)."""

    @abstractmethod
    def residual(self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"]) -> "Residual":
        """An atom's residuals at the points."""

    @abstractmethod
    def log_gate(self, rows: Float[Array, "k q"], x: Float[Array, "M d"]) -> Float[Array, "k M"] | None:
        """log(w_i) + beta1_i . x where the model is conditional on x; None for a joint density."""

    def rows(self, measure: MixingMeasure) -> Float[Array, "k q"]:
        """All atoms of a measure as rows (w, mu, free entries of S)."""
        mean, matrix = jax.vmap(self.atom_row)(measure.atoms)
        first, second = self.places()
        entries = matrix[:, first, second]
        return jnp.concatenate([jnp.exp(measure.log_weights)[:, None], mean, entries], axis=1)

    def measure(self, rows: Float[Array, "k q"]) -> MixingMeasure:
        """The measure of rows."""
        atoms = jax.vmap(lambda row: self.row_atom(self.mean(row), self.matrix(row)))(rows)
        return MixingMeasure(jnp.log(rows[:, 0]), atoms)

    def mean(self, row: Float[Array, " q"]) -> Float[Array, " D"]:
        """mu of a row."""
        return row[1 : 1 + self.joint]

    def matrix(self, row: Float[Array, " q"]) -> Float[Array, "D D"]:
        """S of a row; entries that are not free are 0."""
        first, second = self.places()
        half = jnp.zeros((self.joint, self.joint), row.dtype).at[first, second].set(row[1 + self.joint :])
        return half + half.T - jnp.diag(jnp.diagonal(half))

    def log_terms(
        self, rows: Float[Array, "k q"], x: Float[Array, "M d"], y: Float[Array, "M o"]
    ) -> Float[Array, "k M"]:
        """log(w_i f_i) at every point, before a softmax gate is normalised."""
        return jax.vmap(lambda row: jnp.log(row[0]) + self.residual(row, x, y).log_kernel)(rows)

    def log_densities(
        self, rows: Float[Array, "k q"], x: Float[Array, "M d"], y: Float[Array, "M o"]
    ) -> Float[Array, " M"]:
        """log p_G at every point: of (x, y) for a joint density, of y given x for a conditional one."""
        total = jax.nn.logsumexp(self.log_terms(rows, x, y), axis=0)
        gate = self.log_gate(rows, x)
        return total if gate is None else total - jax.nn.logsumexp(gate, axis=0)

    def log_density(self, measure: MixingMeasure, x: Float[Array, " d"], y: Float[Array, " d_out"]) -> Float[Array, ""]:
        """log p_G at one point; vmap over points for many.

        Joint density: log p(x, y), weights used as they are (log-weights of sum one). Conditional: log p(y | x).

        Args:
            measure: k atoms.
            x: input, (d,).
            y: output, (d_out,).
        """
        return self.log_densities(self.rows(measure), x[None], y[None])[0]

    def scores(
        self, rows: Float[Array, "k q"], x: Float[Array, "M d"], y: Float[Array, "M o"]
    ) -> Float[Array, "k M q"]:
        """Derivatives of log(w_i f_i) in the atom's own row, at every point."""
        first, second = self.places()
        factor = jnp.where(first == second, 0.5, 1.0)

        def of_row(row: Float[Array, " q"]) -> Float[Array, "M q"]:
            at = self.residual(row, x, y)
            by_entry = (at.gradient[:, first] * at.gradient[:, second] - at.precision[first, second][None]) * factor[
                None
            ]
            ones = jnp.full((x.shape[0], 1), 1.0 / row[0])
            return jnp.concatenate([ones, at.gradient, by_entry], axis=1)

        return jax.vmap(of_row)(rows)

    @abstractmethod
    def curvature(
        self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"], v: Float[Array, " M"]
    ) -> Float[Array, "q q"]:
        """sum_m v_m times the Hessian of log(w f) at point m, in the row."""

    def places(self) -> tuple[Array, Array]:
        """Rows and columns of the free entries of S, as an index."""
        first, second = zip(*self.free, strict=True)
        return jnp.asarray(first), jnp.asarray(second)


class Residual(NamedTuple):
    """One atom at the points: log f, its gradient g in mu, and P."""

    log_kernel: Float[Array, " M"]
    gradient: Float[Array, "M D"]
    precision: Float[Array, "D D"]


class GaussianGated(AbstractDensity):
    """Gaussian-gated Gaussian mixture of experts, a joint density of (x, y).

    Attributes:
        dimension: d.
        outputs: d_out.
        gate_covariance: Gamma 'full' or 'diagonal'; nu is full.

    Raises:
        InputError: for another word or a dimension below 1.
    """

    dimension: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True, default=1)
    gate_covariance: str = eqx.field(static=True, default="full")

    def __check_init__(self):
        _check_sizes(self.dimension, self.outputs)
        if self.gate_covariance not in ("full", "diagonal"):
            raise InputError(f"gate_covariance must be 'full' or 'diagonal', got {self.gate_covariance!r}")

    @property
    def free(self) -> tuple[tuple[int, int], ...]:
        """All entries of S, or all but the off-diagonal ones of Gamma."""
        every = ((i, j) for i in range(self.joint) for j in range(i, self.joint))
        diagonal = self.gate_covariance == "diagonal"
        return tuple((i, j) for i, j in every if not (diagonal and i != j and j < self.dimension))

    def atom_row(self, atom: GaussianGatedAtom) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
        """mu = (c, A c + b) and the covariance of (x, y)."""
        cross = atom.slope @ atom.spread
        mean = jnp.concatenate([atom.center, atom.slope @ atom.center + atom.intercept])
        return mean, jnp.block([[atom.spread, cross.T], [cross, atom.noise + cross @ atom.slope.T]])

    def row_atom(self, mean: Float[Array, " D"], matrix: Float[Array, "D D"]) -> GaussianGatedAtom:
        """Regression of y on x under N(mu, S)."""
        d = self.dimension
        spread, cross = matrix[:d, :d], matrix[d:, :d]
        slope = jnp.linalg.solve(spread, cross.T).T
        noise = matrix[d:, d:] - slope @ cross.T
        return GaussianGatedAtom(mean[:d], spread, slope, mean[d:] - slope @ mean[:d], 0.5 * (noise + noise.T))

    def residual(self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"]) -> Residual:
        """log N(z; mu, S) with g = S^-1 (z - mu)."""
        return _normal(jnp.concatenate([x, y], axis=1) - self.mean(row)[None], self.matrix(row))

    def log_gate(self, rows: Float[Array, "k q"], x: Float[Array, "M d"]) -> None:
        """A joint density has no gate of its own."""
        return

    def curvature(
        self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"], v: Float[Array, " M"]
    ) -> Float[Array, "q q"]:
        """From the moments of z - mu under v, of which sum v log N is a function."""
        total, size = jnp.sum(v), self.joint
        apart = jnp.concatenate([x, y], axis=1) - self.mean(row)[None]
        first, second = v @ apart, (v[:, None] * apart).T @ apart

        def potential(new: Float[Array, " q"]) -> Float[Array, ""]:
            moved = self.mean(new) - self.mean(row)
            around = second - jnp.outer(first, moved) - jnp.outer(moved, first) + total * jnp.outer(moved, moved)
            return total * jnp.log(new[0]) + _expected_log_normal(total, around, self.matrix(new), size)

        return jax.hessian(potential)(row)


class SoftmaxGated(AbstractDensity):
    """Softmax-gated Gaussian mixture of experts, a density of y given x.

    It is blind to a common shift of all (beta0, beta1).

    Attributes:
        dimension: d.
        outputs: d_out.

    Raises:
        InputError: for a dimension below 1.
    """

    dimension: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        _check_sizes(self.dimension, self.outputs)

    @property
    def free(self) -> tuple[tuple[int, int], ...]:
        """The entries of a and of nu."""
        d, joint = self.dimension, self.joint
        return tuple((i, j) for i in range(joint) for j in range(max(i, d), joint))

    def atom_row(self, atom: SoftmaxGatedAtom) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
        """mu = (beta1, b), S = [[0, a'], [a, nu]]."""
        nothing = jnp.zeros((self.dimension, self.dimension), atom.slope.dtype)
        mean = jnp.concatenate([atom.gate, atom.intercept])
        return mean, jnp.block([[nothing, atom.slope.T], [atom.slope, atom.noise]])

    def row_atom(self, mean: Float[Array, " D"], matrix: Float[Array, "D D"]) -> SoftmaxGatedAtom:
        """The blocks of mu and S."""
        d = self.dimension
        return SoftmaxGatedAtom(mean[:d], matrix[d:, :d], mean[d:], matrix[d:, d:])

    def residual(self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"]) -> Residual:
        """beta1 . x + log N(y; a x + b, nu) with g = (x, nu^-1 (y - a x - b))."""
        d, mean, matrix = self.dimension, self.mean(row), self.matrix(row)
        noise = _normal(y - x @ matrix[:d, d:] - mean[None, d:], matrix[d:, d:])
        precision = jnp.zeros_like(matrix).at[d:, d:].set(noise.precision)
        return Residual(x @ mean[:d] + noise.log_kernel, jnp.concatenate([x, noise.gradient], axis=1), precision)

    def log_gate(self, rows: Float[Array, "k q"], x: Float[Array, "M d"]) -> Float[Array, "k M"]:
        """beta0_i + beta1_i . x."""
        return jnp.log(rows[:, :1]) + rows[:, 1 : 1 + self.dimension] @ x.T

    def curvature(
        self, row: Float[Array, " q"], x: Float[Array, "M d"], y: Float[Array, "M o"], v: Float[Array, " M"]
    ) -> Float[Array, "q q"]:
        """From the moments under v of (y - a x - b, x, 1), of which sum v log N is a function."""
        total, d = jnp.sum(v), self.dimension
        apart = y - x @ self.matrix(row)[:d, d:] - self.mean(row)[None, d:]
        known = jnp.concatenate([apart, x, jnp.ones_like(x[:, :1])], axis=1)
        moments = (v[:, None] * known).T @ known

        def potential(new: Float[Array, " q"]) -> Float[Array, ""]:
            slope = (self.matrix(new) - self.matrix(row))[:d, d:].T
            moved = (self.mean(new) - self.mean(row))[d:, None]
            turn = jnp.concatenate([jnp.eye(self.outputs), -slope, -moved], axis=1)
            return total * jnp.log(new[0]) + _expected_log_normal(
                total, turn @ moments @ turn.T, self.matrix(new)[d:, d:], self.outputs
            )

        return jax.hessian(potential)(row)


def _check_sizes(dimension: int, outputs: int) -> None:
    if dimension < 1 or outputs < 1:
        raise InputError(f"dimension and outputs must be at least 1, got {dimension} and {outputs}")


def _normal(apart: Float[Array, "M s"], covariance: Float[Array, "s s"]) -> Residual:
    """log N(apart; 0, covariance), S^-1 apart, S^-1; NaN where the covariance is not positive definite."""
    root = jnp.linalg.cholesky(covariance, symmetrize_input=False)
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(covariance.shape[0]), lower=True)
    whitened = apart @ inverse.T
    constant = 0.5 * covariance.shape[0] * LOG_2PI + jnp.sum(jnp.log(jnp.diagonal(root)))
    return Residual(-0.5 * jnp.sum(whitened**2, axis=1) - constant, whitened @ inverse, inverse.T @ inverse)


def _expected_log_normal(
    total: Float[Array, ""], second: Float[Array, "s s"], covariance: Float[Array, "s s"], size: int
) -> Float[Array, ""]:
    """sum_m v_m log N(r_m; 0, covariance) of the sums v and v r r'."""
    spread = jnp.linalg.slogdet(covariance)[1]
    return -0.5 * total * (size * LOG_2PI + spread) - 0.5 * jnp.trace(jnp.linalg.solve(covariance, second))
