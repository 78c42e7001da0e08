"""Work shared out among processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from moe_theory.errors import MoeTheoryError
from moe_theory.precision import enable_x64

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def default_workers() -> int:
    """Processes to start: one per processor, but one alone where they would compete for an accelerator's memory."""
    asked = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    accelerated = asked != "cpu" if asked else _accelerated_by_default()
    return 1 if accelerated else max(1, os.cpu_count() or 1)


def _accelerated_by_default() -> bool:
    """Whether JAX computes on something else than processors here; starts it."""
    import jax

    enable_x64()
    return jax.default_backend() != "cpu"


@contextmanager
def dead_workers_are_told() -> Iterator[None]:
    """Within it a process that dies is one of our errors.

    Raises:
        MoeTheoryError: if a worker died (for example for lack of memory).
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise MoeTheoryError(
            "a worker process died, perhaps for lack of memory: run again with fewer --workers; what is finished so "
            "far is kept"
        ) from error


def as_finished(
    function: Callable[[Piece], Result], pieces: Sequence[Piece], workers: int | None = None
) -> Iterator[Result]:
    """What a function makes of every piece, in the order in which they are finished.

    Args:
        function: of a module, for it is sent to the processes.
        pieces: the work.
        workers: processes; `default_workers` if not given. One, or one piece, needs none but this.

    Raises:
        MoeTheoryError: if a worker died.
    """
    workers = min(workers or default_workers(), len(pieces))
    if workers <= 1:
        yield from map(function, pieces)
        return
    context = multiprocessing.get_context("spawn")
    with dead_workers_are_told(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(function, piece) for piece in pieces]):
            yield done.result()
