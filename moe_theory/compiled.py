"""Compiled code kept between runs: a command that ran before begins at once.

Losing it only costs time. Code compiled for one kind of processor must not travel to another, so each has a folder.
"""

import os
import platform
import sys
import zlib
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
EVERYTHING = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
"""By default JAX keeps what took a second to compile; here hundreds of small programs add up."""


def machine_key() -> str:
    """The kind of processor, as a short name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), platform.processor())
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"


def user_folder() -> Path:
    """Where a user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-theory" / "jax"


def keep_compiled(root: Path | None = None) -> None:
    """Have JAX keep compiled code, in this process and those it starts; for entry points.

    The environment variable JAX_COMPILATION_CACHE_DIR goes first; empty, it keeps nothing. A folder that cannot be
    made is done without.

    Args:
        root: by default ``user_folder()``.
    """
    if FOLDER in os.environ:
        return
    folder = (root or user_folder()) / machine_key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    os.environ[FOLDER] = str(folder)
    for name, value in EVERYTHING.items():
        os.environ.setdefault(name, value)
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
