"""Verdicts on comparisons, on rows of known law."""

import json

import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.comparing import compare, comparison_table
from moe_theory.study.phases import ratio_figure
from moe_theory.theory.claims import claim_named
from moe_theory.theory.comparisons import COMPARISONS, parts_of

SIZES = tuple(10**e for e in (5, 7, 9, 11))
SERIES, TAU = COMPARISONS["hora-vs-mh-lora"], COMPARISONS["dora-tau-role"]


@pytest.fixture
def rows(synthetic_rows):
    """Rows of every claim of a comparison, errors so many times as large; noise of claim i from stream i * apart."""

    def made(comparison, factor=lambda name: 1.0, replications=16, apart=100, **exponents):
        frames = {}
        for place, name in enumerate(comparison.parts):
            frame = synthetic_rows(SIZES, replications, apart * place, **exponents)
            frame[["function_error", "D_1"]] *= factor(name)
            frames[name] = frame
        return frames

    return made


def heads(name):
    return int(name.rpartition("h")[2])


def test_a_ratio_that_grows_with_the_heads_is_supported(rows):
    made = compare(SERIES, rows(SERIES, lambda name: (3.0 * heads(name)) ** 0.5 if "lora" in name else 1.0))
    assert made.main.status == "SUPPORTED"
    assert made.main.growth is not None
    low, high = made.main.growth.interval()
    assert low < 1.0 < high
    for found, h in zip(made.main.contrasts, (1, 2, 4, 8), strict=True):
        low, high = found.log_ratio.interval(0.999)
        assert low < np.log(3.0 * h) < high


def test_an_advantage_of_the_other_side_is_refuted_and_none_is_undecided(rows):
    assert compare(SERIES, rows(SERIES, lambda name: 0.5 if "lora" in name else 1.0)).main.status == "REFUTED"
    assert compare(SERIES, rows(SERIES)).main.status == "UNDECIDED"


def test_equal_exponents_refute_another_law_and_different_ones_support_it(rows):
    assert compare(TAU, rows(TAU)).main.status == "UNDECIDED"  # of eight pairs 16 replications leave one open
    same = rows(TAU, replications=64, apart=0)
    assert compare(TAU, same).main.status == "REFUTED"
    slow = same | {
        "doran-fixed-tau-0.5": rows(TAU, replications=64, apart=0, overfitted_error=-0.125)["doran-fixed-tau-0.5"]
    }
    found = compare(TAU, slow)
    assert found.main.status == "SUPPORTED"
    assert "doran, fixed magnitudes, tau 0.5" in found.main.reason
    assert "dora, fixed" not in found.main.reason


def test_uncertified_fits_decide_nothing(rows):
    frames = rows(SERIES, lambda name: 10.0 if "lora" in name else 1.0)
    frames["hora-exact-h1"].loc[:3, "certified"] = False
    made = compare(SERIES, frames)
    assert made.main.status == "UNDECIDED"
    assert "certified" in made.main.reason


def test_too_few_sizes_name_the_claim_to_run(rows):
    frames = rows(SERIES)
    frames["hora-exact-h2"] = frames["hora-exact-h2"].query("n == 10**5")
    with pytest.raises(InputError, match="moe-theory run hora-exact-h2"):
        compare(SERIES, frames)


def test_the_table_and_the_json_hold_every_pair(rows, tmp_path):
    made = compare(SERIES, rows(SERIES, lambda name: 2.0 if "lora" in name else 1.0))
    lines = [line for line in comparison_table(made).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + 2 * len(SERIES.pairs)
    described = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert {"id", "verdict", "exponent", "interval", "certified_share", "replications", "n"} <= described.keys()
    assert [pair["predicted_ratio"] for pair in described["aspects"][0]["pairs"]] == [
        pair.ratio for pair in SERIES.pairs
    ]
    drawn = ratio_figure(made, "heads", "ratio", tmp_path / "ratio")
    assert [path.suffix for path in drawn] == [
        ".png",
        ".pdf",
        ".csv",
        ".json",
    ]


def test_parts_are_known_claims_and_unknown_names_are_refused():
    for comparison in COMPARISONS.values():
        assert all(claim_named(name) for name in comparison.parts)
    assert parts_of(["lora-over", "hora-vs-mh-lora"]) == ["lora-over", *SERIES.parts]
    with pytest.raises(InputError, match=r"unknown claim .x.: choose .*, hora-vs-mh-lora"):
        parts_of(["x"])
