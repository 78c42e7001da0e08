"""The claims table: complete, consistent, and each claim a sweep that can be run."""

import re

import pytest

from moe_theory.errors import InputError
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.study.spec import ADAPTERS, EMBEDDED, SweepSpec
from moe_theory.study.sweep import sweep_of
from moe_theory.study.verdict import LEAST_SIZES
from moe_theory.theory.claims import CLAIMS, GROUPS, HALF, HEADLINE, NO_POWER, SETTLED_FROM, claim_named
from moe_theory.theory.comparisons import parts_of
from moe_theory.theory.density_claims import DIFFERENT

IDS = (
    "lora-exact",
    "lora-over",
    "replora-linear-exact",
    "replora-linear-over",
    "replora-tanh-exact",
    "replora-tanh-over",
    "replora-sigmoid-over",
    "lora-over-gaussian",
    "replora-linear-over-gaussian",
)


@pytest.mark.parametrize("name", IDS)
def test_every_promised_claim_exists(name):
    assert claim_named(name) is CLAIMS[name]
    assert claim_named(name).id == name


def test_a_published_law_that_is_not_ours_says_why():
    """Same column, two laws, and the reason beside the published one."""
    for name, differ in DIFFERENT.items():
        claim = claim_named(name)
        measures = (claim.main, *claim.others)
        for (kind, block), laws in differ.items():
            column = f"{kind}_{block}_error" if block else f"{kind}_error"
            ours, published = (measure for measure in measures if measure.column == column)
            assert (ours.prediction, published.prediction) == (laws.ours, laws.published)
            assert (ours.remark, published.remark) == ("", laws.remark)
            assert published.words.endswith("as published")


REGRESSION = {name: claim for name, claim in CLAIMS.items() if claim.kind == "regression"}
DENSITY = {name: claim for name, claim in CLAIMS.items() if claim.kind == "density"}


@pytest.mark.parametrize("claim", DENSITY.values(), ids=DENSITY)
def test_every_density_claim_makes_the_sweep_that_its_name_says(claim):
    sweep = sweep_of(claim)
    problem = sweep.problem
    assert isinstance(problem, DensityProblemSpec)
    assert claim.id.startswith(problem.family)
    assert (problem.k_fit > problem.k_true) == (claim.specification == "over")
    if claim.id != "gaussian-gated-exact":
        assert claim.id.endswith(f"k{problem.k_fit}")
        assert problem.setting.replace("-", "") in (*claim.id.split("-"), "published")
    smallest = {measure.prediction.exponent for measure in (claim.main, *claim.others)} - {None}
    cells = {0: 2, 1: 8, 2: 12}[problem.k_fit - problem.k_true]
    assert max(smallest) == pytest.approx(-1 / cells)


@pytest.mark.parametrize("claim", REGRESSION.values(), ids=REGRESSION)
def test_every_claim_makes_a_valid_default_sweep_of_its_own_kind(claim):
    sweep = sweep_of(claim)
    assert isinstance(sweep, SweepSpec)
    series = re.search(r"-h(\d)$", claim.id)
    sizes = sweep.sizes
    if series:
        assert (sizes[0], sizes[-1], len(sizes)) == (10**7, 10**13, 4)
    elif not claim.sweep.get("sizes"):
        assert (sizes[0], sizes[-1], len(sizes)) == (10**3, 10**12, 10)
    least = max(measure.from_size for measure in (claim.main, *claim.others))
    assert sum(n >= least for n in sizes) >= LEAST_SIZES
    settles_late = claim.kind == "regression" and least == SETTLED_FROM  # float64 ends the certificate at 10^12
    assert sizes[-1] >= 10 ** (3 if settles_late else 4) * least
    problem = sweep.problem
    assert (problem.dimension, problem.rank, problem.k_true, problem.sigma) == (4, 1, 2, 1.0)
    assert problem.k_fit == {"exact": 2, "over": 3}[claim.specification]
    named = claim.id.removeprefix("mh-")
    assert problem.adapter == max((a for a in ADAPTERS if named.startswith(f"{a}-")), key=len)
    usual = 2 if claim.id.startswith(("mh-", "hora-")) else 1
    assert problem.heads == (int(series[1]) if series else usual)
    assert problem.gate == ("gaussian" if "gaussian" in claim.id else "attention")
    generated = "tanh" if problem.adapter in ("doran", *EMBEDDED) or claim.id == "mh-replora-over" else "identity"
    named_activation = next((name for name in ("tanh", "sigmoid") if name in claim.id), generated)
    assert problem.activation == named_activation
    assert (problem.weight_floor == 0) == claim.id.endswith("nofloor")
    assert claim.statement
    assert claim.source


def test_plain_lora_over_specified_has_no_power_law_but_a_function_at_root_n():
    for name in ("lora-over", "lora-over-gaussian"):
        claim = claim_named(name)
        assert claim.main.prediction == NO_POWER
        assert claim.identified_set
        assert {m.column: m.prediction for m in claim.others}["function_error"] == HALF


def test_the_headline_is_in_the_table():
    assert set(HEADLINE) <= set(CLAIMS)


def test_an_unknown_claim_is_told_with_all_known_ones():
    with pytest.raises(InputError, match="unknown claim 'lora'") as told:
        claim_named("lora")
    assert all(name in str(told.value) for name in CLAIMS)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        CLAIMS["new"] = CLAIMS["lora-over"]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(TypeError):
        CLAIMS["lora-over"].problem["rank"] = 2  # pyright: ignore[reportIndexIssue]


def test_every_claim_is_in_one_group_and_groups_can_be_asked_for():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(CLAIMS)
    assert set(HEADLINE) <= set(GROUPS["singles"])
    assert all("replications" in CLAIMS[name].sweep for name in GROUPS["tables"])
    assert set(GROUPS["densities"]) == {name for name, claim in CLAIMS.items() if claim.kind != "regression"}
    assert parts_of(["tables", "lora-exact", "hora-vs-mh-lora"]) == [*GROUPS["tables"], "lora-exact"]
    with pytest.raises(InputError, match=r"unknown claim 'singels'.*singles"):
        parts_of(["singels"])
