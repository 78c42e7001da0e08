"""One thread of BLAS for small matrices.

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


def keep_one_blas_thread() -> None:
    """From now on BLAS has one thread in this process, whether it is loaded already or not."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threadpool_limits(limits=1, user_api="blas")
