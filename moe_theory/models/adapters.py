"""Adapters: the free parameters of an atom, the adapted matrices they make, and the gauge they carry."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.factors import (
    Activation,
    Factors,
    activated,
    activation_named,
    balanced,
    ball,
    drawn,
    orbit,
    product,
    pulled_back,
    range_slacks,
    same_signs,
    towards,
)
from moe_theory.models.gates import AbstractGate


class Projections(NamedTuple):
    """A pair of query and value matrices: pre-trained (M_Q, M_V), adapted (W_Q, W_V) or their difference Delta."""

    query: Float[Array, "*batch q d"]
    value: Float[Array, "*batch d_out d"]


class LoraAtom(NamedTuple):
    """LoRA's free parameters: Delta_Q = B_Q A_Q and Delta_V = B_V A_V, factors of their own."""

    query_left: Float[Array, "*batch q r"]
    query_right: Float[Array, "*batch r d"]
    value_left: Float[Array, "*batch d_out r"]
    value_right: Float[Array, "*batch r d"]

    @property
    def query(self) -> Factors:
        """(B_Q, A_Q)."""
        return Factors(self.query_left, self.query_right)

    @property
    def value(self) -> Factors:
        """(B_V, A_V)."""
        return Factors(self.value_left, self.value_right)


class SharedAtom(NamedTuple):
    """RepLoRA's free parameters: one pair (B, A) for query and value."""

    left: Float[Array, "*batch d r"]
    right: Float[Array, "*batch r d"]

    @property
    def factors(self) -> Factors:
        """(B, A)."""
        return Factors(self.left, self.right)


class AbstractAdapter(eqx.Module):
    """How an atom's free parameters make Delta = (Delta_Q, Delta_V), and which motions of them change nothing."""

    @property
    @abc.abstractmethod
    def value_tells_query(self) -> bool:
        """Whether Delta_V alone determines Delta_Q, so that it is the whole effective coordinate."""

    @abc.abstractmethod
    def update(self, atom: Any, common: Any, pretrained: Projections) -> Projections:
        """(Delta_Q, Delta_V) = (W_Q - M_Q, W_V - M_V) of one atom.

        Args:
            atom: one atom's own parameters.
            common: what all atoms share, ``MixingMeasure.common``.
            pretrained: (M_Q, M_V).
        """

    @abc.abstractmethod
    def orbit(self, atom: Any) -> Any:
        """Tangents of the motions known in closed form that keep Delta: the atom's pytree, leading axis how many."""

    @abc.abstractmethod
    def gauge(self, atom: Any, gate: AbstractGate) -> Any:
        """``orbit`` and what else is known in closed form that this gate cannot see (``gauge.gauge_tangents``)."""

    @abc.abstractmethod
    def gauge_is_known(self, pretrained: Projections) -> bool:
        """Whether ``gauge`` is known to be complete for matrices of these shapes, with any gate."""

    @abc.abstractmethod
    def balance(self, atom: Any) -> Any:
        """The member of the atom's orbit whose factors are of equal size (same Delta, better conditioning)."""

    @abc.abstractmethod
    def aligned(self, atom: Any, reference: Any) -> Any:
        """The member of the atom's orbit whose factors are closest to the reference's."""

    @abc.abstractmethod
    def interior(
        self, atom: Any, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """Slacks, positive inside the compact parameter space: 1 - ||Delta||_F^2 / R^2, and the adapter's own."""

    @abc.abstractmethod
    def common_interior(self, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """Slacks of the common parameters."""

    @abc.abstractmethod
    def draw(self, key: Array, pretrained: Projections, scale: float) -> Any:
        """One random atom whose low-rank products have a Frobenius norm of the order of ``scale`` (float64)."""

    @abc.abstractmethod
    def draw_common(self, key: Array, pretrained: Projections) -> Any:
        """Random common parameters; ``()`` where there are none."""

    @abc.abstractmethod
    def check(self, pretrained: Projections) -> None:
        """Raise InputError where this adapter cannot act on these pre-trained matrices."""

    @abc.abstractmethod
    def check_atoms(self, atoms: Any, common: Any, pretrained: Projections) -> None:
        """Raise InputError where Delta does not exist for one of these atoms; silent while they are traced."""


class AbstractPlainAdapter(AbstractAdapter):
    """An adapter without common parameters, defined for all factors."""

    def common_interior(self, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """No common parameters, no slacks."""
        return jnp.zeros(0, jnp.float64)

    def draw_common(self, key: Array, pretrained: Projections) -> Any:
        """None, ``()``."""
        return ()

    def check_atoms(self, atoms: Any, common: Any, pretrained: Projections) -> None:
        """Every atom is good."""


def check_rank(rank: int, pretrained: Projections) -> None:
    """Raise InputError unless 1 <= r <= every dimension of the adapted matrices."""
    smallest = min(*pretrained.query.shape[-2:], *pretrained.value.shape[-2:])
    if not 1 <= rank <= smallest:
        raise InputError(
            f"rank must be between 1 and {smallest}, the least dimension of the adapted matrices; got {rank}"
        )


def check_equal_shapes(name: str, pretrained: Projections) -> None:
    """Raise InputError unless query and value matrices have one shape."""
    if pretrained.query.shape[-2:] != pretrained.value.shape[-2:]:
        raise InputError(
            f"{name} shares one pair (B, A) between query and value, so both matrices need one shape; got "
            f"{pretrained.query.shape[-2:]} and {pretrained.value.shape[-2:]}: use LoRA, or equal shapes"
        )


def _joined(query: tuple[Array, Array], value: tuple[Array, Array]) -> LoraAtom:
    """Tangents of two products that move one at a time."""
    before, after = query[0].shape[0], value[0].shape[0]
    at_query = [jnp.pad(tangent, ((0, after), (0, 0), (0, 0))) for tangent in query]
    at_value = [jnp.pad(tangent, ((before, 0), (0, 0), (0, 0))) for tangent in value]
    return LoraAtom(*at_query, *at_value)


class Lora(AbstractPlainAdapter):
    """LoRA: W_Q = M_Q + B_Q A_Q, W_V = M_V + B_V A_V with separate factors (2106.09685).

    With an activation the factors are generated as RepLoRA's are, act(B_Q) act(A_Q) and act(B_V) act(A_V), but not
    shared: the model in which only the sharing differs.
    """

    rank: int = eqx.field(static=True)
    activation: str = eqx.field(static=True, default="identity")

    @property
    def value_tells_query(self) -> bool:
        """Each has a product of its own."""
        return False

    def __check_init__(self):
        activation_named(self.activation)

    @property
    def act(self) -> Activation:
        """The activation's functions."""
        return activation_named(self.activation)

    def update(self, atom: LoraAtom, common: Any, pretrained: Projections) -> Projections:
        """(act(B_Q) act(A_Q), act(B_V) act(A_V))."""
        return Projections(product(self.act, atom.query), product(self.act, atom.value))

    def orbit(self, atom: LoraAtom) -> LoraAtom:
        """GL(r) of each product."""
        return _joined(orbit(self.act, atom.query), orbit(self.act, atom.value))

    def gauge(self, atom: LoraAtom, gate: AbstractGate) -> LoraAtom:
        """The orbit of the query product under the gate's symmetries, and GL(r) for the value product."""
        seen = gate.product_symmetries(*activated(self.act, atom.query))
        return _joined(pulled_back(self.act, atom.query, seen), orbit(self.act, atom.value))

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """At rank one with a query matrix that is not tall; otherwise it takes a count."""
        q, d = pretrained.query.shape[-2:]
        return self.rank == 1 and q <= d + 1

    def balance(self, atom: LoraAtom) -> LoraAtom:
        """Equal largest entries in the two factors of each product."""
        return LoraAtom(*balanced(self.act, atom.query), *balanced(self.act, atom.value))

    def aligned(self, atom: LoraAtom, reference: LoraAtom) -> LoraAtom:
        """Each product in the gauge that shares a factor with the reference's; only signs with an activation."""
        if self.activation == "identity":
            return LoraAtom(*towards(atom.query, reference.query), *towards(atom.value, reference.value))
        query = same_signs(self.act, atom.query, reference.query)
        return LoraAtom(*query, *same_signs(self.act, atom.value, reference.value))

    def interior(
        self, atom: LoraAtom, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """A ball for each of Delta_Q and Delta_V; for a bounded activation also every entry inside its range."""
        delta = self.update(atom, common, pretrained)
        ranges = [range_slacks(self.act, self.rank, matrix) for matrix in delta]
        return jnp.concatenate([ball(delta.query, radius), ball(delta.value, radius), *ranges])

    def draw(self, key: Array, pretrained: Projections, scale: float) -> LoraAtom:
        """Independent factors for query and value."""
        keys = jax.random.split(key)
        query, value = (
            drawn(self.act, own, (matrix.shape[-2], matrix.shape[-1]), self.rank, scale)
            for own, matrix in zip(keys, pretrained, strict=True)
        )
        return LoraAtom(*query, *value)

    def check(self, pretrained: Projections) -> None:
        """The rank must fit both projections."""
        check_rank(self.rank, pretrained)


class RepLora(AbstractPlainAdapter):
    """RepLoRA: W_Q = M_Q + act(B) act(A) and W_V = M_V + act(B) act(A) with one shared pair (B, A) (2502.03044).

    With the identity it is the linear variant. The gauge is GL(r) on (act(B), act(A)), pulled back through act.
    """

    rank: int = eqx.field(static=True)
    activation: str = eqx.field(static=True, default="identity")

    @property
    def value_tells_query(self) -> bool:
        """They are equal."""
        return True

    def __check_init__(self):
        activation_named(self.activation)

    @property
    def act(self) -> Activation:
        """The activation's functions."""
        return activation_named(self.activation)

    def update(self, atom: SharedAtom, common: Any, pretrained: Projections) -> Projections:
        """(act(B) act(A), act(B) act(A))."""
        delta = product(self.act, atom.factors)
        return Projections(delta, delta)

    def orbit(self, atom: SharedAtom) -> SharedAtom:
        """GL(r) on the activated factors."""
        return SharedAtom(*orbit(self.act, atom.factors))

    def gauge(self, atom: SharedAtom, gate: AbstractGate) -> SharedAtom:
        """GL(r); the value sees Delta itself, so no gate adds to it."""
        return self.orbit(atom)

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """Always: the product has no other symmetry."""
        return True

    def balance(self, atom: SharedAtom) -> SharedAtom:
        """Equal largest entries in act(B) and act(A)."""
        return SharedAtom(*balanced(self.act, atom.factors))

    def aligned(self, atom: SharedAtom, reference: SharedAtom) -> SharedAtom:
        """Signs of the factors chosen towards the reference's, where the activation is odd."""
        return SharedAtom(*same_signs(self.act, atom.factors, reference.factors))

    def interior(
        self, atom: SharedAtom, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """A ball for Delta; for a bounded activation also every entry of Delta inside 90 % of its range."""
        delta = self.update(atom, common, pretrained).value
        return jnp.concatenate([ball(delta, radius), range_slacks(self.act, self.rank, delta)])

    def draw(self, key: Array, pretrained: Projections, scale: float) -> SharedAtom:
        """One pair of factors."""
        rows, columns = pretrained.value.shape[-2:]
        return SharedAtom(*drawn(self.act, key, (rows, columns), self.rank, scale))

    def check(self, pretrained: Projections) -> None:
        """The rank must fit, and sharing needs query and value matrices of one shape."""
        check_rank(self.rank, pretrained)
        check_equal_shapes("RepLoRA", pretrained)


class Dial(AbstractPlainAdapter):
    """Partly shared updates: Delta_Q = B A, Delta_V = eta B A + (1 - eta) B_V A_V with 0 <= eta < 1.

    eta = 0 is LoRA (the atom has LoRA's fields); eta -> 1 tends to RepLoRA. For every eta < 1 the own part can be
    split: B_V (A_V + Z) and B_V (A_V - Z) with equal B A leave f_G exactly as it is, so the slow law holds for every
    eta < 1, on a scale of (1 - eta) R; eta = 1 alone is free of it. For 0 < eta the value sees all of B A that an
    own part of rank r cannot make up for, so the gauge is GL(r) x GL(r) for both gates. Source: our derivation.

    Attributes:
        rank: r, of both products.
        eta: the share of the query's update in the value's.

    Raises:
        InputError: if eta lies outside [0, 1).
    """

    rank: int = eqx.field(static=True)
    eta: float = eqx.field(static=True)

    @property
    def value_tells_query(self) -> bool:
        """Each has a product of its own."""
        return False

    def __check_init__(self):
        if not 0.0 <= self.eta < 1.0:
            raise InputError(f"eta must lie in [0, 1), got {self.eta}: for eta = 1 use RepLora")

    @property
    def lora(self) -> Lora:
        """The two products."""
        return Lora(self.rank)

    def update(self, atom: LoraAtom, common: Any, pretrained: Projections) -> Projections:
        """(B A, eta B A + (1 - eta) B_V A_V)."""
        products = self.lora.update(atom, common, pretrained)
        if self.eta == 0.0:
            return products
        return Projections(products.query, self.eta * products.query + (1.0 - self.eta) * products.value)

    def orbit(self, atom: LoraAtom) -> LoraAtom:
        """GL(r) of each product."""
        return self.lora.orbit(atom)

    def gauge(self, atom: LoraAtom, gate: AbstractGate) -> LoraAtom:
        """GL(r) of each product; LoRA's for eta = 0."""
        return self.lora.gauge(atom, gate) if self.eta == 0.0 else self.lora.orbit(atom)

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """As for LoRA."""
        return self.lora.gauge_is_known(pretrained)

    def balance(self, atom: LoraAtom) -> LoraAtom:
        """Each product balanced."""
        return self.lora.balance(atom)

    def aligned(self, atom: LoraAtom, reference: LoraAtom) -> LoraAtom:
        """Each product aligned."""
        return self.lora.aligned(atom, reference)

    def interior(
        self, atom: LoraAtom, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """A ball for each product, so that Delta_V, an average of both, lies in the ball too."""
        return self.lora.interior(atom, common, pretrained, radius)

    def draw(self, key: Array, pretrained: Projections, scale: float) -> LoraAtom:
        """Independent factors for both products."""
        return self.lora.draw(key, pretrained, scale)

    def check(self, pretrained: Projections) -> None:
        """As LoRA; a share in common needs query and value matrices of one shape."""
        check_rank(self.rank, pretrained)
        if self.eta > 0.0:
            check_equal_shapes("Dial", pretrained)
