"""Where a result came from: versions, code, commit, device and time, as plain values that JSON can hold."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import moe_theory

_PACKAGE = Path(moe_theory.__file__).resolve().parent
_LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "pandas", "pyarrow")


def provenance() -> dict[str, Any]:
    """Describe the program that is running: what produced a number, so that it can be produced again.

    Keys: `python`, one per library, `moe_theory` (versions); `code` (hash of the package's source, which
    tells two uncommitted states apart); `git_commit` and `git_dirty` (None outside a clone; dirty refers to
    the package's folder); `platform`, `device`, `devices` (JAX's kind and number of local devices);
    `written_at` (UTC, ISO 8601).
    """
    return {**_program(), "written_at": datetime.now(UTC).isoformat()}


@cache
def _program() -> dict[str, Any]:
    # Imported here, because reading stored results must not start an accelerator.
    import jax

    devices = jax.local_devices()
    return {
        "python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
        "moe_theory": moe_theory.__version__,
        "code": source_hash(),
        "git_commit": _commit(),
        "git_dirty": _is_dirty(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


def source_hash() -> str:
    """Name the state of the package's Python source, committed or not, by 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def _commit() -> str | None:
    # An installed copy may lie inside the clone of another project, whose commit would mislead.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git("rev-parse", "--verify", "HEAD")


def _is_dirty() -> bool | None:
    status = _git("status", "--porcelain", "--", ".") if _commit() is not None else None
    return None if status is None else bool(status)
