"""Gates: the score s(x; W_Q) of an atom, and that score as coefficients of known features of x.

Every gate here is a polynomial in x, so that s(x; W_Q) = < coefficients(W_Q), features(x) > + a constant that
all atoms share (softmax is blind to it). The coefficients are what the gate can see of W_Q: they are the query
block of the effective coordinates, and they let the estimator work with matrix products over the support.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def symmetric_vector(matrix: Float[Array, "d d"]) -> Float[Array, " s"]:
    """Isometric coordinates of sym(A) = (A + A')/2: s = d (d + 1) / 2 entries with Euclidean norm ||sym(A)||_F.

    Args:
        matrix: A, shape (d, d); only its symmetric part matters.
    """
    rows, columns = np.triu_indices(matrix.shape[0])
    scale = np.where(rows == columns, 1.0, np.sqrt(2.0))
    symmetric = 0.5 * (matrix + matrix.T)
    return symmetric[rows, columns] * scale


def general_linear_tangents(
    left: Float[Array, "rows r"], right: Float[Array, "r columns"]
) -> tuple[Float[Array, "g rows r"], Float[Array, "g r columns"]]:
    """d/dt (B exp(tE), exp(-tE) A) at t = 0 for the r^2 unit matrices E: the GL(r) orbit of a product B A."""
    r = left.shape[1]
    units = jnp.eye(r * r, dtype=left.dtype).reshape(r * r, r, r)
    return jnp.einsum("ab,gbc->gac", left, units), -jnp.einsum("gab,bc->gac", units, right)


class AbstractGate(eqx.Module):
    """A score s(x; W_Q) that is linear in known features of x."""

    @abc.abstractmethod
    def score(self, query: Float[Array, "q d"], x: Float[Array, " d"]) -> Float[Array, ""]:
        """The score s(x; W_Q) of one atom at one sample."""

    @abc.abstractmethod
    def coefficients(self, query: Float[Array, "q d"]) -> Float[Array, " features"]:
        """What the score sees of W_Q: its coefficients as a polynomial in x."""

    @abc.abstractmethod
    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """The monomials of x that the coefficients multiply."""

    @abc.abstractmethod
    def product_symmetries(
        self, left: Float[Array, "q r"], right: Float[Array, "r d"]
    ) -> tuple[Float[Array, "g q r"], Float[Array, "g r d"]]:
        """Tangents of all motions of (B, A) that leave the coefficients of M_Q + B A unchanged."""


class AttentionGate(AbstractGate):
    """Bilinear (self-attention) gate: s(x; W_Q) = x' W_Q M_K x / sqrt(d).

    Only sym(W_Q M_K) acts. Source: theory section 1, table of gates; RepLoRA 2502.03044.

    Attributes:
        key: the known key matrix M_K, shape (d, d).
    """

    key: Float[Array, "d d"]

    def score(self, query: Float[Array, "q d"], x: Float[Array, " d"]) -> Float[Array, ""]:
        """s = x' W_Q M_K x / sqrt(d)."""
        return x @ query @ self.key @ x / jnp.sqrt(1.0 * x.shape[0])

    def coefficients(self, query: Float[Array, "q d"]) -> Float[Array, " features"]:
        """sym(W_Q M_K) in isometric coordinates, d (d + 1) / 2 numbers."""
        return symmetric_vector(query @ self.key)

    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """x x' / sqrt(d) in isometric coordinates."""
        return symmetric_vector(jnp.outer(x, x)) / jnp.sqrt(1.0 * x.shape[0])

    def product_symmetries(
        self, left: Float[Array, "q r"], right: Float[Array, "r d"]
    ) -> tuple[Float[Array, "g q r"], Float[Array, "g r d"]]:
        """O(r, r), of dimension r (2 r - 1), not only GL(r), because sym(B A M_K) alone acts.

        With C = A M_K, 2 sym(B C) = [B C'] J [B C']' where J swaps the two blocks; X with X J + J X' = 0 has the
        blocks (E, S; T, -E') with S, T skew, so dB = B E + C' T and dC' = B S - C' E'. Source: our derivation.
        """
        r = left.shape[1]
        linear = general_linear_tangents(left, right)
        pairs = [(i, j) for i in range(r) for j in range(i)]
        if not pairs:
            return linear
        skew = np.zeros((len(pairs), r, r))
        for index, (i, j) in enumerate(pairs):
            skew[index, i, j], skew[index, j, i] = 1.0, -1.0
        turned_left = jnp.einsum("rd,grs->gds", right @ self.key, skew)
        turned_right = jnp.einsum("gsr,ds,de->gre", skew, left, jnp.linalg.inv(self.key))
        return (
            jnp.concatenate([linear[0], turned_left, jnp.zeros_like(turned_left)]),
            jnp.concatenate([linear[1], jnp.zeros_like(turned_right), turned_right]),
        )


class GaussianGate(AbstractGate):
    """Gaussian gate: s(x; W_Q) = -1/2 || W_Q x - kappa ||^2, a Gaussian bump in query space.

    It sees (W_Q' W_Q, kappa' W_Q). Source: theory section 1, table of gates.

    Attributes:
        center: the known key kappa, shape (q,).
    """

    center: Float[Array, " q"]

    def score(self, query: Float[Array, "q d"], x: Float[Array, " d"]) -> Float[Array, ""]:
        """s = -1/2 || W_Q x - kappa ||^2."""
        return -0.5 * jnp.sum((query @ x - self.center) ** 2)

    def coefficients(self, query: Float[Array, "q d"]) -> Float[Array, " features"]:
        """(W_Q' W_Q in isometric coordinates, kappa' W_Q), d (d + 1) / 2 + d numbers."""
        return jnp.concatenate([symmetric_vector(query.T @ query), self.center @ query])

    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """(-x x' / 2 in isometric coordinates, x); the constant -||kappa||^2 / 2 is shared by all atoms."""
        return jnp.concatenate([-0.5 * symmetric_vector(jnp.outer(x, x)), x])

    def product_symmetries(
        self, left: Float[Array, "q r"], right: Float[Array, "r d"]
    ) -> tuple[Float[Array, "g q r"], Float[Array, "g r d"]]:
        """GL(r): a rotation R of query space that keeps kappa also keeps the score, but for a generic M_Q the matrix
        R W_Q - M_Q leaves the rank-r set to first order. Source: our derivation."""
        return general_linear_tangents(left, right)


class DensityGate(AbstractGate):
    """Gate of a Gaussian density: s(x; W_Q) = log N(x; c, Gamma) with center c = W_Q u, but for what all atoms share.

        s(x) = (T c) . (T x) - 1/2 || T c ||^2,     T'T = Gamma^-1

    It sees c alone: of a low-rank update the vector Delta_Q u. Source: theory section 1, table of gates.

    Attributes:
        position: the known u, shape (d,).
        root: T, shape (q, q), of the known covariance that all atoms share.
    """

    position: Float[Array, " d"]
    root: Float[Array, "q q"]

    def center(self, query: Float[Array, "q d"]) -> Float[Array, " q"]:
        """c = W_Q u."""
        return query @ self.position

    def score(self, query: Float[Array, "q d"], x: Float[Array, " d"]) -> Float[Array, ""]:
        """s = (T c) . (T x) - 1/2 || T c ||^2."""
        seen = self.root @ self.center(query)
        return jnp.vdot(seen, self.root @ x) - 0.5 * jnp.sum(seen**2)

    def coefficients(self, query: Float[Array, "q d"]) -> Float[Array, " features"]:
        """(T c, || T c ||^2), q + 1 numbers."""
        seen = self.root @ self.center(query)
        return jnp.concatenate([seen, jnp.sum(seen**2, keepdims=True)])

    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """(T x, -1/2)."""
        return jnp.concatenate([self.root @ x, jnp.full(1, -0.5, x.dtype)])

    def product_symmetries(
        self, left: Float[Array, "q r"], right: Float[Array, "r d"]
    ) -> tuple[Float[Array, "g q r"], Float[Array, "g r d"]]:
        """GL(r), and every row of A moved across u; from rank two on there are more, which the count finds."""
        r, d = right.shape
        linear = general_linear_tangents(left, right)
        across = jnp.linalg.qr(self.position[:, None], mode="complete")[0][:, 1:].T
        moved = jnp.einsum("ij,gd->igjd", jnp.eye(r, dtype=right.dtype), across).reshape(r * (d - 1), r, d)
        still = jnp.zeros((r * (d - 1), *left.shape), left.dtype)
        return jnp.concatenate([linear[0], still]), jnp.concatenate([linear[1], moved])
