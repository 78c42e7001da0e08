"""One thread for a process: of BLAS, and of XLA where it computes on CPU.

OpenBLAS starts as many threads as there are processors, and they wait for each other by spinning. Where another process
has a processor, the singular value decomposition of a 2,049 by 31 matrix took 0.17 s of processor time on two threads
and 0.0012 s on one. One thing is large enough to gain by more: the factorisations of ``theory/central_path``.
"""

import functools
import os
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")


def one_thread_of_blas() -> AbstractContextManager[object]:
    """Within it BLAS has one thread."""
    return threadpool_limits(limits=1, user_api="blas")


def every_thread_of_blas() -> AbstractContextManager[object]:
    """Within it BLAS has a thread for each processor."""
    return threadpool_limits(limits=os.cpu_count() or 1, user_api="blas")


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, during which BLAS has one thread."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread_of_blas():
            return function(*args, **kwargs)

    return limited


THREADS_PER_DEVICE = 16
"""Of each, where there are several: more than the decompositions of one program that were seen to wait at once."""


def keep_one_thread() -> None:
    """From now on this process computes in one thread; call it before JAX computes anything.

    jaxlib's LAPACK kernels (seen with 0.10.2) share a batch out among the threads that XLA's CPU client started, and
    wait for it inside one of them: two decompositions at once, on a machine of two processors, wait for ever. So the
    client, which asks NPROC how many threads to start, gets one, and computes in the thread that asks it to, which also
    saves 3 to 5 % of an iteration. Several devices on one processor need threads of their own; they get many.

    Warns:
        RuntimeWarning: JAX has computed on CPU already, so that all this comes too late.
    """
    import jax

    devices = _host_devices()
    threads = str(1 if devices == 1 else THREADS_PER_DEVICE * devices)
    if os.environ.get("NPROC") != threads and _computes_on_cpu_already():
        warnings.warn(
            "JAX has computed before moe_theory.enable_x64() was called: its batched decompositions may wait for each "
            "other for ever on a machine with few processors; restart, and call enable_x64() first",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ["NPROC"] = threads
    jax.config.update("jax_cpu_enable_async_dispatch", devices > 1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    keep_one_blas_thread()


def _host_devices() -> int:
    """How many devices JAX makes of this machine's processors."""
    import jax

    asked = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    configured = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    return max(1, configured, int(asked.group(1)) if asked else 1)


def _computes_on_cpu_already() -> bool:
    """Whether JAX has started its CPU client for good; False where it does not tell."""
    import jax
    from jax._src import xla_bridge

    started = getattr(xla_bridge, "backends_are_initialized", lambda: False)()
    return started and jax.default_backend() == "cpu"


def keep_one_blas_thread() -> None:
    """From now on BLAS has one thread in this process, whether it is loaded already or not."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threadpool_limits(limits=1, user_api="blas")
