"""Prediction, modulus and simulation side by side: what is kept, what follows for each error, who contradicts whom."""

import json

import numpy as np
import pytest

from moe_theory.errors import StoreError
from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.study.report import report
from moe_theory.study.spec import ProblemSpec, truth_hash
from moe_theory.study.store import Store
from moe_theory.study.sweep import sweep_of
from moe_theory.study.tables import witness_table
from moe_theory.study.witnesses import foreseen, foreseen_of_density, keep, kept, kept_moduli, nearest_law, witnesses
from moe_theory.theory.claims import Measure, claim_named
from moe_theory.theory.laws import Prediction

SIZES = tuple(10**e for e in range(3, 13))
HALF, QUARTER, NONE = Prediction("power", -0.5), Prediction("power", -0.25), Prediction("no-power")


def stored(kind, exponent=None):
    return {"kind": kind, "exponent": exponent}


REGULAR = {"exact": stored("power", -0.5), "2": stored("power", -0.25), "3": stored("power", -0.25)}
HIDDEN = {"exact": stored("power", -0.5), "2": stored("no-power"), "3": stored("no-power")}


def modulus(slope):
    delta = np.geomspace(1e-6, 1e-1, 11)
    return {"slope": slope, "distances": delta.tolist(), "losses": (3.0 * delta**slope).tolist()}


def seen(tmp_path, synthetic_rows, laws, slope, name="replora-linear-over", **exponents):
    claim, store = claim_named(name), Store(tmp_path)
    made = report(claim, sweep_of(claim), synthetic_rows(SIZES, 64, **exponents))
    keep(store, made.sweep.problem, {"laws": laws, "modulus": modulus(slope)})
    return witnesses(made, store)


def test_an_answer_is_kept_for_the_truth_whatever_is_fitted_to_it(tmp_path):
    store, problem = Store(tmp_path), ProblemSpec(adapter="replora")
    assert kept(store, problem) is None
    keep(store, problem, {"laws": REGULAR})
    for changes in ({"k_fit": 2}, {"sigma": 3.0}, {"weight_floor": 0.0}):
        assert kept(store, problem.model_copy(update=changes)) == {"laws": REGULAR}
    assert kept(store, problem.model_copy(update={"rank": 2})) is None
    (path,) = (tmp_path / "certified").iterdir()
    assert path.name == f"{truth_hash(problem)}.json"
    assert "code" in json.loads(path.read_text())["provenance"]
    for damaged in ("{", '{"found": {}}'):
        path.write_text(damaged)
        with pytest.raises(StoreError, match="move or delete it"):
            kept(store, problem)


def test_an_answer_without_its_moduli_is_damaged(tmp_path):
    keep(Store(tmp_path), DensityProblemSpec(), {"laws": FREE})
    with pytest.raises(StoreError, match=r"block_moduli.*move or delete it"):
        kept(Store(tmp_path), DensityProblemSpec())


def test_without_an_answer_a_verdict_says_how_to_get_one(tmp_path, synthetic_rows):
    claim = claim_named("replora-linear-over")
    sweep = sweep_of(claim)
    problem = sweep.problem.model_copy(update={"rank": 2, "anchored": False})
    made = report(claim, sweep.model_copy(update={"problem": problem}), synthetic_rows(SIZES, 16))
    found = witnesses(made, Store(tmp_path))
    assert found.each == ()
    assert found.advice == f"moe-theory certify replora-linear-over --rank 2 --no-anchor --results {tmp_path}"
    assert found.advice in witness_table([found])
    assert found.as_json()["advice"] == found.advice
    assert not (tmp_path / "certified").exists()


@pytest.mark.parametrize(
    ("column", "atoms", "spare", "expected"),
    [
        ("D_12", QUARTER, 1, HALF),
        ("D_12_truth_highest", QUARTER, 1, HALF),
        ("overfitted_error", QUARTER, 1, QUARTER),
        ("D_12", Prediction("power", -0.125), 2, QUARTER),
        ("overfitted_error", Prediction("power", -0.125), 2, Prediction("power", -0.125)),
        ("D_12", NONE, 1, NONE),
        ("overfitted_value_error", NONE, 1, NONE),
        ("singleton_error", NONE, 1, HALF),
        ("D_1", NONE, 0, HALF),
        ("function_error", NONE, 1, None),
        ("overfitted_error", NONE, 0, None),
    ],
)
def test_the_law_of_an_error_follows_from_that_of_the_atoms(column, atoms, spare, expected):
    laws = {"exact": stored("power", -0.5), str(spare + 1): stored(atoms.kind, atoms.exponent)}
    measure = Measure(column, column, HALF)
    assert foreseen(measure, laws, ProblemSpec(k_true=2, k_fit=2 + spare)) == expected


@pytest.mark.parametrize(
    ("together", "spare", "expected"),
    [(NONE, 2, NONE), (NONE, 1, HALF), (QUARTER, 2, HALF), (Prediction("power", -0.125), 2, QUARTER), (None, 2, None)],
)
def test_with_an_atom_to_spare_for_every_cell_the_law_is_the_slowest(together, spare, expected):
    quarter = stored("power", -0.25)
    last = together if together is None else stored(together.kind, together.exponent)
    laws = {"exact": stored("power", -0.5), "2": quarter, "3": quarter, "together": last}
    assert foreseen(Measure("D_12", "", HALF), laws, ProblemSpec(k_true=2, k_fit=2 + spare)) == expected


def test_without_a_floor_nothing_is_said_of_the_farthest_atom():
    measure, problem = Measure("farthest_error", "", HALF), ProblemSpec(weight_floor=0.0)
    assert foreseen(measure, REGULAR, problem) is None
    assert foreseen(measure, REGULAR, problem.model_copy(update={"weight_floor": 0.05})) == QUARTER


@pytest.mark.parametrize(
    ("exponent", "law"), [(-0.44, HALF), (-0.3, QUARTER), (-0.004, NONE), (-0.12, Prediction("power", -0.125))]
)
def test_a_measured_exponent_stands_for_the_nearest_law(exponent, law):
    assert nearest_law(exponent) == law


def test_three_that_agree_are_said_to(tmp_path, synthetic_rows):
    found = seen(tmp_path, synthetic_rows, REGULAR, 0.93)
    by_column = {each.judged.measure.column: each for each in found.each}
    assert by_column["D_12"].finding == "agree"
    assert by_column["D_12"].exponent == pytest.approx(-0.465)
    assert by_column["overfitted_error"].finding == "agree"
    assert by_column["overfitted_error"].exponent is None
    assert by_column["function_error"].finding == "-"
    assert "n^-0.47" in witness_table([found]) or "n^-0.46" in witness_table([found])


def test_a_simulation_that_misses_a_split_is_a_finding(tmp_path, synthetic_rows):
    """So it was with RepLoRA of rank two: the set that was searched fell as n^-1/2."""
    found = seen(tmp_path, synthetic_rows, HIDDEN, 0.0)
    told = {each.judged.measure.column: each.disagreements for each in found.each}["D_12_truth_highest"]
    assert told == (
        "certify says no power law, the claim n^-0.5",
        "the simulation refutes no power law (certify and the modulus)",
    )
    assert "DISAGREE" in witness_table([found])


def test_a_modulus_that_contradicts_the_margins_is_a_finding(tmp_path, synthetic_rows):
    found = seen(tmp_path, synthetic_rows, REGULAR, 0.5)
    assert found.each[0].disagreements == (
        "the modulus says n^-0.25, certify n^-0.5",
        "the simulation refutes n^-0.25 (the modulus)",
    )


def test_three_plateaus_agree(tmp_path, synthetic_rows):
    found = seen(tmp_path, synthetic_rows, HIDDEN, 0.0, "lora-over", D_12_truth_highest=0.0)
    assert found.each[0].finding == "agree"


def test_a_density_is_never_named_as_the_regression_with_the_same_settings():
    assert truth_hash(AdaptedProblemSpec()) != truth_hash(ProblemSpec())
    assert truth_hash(AdaptedProblemSpec(adapter="lora")) != truth_hash(ProblemSpec(adapter="lora"))


EIGHTH, TWELFTH = Prediction("power", -1 / 8), Prediction("power", -1 / 12)
FREE = {
    "exact": stored("power", -0.5), "2": stored("power", -1 / 8), "3": stored("power", -1 / 12), "together": None,
}  # fmt: skip


def of_blocks(blocks, everywhere=None):
    return {"laws": FREE, "block_moduli": blocks, "block_moduli_all_cells_at_once": everywhere or {}}


def density_report(synthetic_rows, name="gaussian-gated-type1-k4", **exponents):
    claim = claim_named(name)
    rows = synthetic_rows(tuple(10**e for e in range(8, 16)), 64)
    for measure in (claim.main, *claim.others):
        law = exponents.get(measure.column, measure.prediction.exponent or 0.0)
        rows[measure.column] = rows["D_12"] * (rows["n"] / 1e8) ** (law + 0.5)
    return report(claim, sweep_of(claim), rows)


def density_seen(tmp_path, synthetic_rows, found, **exponents):
    made, store = density_report(synthetic_rows, **exponents), Store(tmp_path)
    keep(store, made.sweep.problem, found)
    return {each.judged.measure.column: each for each in witnesses(made, store).each}


PAIRS = {
    "pair": modulus(1 / 4), "pair_center": modulus(1 / 4), "pair_spread": modulus(1 / 2), "pair_D": modulus(1.0),
}  # fmt: skip


def test_the_blocks_of_a_density_have_the_moduli_of_their_cells(tmp_path, synthetic_rows):
    found = density_seen(tmp_path, synthetic_rows, of_blocks(PAIRS))
    assert (found["pair_error"].foreseen, found["pair_error"].exponent) == (EIGHTH, pytest.approx(-1 / 8))
    assert (found["pair_spread_error"].foreseen, found["pair_spread_error"].exponent) == (None, pytest.approx(-1 / 4))
    assert (found["D"].foreseen, found["D"].exponent) == (None, -0.5)
    assert found["singleton_error"].foreseen == HALF
    assert not any(each.disagreements for each in found.values())
    assert found["weight_error"].finding == "-"


def test_a_density_whose_simulation_is_too_fast_is_a_finding(tmp_path, synthetic_rows):
    found = density_seen(tmp_path, synthetic_rows, of_blocks(PAIRS), pair_error=-0.25)
    assert found["pair_error"].disagreements == (
        "the simulation refutes n^-0.125 (the claim and certify and the modulus)",
    )


@pytest.mark.parametrize(
    ("name", "whole"),
    [("gaussian-gated-type1-k4", 1.0), ("gaussian-gated-type1-k5", 0.9), ("softmax-gated-k3", 1.0),
     ("softmax-gated-k4", 0.0)],
)  # fmt: skip
def test_the_loss_of_a_density_falls_as_its_slowest_cells(tmp_path, synthetic_rows, name, whole):
    """Of two atoms, of three where there are two more, of all at once where there are twice as many as true ones."""
    made = density_report(synthetic_rows, name)
    known = of_blocks({**PAIRS, "triple_D": modulus(0.9)}, {"pair_D": modulus(0.0)})
    keep(Store(tmp_path), made.sweep.problem, known)
    assert kept_moduli(made, Store(tmp_path))["D"].slope == whole


def test_two_point_bounds_of_a_density_are_those_of_its_affinities(tmp_path, synthetic_rows):
    made = density_report(synthetic_rows)
    assert kept_moduli(made, Store(tmp_path)) == {}
    keep(Store(tmp_path), made.sweep.problem, of_blocks(PAIRS))
    found = kept_moduli(made, Store(tmp_path))
    assert set(found) == {"pair_error", "pair_center_error", "pair_spread_error", "D"}
    sizes = np.array([1e3, 1e9])
    h, loss = (np.array(PAIRS["pair_center"][key]) for key in ("distances", "losses"))
    apart = np.sqrt(1.0 - (1.0 - h[None] ** 2) ** (2.0 * sizes[:, None]))
    np.testing.assert_allclose(
        found["pair_center_error"].two_densities(sizes), np.max(loss * (1.0 - apart) / 2.0, axis=1), rtol=1e-6
    )


def test_a_mean_that_is_fitted_to_draws_from_a_mixture_has_no_bound(tmp_path, synthetic_rows):
    """What is hidden from the mean shows in the draws, so that two such measures can be told apart."""
    for name, bounds in (("conditional-mean-lora-over", 0), ("conditional-density-lora-over", 1)):
        claim = claim_named(name)
        rows = synthetic_rows((10**12, 10**13, 10**14, 10**15), 16)
        for measure in (claim.main, *claim.others):
            rows[measure.column] = rows["D_12"]
        made = report(claim, sweep_of(claim), rows)
        keep(Store(tmp_path), made.sweep.problem, {"laws": REGULAR, "modulus": modulus(0.0)})
        assert len(kept_moduli(made, Store(tmp_path))) == bounds


def test_of_a_regression_the_main_error_alone_has_a_bound(tmp_path, synthetic_rows):
    claim = claim_named("replora-linear-over")
    made = report(claim, sweep_of(claim), synthetic_rows(SIZES, 64))
    keep(Store(tmp_path), made.sweep.problem, {"laws": REGULAR, "modulus": modulus(1.0)})
    (column,) = kept_moduli(made, Store(tmp_path))
    assert column == claim.main.column


@pytest.mark.parametrize(
    ("column", "k_fit", "together", "expected"),
    [
        ("pair_error", 3, stored("no-power"), EIGHTH),
        ("pair_error", 4, stored("no-power"), NONE),
        ("pair_error", 4, None, EIGHTH),
        ("triple_error", 4, stored("no-power"), TWELFTH),
        ("singleton_gate_error", 3, None, HALF),
        ("pair_gate_error", 3, None, None),
        ("function_error", 3, None, None),
    ],
)
def test_laws_of_a_density_with_free_parameters(column, k_fit, together, expected):
    problem = DensityProblemSpec(family="softmax-gated", setting="published", k_true=2, k_fit=k_fit)
    assert foreseen_of_density(Measure(column, "", HALF), {**FREE, "together": together}, problem) == expected


def test_a_density_without_an_answer_says_how_to_get_one(tmp_path, synthetic_rows):
    for name in ("softmax-gated-k4", "gaussian-density-lora-over"):
        claim = claim_named(name)
        rows = synthetic_rows((10**12, 10**13, 10**14, 10**15), 16)
        for measure in (claim.main, *claim.others):
            rows[measure.column] = rows["D_12"]
        keep(Store(tmp_path), ProblemSpec(adapter="lora"), {"laws": REGULAR, "modulus": modulus(1.0)})
        found = witnesses(report(claim, sweep_of(claim), rows), Store(tmp_path))
        assert (found.each, found.advice) == ((), f"moe-theory certify {name} --results {tmp_path}")
