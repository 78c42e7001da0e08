"""How functions of arrays are compiled: sooner than XLA would by itself, to code that is as fast.

Compilation is a large part of what a claim costs, for every claim has programs of its own and runs them for a minute.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

P = ParamSpec("P")
T = TypeVar("T")

OLDER_EMITTER = {"xla_cpu_use_fusion_emitters": False}
"""XLA's newer emitter of CPU kernels makes an MLIR context for every one of them. The older one compiles a step of
``dora-over`` in 8 s of processor time instead of 19, and the step is as fast. The two round differently."""

UNTUNED = {"xla_gpu_autotune_level": 0}
"""On a GPU XLA times several kernels for every small matrix product of a program. Without that the first iteration of
``replora-linear-over`` comes after 21 s instead of more than two minutes (H200, jax 0.11.2)."""

UNOPTIMISED = {"xla_backend_optimization_level": 0}
"""Takes a quarter to a third less to compile, and runs at less than half the speed."""


def jitted(function: Callable[..., Any], *, seldom: bool = False) -> Any:
    """``jax.jit`` for the programs that fits consist of, compiled with ``OLDER_EMITTER`` where XLA knows it.

    Args:
        function: of arrays.
        seldom: it runs a few times only, so that the code need not be good.
    """
    return jax.jit(function, compiler_options=_quicker() | (UNOPTIMISED if seldom else {}))


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


@functools.cache
def _quicker() -> dict[str, Any]:
    """The options that spare time on the device that JAX computes on, where XLA knows them."""
    options = {"cpu": OLDER_EMITTER, "gpu": UNTUNED}.get(jax.default_backend(), {})
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def at_once(function: Callable[..., T], *arguments: Any) -> T:
    """What a function of arrays returns, as one program that is compiled quickly and runs once.

    Without it every operation and every shape is a program of its own, and a hundred of them take seconds to compile.
    """
    return jitted(function, seldom=True)(*arguments)
