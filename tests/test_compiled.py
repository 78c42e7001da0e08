"""Compiled code is kept where the user's other programs keep theirs, unless the environment says where; flags."""

import sys

import pytest

from moe_theory import compiled
from moe_theory.compiled import EMITTERS, FOLDER, choose_emitters, keep_compiled, machine_key


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


@pytest.mark.parametrize(
    ("given", "jaxlib", "expected"),
    [
        ("", "0.10.2", f"--{EMITTERS}=false"),
        ("--xla_other=1", "0.10.0", f"--xla_other=1 --{EMITTERS}=false"),
        (f"--{EMITTERS}=true", "0.10.2", f"--{EMITTERS}=true"),
        ("--xla_other=1", "0.11.0", "--xla_other=1"),
    ],
)
def test_the_flag_is_set_where_it_is_known_and_nothing_is_said_of_it(monkeypatch, given, jaxlib, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(compiled, "version", lambda _: jaxlib)
    choose_emitters()
    assert compiled.os.environ["XLA_FLAGS"] == expected
