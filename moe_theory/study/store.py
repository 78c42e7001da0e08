"""Results on disk: one Parquet file per cell, written whole or not at all, loaded in one line.

    root / claim / problem hash / n<size>-r<first replication>-c<how many>.parquet

A cell is one claim and problem at one sample size, for one block of replications. Its file appears by a
rename (temporary name, fsync, os.replace), so a kill at any moment costs its cell only, and several
processes may share a folder without a lock.
"""

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moe_theory.errors import InputError, StoreError
from moe_theory.study.provenance import provenance

FORMAT = 1
VOLATILE_PREFIX = "seconds"
"""Columns whose name begins so hold times, which differ between equal runs."""

_METADATA = b"moe_theory"
_FILE_NAME = re.compile(r"n(\d{16})-r(\d{8})-c(\d{8})\.parquet")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENVIRONMENT = ("code", "jax", "jaxlib", "numpy", "platform", "device", "block")


@dataclass(frozen=True, order=True)
class CellKey:
    """Name of a cell: replications first ... first + count - 1 of a claim and problem at sample size n.

    Raises:
        InputError: if claim or problem hash cannot name a folder, or a number is out of range.
    """

    claim: str
    problem_hash: str
    n: int
    first: int
    count: int

    def __post_init__(self) -> None:
        _check_word(self.claim)
        _check_word(self.problem_hash)
        if not (1 <= self.n < 10**16 and 0 <= self.first < 10**8 and 1 <= self.count < 10**8):
            raise InputError(f"a cell needs n >= 1, first >= 0 and count >= 1, all below 10^16 and 10^8, got {self}")

    @property
    def path(self) -> Path:
        """The cell's file, relative to the store's folder."""
        name = f"n{self.n:016d}-r{self.first:08d}-c{self.count:08d}.parquet"
        return Path(self.claim, self.problem_hash, name)

    @property
    def replications(self) -> range:
        """The replications that the cell holds."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class _Cell:
    path: Path
    key: CellKey
    frame: pd.DataFrame
    metadata: dict[str, Any]

    @property
    def environment(self) -> tuple[Any, ...]:
        return tuple(self.metadata.get(name) for name in _ENVIRONMENT)


class Store:
    """A folder of results.

    Every file in it is written once and replaced only as a whole. A file that cannot be trusted raises
    `StoreError` and is left where it is.
    """

    def __init__(self, root: str | Path) -> None:
        """Name the folder; nothing is created before something is written."""
        self.root = Path(root)

    def check_writable(self) -> None:
        """Make sure, before anything is computed, that results can be written.

        Raises:
            StoreError: if the folder cannot be made or written to.
        """
        probe = self.root / f".writable-{uuid.uuid4().hex}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"results cannot be written to {self.root} ({error.strerror}): choose a writable folder with "
                "--results DIR"
            ) from None

    def write_cell(self, key: CellKey, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> Path:
        """Write one cell, completely or not at all, and return its path.

        A cell that is already there is replaced in one step.

        Args:
            key: the cell.
            frame: one row per replication, its columns `n` and `replication` as the key says, in order.
            metadata: what JSON can hold, for example `specification` and `block`; `provenance()` is added.

        Raises:
            InputError: if the rows are not those that the key names.
            StoreError: if the file cannot be written.
        """
        _check_rows(key, frame)
        described = {"format": FORMAT, "key": asdict(key), **provenance(), **metadata}
        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _METADATA: json.dumps(described, allow_nan=False).encode()}
        )
        path = self.root / key.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(table, path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written ({error.strerror or error}): free space or choose another folder "
                "with --results DIR; the cells written so far are kept"
            ) from error
        return path

    def cells(self, claim: str | None = None) -> list[CellKey]:
        """List the stored cells, of one claim or of all, in order of their keys.

        Raises:
            InputError: if the claim's id cannot name a folder.
            StoreError: if the root is not a folder, or holds a Parquet file that is not a result.
        """
        if claim is not None:
            _check_word(claim)
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file, not a folder of results: choose a folder with --results DIR")
        paths = self.root.glob(f"{claim or '*'}/*/*.parquet")
        return sorted(_key_of(path) for path in paths if not path.name.startswith("."))

    def metadata(self, key: CellKey) -> dict[str, Any]:
        """Read what is recorded with a cell: specification, versions, commit, device, time.

        Raises:
            StoreError: if the file cannot be read or is not the cell that its name says.
        """
        path = self.root / key.path
        with _naming(path):
            footer = pq.read_metadata(path)
        if footer.num_rows != key.count:
            raise _untrusted(path, f"it holds {footer.num_rows} rows, its name says {key.count}")
        return _checked_metadata(path, key, footer.metadata or {})

    def read(self, claim: str, problem_hash: str, sizes: Iterable[int] | None = None) -> pd.DataFrame:
        """Read the rows of a claim and problem: one per replication, sorted by n, then replication.

        Where blocks overlap, the cell written last wins. Rows computed in the same environment (code,
        versions, device, block) must then agree exactly, apart from columns named seconds*; rows from
        different environments may differ by rounding, which over-fitted errors amplify.

        Args:
            claim: id of the claim.
            problem_hash: as made by `moe_theory.study.spec.problem_hash`.
            sizes: sample sizes wanted; all by default.

        Raises:
            StoreError: if nothing is stored, a file cannot be trusted, or equal runs disagree.
        """
        wanted = None if sizes is None else set(sizes)
        keys = [key for key in self._of_problem(claim, problem_hash) if wanted is None or key.n in wanted]
        if not keys:
            raise StoreError(f"{self.root} holds no such results of claim {claim}: run `moe-theory run {claim}` first")
        return _merged([self._read_cell(key) for key in keys])

    def missing(
        self, claim: str, problem_hash: str, sizes: Sequence[int], replications: int
    ) -> list[tuple[int, int, int]]:
        """List what must still be computed for replications 0 ... replications - 1 of every size.

        Returns:
            Gaps (n, first, count), as long as possible, in the order of `sizes`.

        Raises:
            StoreError: if a stored file that counts as done cannot be trusted.
        """
        keys = [key for key in self._of_problem(claim, problem_hash) if key.n in set(sizes)]
        stored: dict[int, set[int]] = {n: set() for n in sizes}
        for key in keys:
            self.metadata(key)
            stored[key.n].update(key.replications)
        return [(n, first, count) for n in sizes for first, count in _gaps(stored[n], replications)]

    def _of_problem(self, claim: str, problem_hash: str) -> list[CellKey]:
        return [key for key in self.cells(claim) if key.problem_hash == problem_hash]

    def _read_cell(self, key: CellKey) -> _Cell:
        path = self.root / key.path
        with _naming(path):
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
            frame = table.to_pandas()
        metadata = _checked_metadata(path, key, table.schema.metadata or {})
        try:
            _check_rows(key, frame)
        except InputError as error:
            raise _untrusted(path, str(error)) from None
        return _Cell(path, key, frame, metadata)


def load_results(path: str | Path, claim: str | None = None) -> pd.DataFrame:
    """Load stored results into one tidy data frame: a row per claim, problem, n and replication.

    Args:
        path: folder of results.
        claim: id of one claim; all by default.

    Raises:
        StoreError: if there are no results, or a file cannot be trusted.
    """
    store = Store(path)
    problems = sorted({(key.claim, key.problem_hash) for key in store.cells(claim)})
    if not problems:
        of_claim = "" if claim is None else f" of claim {claim}"
        raise StoreError(f"{path} holds no results{of_claim}: run `moe-theory run {claim or 'CLAIM'}` first")
    frames = []
    for name, problem in problems:
        frame = store.read(name, problem)
        frame.insert(0, "claim", name)
        frame.insert(1, "problem_hash", problem)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _check_word(word: str) -> None:
    if not _WORD.fullmatch(word):
        raise InputError(f"{word!r} cannot name a folder: use letters, digits, '.', '_' and '-'")


def _check_rows(key: CellKey, frame: pd.DataFrame) -> None:
    absent = {"n", "replication"} - set(frame.columns)
    if absent:
        raise InputError(f"the rows of a cell need the columns n and replication, but {sorted(absent)} is absent")
    rows = list(zip(frame["n"], frame["replication"], strict=True))
    if rows != [(key.n, replication) for replication in key.replications]:
        raise InputError(
            f"the rows must be n = {key.n}, replications {key.first} to {key.first + key.count - 1} in order"
        )


def _write_atomically(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            pq.write_table(table, file, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the new name itself may be lost with the power
    finally:
        os.close(folder)


def _untrusted(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} is not a result that can be trusted: {reason}. It was left in place; move or delete it "
        "and run again (only its own cell is computed anew)"
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _untrusted(path, f"it cannot be read ({error})") from None


def _key_of(path: Path) -> CellKey:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise _untrusted(path, "its name is not that of a cell")
    try:
        return CellKey(path.parent.parent.name, path.parent.name, *(int(group) for group in match.groups()))
    except InputError as error:
        raise _untrusted(path, str(error)) from None


def _checked_metadata(path: Path, key: CellKey, raw: Mapping[bytes, bytes]) -> dict[str, Any]:
    if _METADATA not in raw:
        raise _untrusted(path, "it was not written by moe-theory")
    with _naming(path):
        metadata = json.loads(raw[_METADATA])
    if metadata.get("format") != FORMAT:
        raise _untrusted(path, f"its format is {metadata.get('format')}, this version reads format {FORMAT}")
    if metadata.get("key") != asdict(key):
        raise _untrusted(path, f"it is the cell {metadata.get('key')}, not the one that its name and folder say")
    return metadata


def _gaps(stored: set[int], replications: int) -> Iterator[tuple[int, int]]:
    absent = [replication for replication in range(replications) if replication not in stored]
    for _, run in groupby(enumerate(absent), key=lambda pair: pair[1] - pair[0]):
        gap = [replication for _, replication in run]
        yield gap[0], len(gap)


def _merged(cells: list[_Cell]) -> pd.DataFrame:
    for _, of_one_size in groupby(sorted(cells, key=lambda cell: cell.key), key=lambda cell: cell.key.n):
        for one, other in combinations(of_one_size, 2):
            if one.environment == other.environment:
                _check_agreement(one, other)
    cells = sorted(cells, key=lambda cell: (cell.metadata["written_at"], cell.key))
    rows = pd.concat([cell.frame for cell in cells], ignore_index=True)
    rows = rows.drop_duplicates(["n", "replication"], keep="last")
    return rows.sort_values(["n", "replication"], ignore_index=True)


def _check_agreement(one: _Cell, other: _Cell) -> None:
    common = sorted(set(one.key.replications) & set(other.key.replications))
    if not common:
        return
    left, right = (cell.frame.set_index("replication").loc[common] for cell in (one, other))
    for column in sorted(set(left.columns) | set(right.columns)):
        if column.startswith(VOLATILE_PREFIX):
            continue
        if column not in left or column not in right or not _equal(left[column], right[column]):
            raise StoreError(
                f"{one.path} and {other.path} hold the same replications, computed in the same environment, "
                f"but differ in {column!r}: move or delete one, and report this: equal runs must agree"
            )


def _equal(left: pd.Series, right: pd.Series) -> bool:
    return bool(((left == right) | (left.isna() & right.isna())).all())
