"""The store: cells come back as written, faults are named and left in place, gaps are found."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_theory.errors import InputError, StoreError
from moe_theory.study.provenance import provenance, source_hash
from moe_theory.study.store import CellKey, Store, load_results

CLAIM, PROBLEM = "replora-tanh-over", "0123456789abcdef"


def key(n: int = 1000, first: int = 0, count: int = 4, claim: str = CLAIM) -> CellKey:
    return CellKey(claim, PROBLEM, n, first, count)


def rows(cell: CellKey, scale: float = 1.0) -> pd.DataFrame:
    replication = np.arange(cell.first, cell.first + cell.count)
    return pd.DataFrame(
        {
            "n": np.full(cell.count, cell.n),
            "replication": replication,
            "loss": scale * (1.0 + replication) / np.sqrt(cell.n),
            "undefined": np.full(cell.count, np.nan),
            "status": ["converged"] * cell.count,
            "seconds_fit": np.random.default_rng().random(cell.count),
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def put(store: Store, cell: CellKey, scale: float = 1.0, **metadata: object) -> Path:
    return store.write_cell(cell, rows(cell, scale), {"block": 64, **metadata})


def test_rows_and_metadata_come_back_as_written(store: Store):
    cell = key(n=10**15)
    frame = rows(cell)
    path = store.write_cell(cell, frame, {"block": 64, "specification": {"sigma": 1.0}})
    pd.testing.assert_frame_equal(store.read(CLAIM, PROBLEM), frame, check_exact=True)
    metadata = store.metadata(cell)
    assert metadata["specification"] == {"sigma": 1.0}
    assert metadata["block"] == 64
    assert provenance().keys() <= metadata.keys()
    assert store.cells() == [cell]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows_are_sorted_whatever_the_order_of_writing(store: Store):
    for cell in [key(1000, 4), key(10, 0), key(1000, 0)]:
        put(store, cell)
    frame = store.read(CLAIM, PROBLEM)
    assert frame["n"].tolist() == [10] * 4 + [1000] * 8
    assert frame["replication"].tolist() == [0, 1, 2, 3, *range(8)]
    assert store.read(CLAIM, PROBLEM, sizes=[10])["n"].unique().tolist() == [10]
    assert store.cells() == [key(10, 0), key(1000, 0), key(1000, 4)]


def test_one_line_loads_everything(store: Store):
    put(store, key())
    put(store, key(claim="lora-exact"))
    frame = load_results(store.root)
    assert list(frame.columns[:4]) == ["claim", "problem_hash", "n", "replication"]
    assert sorted(frame["claim"].unique()) == ["lora-exact", CLAIM]
    assert load_results(store.root, CLAIM)["claim"].unique().tolist() == [CLAIM]


def test_gaps_are_found_and_stored_rows_are_reused(store: Store):
    assert store.missing(CLAIM, PROBLEM, [10, 100], 8) == [(10, 0, 8), (100, 0, 8)]
    put(store, key(10, 2, 3))
    put(store, key(100, 0, 8))
    assert store.missing(CLAIM, PROBLEM, [10, 100, 1000], 8) == [(10, 0, 2), (10, 5, 3), (1000, 0, 8)]
    assert store.missing(CLAIM, PROBLEM, [100], 4) == []
    assert store.missing(CLAIM, "f" * 16, [100], 4) == [(100, 0, 4)]


@given(
    blocks=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=4),
    replications=st.integers(1, 15),
)
def test_gaps_and_stored_blocks_cover_every_replication_once(tmp_path_factory, blocks, replications):
    store = Store(tmp_path_factory.mktemp("store"))
    stored: set[int] = set()
    for first, count in blocks:
        put(store, key(10, first, count))
        stored |= set(range(first, first + count))
    gaps = store.missing(CLAIM, PROBLEM, [10], replications)
    absent = [replication for _, first, count in gaps for replication in range(first, first + count)]
    assert sorted(absent) == sorted(set(range(replications)) - stored)
    assert all(first + count < later for (_, first, count), (_, later, _) in pairwise(gaps))


def test_overlap_of_equal_runs_is_one_row_each(store: Store):
    put(store, key(1000, 0, 4))
    put(store, key(1000, 2, 4))
    frame = store.read(CLAIM, PROBLEM)
    assert frame["replication"].tolist() == list(range(6))


def test_equal_runs_that_disagree_are_an_error(store: Store):
    one, other = put(store, key(1000, 0, 4)), put(store, key(1000, 2, 4), scale=1.0 + 1e-15)
    with pytest.raises(StoreError, match="differ in 'loss'") as caught:
        store.read(CLAIM, PROBLEM)
    assert one.name in str(caught.value)
    assert other.name in str(caught.value)


def test_of_different_environments_the_last_written_wins(store: Store):
    put(store, key(1000, 2, 4), scale=1.0, block=64, written_at="2030-01-01T00:00:00+00:00")
    put(store, key(1000, 0, 4), scale=2.0, block=7, written_at="2031-01-01T00:00:00+00:00")
    frame = store.read(CLAIM, PROBLEM)
    expected = [2.0, 4.0, 6.0, 8.0, 5.0, 6.0]
    np.testing.assert_allclose(frame["loss"] * np.sqrt(1000), expected, rtol=1e-15)


def test_writing_a_cell_again_replaces_it(store: Store):
    put(store, key())
    put(store, key(), scale=3.0)
    assert store.read(CLAIM, PROBLEM)["loss"].iloc[0] == 3.0 / np.sqrt(1000)


@pytest.mark.parametrize(
    "frame",
    [
        rows(key()).drop(columns="n"),
        rows(key()).iloc[:3],
        rows(key()).iloc[::-1],
        rows(key(n=10)),
        rows(key(first=1)),
    ],
)
def test_rows_must_be_those_of_the_key(store: Store, frame: pd.DataFrame):
    with pytest.raises(InputError, match="rows"):
        store.write_cell(key(), frame, {})
    assert not store.root.exists()


@pytest.mark.parametrize("claim", ["", "..", "a/b", "*", ".hidden", "a b"])
def test_claim_must_be_able_to_name_a_folder(store: Store, claim: str):
    with pytest.raises(InputError, match="cannot name a folder"):
        key(claim=claim)
    with pytest.raises(InputError, match="cannot name a folder"):
        store.cells(claim)


@pytest.mark.parametrize(("n", "first", "count"), [(0, 0, 1), (10, -1, 1), (10, 0, 0), (10**16, 0, 1)])
def test_key_out_of_range(n: int, first: int, count: int):
    with pytest.raises(InputError, match="a cell needs"):
        key(n, first, count)


def test_half_a_file_is_named_and_left_in_place(store: Store):
    path = put(store, key())
    whole = path.read_bytes()
    for damaged in [whole[: len(whole) // 2], b"", whole[:-4], b"not parquet at all"]:
        path.write_bytes(damaged)
        for use in [
            lambda: store.read(CLAIM, PROBLEM),
            lambda: store.missing(CLAIM, PROBLEM, [1000], 4),
            lambda: store.metadata(key()),
            lambda: load_results(store.root),
        ]:
            with pytest.raises(StoreError, match="left in place; move or delete") as caught:
                use()
            assert str(path) in str(caught.value)
        assert path.read_bytes() == damaged
    path.unlink()
    assert store.missing(CLAIM, PROBLEM, [1000], 4) == [(1000, 0, 4)]


def test_changed_bytes_are_noticed(store: Store):
    path = put(store, key())
    content = bytearray(path.read_bytes())
    position = bytes(content).index(np.float64(1.0 / np.sqrt(1000)).tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        store.read(CLAIM, PROBLEM)


def test_changed_metadata_are_noticed(store: Store):
    path = put(store, key())
    path.write_bytes(path.read_bytes().replace(b'{"format"', b'["format"'))
    with pytest.raises(StoreError, match="cannot be read"):
        store.metadata(key())


def test_folder_names_never_become_columns(tmp_path: Path):
    store = Store(tmp_path / "seed=1")
    put(store, key())
    assert "seed" not in store.read(CLAIM, PROBLEM)


def test_foreign_and_renamed_files_are_refused(store: Store):
    path = put(store, key())
    foreign = path.with_name("mine.parquet")
    rows(key()).to_parquet(foreign)
    with pytest.raises(StoreError, match=r"mine\.parquet.*its name is not that of a cell"):
        store.cells()
    foreign.rename(path)
    with pytest.raises(StoreError, match="not written by moe-theory"):
        store.read(CLAIM, PROBLEM)
    put(store, key())
    path.rename(store.root / key(n=10).path)
    with pytest.raises(StoreError, match="not the one that its name"):
        store.read(CLAIM, PROBLEM)
    with pytest.raises(StoreError, match="not the one that its name"):
        store.missing(CLAIM, PROBLEM, [10], 4)


def test_other_formats_and_other_rows_are_refused(store: Store):
    path = put(store, key(), format=99)
    with pytest.raises(StoreError, match="its format is 99"):
        store.metadata(key())
    put(store, key())
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)
    with pytest.raises(StoreError, match="it holds 3 rows, its name says 4"):
        store.missing(CLAIM, PROBLEM, [1000], 4)
    pq.write_table(pa.concat_tables([table.slice(0, 3), table.slice(0, 1)]), path)
    with pytest.raises(StoreError, match="the rows must be"):
        store.read(CLAIM, PROBLEM)


def test_folder_with_an_impossible_name_is_refused(store: Store):
    path = put(store, key())
    path.parent.parent.rename(store.root / "two words")
    with pytest.raises(StoreError, match="cannot name a folder"):
        store.cells()


def test_what_a_killed_writer_leaves_is_ignored(store: Store):
    """A writer killed between creating its temporary file and renaming it leaves the store readable."""
    put(store, key(10))
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import pandas as pd
from moe_theory.study import store
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
cell = store.CellKey({CLAIM!r}, {PROBLEM!r}, 100, 0, 1)
frame = pd.DataFrame({{"n": [100], "replication": [0], "loss": [1.0]}})
store.Store({str(store.root)!r}).write_cell(cell, frame, {{}})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    leftovers = list(store.root.rglob("*.tmp"))
    assert len(leftovers) == 1
    assert store.cells() == [key(10)]
    assert store.missing(CLAIM, PROBLEM, [10, 100], 4) == [(100, 0, 4)]
    put(store, key(100))
    assert len(store.read(CLAIM, PROBLEM)) == 8


def test_failed_write_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch):
    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match=r"No space left on device.*--results DIR"):
        put(store, key())
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_unwritable_folder_is_found_before_anything_is_computed(tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    for root in [blocker, blocker / "results"]:
        with pytest.raises(StoreError, match="choose a writable folder with --results DIR"):
            Store(root).check_writable()
    with pytest.raises(StoreError, match="--results DIR"):
        put(Store(blocker / "results"), key())
    with pytest.raises(StoreError, match="is a file, not a folder"):
        Store(blocker).cells()
    assert blocker.read_text() == ""


def test_writable_folder_is_made_and_left_empty(tmp_path: Path):
    store = Store(tmp_path / "a" / "b")
    store.check_writable()
    store.check_writable()
    assert list(store.root.iterdir()) == []


def test_nothing_stored_says_what_to_run(store: Store):
    assert store.cells() == []
    with pytest.raises(StoreError, match=f"moe-theory run {CLAIM}"):
        store.read(CLAIM, PROBLEM)
    with pytest.raises(StoreError, match="moe-theory run CLAIM"):
        load_results(store.root)
    with pytest.raises(StoreError, match="moe-theory run lora-exact"):
        load_results(store.root, "lora-exact")


def test_provenance_is_plain_and_names_the_code():
    from moe_theory.study import provenance as module

    module._program.cache_clear()  # it may have been asked for first where a fixture shows one device
    described = provenance()
    assert described["code"] == source_hash()
    assert described["devices"] == 2
    assert described["jax"].split(".")[0] == "0"
    assert described["git_dirty"] in (True, False, None)
    assert (described["git_commit"] is None) == (described["git_dirty"] is None)


def test_provenance_outside_a_clone_names_no_commit(monkeypatch: pytest.MonkeyPatch):
    from moe_theory.study import provenance as module

    monkeypatch.setenv("PATH", "")
    assert module._commit() is None
    assert module._is_dirty() is None
