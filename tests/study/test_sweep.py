"""Sweeps: gaps become cells, what is stored is not computed again, every claim has a valid smoke sweep."""

import threading
from concurrent.futures.process import BrokenProcessPool
from queue import Queue

import pytest

from moe_theory.errors import InputError, MoeTheoryError, StoreError
from moe_theory.study import sweep as module
from moe_theory.study.spec import problem_hash
from moe_theory.study.store import CellKey, Store
from moe_theory.study.sweep import CELL, SMOKE, rows_of, run_claims, smoke_of, sweep_of
from moe_theory.theory.claims import CLAIMS, claim_named

CLAIM = claim_named("replora-linear-exact")


def run_claim(claim, sweep, store, workers):
    """Of one claim."""
    return run_claims([(claim, sweep)], store, workers)[0]


@pytest.fixture
def computed(monkeypatch, synthetic_rows):
    """Replace the fitting by synthetic rows; the list of the cells asked for."""
    asked = []

    def compute(claim, sweep, root, gaps):
        yield 0, 0
        for n, first, count in gaps:
            asked.append((n, first, count))
            key = CellKey(claim.id, problem_hash(sweep), n, first, count)
            Store(root).write_cell(key, synthetic_rows([n], count, first), {"block": sweep.block})
            yield n, count

    monkeypatch.setattr(module, "compute_cells", compute)
    return asked


def never(*_):
    raise AssertionError("nothing was missing, and yet something was computed")


def test_gaps_are_split_into_cells():
    assert module._in_cells([(10, 0, CELL), (20, 3, 2 * CELL + 1)]) == [
        (10, 0, CELL),
        (20, 3, CELL),
        (20, 3 + CELL, CELL),
        (20, 3 + 2 * CELL, 1),
    ]
    assert module._in_cells([]) == []


def test_one_worker_computes_every_cell_and_returns_the_rows(tmp_path, computed, capsys):
    sweep = sweep_of(CLAIM, sizes=(10**4, 10**5), replications=CELL + 4)
    rows = run_claim(CLAIM, sweep, Store(tmp_path), workers=1)
    assert computed == [(n, first, count) for n in sweep.sizes for first, count in ((0, CELL), (CELL, 4))]
    assert rows[["n", "replication"]].values.tolist() == [[n, r] for n in sweep.sizes for r in range(CELL + 4)]
    assert f"{len(rows)}/{len(rows)} done" in capsys.readouterr().err


def test_the_estimate_of_the_time_left_begins_when_compiled(tmp_path, computed, monkeypatch):
    told = []

    class Recorder(module.Progress):
        def ready(self):
            told.append("ready")
            super().ready()

        def advance(self, units=1, note=""):
            told.append(units)
            super().advance(units, note)

    monkeypatch.setattr(module, "Progress", Recorder)
    run_claim(CLAIM, sweep_of(CLAIM, sizes=(10**4, 10**5), replications=3), Store(tmp_path), workers=1)
    assert told == ["ready", 3, 3]


def test_a_single_cell_needs_no_pool(tmp_path, computed):
    assert len(run_claim(CLAIM, sweep_of(CLAIM, sizes=(10**4,), replications=3), Store(tmp_path), workers=5)) == 3
    assert computed == [(10**4, 0, 3)]


def test_a_second_run_computes_nothing(tmp_path, computed, monkeypatch):
    sweep = sweep_of(CLAIM, **{**SMOKE, "replications": 4})
    first = run_claim(CLAIM, sweep, Store(tmp_path), workers=1)
    assert computed
    monkeypatch.setattr(module, "compute_cells", never)
    second = run_claim(CLAIM, sweep, Store(tmp_path), workers=1)
    assert second.equals(first)


def test_a_larger_sweep_computes_only_what_is_missing(tmp_path, computed):
    run_claim(CLAIM, sweep_of(CLAIM, sizes=(10**4,), replications=4), Store(tmp_path), workers=1)
    computed.clear()
    wide = sweep_of(CLAIM, sizes=(10**4, 10**6), replications=6)
    assert len(run_claim(CLAIM, wide, Store(tmp_path), workers=1)) == 12
    assert computed == [(10**4, 4, 2), (10**6, 0, 6)]


def test_only_the_rows_asked_for_are_read(tmp_path, computed):
    run_claim(CLAIM, sweep_of(CLAIM, sizes=(10**4, 10**5), replications=6), Store(tmp_path), workers=1)
    part = rows_of(CLAIM, sweep_of(CLAIM, sizes=(10**5,), replications=2), Store(tmp_path))
    assert part[["n", "replication"]].values.tolist() == [[10**5, 0], [10**5, 1]]


def test_another_problem_or_seed_is_not_mistaken_for_this_one(tmp_path, computed):
    sweep = sweep_of(CLAIM, sizes=(10**4,), replications=2)
    run_claim(CLAIM, sweep, Store(tmp_path), workers=1)
    for other in (sweep_of(CLAIM, sizes=(10**4,), seed=1), sweep_of(claim_named("lora-exact"), sizes=(10**4,))):
        with pytest.raises(StoreError, match="run `moe-theory run"):
            rows_of(CLAIM, other, Store(tmp_path))


def test_an_unwritable_folder_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "compute_cells", never)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose a writable folder"):
        run_claim(CLAIM, sweep_of(CLAIM, **SMOKE), Store(tmp_path / "file" / "results"), workers=1)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_has_a_smoke_sweep_that_reaches_its_law(claim):
    sweep = sweep_of(claim, **smoke_of(claim))
    assert len(sweep.sizes) == 4
    assert sweep.replications == 8
    assert sweep.sizes[-1] >= max(measure.from_size for measure in (claim.main, *claim.others))
    assert (sweep.problem.k_fit > sweep.problem.k_true) == (claim.specification == "over")


def test_settings_out_of_range_are_told():
    with pytest.raises(InputError, match="replications") as told:
        sweep_of(CLAIM, replications=0, block=0)
    assert "block" in str(told.value)


def test_workers_begin_with_different_claims_and_then_help_each_other():
    shared = module.Shared(threading.Lock(), [], [Queue(), Queue()], Queue())
    for index in (0, 1):
        for cell in range(2):
            shared.cells[index].put((index, cell, 1))
    assert (shared.next_task(), shared.next_task()) == (0, 1)
    assert [shared.take(0), shared.take(0), shared.take(0)] == [(0, 0, 1), (0, 1, 1), None]
    assert shared.next_task() == 1
    assert [shared.take(1), shared.take(1)] == [(1, 0, 1), (1, 1, 1)]
    assert shared.next_task() is None


def test_a_dead_worker_is_told(tmp_path, monkeypatch):
    class Dead:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, *_):
            from concurrent.futures import Future

            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

    monkeypatch.setattr(module, "ProcessPoolExecutor", Dead)
    with pytest.raises(MoeTheoryError, match="fewer --workers"):
        run_claim(CLAIM, sweep_of(CLAIM, **SMOKE), Store(tmp_path), workers=2)
