"""The atlas of identifiability: margins and predicted laws of every kind of adapter, gate, sharing, rank and anchor.

Every cell is one truth (the default problem, d = 4, two true atoms, ``problem_seed`` 1) and is kept in a file of its
own as soon as it is known, so that an interrupted atlas goes on where it stopped. A cell without an answer says why.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from moe_theory.errors import InputError, StoreError, portable_errors
from moe_theory.study.figures import write_whole
from moe_theory.study.processes import as_finished
from moe_theory.study.progress import Progress
from moe_theory.study.spec import ProblemSpec, specification_hash, specify
from moe_theory.study.tables import aligned

ATLAS_REVISION = 4
"""Raised by hand whenever a change of the code changes what a kept cell holds."""


class System(NamedTuple):
    """A row of the atlas.

    Attributes:
        name: in words.
        shared: what is shared: nothing, the query's and the value's factors, the heads' atoms, or both.
        settings: of the problem.
    """

    name: str
    shared: str
    settings: Mapping[str, Any]


SYSTEMS = (
    System("LoRA", "nothing", {"adapter": "lora"}),
    System("LoRA, 2 heads", "nothing", {"adapter": "lora", "heads": 2}),
    System("dial, eta 0.7", "in part", {"adapter": "dial", "eta": 0.7}),
    System("DoRA, free magnitudes", "nothing", {"adapter": "dora", "magnitudes": "free"}),
    System("DoRA, fixed magnitudes", "nothing", {"adapter": "dora", "magnitudes": "fixed"}),
    System("DoRA, fixed, tau 0.5", "nothing", {"adapter": "dora", "magnitudes": "fixed", "tau": 0.5}),
    System("DoRA, global magnitudes", "nothing", {"adapter": "dora", "magnitudes": "global"}),
    System("DoRA, global, tau free", "nothing", {"adapter": "dora", "magnitudes": "global", "tau": "free"}),
    System("RepLoRA linear", "query, value", {"adapter": "replora"}),
    System("RepLoRA tanh", "query, value", {"adapter": "replora", "activation": "tanh"}),
    System("RepLoRA tanh, 2 heads", "query, value", {"adapter": "replora", "activation": "tanh", "heads": 2}),
    System(
        "DoRAN tanh, free, tau 0.5", "query, value",
        {"adapter": "doran", "activation": "tanh", "magnitudes": "free", "tau": 0.5},
    ),
    System(
        "DoRAN tanh, fixed, tau 0.5", "query, value",
        {"adapter": "doran", "activation": "tanh", "magnitudes": "fixed", "tau": 0.5},
    ),
    System(
        "DoRAN tanh, global, tau free", "query, value",
        {"adapter": "doran", "activation": "tanh", "magnitudes": "global", "tau": "free"},
    ),
    System("shared by 2 heads, linear", "heads", {"adapter": "hora-heads", "heads": 2}),
    System("shared by 2 heads, tanh", "heads", {"adapter": "hora-heads", "activation": "tanh", "heads": 2}),
    System("HoRA linear, 2 heads", "both", {"adapter": "hora", "heads": 2}),
    System("HoRA tanh, 2 heads", "both", {"adapter": "hora", "activation": "tanh", "heads": 2}),
)  # fmt: skip
GATES = ("attention", "gaussian")
RANKS = (1, 2, 3)
ANCHORED = (True, False)


class Place(NamedTuple):
    """A cell of the atlas: which system, and the three axes."""

    system: int
    gate: str
    rank: int
    anchored: bool

    @property
    def problem(self) -> ProblemSpec:
        """The problem whose truth is certified: the default one, with these settings.

        Raises:
            InputError: for settings that do not fit.
        """
        axes = {"gate": self.gate, "rank": self.rank, "anchored": self.anchored}
        return specify(ProblemSpec, {**SYSTEMS[self.system].settings, **axes})


def places() -> list[Place]:
    """All cells."""
    return [Place(*axes) for axes in product(range(len(SYSTEMS)), GATES, RANKS, ANCHORED)]


def make_atlas(folder: Path, workers: int | None = None, where: Sequence[Place] | None = None) -> pd.DataFrame:
    """Certify the cells that the folder lacks, keep each, and return all as a table: one row per cell.

    Args:
        folder: where cells are kept.
        workers: processes; by default one per processor.
        where: which cells; all of them by default.

    Raises:
        StoreError: a cell cannot be written or read.
        MoeTheoryError: a worker died.
    """
    wanted = places() if where is None else list(where)
    missing = [place for place in wanted if not _file(folder, place).is_file()]
    if missing:
        with Progress(len(missing), "atlas") as progress:
            for place in as_finished(partial(_keep, folder), missing, workers):
                progress.advance(1, f"{SYSTEMS[place.system].name}, {place.gate}, rank {place.rank}")
    return pd.DataFrame([_read(_file(folder, place)) for place in wanted])


def _file(folder: Path, place: Place) -> Path:
    """Named by all that its content depends on."""
    return folder / f"{specification_hash(place.problem)}-{ATLAS_REVISION}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): remove it, and the cell is computed again") from None


@portable_errors()
def _keep(folder: Path, place: Place) -> Place:
    """Certify one cell and write it; its compiled code is of no use to another."""
    import jax

    write_whole(_file(folder, place), (json.dumps(certified_cell(place)) + "\n").encode())
    jax.clear_caches()
    return place


def certified_cell(place: Place) -> dict[str, Any]:
    """One row of the atlas, as plain values; None where there is no answer, with the reason in ``note``."""
    # JAX is imported by the processes that certify, so that the command answers --help at once.
    import jax

    from moe_theory.precision import enable_x64
    from moe_theory.study.identification import Certified
    from moe_theory.study.problem import build
    from moe_theory.theory.identifiability import identify
    from moe_theory.theory.registered_families import mixture_of

    enable_x64()
    begun = time.monotonic()
    system = SYSTEMS[place.system]
    head = {
        "system": system.name, "shared": system.shared, "gate": place.gate, "rank": place.rank,
        "anchored": place.anchored,
    }  # fmt: skip
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # every cell compiles code of its own and runs it little
    try:
        setup = build(place.problem)
        found = identify(mixture_of(setup.model, setup.truth, setup.design))
        told = _told(Certified(system.name, {}, found).as_json())
    except (InputError, AssertionError) as error:
        told = {**dict.fromkeys(TOLD), "note": f"undecided: {error}"}
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    return {**head, **told, "seconds": round(time.monotonic() - begun, 1)}


TOLD = (
    "first_order", "singular", "condition", "margin_two_atoms", "margin_any", "margin_lower", "rounding", "decision",
    "fewest_atoms_at_zero", "together", "together_lower", "together_decision", "visibility", "exact_law",
    "two_atoms_law", "three_atoms_law", "all_cells_law", "blame", "gauge", "note",
)  # fmt: skip
"""What is said of a cell."""


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an answer of `certify`: of the true atom with the least margin."""
    worst = min(answer["second_order"], key=lambda each: (each["any_atoms"], each["by_atoms"]["2"]))
    together, predicted = answer["all_cells_at_once"], answer["predicted"]
    first = answer["first_order"]
    values = (
        answer["first_order_margin"], first["singular"], first["condition"], worst["by_atoms"]["2"],
        worst["any_atoms"], worst["lower_bound"], worst["rounding"], worst["decision"], worst["fewest_atoms_at_zero"],
        together["value"], together["lower"], together["decision"], worst["visibility"], predicted["exact"],
        predicted["over, cells of 2 atoms"], predicted["over, cells of 3 atoms"], predicted["over, all cells at once"],
        ", ".join(f"{name} {share:.0f}" for name, share in answer["blame"]["blocks"].items()),
        answer["gauge_dimension"], "",
    )  # fmt: skip
    return dict(zip(TOLD, values, strict=True))


def law_words(row: Mapping[str, Any]) -> str:
    """The laws of over-fitted atoms in a cell of the atlas, in a few words."""
    if pd.isna(row["decision"]):
        return "undecided"
    if row["singular"]:
        return "singular truth"
    two, three, every = (row[f"{name}_law"] for name in ("two_atoms", "three_atoms", "all_cells"))
    if two != three:
        more = "; more: no power law" if three == "undecided" and every == "no power law" else ""
        return f"{two}; 3 atoms: {three}{more}"
    if two == "n^-0.25" and every != two:
        fewest = row["fewest_atoms_at_zero"]
        return f"{two}; {every} from {fewest:.0f} atoms" if pd.notna(fewest) else f"{two}; all cells: {every}"
    return two


def atlas_table(atlas: pd.DataFrame) -> str:
    """A Markdown table: one row per system, gate, sharing and anchor; law and margins by rank."""
    rows = [["system", "shared", "gate", "anchor", *(f"rank {rank}" for rank in RANKS)]]
    lines: dict[tuple[str, str, bool], dict[int, dict[str, Any]]] = {}
    for row in atlas.to_dict("records"):
        lines.setdefault((row["system"], row["gate"], row["anchored"]), {})[row["rank"]] = row
    for (name, gate, anchored), by_rank in lines.items():
        cells = [_cell_words(by_rank[rank]) if rank in by_rank else "" for rank in RANKS]
        shared = next(iter(by_rank.values()))["shared"]
        rows.append([name, shared, gate, "yes" if anchored else "no", *cells])
    return aligned(rows)


def _cell_words(row: Mapping[str, Any]) -> str:
    law = law_words(row)
    if law in ("undecided", "singular truth"):
        return law
    margins = f"{row['first_order']:.1g}, {row['margin_two_atoms']:.1g}"
    if row["decision"] == "zero":
        return f"{law} ({row['first_order']:.1g}; {row['blame']})"
    return f"{law} ({margins})"
