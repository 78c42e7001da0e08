"""The simulation scripts: each answers --help, and its numbers make a valid sweep."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from moe_theory.study.sweep import sweep_of
from moe_theory.theory.claims import claim_named

FOLDER = Path(__file__).resolve().parents[1] / "simulations"
COMMON = FOLDER / "common.py"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path != COMMON)


@pytest.fixture
def load(monkeypatch):
    """Import a script from its path, as Python does when it is run, but without running it."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def imported(path: Path) -> ModuleType:
        specification = importlib.util.spec_from_file_location(f"simulation_{path.stem}", path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    yield imported
    sys.modules.pop("common", None)


def test_there_are_scripts():
    assert "replora_rates.py" in [path.name for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_helps_from_any_folder(path, tmp_path):
    command = [sys.executable, str(path), "--help"]
    environment = {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--smoke", "--results", "--figures", "--workers"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_numbers_at_the_top_make_valid_sweeps(path, load):
    script = load(path)
    assert script.CLAIMS
    for claim in map(claim_named, script.CLAIMS):
        sweep = sweep_of(claim, **load(COMMON).asked(script.SIZES, script.REPLICATIONS), seed=script.SEED)
        assert sweep.sizes[-1] >= max(measure.from_size for measure in (claim.main, *claim.others))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_does(path, load):
    assert path.name in load(path).__doc__


@pytest.mark.slow
def test_early_stopping_runs_at_smoke_sizes(tmp_path):
    command = [sys.executable, str(FOLDER / "early_stopping.py"), "--smoke", "--workers", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(FOLDER.parent)}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) == 6
    assert "Warning" not in done.stderr
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".pdf", ".csv", ".json"}
