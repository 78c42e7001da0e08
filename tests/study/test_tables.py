"""Tables: aligned Markdown with one row per claim and measure."""

from pathlib import Path

import numpy as np

from moe_theory.study.pages import claims_page
from moe_theory.study.report import report
from moe_theory.study.sweep import SMOKE, sweep_of
from moe_theory.study.tables import aligned, claims_table, verdict_table
from moe_theory.theory.claims import CLAIMS, claim_named

SIZES = tuple(10**e for e in range(3, 13))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_columns_line_up():
    assert aligned([["a", "long head"], ["longer", "b"]]).splitlines() == [
        "| a      | long head |",
        "|--------|-----------|",
        "| longer | b         |",
    ]


def test_the_claims_table_has_a_row_per_claim():
    lines = claims_table(CLAIMS.values()).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [cells(line) for line in lines[2:]]
    assert [row[0] for row in rows] == list(CLAIMS)
    by_id = {row[0]: row for row in rows}
    assert by_id["replora-linear-exact"][2:5] == ["exact", "D_1", "n^-0.5"]
    assert by_id["lora-over"][3:5] == ["D_12_truth_highest", "no power law"]


def test_the_verdict_table_has_a_row_per_measure_and_the_reasons(synthetic_rows):
    claims = [claim_named(name) for name in ("replora-linear-exact", "replora-linear-over")]
    reports = [report(claim, sweep_of(claim, sizes=SIZES), synthetic_rows(SIZES, 64)) for claim in claims]
    table, reasons = verdict_table(reports).split("\n\n")
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [cells(line) for line in lines[2:]]
    assert [row[0] for row in rows] == ["replora-linear-exact", "", "replora-linear-over", *[""] * 5]
    assert [row[1] for row in rows[:2]] == ["Voronoi loss D_1", "function error"]
    assert rows[0][3].startswith("-0.")
    assert rows[0][5:] == ["100.0 %", "SUPPORTED"]
    assert rows[1][5] == ""
    spoken = [line for line in reasons.splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0] for line in spoken] == [claim.id for claim in claims]


def test_sample_sizes_and_missing_values_are_told_beneath_the_reason(synthetic_rows):
    claim, rows = claim_named("replora-linear-over"), synthetic_rows(SIZES, 16)
    whole = verdict_table([report(claim, sweep_of(claim, sizes=SIZES), rows)])
    assert "have no value" not in whole
    assert whole.count("  sample size: error 0.001 at n = ") == 1
    rows.loc[rows["replication"] < 4, "overfitted_error"] = np.nan
    rows.loc[(rows["n"] == SIZES[5]) & (rows["replication"] == 0), "certified"] = False
    rows.loc[rows["n"] == SIZES[6], "singleton_error"] = np.nan
    notes = verdict_table([report(claim, sweep_of(claim, sizes=SIZES), rows)]).splitlines()
    assert "  over-fitted atoms: 40 of 160 replications have no value, their fit has no such cell" in notes
    assert "  over-fitted atoms: 1 of those without a value are not certified" in notes
    assert "  singleton atoms: 16 of 160 replications have no value, their fit has no such cell" in notes
    assert "  singleton atoms: hardly any replication has a value at n = 1e+09, not in the curve" in notes


def test_what_was_not_fitted_has_a_dash(synthetic_rows):
    claim = claim_named("replora-linear-over")
    sweep = sweep_of(claim, **SMOKE)
    text = verdict_table([report(claim, sweep, synthetic_rows(sweep.sizes, 8))])
    assert cells(text.splitlines()[2])[3:] == ["-", "undetermined", "100.0 %", "UNDECIDED"]


def test_an_undecided_further_measure_says_what_would_decide_it(synthetic_rows):
    claim = claim_named("replora-linear-over")
    made = report(claim, sweep_of(claim, sizes=SIZES), synthetic_rows(SIZES, 4))  # fewer than a verdict needs
    assert made.open_questions
    told = verdict_table([made])
    for judged in made.open_questions:
        assert f"  {judged.measure.words}: UNDECIDED. {judged.verdict.reason}" in told
    page = claims_page([claim], {claim.id: made}, [], Path("nowhere"))
    assert all(f"- *{each.measure.words}*: {each.verdict.reason}" in page for each in made.open_questions)
