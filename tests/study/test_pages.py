"""The page of claims: every claim has its section, and shows what is stored, no more."""

from typing import Any

from moe_theory.study.comparing import compare
from moe_theory.study.glance import margins_table
from moe_theory.study.pages import DERIVATIONS, claims_page
from moe_theory.study.report import report
from moe_theory.study.spec import ADAPTERS
from moe_theory.study.store import Store
from moe_theory.study.sweep import sweep_of
from moe_theory.study.witnesses import keep, witnesses
from moe_theory.theory.claims import CLAIMS, claim_named
from moe_theory.theory.comparisons import COMPARISONS

SIZES = tuple(10**e for e in range(3, 13))


def test_every_claim_has_a_section_and_only_stored_ones_a_result(synthetic_rows, tmp_path):
    claim = claim_named("lora-exact")
    made = report(claim, sweep_of(claim), synthetic_rows(SIZES, 64))
    (tmp_path / "lora-exact.png").touch()
    page = claims_page(list(CLAIMS.values()), {claim.id: made}, [], tmp_path)
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    assert list(sections) == ["Verdicts", *CLAIMS]
    glance = sections.pop("Verdicts")
    (row,) = [line for line in glance.splitlines() if "](#" in line]
    assert row.startswith("| [lora-exact](#lora-exact)")
    assert f"{made.main.verdict.exponent:+.3f}" in row
    for name, section in sections.items():
        assert all(word in section for word in ("*Source*", "*Derivation*", "*Experiment*", CLAIMS[name].statement))
        assert ("not stored" in section) == (name != claim.id)
        assert ("figures/" in section) == (name == claim.id)
    assert f"{made.main.verdict.exponent:+.3f}" in sections[claim.id]
    assert made.main.verdict.reason in sections[claim.id]


def test_the_three_witnesses_stand_side_by_side(synthetic_rows, tmp_path):
    claim, store = claim_named("replora-linear-over"), Store(tmp_path)
    made = report(claim, sweep_of(claim), synthetic_rows(SIZES, 16))
    absent = claims_page([claim], {claim.id: made}, [], tmp_path, {claim.id: witnesses(made, store)})
    assert "not stored when this page was written (`moe-theory certify replora-linear-over --results" in absent
    keep(store, made.sweep.problem, {"laws": {"exact": None, "2": {"kind": "no-power", "exponent": None}}})
    page = claims_page([claim], {claim.id: made}, [], tmp_path, {claim.id: witnesses(made, store)})
    assert "certify says no power law, the claim n^-0.5" in page
    (glance,) = [line for line in page.splitlines() if line.startswith("| [replora-linear-over]")]
    assert "DISAGREE: certify says no power law" in glance
    assert "more below" in glance
    assert "not stored" not in page


def test_margins_are_the_least_over_the_atoms_and_zero_to_rounding():
    def atom(any_atoms: float, two: float) -> dict[str, Any]:
        return {"rounding": 1e-12, "any_atoms": any_atoms, "by_atoms": {"2": two, "3": any_atoms}}

    answer = {
        "first_order_margin": 0.0123,
        "first_order": {"threshold": 1e-11},
        "second_order_margin": 2e-13,
        "second_order": [atom(2e-13, 0.004), atom(0.02, 0.03)],
        "all_cells_at_once": {"value": 2e-13, "decision": "zero"},
        "frozen_cell": {"lower": 0.5, "decision": "undecided"},
        "visibility": "invisible: split into 3",
        "blame": {"blocks": {"B_V": 30.0, "A_V": 66.0, "m_V": 4.0}},
    }
    row = margins_table({"mine": answer}).splitlines()[2].strip("| ")
    assert [cell.strip() for cell in row.split("|")] == [
        "`mine`", "0.012", "0", "0.004", "0", "undecided", "invisible: split into 3", "A_V 66, B_V 30",
    ]  # fmt: skip


def test_every_derivation_leads_to_a_heading(request):
    text = (request.config.rootpath / "docs" / "theory.md").read_text()
    kept = str.maketrans("", "", ',:;"()*')
    anchors = {
        line.lstrip("# ").lower().translate(kept).replace(" ", "-") for line in text.splitlines() if line[:1] == "#"
    }
    assert set(DERIVATIONS) == set(ADAPTERS)
    assert {anchor.removeprefix("theory.md#") for anchor, _ in DERIVATIONS.values()} <= anchors


def test_a_comparison_has_a_section(synthetic_rows, tmp_path):
    comparison = COMPARISONS["hora-vs-mh-lora"]
    rows = {name: synthetic_rows((10**5, 10**7, 10**9), 16, 100 * i) for i, name in enumerate(comparison.parts)}
    page = claims_page([], {}, [compare(comparison, rows)], tmp_path)
    assert "## hora-vs-mh-lora" in page
    assert "H = 8" in page
