"""Second moments of a low-rank density as parameters: a noise that all atoms share, a spread of every atom's own.

Both wrap an adapter and leave Delta to it. In a regression function they would act on nothing, so they belong to
``AdaptedDensity`` alone.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractAdapter, Projections
from moe_theory.models.gates import AbstractGate

LEAST, MOST = 0.25, 4.0
"""Bounds of free variances, as multiples of the known ones: the likelihood is unbounded as a variance goes to 0."""


class SpreadAtom(NamedTuple):
    """An adapter's atom and Gamma_i - Gamma_0.

    Attributes:
        low_rank: the inner adapter's.
        spread: upper triangle of Gamma_i - Gamma_0, Gamma_0 the gate's, row by row.
    """

    low_rank: Any
    spread: Float[Array, "*batch s"]


def symmetric(entries: Float[Array, " s"], size: int) -> Float[Array, "q q"]:
    """The symmetric matrix of an upper triangle."""
    upper = jnp.zeros((size, size), entries.dtype).at[jnp.triu_indices(size)].set(entries)
    return upper + upper.T - jnp.diag(jnp.diagonal(upper))


class AbstractFreed(AbstractAdapter):
    """What both wrappers leave to the inner adapter.

    Attributes:
        inner: makes Delta.
    """

    inner: eqx.AbstractVar[AbstractAdapter]

    @abc.abstractmethod
    def low_rank(self, atom: Any) -> Any:
        """The inner adapter's atom."""

    @abc.abstractmethod
    def with_low_rank(self, atom: Any, low_rank: Any) -> Any:
        """The atom with another inner atom."""

    @abc.abstractmethod
    def inner_common(self, common: Any) -> Any:
        """The inner adapter's common parameters."""

    @property
    def value_tells_query(self) -> bool:
        """As the inner adapter."""
        return self.inner.value_tells_query

    def update(self, atom: Any, common: Any, pretrained: Projections) -> Projections:
        """The inner adapter's Delta."""
        return self.inner.update(self.low_rank(atom), self.inner_common(common), pretrained)

    def _still(self, atom: Any, tangents: Any) -> Any:
        count = jax.tree.leaves(tangents)[0].shape[0]
        zeros = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), atom)
        return self.with_low_rank(zeros, tangents)

    def orbit(self, atom: Any) -> Any:
        """That of the inner atom."""
        return self._still(atom, self.inner.orbit(self.low_rank(atom)))

    def gauge(self, atom: Any, gate: AbstractGate) -> Any:
        """That of the inner atom."""
        return self._still(atom, self.inner.gauge(self.low_rank(atom), gate))

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """As the inner adapter's."""
        return self.inner.gauge_is_known(pretrained)

    def balance(self, atom: Any) -> Any:
        """The inner atom balanced."""
        return self.with_low_rank(atom, self.inner.balance(self.low_rank(atom)))

    def aligned(self, atom: Any, reference: Any) -> Any:
        """The inner atoms aligned."""
        return self.with_low_rank(atom, self.inner.aligned(self.low_rank(atom), self.low_rank(reference)))

    def check_atoms(self, atoms: Any, common: Any, pretrained: Projections) -> None:
        """As the inner adapter."""
        self.inner.check_atoms(self.low_rank(atoms), self.inner_common(common), pretrained)


class FreeNoise(AbstractFreed):
    """nu, the variance of every output, as a parameter that all atoms share: ``common`` = (the inner one's, nu).

    Attributes:
        known: nu_0; nu lies between a quarter and four times it.
    """

    inner: AbstractAdapter
    known: float = eqx.field(static=True)

    def low_rank(self, atom: Any) -> Any:
        """The atom itself."""
        return atom

    def with_low_rank(self, atom: Any, low_rank: Any) -> Any:
        """The inner atom itself."""
        return low_rank

    def inner_common(self, common: Any) -> Any:
        """All but nu."""
        return common[0]

    def interior(
        self, atom: Any, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """The inner adapter's."""
        return self.inner.interior(atom, common[0], pretrained, radius)

    def common_interior(self, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """The inner adapter's, and both bounds of nu."""
        share = common[1] / self.known
        bounds = jnp.stack([1.0 - LEAST / share, 1.0 - share / MOST])
        return jnp.concatenate([self.inner.common_interior(common[0], radius), bounds])

    def draw(self, key: Array, pretrained: Projections, scale: float) -> Any:
        """The inner adapter's."""
        return self.inner.draw(key, pretrained, scale)

    def draw_common(self, key: Array, pretrained: Projections) -> Any:
        """nu_0."""
        return self.inner.draw_common(key, pretrained), jnp.asarray(self.known, jnp.float64)

    def check(self, pretrained: Projections) -> None:
        """As the inner adapter."""
        self.inner.check(pretrained)


class FreeSpread(AbstractFreed):
    """Gamma_i of every atom as a parameter, beside an adapter whose gauge is known in closed form.

    Attributes:
        inner: makes Delta.

    Raises:
        InputError: where the inner adapter's gauge takes a count, which would take Gamma for a part of it.
    """

    inner: AbstractAdapter

    def low_rank(self, atom: SpreadAtom) -> Any:
        """The inner atom."""
        return atom.low_rank

    def with_low_rank(self, atom: SpreadAtom, low_rank: Any) -> SpreadAtom:
        """With the same Gamma."""
        return SpreadAtom(low_rank, atom.spread)

    def inner_common(self, common: Any) -> Any:
        """All of them."""
        return common

    def interior(
        self, atom: SpreadAtom, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """The inner adapter's, and both bounds of Gamma as multiples of Gamma_0 = I.

        Pivots p of Gamma - LEAST I and of MOST I - Gamma, as p / (p + 1): all positive if and only if it lies inside.
        """
        size = pretrained.query.shape[-2]
        gamma = jnp.eye(size) + symmetric(atom.spread, size)
        pivots = [
            jnp.diagonal(jnp.linalg.cholesky(matrix, symmetrize_input=False)) ** 2
            for matrix in (gamma - LEAST * jnp.eye(size), MOST * jnp.eye(size) - gamma)
        ]
        slacks = [each / (each + 1.0) for each in pivots]
        return jnp.concatenate([self.inner.interior(atom.low_rank, common, pretrained, radius), *slacks])

    def common_interior(self, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """The inner adapter's."""
        return self.inner.common_interior(common, radius)

    def draw(self, key: Array, pretrained: Projections, scale: float) -> SpreadAtom:
        """The inner adapter's, with Gamma_0."""
        size = pretrained.query.shape[-2]
        return SpreadAtom(self.inner.draw(key, pretrained, scale), jnp.zeros(size * (size + 1) // 2, jnp.float64))

    def draw_common(self, key: Array, pretrained: Projections) -> Any:
        """The inner adapter's."""
        return self.inner.draw_common(key, pretrained)

    def check(self, pretrained: Projections) -> None:
        """As the inner adapter, whose gauge must be known."""
        self.inner.check(pretrained)
        if not self.inner.gauge_is_known(pretrained):
            raise InputError("a free spread needs an adapter whose gauge is known: RepLoRA, or LoRA of rank one")
