"""HoRA's adapter: one set of factors for all heads, made into each head's own by known embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import (
    AbstractPlainAdapter,
    Lora,
    Projections,
    RepLora,
    check_equal_shapes,
)
from moe_theory.models.factors import ball
from moe_theory.models.gates import AbstractGate

LARGEST_FACTOR = 3.0
"""Root mean square bound of the entries of a factor behind an activation, which saturates beyond."""


class Embedded(AbstractPlainAdapter):
    """HoRA (2510.04295): Delta = act(U B) act(A R) with known embeddings U and R of this head.

    The free factors are B (p x r) and A (r x p'); ``inner`` says whether query and value share them (``RepLora``: HoRA)
    or have a pair each (``Lora``: shared by heads only), and which activation generates. Gauge (our derivation):
    with the identity GL(r), because U B S S^-1 A R = U B A R in every head. With an activation there is none as soon
    as two heads with different embeddings see the atom: act(U_h B) S = act(U_h B') for all h has no solution near
    S = I but S = I; permutations, and sign flips for an odd activation, remain. Near B = 0 or A = 0 the activation is
    linear and GL(r) is almost a gauge.

    Attributes:
        inner: LoRA or RepLoRA, whose factors are generated.
        left, right: U and R; inside a hierarchical model they have a leading head axis.
    """

    inner: Lora | RepLora
    left: Float[Array, "*heads d p_left"]
    right: Float[Array, "*heads p_right d"]

    @property
    def value_tells_query(self) -> bool:
        """With one pair for query and value the two Deltas are equal."""
        return self.inner.value_tells_query

    @property
    def rank(self) -> int:
        """r of the inner adapter."""
        return self.inner.rank

    @property
    def is_linear(self) -> bool:
        """Whether there is no activation."""
        return self.inner.activation == "identity"

    def embedded(self, atom: Any) -> Any:
        """(U B, A R) of every product."""
        return type(atom)(
            *(self.left @ leaf if place % 2 == 0 else leaf @ self.right for place, leaf in enumerate(atom))
        )

    def update(self, atom: Any, common: Any, pretrained: Projections) -> Projections:
        """act(U B) act(A R) for query and value."""
        return self.inner.update(self.embedded(atom), common, pretrained)

    def orbit(self, atom: Any) -> Any:
        """GL(r) of each product without activation, otherwise nothing."""
        if self.is_linear:
            return self.inner.orbit(atom)
        return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), atom)

    def gauge(self, atom: Any, gate: AbstractGate) -> Any:
        """``orbit``: the embeddings break the gate's symmetries."""
        return self.orbit(atom)

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """Never: with one head it is larger than with several."""
        return False

    def balance(self, atom: Any) -> Any:
        """Balanced without activation, otherwise the atom itself."""
        return self.inner.balance(atom) if self.is_linear else atom

    def aligned(self, atom: Any, reference: Any) -> Any:
        """As the inner adapter: with an activation only signs."""
        return self.inner.aligned(atom, reference)

    def interior(
        self,
        atom: Any,
        common: Any,
        pretrained: Projections,
        radius: float | Float[Array, ""],
    ) -> Float[Array, " constraints"]:
        """The inner adapter's slacks for this head's factors; with an activation also a ball for each raw factor."""
        slacks = self.inner.interior(self.embedded(atom), common, pretrained, radius)
        if self.is_linear:
            return slacks
        return jnp.concatenate([slacks, *(ball(leaf, LARGEST_FACTOR * leaf.size**0.5) for leaf in atom)])

    def draw(self, key: Array, pretrained: Projections, scale: float) -> Any:
        """Factors of the size of ``scale`` before they are embedded."""
        shape = jnp.zeros((self.left.shape[-1], self.right.shape[-2]), jnp.float64)
        return self.inner.draw(key, Projections(shape, shape), scale)

    def check(self, pretrained: Projections) -> None:
        """Embeddings must fit the matrices, query and value need one shape, and the rank must fit the embeddings."""
        check_equal_shapes("HoRA", pretrained)
        (rows, p_left), (p_right, columns) = self.left.shape[-2:], self.right.shape[-2:]
        if (rows, columns) != tuple(pretrained.value.shape[-2:]):
            raise InputError(
                f"embeddings U with {rows} rows and R with {columns} columns do not fit matrices of shape "
                f"{tuple(pretrained.value.shape[-2:])}"
            )
        if not 1 <= self.rank <= min(p_left, p_right):
            raise InputError(
                f"rank must be between 1 and {min(p_left, p_right)}, the width of U and R; got {self.rank}"
            )
