"""Rows as a sweep stores them, made up: every error follows a law that the test chooses."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_theory.study.spec import SweepSpec, problem_hash
from moe_theory.study.store import CellKey, Store
from moe_theory.theory.claims import Claim

EXPONENTS = {
    "D_1": -0.5,
    "D_12": -0.5,
    "D_12_lowest": -0.5,
    "D_12_highest": -0.5,
    "D_12_confidence_lowest": -0.5,
    "D_12_confidence_highest": -0.5,
    "singleton_error": -0.5,
    "overfitted_error": -0.25,
    "overfitted_value_error": -0.25,
    "farthest_error": -0.25,
    "D_12_truth_highest": -0.5,
    "function_error": -0.5,
}


def synthetic_rows(sizes: Sequence[int], replications: int = 16, first: int = 0, **exponents: float) -> pd.DataFrame:
    """Rows with errors n^exponent times lognormal noise, all certified."""
    numbers = np.arange(first, first + replications)
    rows = pd.DataFrame({"n": np.repeat(sizes, replications), "replication": np.tile(numbers, len(sizes))})
    rows["certified"] = True
    for name, exponent in {**EXPONENTS, **exponents}.items():
        noise = np.concatenate([np.random.default_rng([int(n), first]).normal(size=replications) for n in sizes])
        rows[name] = rows["n"].to_numpy(dtype=float) ** exponent * np.exp(0.3 * noise)
    return rows


def stored_rows(store: Store, claim: Claim, sweep: SweepSpec) -> None:
    """Write a sweep into a store, one cell per size, as a run does."""
    for n in sweep.sizes:
        key = CellKey(claim.id, problem_hash(sweep), n, 0, sweep.replications)
        metadata = {"specification": sweep.model_dump(mode="json"), "block": sweep.block}
        store.write_cell(key, synthetic_rows([n], sweep.replications), metadata)
