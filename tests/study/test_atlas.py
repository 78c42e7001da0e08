"""The atlas: which cells there are, that each is kept, how they are told, and that the page is that of the numbers."""

import json
from pathlib import Path

import pandas as pd
import pytest

from moe_theory.errors import InputError, StoreError
from moe_theory.study.atlas import SYSTEMS, TOLD, Place, atlas_table, law_words, make_atlas, places
from moe_theory.study.atlas_figure import atlas_figure, kind_of

pytestmark = pytest.mark.usefixtures("quick")

REPOSITORY = Path(__file__).resolve().parents[2]
CHEAP = Place([system.name for system in SYSTEMS].index("RepLoRA linear"), "attention", 1, True)


def row_of(system="LoRA", gate="attention", rank=1, anchored=True, **told):
    shared = "nothing"
    return {"system": system, "shared": shared, "gate": gate, "rank": rank, "anchored": anchored,
            **dict.fromkeys(TOLD), "note": "", "seconds": 1.0, **told}  # fmt: skip


QUARTER = {
    "first_order": 0.02, "singular": False, "margin_two_atoms": 0.04, "margin_any": 0.03, "together": 0.02,
    "decision": "positive", "two_atoms_law": "n^-0.25", "three_atoms_law": "n^-0.25", "all_cells_law": "n^-0.25",
    "blame": "A 60, B 40",
}  # fmt: skip
NONE = {**QUARTER, "decision": "zero", "fewest_atoms_at_zero": 2, "two_atoms_law": "no power law",
        "three_atoms_law": "no power law", "all_cells_law": "no power law"}  # fmt: skip
SMALL = {**NONE, "fewest_atoms_at_zero": 3, "two_atoms_law": "n^-0.25"}
LATER = {**NONE, "fewest_atoms_at_zero": 4, "two_atoms_law": "n^-0.25", "three_atoms_law": "n^-0.25"}
OPEN = {**SMALL, "three_atoms_law": "undecided", "all_cells_law": "undecided"}
TOGETHER = {**QUARTER, "together": 1e-16, "together_decision": "zero", "all_cells_law": "no power law"}
NO_ANSWER = {"note": "undecided: the truth does not lie inside the parameter space"}

KINDS = {
    "positive": (QUARTER, "n^-0.25"),
    "slow": (NONE, "no power law"),
    "small cells": (SMALL, "n^-0.25; 3 atoms: no power law"),
    "together": (TOGETHER, "n^-0.25; all cells: no power law"),
    "undecided": (NO_ANSWER, "undecided"),
}


def test_the_atlas_covers_every_axis():
    every = places()
    assert len(every) == len(set(every)) == 2 * 3 * 2 * len(SYSTEMS)
    problems = [place.problem for place in every]
    assert {problem.adapter for problem in problems} == {
        "lora", "replora", "dora", "doran", "dial", "hora", "hora-heads",
    }  # fmt: skip
    assert {(problem.gate, problem.rank, problem.anchored) for problem in problems} == {
        (gate, rank, anchored) for gate in ("attention", "gaussian") for rank in (1, 2, 3) for anchored in (True, False)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_told_by_its_laws(kind):
    told, words = KINDS[kind]
    assert kind_of(row_of(**told)) == kind
    assert law_words(row_of(**told)) == words


def test_a_cell_that_is_not_followed_says_so():
    assert kind_of(row_of(**OPEN)) == "open"
    assert law_words(row_of(**OPEN)) == "n^-0.25; 3 atoms: undecided"
    assert law_words(row_of(**LATER)) == "n^-0.25; no power law from 4 atoms"
    assert law_words(row_of(**{**OPEN, "all_cells_law": "no power law"})) == (
        "n^-0.25; 3 atoms: undecided; more: no power law"
    )
    assert kind_of(row_of(**{**TOGETHER, "all_cells_law": "undecided"})) == "undecided"
    assert kind_of(row_of(**{**QUARTER, "singular": True})) == "undecided"
    assert law_words(row_of(**{**QUARTER, "singular": True})) == "singular truth"


def test_a_cell_is_certified_once_and_kept(tmp_path):
    made = make_atlas(tmp_path, 1, [CHEAP])
    (kept,) = tmp_path.iterdir()
    row = made.to_dict("records")[0]
    assert (row["system"], row["two_atoms_law"], row["decision"]) == ("RepLoRA linear", "n^-0.25", "positive")
    assert 0.0 < row["together_lower"] <= row["together"] <= row["margin_any"]
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "note": "kept"}))
    assert make_atlas(tmp_path, 1, [CHEAP])["note"].tolist() == ["kept"]
    kept.write_text("{")
    with pytest.raises(StoreError, match="remove it"):
        make_atlas(tmp_path, 1, [CHEAP])


def test_the_figure_and_the_table_show_every_cell(tmp_path):
    rows = [
        row_of("LoRA", gate, rank, anchored, **[NONE, QUARTER, NO_ANSWER][rank - 1])
        for gate in ("attention", "gaussian") for rank in (1, 2, 3) for anchored in (True, False)
    ]  # fmt: skip
    atlas = pd.DataFrame([*rows, row_of("HoRA tanh, 2 heads", **SMALL)])
    paths = atlas_figure(atlas, tmp_path / "atlas", {"seed": 0})
    assert [path.suffix for path in paths] == [".png", ".pdf", ".csv", ".json"]
    assert json.loads(paths[3].read_text())["cells"] == {"slow": 4, "positive": 4, "undecided": 4, "small cells": 1}
    assert len(pd.read_csv(paths[2])) == len(atlas)
    lines = atlas_table(atlas).splitlines()
    assert len(lines) == 2 + 4 + 1
    told = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert told[4:] == ["no power law (0.02; A 60, B 40)", "n^-0.25 (0.02, 0.04)", "undecided"]
    with pytest.raises(InputError, match="no cells"):
        atlas_figure(atlas.iloc[:0], tmp_path / "atlas")


def test_the_page_holds_the_table_of_the_stored_numbers():
    atlas = pd.read_csv(REPOSITORY / "figures" / "identifiability-atlas.csv", keep_default_na=True)
    page = (REPOSITORY / "docs" / "atlas.md").read_text(encoding="utf-8")
    assert atlas_table(atlas) in page
    assert len(atlas) > 0
    assert set(atlas["system"]) <= {system.name for system in SYSTEMS}
