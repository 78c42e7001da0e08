"""Compiled code is kept where the user's other programs keep theirs, unless the environment says where."""

import sys

import pytest

from moe_theory import compiled
from moe_theory.compiled import FOLDER, keep_compiled, machine_key


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment that says nothing, and no JAX to tell."""
    for name in (FOLDER, *compiled.EVERYTHING):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "jax")
    return monkeypatch


def test_a_folder_for_this_kind_of_processor(bare, tmp_path):
    keep_compiled()
    folder = tmp_path / "moe-theory" / "jax" / machine_key()
    assert folder.is_dir()
    assert compiled.os.environ[FOLDER] == str(folder)
    assert all(compiled.os.environ[name] == value for name, value in compiled.EVERYTHING.items())


@pytest.mark.parametrize("given", ["", "/elsewhere"])
def test_the_environment_goes_first(bare, tmp_path, given):
    bare.setenv(FOLDER, given)
    keep_compiled()
    assert compiled.os.environ[FOLDER] == given
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_done_without(bare, tmp_path):
    taken = tmp_path / "taken"
    taken.touch()
    keep_compiled(taken)
    assert FOLDER not in compiled.os.environ
