"""Certify the problems of many claims at once, so that their verdicts have all three witnesses."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from moe_theory.errors import MoeTheoryError, portable_errors
from moe_theory.study.processes import as_finished
from moe_theory.study.progress import Progress
from moe_theory.study.spec import truth_hash
from moe_theory.study.store import Store
from moe_theory.study.sweep import sweep_of
from moe_theory.study.witnesses import kept
from moe_theory.theory.claims import Claim


class Foreseen(NamedTuple):
    """What became of the problem of a claim.

    Attributes:
        claim: its id.
        trouble: why it could not be certified; empty where it was.
    """

    claim: str
    trouble: str


def foresee(claims: Iterable[Claim], store: Store, workers: int | None = None) -> list[Foreseen]:
    """Certify what the store lacks, with the modulus of continuity, and keep every answer as it is found.

    Claims that differ only in what is fitted to one truth share an answer. Low-rank densities have no modulus.

    Args:
        claims: whose own problems are certified.
        store: where answers are kept.
        workers: processes; by default one per processor.

    Returns:
        One entry per problem that was certified now, or could not be.

    Raises:
        StoreError: the store cannot be written, or an answer in it is damaged.
        MoeTheoryError: a worker died.
    """
    missing: dict[str, str] = {}
    for claim in claims:
        problem = sweep_of(claim).problem
        if kept(store, problem) is None:
            missing.setdefault(truth_hash(problem), claim.id)
    if not missing:
        return []
    store.check_writable()
    found = []
    with Progress(len(missing), "certify") as progress:
        for each in as_finished(partial(_foresee_one, store.root), list(missing.values()), workers):
            progress.advance(1, each.claim)
            found.append(each)
    return found


@portable_errors()
def _foresee_one(root: Path, name: str) -> Foreseen:
    # JAX is imported by the processes that certify, so that the command answers --help at once.
    import jax

    from moe_theory.precision import enable_x64
    from moe_theory.study.certification import certified

    enable_x64()
    try:
        certified(name, {}, store=Store(root))
    except (MoeTheoryError, AssertionError) as error:
        return Foreseen(name, str(error))
    finally:
        jax.clear_caches()  # of no use to another problem
    return Foreseen(name, "")
