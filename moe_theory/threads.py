"""One thread for a process: of BLAS, and of XLA where it computes on CPU.

OpenBLAS starts as many threads as there are processors, and they wait for each other by spinning. Where another process
has a processor, the singular value decomposition of a 2,049 by 31 matrix took 0.17 s of processor time on two threads
and 0.0012 s on one. Nothing here is large enough to gain by a second one.
"""

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")


def one_thread_of_blas() -> AbstractContextManager[object]:
    """Within it BLAS has one thread."""
    return threadpool_limits(limits=1, user_api="blas")


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, during which BLAS has one thread."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread_of_blas():
            return function(*args, **kwargs)

    return limited


THREADS_OF_SEVERAL_DEVICES = 16
"""More than the decompositions of one program that can wait at once."""


def keep_one_thread() -> None:
    """From now on this process computes in one thread; without effect on XLA once JAX has computed something.

    jaxlib's LAPACK kernels (seen with 0.10.2) share a batch out among the threads that XLA's CPU client started, and
    wait for it inside one of them: two decompositions at once, on a machine of two processors, wait for ever. So the
    client, which asks NPROC how many threads to start, gets one, and computes in the thread that asks it to, which also
    saves 3 to 5 % of an iteration. Several devices on one processor need a thread each; they get so many that some are
    always free.
    """
    import jax

    several = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    os.environ["NPROC"] = str(THREADS_OF_SEVERAL_DEVICES if several else 1)
    jax.config.update("jax_cpu_enable_async_dispatch", several)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    keep_one_blas_thread()


def keep_one_blas_thread() -> None:
    """From now on BLAS has one thread in this process, whether it is loaded already or not."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threadpool_limits(limits=1, user_api="blas")
