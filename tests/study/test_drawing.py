"""Which figures are drawn: one per claim, and the comparison when both sides are there."""

import json

import numpy as np
import pandas as pd
import pytest

from moe_theory.errors import StoreError
from moe_theory.study import figures
from moe_theory.study.drawing import draw_claims, draw_headline
from moe_theory.study.panels import BOUND_POINTS
from moe_theory.study.report import report
from moe_theory.study.sweep import SMOKE, sweep_of
from moe_theory.theory.claims import claim_named
from moe_theory.theory.comparisons import COMPARISONS
from moe_theory.theory.envelope import envelope

SIZES = tuple(10**e for e in range(3, 13))
SUFFIXES = (".png", ".pdf", ".csv", ".json")


@pytest.fixture(autouse=True)
def unrendered(monkeypatch):
    """Rendering takes seconds and is tested with the figures: here a picture is a word."""
    monkeypatch.setattr(figures, "_rendered", lambda figure, kind, metadata: kind.encode())


@pytest.fixture
def drawn(synthetic_rows):
    """A function from the id of a claim to its report and rows."""

    def make(name, sizes=SIZES, replications=16, **exponents):
        claim = claim_named(name)
        rows = synthetic_rows(sizes, replications, **exponents)
        return report(claim, sweep_of(claim, sizes=sizes), rows), rows

    return make


def test_a_claim_has_its_figure_its_numbers_and_its_provenance(drawn, tmp_path):
    pair = drawn("replora-linear-over")
    paths = draw_claims([pair], tmp_path / "figures")
    assert paths == [tmp_path / "figures" / f"replora-linear-over{suffix}" for suffix in SUFFIXES]
    assert all(path.stat().st_size for path in paths)
    table = pd.read_csv(paths[2])
    measures = [made.column for made in (pair[0].claim.main, *pair[0].claim.others)]
    assert measures[:4] == ["D_12", "overfitted_error", "singleton_error", "function_error"]
    assert list(dict.fromkeys(table["series"])) == measures
    assert set(table["panel"]) == {"RepLoRA linear, over-specified"}
    described = json.loads(paths[3].read_text())
    assert described["provenance"]["verdict"]["status"] == str(pair[0].main.verdict.status)
    assert "written_at" not in described["provenance"]
    assert {each["series"]: each["predicted_exponent"] for each in described["series"]} == {
        "D_12": -0.5,
        "overfitted_error": -0.25,
        "singleton_error": -0.5,
        "function_error": -0.5,
        "D_12_truth_highest": -0.5,
        "farthest_error": -0.25,
    }
    shown = next(each for each in described["series"] if each["series"] == "D_12")
    assert shown["exponent"] == pair[0].main.verdict.exponent  # figure and table agree


def test_an_exact_claim_is_named_so_and_drawn_twice_alike(drawn, tmp_path):
    pair = drawn("lora-exact")
    first, second = (draw_claims([pair], tmp_path / name) for name in ("one", "two"))
    assert set(pd.read_csv(first[2])["panel"]) == {"LoRA, exact-specified"}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_two_point_bounds_stand_beside_their_errors(drawn, tmp_path):
    """A regression's in units of its noise, a density's own; the numbers are those of the modulus."""
    sizes = np.geomspace(1e3, 1e12, BOUND_POINTS)
    known = envelope([(1e-5, 0.2), (1e-2, 3.0)])
    pair = drawn("replora-linear-over")
    sigma = pair[0].sweep.problem.sigma
    paths = draw_claims([pair], tmp_path, {"replora-linear-over": {"D_12": known}, "another": {"D_12": known}})
    table = pd.read_csv(paths[2]).query("series == 'two-point lower bound of D_12'")
    np.testing.assert_allclose(table["n"], sizes, rtol=1e-9)
    np.testing.assert_allclose(table["center"], known.two_points(sizes, sigma), rtol=1e-9)
    claim = claim_named("gaussian-gated-type1-k4")
    made, rows = drawn("lora-over")
    for measure in (claim.main, *claim.others):
        rows[measure.column] = rows["D_12"]
    made = report(claim, sweep_of(claim, sizes=SIZES), rows)
    moduli = {claim.id: {"pair_center_error": known, "D": known, "unknown": known}}
    table = pd.read_csv(draw_claims([(made, rows)], tmp_path, moduli)[2])
    drawn_bounds = table[table["series"].str.startswith("two-point")]
    assert set(drawn_bounds["series"]) == {f"two-point lower bound of {name}" for name in ("pair_center_error", "D")}
    first = drawn_bounds.query("series == 'two-point lower bound of D'")
    np.testing.assert_allclose(first["center"], known.two_densities(sizes), rtol=1e-9)


def test_smoke_sizes_are_drawn_without_a_law(drawn, tmp_path):
    sizes = sweep_of(claim_named("lora-over"), **SMOKE).sizes
    paths = draw_claims([drawn("lora-over", sizes, 8)], tmp_path)
    assert json.loads(paths[3].read_text())["series"][0]["law"] is None


def test_the_headline_sets_lora_beside_replora(drawn, tmp_path):
    flat = dict.fromkeys(("D_12", "D_12_lowest", "D_12_highest", "D_12_truth_highest", "overfitted_error"), 0.0)
    pairs = [drawn("lora-over", **flat), drawn("replora-linear-over")]
    paths = draw_headline(pairs, tmp_path)
    assert len(paths) == 12
    assert [path.name for path in paths[8:]] == [f"lora-against-replora{suffix}" for suffix in SUFFIXES]
    described = json.loads(paths[11].read_text())["series"]
    predicted = {(each["panel"], each["series"]): each["predicted_exponent"] for each in described}
    assert predicted["LoRA, over-specified", "D_12"] is None
    assert predicted["RepLoRA linear, over-specified", "D_12"] == -0.5
    table = pd.read_csv(paths[10])
    largest = table.query("panel == 'LoRA, over-specified' and series == 'D_12_truth_highest'")
    assert largest["n"].tolist() == list(SIZES)


def test_a_comparison_of_laws_sets_its_claims_side_by_side(drawn, tmp_path):
    """Only if all are there."""
    comparison = COMPARISONS["likelihood-vs-least-squares"]
    sizes, more = (10**11, 10**13, 10**15), {"overfitted_query_error": -0.25, "frozen_error": -0.25}
    pairs = [drawn(name, sizes=sizes, **more) for name in comparison.parts]
    paths = draw_claims(pairs, tmp_path)
    assert paths[-4:] == [tmp_path / f"likelihood-vs-least-squares{suffix}" for suffix in SUFFIXES]
    table = pd.read_csv(paths[-2])
    assert list(dict.fromkeys(table["panel"])) == [made_of.claim.model for made_of, _ in pairs]
    assert set(table["series"]) == {aspect.column for aspect in (comparison.main, *comparison.others)}
    alone = draw_claims(pairs[:3], tmp_path / "fewer")
    assert not any("likelihood-vs" in path.name for path in alone)


def test_one_side_alone_is_not_compared(drawn, tmp_path):
    sizes = SIZES[2:5]
    assert len(draw_headline([drawn("replora-linear-over", sizes, 4)], tmp_path)) == 4


def test_an_unwritable_folder_is_told(drawn, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose a writable folder"):
        draw_claims([drawn("lora-exact")], tmp_path / "file" / "figures")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
