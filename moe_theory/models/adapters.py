"""Adapters: the free parameters of an atom, the adapted matrices they make, and the gauge they carry."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.gates import AbstractGate, general_linear_tangents


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


class SharedAtom(NamedTuple):
    """RepLoRA's free parameters: one pair (B, A) for query and value."""

    left: Float[Array, "*batch d r"]
    right: Float[Array, "*batch r d"]


class AbstractAdapter(eqx.Module):
    """How an atom's free parameters make Delta = (Delta_Q, Delta_V), and which motions of them change nothing."""

    rank: eqx.AbstractVar[int]
    shared: ClassVar[bool]

    @abc.abstractmethod
    def update(self, atom: Any) -> Projections:
        """Delta_Q, Delta_V of one atom."""

    @abc.abstractmethod
    def gauge(self, atom: Any, gate: AbstractGate) -> Any:
        """Tangents of the orbit of equivalent atoms: the atom's pytree with a leading axis (gauge dimension).

        Args:
            atom: one atom.
            gate: the gate that reads the query update; a gate that sees less of it enlarges the orbit.
        """

    @abc.abstractmethod
    def balance(self, atom: Any) -> Any:
        """The member of the atom's orbit whose factors are of equal size (same Delta, better conditioning)."""

    @abc.abstractmethod
    def aligned(self, atom: Any, reference: Any) -> Any:
        """The member of the atom's orbit whose factors are closest to the reference's."""

    @abc.abstractmethod
    def interior(self, atom: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """Slacks, positive inside the compact parameter space: 1 - ||Delta||_F^2 / R^2, and the adapter's own."""

    @abc.abstractmethod
    def draw(self, key: Array, shapes: Projections, scale: float) -> Any:
        """One random atom, || Delta ||_F of the order of ``scale`` (float64, balanced)."""

    @abc.abstractmethod
    def check(self, pretrained: Projections) -> None:
        """Raise InputError where this adapter cannot act on these pre-trained matrices."""


def _check_rank(rank: int, pretrained: Projections) -> None:
    smallest = min(*pretrained.query.shape[-2:], *pretrained.value.shape[-2:])
    if not 1 <= rank <= smallest:
        raise InputError(
            f"rank must be between 1 and {smallest}, the least dimension of the adapted matrices; got {rank}"
        )


def _balanced_factors(key: Array, rows: int, columns: int, rank: int, scale: float) -> tuple[Array, Array]:
    """Gaussian factors with E ||B A||_F^2 = scale^2 and equal norms."""
    key_left, key_right = jax.random.split(key)
    size = np.sqrt(scale / np.sqrt(rank))
    left = jax.random.normal(key_left, (rows, rank), dtype=jnp.float64) * (size / np.sqrt(rows))
    right = jax.random.normal(key_right, (rank, columns), dtype=jnp.float64) * (size / np.sqrt(columns))
    return left, right


def _equal_sizes(left: Array, right: Array) -> tuple[Array, Array]:
    """Scale column i of B and row i of A, oppositely, to the same largest entry."""
    left_size, right_size = jnp.max(jnp.abs(left), axis=0), jnp.max(jnp.abs(right), axis=1)
    usable = (left_size > 0) & (right_size > 0)
    ratio = jnp.where(usable, right_size, 1.0) / jnp.where(usable, left_size, 1.0)
    scale = jnp.sqrt(ratio)
    return left * scale[None, :], right / scale[:, None]


def _same_signs(left: Array, right: Array, reference: Array) -> tuple[Array, Array]:
    """Flip column i of B and row i of A together where that brings B closer to the reference."""
    sign = jnp.where(jnp.sum(left * reference, axis=0) < 0, -1.0, 1.0)
    return left * sign[None, :], right * sign[:, None]


def _towards(left: Array, right: Array, reference: tuple[Array, Array]) -> tuple[Array, Array]:
    """The member (B S, S^-1 A) of a product's orbit that shares the reference's better-matching factor.

    Two atoms of one cell may differ by order one in A while they share B (or the reverse); in the gauge where the
    shared factors coincide the product is linear in the other ones. Where neither matches within half its size,
    only signs are chosen.
    """
    by_left = jnp.linalg.pinv(left) @ reference[0]
    by_right = right @ jnp.linalg.pinv(reference[1])
    miss_left = jnp.linalg.norm(left @ by_left - reference[0]) / jnp.linalg.norm(reference[0])
    miss_right = jnp.linalg.norm(right - by_right @ reference[1]) / jnp.linalg.norm(right)
    turn = jnp.where(miss_left < miss_right, by_left, by_right)
    turned = left @ turn, jnp.linalg.pinv(turn) @ right
    signed = _same_signs(left, right, reference[0])
    close = jnp.minimum(miss_left, miss_right) < 0.5
    return jnp.where(close, turned[0], signed[0]), jnp.where(close, turned[1], signed[1])


def _ball(delta: Float[Array, "rows columns"], radius: float | Float[Array, ""]) -> Float[Array, "1"]:
    return 1.0 - jnp.sum(delta**2, keepdims=True).reshape(1) / radius**2


class Lora(AbstractAdapter):
    """LoRA: W_Q = M_Q + B_Q A_Q, W_V = M_V + B_V A_V with separate factors (2106.09685)."""

    rank: int
    shared: ClassVar[bool] = False

    def update(self, atom: LoraAtom) -> Projections:
        """(B_Q A_Q, B_V A_V)."""
        return Projections(atom.query_left @ atom.query_right, atom.value_left @ atom.value_right)

    def gauge(self, atom: LoraAtom, gate: AbstractGate) -> LoraAtom:
        """The orbit of the query product under the gate's symmetries, and GL(r) for the value product."""
        query = gate.product_symmetries(atom.query_left, atom.query_right)
        value = general_linear_tangents(atom.value_left, atom.value_right)
        at_query = [_padded(tangent, 0, value[0].shape[0]) for tangent in query]
        at_value = [_padded(tangent, query[0].shape[0], 0) for tangent in value]
        return LoraAtom(*at_query, *at_value)

    def balance(self, atom: LoraAtom) -> LoraAtom:
        """Equal largest entries in the two factors of each product."""
        query = _equal_sizes(atom.query_left, atom.query_right)
        return LoraAtom(*query, *_equal_sizes(atom.value_left, atom.value_right))

    def aligned(self, atom: LoraAtom, reference: LoraAtom) -> LoraAtom:
        """Each product in the gauge that shares a factor with the reference's."""
        query = _towards(atom.query_left, atom.query_right, (reference.query_left, reference.query_right))
        value = _towards(atom.value_left, atom.value_right, (reference.value_left, reference.value_right))
        return LoraAtom(*query, *value)

    def interior(self, atom: LoraAtom, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """A ball for each of Delta_Q and Delta_V."""
        delta = self.update(atom)
        return jnp.concatenate([_ball(delta.query, radius), _ball(delta.value, radius)])

    def draw(self, key: Array, shapes: Projections, scale: float) -> LoraAtom:
        """Independent Gaussian factors for query and value."""
        key_query, key_value = jax.random.split(key)
        query = _balanced_factors(key_query, shapes.query.shape[0], shapes.query.shape[1], self.rank, scale)
        value = _balanced_factors(key_value, shapes.value.shape[0], shapes.value.shape[1], self.rank, scale)
        return LoraAtom(*query, *value)

    def check(self, pretrained: Projections) -> None:
        """The rank must fit both projections."""
        _check_rank(self.rank, pretrained)


def _padded(tangent: Array, before: int, after: int) -> Array:
    """Zero tangents in front and behind: the other product does not move."""
    return jnp.pad(tangent, ((before, after), (0, 0), (0, 0)))


class Activation(NamedTuple):
    """An elementwise activation with what the parameter space needs to know of it.

    ``lowest`` and ``highest`` bound the entries of act(B) act(A) per unit of rank; the compact parameter space keeps
    a margin of a tenth of the range from bounds that finite factors only approach.
    """

    apply: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    lowest: float
    highest: float


def _logit(y: Array) -> Array:
    return jnp.log(y) - jnp.log1p(-y)


ACTIVATIONS = {
    "identity": Activation(lambda x: x, lambda y: y, jnp.ones_like, -np.inf, np.inf),
    "tanh": Activation(jnp.tanh, jnp.arctanh, lambda x: 1.0 / jnp.cosh(x) ** 2, -1.0, 1.0),
    "sigmoid": Activation(jax.nn.sigmoid, _logit, lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), 0.0, 1.0),
}


class RepLora(AbstractAdapter):
    """RepLoRA: W_Q = M_Q + act(B) act(A) and W_V = M_V + act(B) act(A) with one shared pair (B, A) (2502.03044).

    With the identity it is the linear variant. The gauge is GL(r) on (act(B), act(A)), pulled back through act.
    """

    rank: int
    activation: str = eqx.field(static=True, default="identity")
    shared: ClassVar[bool] = True

    def __check_init__(self):
        if self.activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}")

    @property
    def act(self) -> Activation:
        """The activation's functions."""
        return ACTIVATIONS[self.activation]

    def update(self, atom: SharedAtom) -> Projections:
        """(act(B) act(A), act(B) act(A))."""
        delta = self.act.apply(atom.left) @ self.act.apply(atom.right)
        return Projections(delta, delta)

    def gauge(self, atom: SharedAtom, gate: AbstractGate) -> SharedAtom:
        """GL(r) on the activated factors; the value sees Delta itself, so the gate adds nothing."""
        tangents = general_linear_tangents(self.act.apply(atom.left), self.act.apply(atom.right))
        return SharedAtom(
            tangents[0] / self.act.derivative(atom.left)[None], tangents[1] / self.act.derivative(atom.right)[None]
        )

    def balance(self, atom: SharedAtom) -> SharedAtom:
        """Equal largest entries in act(B) and act(A), which keeps both inside the activation's range."""
        left, right = _equal_sizes(self.act.apply(atom.left), self.act.apply(atom.right))
        return SharedAtom(self.act.inverse(left), self.act.inverse(right))

    def aligned(self, atom: SharedAtom, reference: SharedAtom) -> SharedAtom:
        """Signs of the activated factors chosen towards the reference's, where the activation is odd."""
        if self.act.lowest == 0.0:
            return atom
        left, right = self.act.apply(atom.left), self.act.apply(atom.right)
        signed = _same_signs(left, right, self.act.apply(reference.left))
        return SharedAtom(self.act.inverse(signed[0]), self.act.inverse(signed[1]))

    def interior(self, atom: SharedAtom, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """A ball for Delta; for a bounded activation also every entry of Delta inside 90 % of its range."""
        delta = self.update(atom).value
        slacks = _ball(delta, radius)
        if np.isinf(self.act.highest):
            return slacks
        highest = 0.9 * self.act.highest * self.rank
        lowest = 0.9 * self.act.lowest * self.rank + (0.02 if self.act.lowest == 0.0 else 0.0)
        entries = (delta - lowest) * (highest - delta) / (0.5 * (highest - lowest)) ** 2
        return jnp.concatenate([slacks, entries.reshape(-1)])

    def draw(self, key: Array, shapes: Projections, scale: float) -> SharedAtom:
        """Gaussian factors; for a bounded activation their activated entries are drawn uniform inside its range."""
        rows, columns = shapes.value.shape
        if np.isinf(self.act.highest):
            return SharedAtom(*_balanced_factors(key, rows, columns, self.rank, scale))
        key_left, key_right = jax.random.split(key)
        size = min(0.8, float(np.sqrt(scale / np.sqrt(rows * columns))) * 1.3)
        low = size * self.act.lowest + (0.2 if self.act.lowest == 0.0 else 0.0)
        left = jax.random.uniform(key_left, (rows, self.rank), jnp.float64, low, size * self.act.highest)
        right = jax.random.uniform(key_right, (self.rank, columns), jnp.float64, low, size * self.act.highest)
        return SharedAtom(self.act.inverse(left), self.act.inverse(right))

    def check(self, pretrained: Projections) -> None:
        """The rank must fit, and sharing needs query and value matrices of one shape."""
        _check_rank(self.rank, pretrained)
        if pretrained.query.shape[-2:] != pretrained.value.shape[-2:]:
            raise InputError(
                "RepLoRA shares one pair (B, A) between query and value, so both matrices need one shape; got "
                f"{pretrained.query.shape[-2:]} and {pretrained.value.shape[-2:]}: use LoRA, or equal shapes"
            )
