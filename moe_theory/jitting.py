"""How functions of arrays are compiled: sooner than XLA would by itself, to code that is as fast.

Compilation is a large part of what a claim costs, for every claim has programs of its own and runs them for a minute.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

P = ParamSpec("P")
T = TypeVar("T")

OLDER_EMITTER = {"xla_cpu_use_fusion_emitters": False}
"""XLA's newer emitter of CPU kernels makes an MLIR context for every one of them. The older one compiles a step of
``dora-over`` in 8 s of processor time instead of 19, and the step is as fast. The two round differently."""

OWN_SUMS = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""XLA hands sums to a library (YNNPACK), for which their terms must be stored first. Its own loops form them as they
go: a step from a standpoint takes 14 to 19 % less time (HoRA, DoRA). A standpoint, more of products, takes longer."""

UNTUNED = {"xla_gpu_autotune_level": 0}
"""On a GPU XLA times several kernels for every small matrix product of a program. Without its timing the first
iteration of ``replora-linear-over`` comes after 21 s, with it not within two minutes (H200, jax 0.11.2)."""

UNOPTIMISED = {"xla_backend_optimization_level": 0}
"""Takes a quarter to a third less to compile, and runs at less than half the speed."""


def jitted(function: Callable[..., Any], *, seldom: bool = False, summing: bool = False) -> Any:
    """``jax.jit`` for the programs that fits consist of, with the options above that XLA knows.

    Args:
        function: of arrays.
        seldom: it runs a few times only, so that the code need not be good.
        summing: most of it are values and slopes, not second derivatives: ``OWN_SUMS``.
    """
    return jax.jit(function, compiler_options=_quicker(summing) | (UNOPTIMISED if seldom else {}))


def filter_jitted(function: Callable[P, T]) -> Callable[P, T]:
    """``equinox.filter_jit``, compiled as ``jitted`` compiles; which options that are is asked at the first call.

    JAX takes options for a whole program only: as a part of another one the function is traced like any other.
    """

    @functools.cache
    def program() -> Any:
        filter_jit: Any = eqx.filter_jit  # its annotations leave out what it passes on to jax.jit
        return filter_jit(function, compiler_options=_quicker())

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        return program()(*args, **kwargs)

    return call


def bound(function: Callable[..., T], *fixed: Any) -> Callable[..., T]:
    """A function of arrays with its first arguments held, compiled as ``filter_jitted`` compiles.

    What is held is looked through once, not at every call: of a mixture that takes 0.4 ms, as long as its residual.
    """
    arrays, rest = eqx.partition(fixed, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
    leaves, structure = jax.tree.flatten(arrays)
    others, around = jax.tree.flatten(rest)
    return functools.partial(_bound_program(function, structure, tuple(others), around), leaves)


@functools.cache
def _bound_program(function: Callable[..., T], structure: Any, others: tuple[Any, ...], around: Any) -> Any:
    """A program of the arrays held and of the further arguments; one for every structure and all that is no array."""

    def run(leaves: list[Array], *arguments: Any) -> T:
        fixed = eqx.combine(jax.tree.unflatten(structure, leaves), jax.tree.unflatten(around, others))
        return function(*fixed, *arguments)

    return jax.jit(run, compiler_options=_quicker())


def _quicker(summing: bool = False) -> dict[str, Any]:
    """The options that spare time on the device that JAX computes on, less those that XLA does not know."""
    options = {"cpu": OLDER_EMITTER | (OWN_SUMS if summing else {}), "gpu": UNTUNED}.get(jax.default_backend(), {})
    return {name: value for name, value in options.items() if _known(name, value)}


@functools.cache
def _known(name: str, value: bool | int | str) -> bool:
    """Whether XLA takes an option."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def at_once(function: Callable[..., T], *arguments: Any) -> T:
    """What a function of arrays returns, as one program that is compiled quickly and runs once.

    Without it every operation and every shape is a program of its own, and a hundred of them take seconds to compile.
    """
    return jitted(function, seldom=True)(*arguments)
