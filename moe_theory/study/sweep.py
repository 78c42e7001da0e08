"""Run claims: compute what the store lacks, in several processes, and read back what was asked for."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty
from typing import Any

import pandas as pd

from moe_theory.errors import MoeTheoryError
from moe_theory.study.progress import Progress
from moe_theory.study.spec import SweepSpec, problem_hash, revise
from moe_theory.study.store import CellKey, Store
from moe_theory.theory.claims import Claim, claim_named

CELL = 16
"""Replications per stored cell: small enough that a kill costs little, large enough to keep the blocks full."""

SMOKE = {"sizes": "1e4:1e6:4", "replications": 8, "starts": "smoke", "block": 16}
"""Seconds instead of minutes: shows that everything runs, decides nothing."""


def sweep_of(claim: Claim, **changes: Any) -> SweepSpec:
    """The default sweep of a claim, with the settings given changed.

    Raises:
        InputError: for settings that are out of range; all are named.
    """
    return revise(SweepSpec(), problem=dict(claim.problem), **changes)


def run_claim(claim: Claim, sweep: SweepSpec, store: Store, workers: int | None = None) -> pd.DataFrame:
    """Produce or load: compute the missing cells of a claim, store each as it is finished, return the sweep's rows.

    Args:
        claim: what is measured.
        sweep: problem, sizes, replications.
        store: where rows are kept; rows of an earlier run are reused.
        workers: processes that share the cells; by default one per processor, or 1 where JAX has an accelerator.

    Raises:
        StoreError: if the store cannot be written or read.
        MoeTheoryError: if a worker died (for example for lack of memory).
    """
    store.check_writable()
    gaps = _in_cells(store.missing(claim.id, problem_hash(sweep), sweep.sizes, sweep.replications))
    if gaps:
        _compute(claim, sweep, store.root, gaps, workers or default_workers())
    return rows_of(claim, sweep, store)


def rows_of(claim: Claim, sweep: SweepSpec, store: Store) -> pd.DataFrame:
    """The stored rows of a sweep, no others; of an interrupted run, those that were finished.

    Raises:
        StoreError: if nothing is stored.
    """
    frame = store.read(claim.id, problem_hash(sweep), sweep.sizes)
    return frame.loc[frame["replication"] < sweep.replications].reset_index(drop=True)


def default_workers() -> int:
    """Processes to start: one per processor, but one alone where an accelerator would be shared."""
    return 1 if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu" else max(1, os.cpu_count() or 1)


def _in_cells(gaps: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    pieces = []
    for n, first, count in gaps:
        for start in range(first, first + count, CELL):
            pieces.append((n, start, min(CELL, first + count - start)))
    return pieces


def _compute(claim: Claim, sweep: SweepSpec, root: Path, gaps: list[tuple[int, int, int]], workers: int) -> None:
    rows = sum(count for _, _, count in gaps)
    with Progress(rows, claim.id) as progress:
        if workers == 1 or len(gaps) == 1:
            for message in compute_cells(claim, sweep, root, gaps):
                _tell(progress, *message)
            return
        shares = [gaps[index::workers] for index in range(min(workers, len(gaps)))]
        context = multiprocessing.get_context("spawn")
        queue = context.Manager().Queue()
        with ProcessPoolExecutor(len(shares), mp_context=context, initializer=_one_thread) as pool:
            jobs = [pool.submit(_work, claim.id, sweep, root, shares[0], queue)]
            try:
                while not jobs[0].done() and not _drain(queue, progress):
                    pass  # the first worker fills the compilation cache that the others read
                jobs += [pool.submit(_work, claim.id, sweep, root, share, queue) for share in shares[1:]]
                while not all(job.done() for job in jobs):
                    _drain(queue, progress)
                for job in as_completed(jobs):
                    job.result()
                while _drain(queue, progress):
                    pass
            except BrokenProcessPool as error:
                raise MoeTheoryError(
                    "a worker process died, perhaps for lack of memory: run again with fewer --workers; the cells "
                    "finished so far are kept"
                ) from error


def _drain(queue: Any, progress: Progress) -> bool:
    """Report one message of the workers, if there is one."""
    try:
        message = queue.get(timeout=0.2)
    except Empty:
        return False
    _tell(progress, *message)
    return True


def _tell(progress: Progress, n: int, count: int) -> None:
    """A message is (n, replications done), or (0, 0) for 'compiled'."""
    if count:
        progress.advance(count, f"n = {n:.0e}")
    else:
        progress.ready()


def _one_thread() -> None:
    """Each worker computes on one processor: two that share both would wait for each other."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _work(claim_id: str, sweep: SweepSpec, root: Path, gaps: list[tuple[int, int, int]], queue: Any) -> None:
    for message in compute_cells(claim_named(claim_id), sweep, root, gaps):
        queue.put(message)


def compute_cells(
    claim: Claim, sweep: SweepSpec, root: Path, gaps: list[tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """Compute and store cells in this process; yields (0, 0) once compiled, (n, replications) per cell written."""
    from moe_theory.precision import enable_x64

    enable_x64()
    from moe_theory.study.replicate import Replicator

    store = Store(root)
    metadata = {"specification": sweep.model_dump(mode="json"), "block": sweep.block}
    replicator = Replicator(sweep, claim.identified_set)
    replicator.compile()
    yield 0, 0
    for (n, first, count), rows in replicator.cells(gaps):
        store.write_cell(CellKey(claim.id, problem_hash(sweep), n, first, count), rows, metadata)
        yield n, count
