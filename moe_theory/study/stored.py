"""What a store holds beside what was asked for, and the options of the command that ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from moe_theory.errors import InputError, StoreError
from moe_theory.study.spec import SweepSpec, parse_sizes, problem_hash, specify
from moe_theory.study.store import CellKey, Store
from moe_theory.study.sweep import SMOKE, smoke_of, sweep_of
from moe_theory.theory.claims import Claim, claim_named

OPTIONS = ("rank", "dimension", "k_true", "k_fit", "sigma", "weight_floor", "anchored")
"""Settings of a problem that the command line can change."""


@dataclass(frozen=True)
class Holding:
    """The stored rows of one claim and problem.

    Attributes:
        claim: what they are of.
        problem_hash: name of the problem, its seed and its starts.
        sizes: sample sizes stored, increasing.
        replications: at the size that has most.
        sweep: what was asked for when the largest size was written; None if it is not recorded, or is of a version
            that named problems otherwise.
    """

    claim: Claim
    problem_hash: str
    sizes: tuple[int, ...]
    replications: int
    sweep: SweepSpec | None

    @property
    def options(self) -> str | None:
        """The options after `moe-theory verdict CLAIM` that choose these rows; None if no options do."""
        if self.sweep is None:
            return None
        smoke = self.sweep.starts == SMOKE["starts"]
        usual = sweep_of(self.claim, **smoke_of(self.claim)) if smoke else sweep_of(self.claim)
        problem = self.sweep.problem.model_dump()
        changed = {name: value for name, value in problem.items() if value != getattr(usual.problem, name)}
        if "k_true" in changed:
            changed["k_fit"] = problem["k_fit"]  # which otherwise follows k_true
        if not changed.keys() <= set(OPTIONS):
            return None
        chosen = ["--smoke"] if smoke else []
        chosen += [_option(name, value) for name, value in changed.items()]
        chosen += [f"--seed {self.sweep.seed}"] if self.sweep.seed != usual.seed else []
        chosen += [f"--starts {self.sweep.starts}"] if self.sweep.starts != usual.starts else []
        if not set(self.sizes) <= set(usual.sizes):
            grid = grid_of(self.sizes) or grid_of(self.sweep.sizes)
            if grid is None:
                return None
            chosen.append(f"--n {grid}")
        chosen += [f"--reps {self.replications}"] if self.replications > usual.replications else []
        return " ".join(chosen)

    def within(self, sweep: SweepSpec) -> bool:
        """Whether a sweep reads all of these rows."""
        same = self.problem_hash == problem_hash(sweep)
        return same and set(self.sizes) <= set(sweep.sizes) and self.replications <= sweep.replications


def holdings(store: Store, claim: Claim) -> list[Holding]:
    """What is stored of a claim, one holding per problem.

    Raises:
        StoreError: if the store holds a Parquet file that is not a result.
    """
    by_problem = groupby(store.cells(claim.id), key=lambda key: key.problem_hash)
    return [_holding(store, claim, name, list(keys)) for name, keys in by_problem]


def holds(store: Store, claim: Claim, sweep: SweepSpec) -> bool:
    """Whether any row of a sweep is stored."""
    return any(key.problem_hash == problem_hash(sweep) and key.n in sweep.sizes for key in store.cells(claim.id))


def also_stored(store: Store, claim: Claim, sweep: SweepSpec | None, command: str) -> list[str]:
    """One line for everything of a claim that a sweep does not read: the command that asks for it, and its extent.

    Args:
        store: where to look.
        claim: whose rows.
        sweep: what is read anyway; None for nothing.
        command: 'verdict' or 'plot'.
    """
    return [_line(store, held, command) for held in holdings(store, claim) if sweep is None or not held.within(sweep)]


def grid_of(sizes: Sequence[int]) -> str | None:
    """The text 'first:last:count' that `parse_sizes` reads as these sizes; None if none does."""
    if len(sizes) < 2:
        return None
    first, last = (_short(size) for size in (sizes[0], sizes[-1]))
    text = f"{first}:{last}:{len(sizes)}"
    return text if parse_sizes(text) == tuple(sizes) else None


def _option(name: str, value: Any) -> str:
    """How the command line sets a setting to this value."""
    if name == "anchored":
        return "--anchored" if value else "--no-anchor"
    return f"--{name.replace('_', '-')} {value}"


def _short(size: int) -> str:
    """1000 as 1e3, 1234 as it is."""
    power = len(str(size)) - 1
    mantissa, rest = divmod(size, 10**power)
    return f"{mantissa}e{power}" if rest == 0 and power > 2 else str(size)


def _holding(store: Store, claim: Claim, name: str, keys: list[CellKey]) -> Holding:
    sizes = {n: {r for key in of_size for r in key.replications} for n, of_size in groupby(keys, key=lambda key: key.n)}
    return Holding(claim, name, tuple(sizes), max(map(len, sizes.values())), _recorded(store, keys[-1]))


def _recorded(store: Store, key: CellKey) -> SweepSpec | None:
    try:
        sweep = specify(type(sweep_of(claim_named(key.claim))), store.metadata(key).get("specification") or {})
    except (InputError, StoreError):
        return None
    return sweep if problem_hash(sweep) == key.problem_hash else None


def _line(store: Store, held: Holding, command: str) -> str:
    first, last = held.sizes[0], held.sizes[-1]
    extent = f"{len(held.sizes)} sizes from {_short(first)} to {_short(last)}, {held.replications} replications"
    options = held.options
    if options is None:
        return f"{held.claim.id}, problem {held.problem_hash} ({extent}): no options choose it, open it by load_results"
    folder = "" if store.root.as_posix() == "results" else f"--results {store.root}"
    return f"{' '.join(filter(None, ('moe-theory', command, held.claim.id, options, folder)))}  ({extent})"
