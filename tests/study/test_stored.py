"""Holdings: everything that is stored is told, with options that choose exactly it."""

import shlex

import pytest

from moe_theory import cli
from moe_theory.study.spec import problem_hash, revise
from moe_theory.study.store import CellKey, Store
from moe_theory.study.stored import also_stored, grid_of, holdings, holds
from moe_theory.study.sweep import SMOKE, sweep_of
from moe_theory.theory.claims import claim_named
from tests.synthetic import stored_rows, synthetic_rows

EXACT, OVER = claim_named("replora-linear-exact"), claim_named("replora-linear-over")
SHORT = {"sizes": "1e4:1e6:3", "replications": 4}


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((1000, 10**4, 10**5), "1e3:1e5:3"),
        ((1234, 5678), "1234:5678:2"),
        ((1000, 2000, 3000), None),
        ((1000,), None),
        ((100, 900), "100:900:2"),
    ],
)
def test_a_grid_is_told_as_it_is_read(sizes, text):
    assert grid_of(sizes) == text


def test_what_a_sweep_reads_is_not_told(tmp_path):
    store, sweep = Store(tmp_path), sweep_of(EXACT, **SHORT)
    stored_rows(store, EXACT, sweep)
    assert holds(store, EXACT, sweep)
    assert also_stored(store, EXACT, sweep, "verdict") == []
    assert len(also_stored(store, EXACT, None, "verdict")) == 1
    assert also_stored(store, OVER, None, "verdict") == []
    assert not holds(store, EXACT, revise(sweep, seed=1))
    assert not holds(store, EXACT, revise(sweep, sizes="1e7:1e8:2"))


SWEEPS = {
    "seed": {"seed": 3},
    "finer grid": {"sizes": "1e4:1e6:7"},
    "more replications": {"replications": 70},
    "starts": {"starts": "near"},
    "smoke": SMOKE,
    "smoke with more": {**SMOKE, "replications": 16},
}
PROBLEMS = {
    "rank": {"rank": 2},
    "fewer true atoms": {"k_true": 1},
    "more true atoms": {"k_true": 3, "k_fit": 4},
    "wide, loud, no floor": {"dimension": 5, "sigma": 0.5, "weight_floor": 0.0},
    "no frozen atom": {"anchored": False},
}


@pytest.mark.parametrize(
    ("problem", "changes"),
    [*(({}, changes) for changes in SWEEPS.values()), *((problem, {}) for problem in PROBLEMS.values())],
    ids=[*SWEEPS, *PROBLEMS],
)
def test_the_options_told_choose_the_rows_that_are_stored(tmp_path, monkeypatch, problem, changes):
    base = sweep_of(OVER, **{**SHORT, **changes})
    sweep = revise(base, problem={**base.problem.model_dump(), **problem})
    stored_rows(Store(tmp_path), OVER, sweep)
    (line,) = also_stored(Store(tmp_path), OVER, None, "verdict")
    command = shlex.split(line.split("  (")[0])
    assert command[:3] == ["moe-theory", "verdict", OVER.id]
    chosen = []
    monkeypatch.setattr(
        cli, "_judge_stored", lambda command, names, store, make, judge: chosen.append(make(OVER)) or []
    )
    cli.app(command[1:], standalone_mode=False)
    assert problem_hash(chosen[0]) == problem_hash(sweep)
    assert set(chosen[0].sizes) >= set(sweep.sizes)
    assert chosen[0].replications >= sweep.replications


def test_extra_sizes_of_the_same_problem_are_told(tmp_path):
    store, coarse = Store(tmp_path), sweep_of(EXACT)
    fine = sweep_of(EXACT, sizes="1e4:1e6:5", replications=4)
    stored_rows(store, EXACT, fine)
    (line,) = also_stored(store, EXACT, coarse, "plot")
    assert line == (
        f"moe-theory plot {EXACT.id} --n 1e4:1e6:5 --results {tmp_path}  (5 sizes from 1e4 to 1e6, 4 replications)"
    )


@pytest.mark.parametrize("metadata", [{}, {"specification": {"problem": {"colour": 1}}}], ids=["none", "unknown"])
def test_rows_whose_settings_no_option_can_name_are_told_too(tmp_path, metadata):
    store = Store(tmp_path)
    store.write_cell(CellKey(EXACT.id, "abc", 10**4, 0, 2), synthetic_rows([10**4], 2), metadata)
    (held,) = holdings(store, EXACT)
    assert held.options is None
    (line,) = also_stored(store, EXACT, None, "verdict")
    assert "problem abc (1 sizes from 1e4 to 1e4, 2 replications): no options choose it" in line


def test_another_instance_of_the_problem_has_no_option(tmp_path):
    base = sweep_of(EXACT, **SHORT)
    sweep = revise(base, problem={**base.problem.model_dump(), "problem_seed": 2})
    stored_rows(Store(tmp_path), EXACT, sweep)
    assert [held.options for held in holdings(Store(tmp_path), EXACT)] == [None]
