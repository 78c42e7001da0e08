"""Run claims: compute what the store lacks, in several processes, and read back what was asked for."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import pandas as pd

from moe_theory.errors import portable_errors
from moe_theory.study.adapted_spec import AdaptedSweepSpec
from moe_theory.study.density_spec import DensitySweepSpec
from moe_theory.study.processes import dead_workers_are_told, default_workers
from moe_theory.study.progress import Progress
from moe_theory.study.spec import SweepSpec, parse_sizes, problem_hash, revise
from moe_theory.study.store import CellKey, Store
from moe_theory.theory.claims import Claim, claim_named

CELL = 16
"""Replications per stored cell: small enough that a kill costs little, large enough to keep the blocks full."""

SMOKE: dict[str, Any] = {"sizes": "1e4:1e6:4", "replications": 8, "starts": "smoke", "block": 16}
"""Seconds instead of minutes: shows that everything runs, decides nothing."""


SMOKE_FAR = {**SMOKE, "sizes": "1e8:1e11:4"}
"""The same where laws begin at larger sizes: densities, the Gaussian gate, sets that settle late."""


def smoke_of(claim: Claim) -> dict[str, Any]:
    """The settings of a claim's smoke run."""
    begins = max(measure.from_size for measure in (claim.main, *claim.others))
    return SMOKE if claim.kind == "regression" and begins <= parse_sizes(SMOKE["sizes"])[-1] else SMOKE_FAR


def sweep_of(claim: Claim, **changes: Any) -> SweepSpec:
    """The default sweep of a claim, with the settings given changed.

    Raises:
        InputError: for settings that are out of range; all are named.
    """
    kinds = {"regression": SweepSpec, "density": DensitySweepSpec, "adapted-density": AdaptedSweepSpec}
    return revise(kinds[claim.kind](), problem=dict(claim.problem), **{**claim.sweep, **changes})


Cell = tuple[int, int, int]
"""(n, first replication, how many)."""


class Task(NamedTuple):
    """What is missing of one claim."""

    claim: str
    sweep: SweepSpec
    cells: list[Cell]


def run_claims(jobs: Sequence[tuple[Claim, SweepSpec]], store: Store, workers: int | None = None) -> list[pd.DataFrame]:
    """Produce or load: compute the missing cells, store each as it is finished, return every sweep's rows.

    Workers begin with claims that nobody has begun, so that they compile different ones at the same time; then they
    help with what is left.

    Args:
        jobs: claims, and what to run of each: problem, sizes, replications.
        store: where rows are kept; rows of an earlier run are reused.
        workers: processes that share the cells; by default one per processor, or 1 where JAX has an accelerator.

    Raises:
        StoreError: if the store cannot be written or read.
        MoeTheoryError: if a worker died (for example for lack of memory).
    """
    store.check_writable()
    tasks = []
    for claim, sweep in jobs:
        cells = _in_cells(store.missing(claim.id, problem_hash(sweep), sweep.sizes, sweep.replications))
        if cells:
            tasks.append(Task(claim.id, sweep, cells))
    if tasks:
        _compute(tasks, store.root, workers or default_workers())
    return [rows_of(claim, sweep, store) for claim, sweep in jobs]


def rows_of(claim: Claim, sweep: SweepSpec, store: Store) -> pd.DataFrame:
    """The stored rows of a sweep, no others; of an interrupted run, those that were finished.

    Raises:
        StoreError: if nothing is stored.
    """
    frame = store.read(claim.id, problem_hash(sweep), sweep.sizes)
    return frame.loc[frame["replication"] < sweep.replications].reset_index(drop=True)


def _in_cells(gaps: Sequence[Cell]) -> list[Cell]:
    pieces = []
    for n, first, count in gaps:
        for start in range(first, first + count, CELL):
            pieces.append((n, start, min(CELL, first + count - start)))
    return pieces


def _compute(tasks: list[Task], root: Path, workers: int) -> None:
    cells = [count for task in tasks for _, _, count in task.cells]
    label = tasks[0].claim if len(tasks) == 1 else f"{len(tasks)} claims"
    with Progress(sum(cells), label) as progress:
        if workers == 1 or len(cells) == 1:
            for task in tasks:
                for message in compute_cells(claim_named(task.claim), task.sweep, root, task.cells):
                    _tell(progress, task.claim, *message)
            return
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager:
            shared = Shared(manager.Lock(), manager.list(), [manager.Queue() for _ in tasks], manager.Queue())
            for task, queue in zip(tasks, shared.cells, strict=True):
                for cell in task.cells:
                    queue.put(cell)
            _share_out(tasks, root, min(workers, len(cells)), context, shared, progress)


class Shared(NamedTuple):
    """What the workers have in common: which tasks are begun, the cells of each that nobody took, their messages."""

    lock: Any
    begun: Any
    cells: list[Any]
    messages: Any

    def next_task(self) -> int | None:
        """The next one to work at: preferably one that nobody has begun."""
        with self.lock:
            left = [index for index, queue in enumerate(self.cells) if not queue.empty()]
            fresh = [index for index in left if index not in self.begun]
            chosen = next(iter(fresh or left), None)
            if chosen is not None:
                self.begun.append(chosen)
            return chosen

    def take(self, index: int) -> Cell | None:
        """A cell of that task, or None if none is left."""
        try:
            return self.cells[index].get_nowait()
        except Empty:
            return None


def _share_out(tasks: list[Task], root: Path, workers: int, context: Any, shared: Shared, progress: Progress) -> None:
    with dead_workers_are_told(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(_work, tasks, root, shared) for _ in range(workers)]
        while not all(job.done() for job in jobs):
            _drain(shared.messages, progress)
        for job in as_completed(jobs):
            job.result()
        while _drain(shared.messages, progress):
            pass


def _drain(queue: Any, progress: Progress) -> bool:
    """Report one message of the workers, if there is one."""
    try:
        message = queue.get(timeout=0.2)
    except Empty:
        return False
    _tell(progress, *message)
    return True


def _tell(progress: Progress, claim: str, n: int, count: int) -> None:
    """A message is (claim, n, replications done), or (claim, 0, 0) for 'compiled'."""
    if count:
        progress.advance(count, f"{claim}, n = {n:.0e}")
    else:
        progress.ready()


@portable_errors()
def _work(tasks: list[Task], root: Path, shared: Shared) -> None:
    while (index := shared.next_task()) is not None:
        claim, sweep, _ = tasks[index]
        left = iter(lambda index=index: shared.take(index), None)
        for message in compute_cells(claim_named(claim), sweep, root, left):
            shared.messages.put((claim, *message))


def compute_cells(claim: Claim, sweep: SweepSpec, root: Path, cells: Iterable[Cell]) -> Iterator[tuple[int, int]]:
    """Compute and store cells in this process; yields (0, 0) once compiled, (n, replications) per cell written."""
    from moe_theory.precision import enable_x64

    enable_x64()
    store = Store(root)
    metadata = {"specification": sweep.model_dump(mode="json"), "block": sweep.block}
    replicator = _replicator(claim, sweep)
    replicator.compile()
    yield 0, 0
    for (n, first, count), rows in replicator.cells(cells):
        store.write_cell(CellKey(claim.id, problem_hash(sweep), n, first, count), rows, metadata)
        yield n, count


def _replicator(claim: Claim, sweep: SweepSpec) -> Any:
    """What computes the rows of a sweep; imported here because it imports JAX."""
    if isinstance(sweep, DensitySweepSpec):
        from moe_theory.study.replicate_density import DensityReplicator

        return DensityReplicator(sweep)
    if isinstance(sweep, AdaptedSweepSpec):
        from moe_theory.study.replicate_adapted import AdaptedReplicator

        return AdaptedReplicator(sweep, claim.identified_set)
    from moe_theory.study.replicate import Replicator

    return Replicator(sweep, claim.identified_set)
