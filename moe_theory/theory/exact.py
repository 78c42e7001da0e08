"""Exact arithmetic: whether splitting one parameter block leaves f_G as it is, without rounding.

The softmax sees an atom through its coefficients: of the score, and of the output (``models.regression``). Two halves
theta + H and theta - H of equal weight add up to the same f_G if

    score(theta + H) = score(theta - H) = score(theta)   and   output(theta + H) + output(theta - H) = 2 output(theta).

Both are checked in rational arithmetic: the function theta -> coefficients is traced by JAX and its equations are
evaluated on Python's fractions. Functions that are not rational (roots, tanh, exp) are *uninterpreted*: equal arguments
get one random rational value, so that an identity which holds does so whatever these functions are. A float64 number is
itself rational, so that the point is the truth, not a neighbour. Source: our derivation.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MOVING = (
    "broadcast_in_dim", "reshape", "transpose", "slice", "squeeze", "gather", "rev", "expand_dims", "dynamic_slice",
)  # fmt: skip
"""Primitives that only move entries about: their effect on positions is their effect on values."""

SAME = ("convert_element_type", "copy", "stop_gradient", "copy_p", "optimization_barrier")
FREE = ("sqrt", "rsqrt", "tanh", "logistic", "exp", "log", "log1p", "pow", "erf")


class Rational:
    """Evaluates traced functions on fractions; one table of values for the uninterpreted functions."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self._values: dict[tuple[Any, ...], Fraction] = {}

    def __call__(self, function: Callable[..., Any], *arguments: np.ndarray) -> list[np.ndarray]:
        """The function's outputs at object arrays of fractions.

        Raises:
            NotImplementedError: for a primitive that is not known.
        """
        shapes = [jax.ShapeDtypeStruct(argument.shape, jnp.float64) for argument in arguments]
        closed = jax.make_jaxpr(function)(*shapes)
        return self._run(closed.jaxpr, closed.consts, list(arguments))

    def _run(self, jaxpr: Any, constants: Any, arguments: list[np.ndarray]) -> list[np.ndarray]:
        known: dict[Any, np.ndarray] = {}

        def read(atom: Any) -> np.ndarray:
            return fractions(atom.val) if hasattr(atom, "val") else known[atom]

        known.update(zip(jaxpr.constvars, map(fractions, constants), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            outputs = self._apply(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
        name, settings = equation.primitive.name, equation.params
        inner = settings.get("jaxpr") or settings.get("call_jaxpr")
        if inner is not None:
            return self._run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        if not values:
            return [fractions(equation.primitive.bind(**settings))]
        if name in MOVING:
            places = jnp.arange(values[0].size).reshape(values[0].shape)
            others = [jnp.asarray(value.astype(np.int64)) for value in values[1:]]
            moved = equation.primitive.bind(places, *others, **settings)
            return [np.asarray(values[0].ravel()[np.asarray(moved)], object)]
        if name == "split":
            ends = np.cumsum(settings["sizes"])[:-1]
            return list(np.split(values[0], ends, axis=settings["axis"]))
        if name in FREE:
            return [self._uninterpreted(name, values, settings)]
        return [_arithmetic(name, values, settings)]

    def _uninterpreted(self, name: str, values: list[np.ndarray], settings: Any) -> np.ndarray:
        arguments = np.broadcast_arrays(*values)
        made = np.empty(arguments[0].shape, object)
        for place in np.ndindex(made.shape):
            key = (name, *(argument[place] for argument in arguments))
            if key not in self._values:
                self._values[key] = Fraction(int(self._rng.integers(1, 10**6)), int(self._rng.integers(1, 10**6)))
            made[place] = self._values[key]
        return made


def fractions(values: Any) -> np.ndarray:
    """An object array of the exact values of numbers."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return values
    array = np.asarray(values)
    made = np.empty(array.shape, object)
    for place in np.ndindex(array.shape):
        number = array[place].item()
        made[place] = number if isinstance(number, bool) else Fraction(number)
    return made


def _arithmetic(name: str, values: list[np.ndarray], settings: Any) -> np.ndarray:
    elementwise: dict[str, Callable[..., Any]] = {
        "add": lambda a, b: a + b, "add_any": lambda a, b: a + b, "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b, "div": lambda a, b: a / b, "neg": lambda a: -a,
        "gt": lambda a, b: a > b, "lt": lambda a, b: a < b, "ge": lambda a, b: a >= b, "eq": lambda a, b: a == b,
        "square": lambda a: a * a, "max": lambda a, b: np.maximum(a, b), "min": lambda a, b: np.minimum(a, b),
    }  # fmt: skip
    if name in elementwise:
        return np.asarray(elementwise[name](*values), object)
    if name == "integer_pow":
        return np.asarray(values[0] ** settings["y"], object)
    if name == "reduce_sum":
        return np.asarray(np.sum(values[0], axis=tuple(settings["axes"])), object)
    if name == "concatenate":
        return np.concatenate(values, axis=settings["dimension"])
    if name == "stack":
        return np.stack(values, axis=settings["axis"])
    if name == "select_n":
        which = np.broadcast_to(values[0], values[1].shape)
        return np.where(which.astype(bool), values[2], values[1])
    if name == "dot_general":
        return _dot(values[0], values[1], settings["dimension_numbers"])
    if name in SAME:
        return values[0]
    raise NotImplementedError(f"no exact arithmetic for {name}")


def _dot(left: np.ndarray, right: np.ndarray, dimensions: Any) -> np.ndarray:
    """XLA's general dot product: batch dimensions first, then the free ones of the left and of the right."""
    (left_sum, right_sum), (left_batch, right_batch) = dimensions
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = list(letters[: left.ndim])
    others = list(letters[left.ndim : left.ndim + right.ndim])
    for a, b in [*zip(left_sum, right_sum, strict=True), *zip(left_batch, right_batch, strict=True)]:
        others[b] = names[a]
    batch = [names[place] for place in left_batch]
    free = [name for place, name in enumerate(names) if place not in (*left_sum, *left_batch)]
    free += [name for place, name in enumerate(others) if place not in (*right_sum, *right_batch)]
    return np.einsum(f"{''.join(names)},{''.join(others)}->{''.join([*batch, *free])}", left, right, optimize=False)


def split_is_exact(
    coefficients: Callable[[Array], tuple[Array, Array]],
    atom: Float[np.ndarray, " q"],
    block: slice,
    seed: int = 0,
) -> bool:
    """Whether halves theta +- H, for a random rational H in one block, add up to exactly the same f_G.

    Args:
        coefficients: theta -> (score, output) as coefficients of known features.
        atom: theta.
        block: the entries that H moves.
        seed: of H.
    """
    rational, rng = Rational(seed), np.random.default_rng(seed)
    center = fractions(atom)
    moved = np.full(center.shape, Fraction(0), object)
    moved[block] = [Fraction(int(number), 8) for number in rng.integers(-16, 17, block.stop - block.start)]
    here, plus, minus = (rational(coefficients, point) for point in (center, center + moved, center - moved))
    still = np.array_equal(plus[0], here[0]) and np.array_equal(minus[0], here[0])
    return bool(still and np.array_equal(plus[1] + minus[1], 2 * here[1]))
