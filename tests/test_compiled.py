"""Compiled code is kept where the user's other programs keep theirs, unless the environment says where."""

import sys

import jax
import jax.numpy as jnp
import pytest
from jax.core import Tracer

from moe_theory import compiled
from moe_theory.compiled import FOLDER, at_once, jitted, keep_compiled, machine_key


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


def test_a_function_of_many_operations_is_one_program():
    """Its operations are traced, not run one by one, and give what they give when run one by one."""
    seen = []

    def norm():
        seen.append(jnp.sin(jnp.arange(3.0)))
        return jnp.sum(seen[-1] ** 2)

    found = at_once(norm)
    assert isinstance(seen.pop(), Tracer)
    assert float(found) == pytest.approx(float(norm()), rel=1e-15)


@pytest.fixture
def forgetful():
    """Nothing is known yet of what XLA knows, before and after."""
    compiled._quicker.cache_clear()
    yield
    compiled._quicker.cache_clear()


def test_an_option_that_xla_does_not_know_is_done_without(forgetful, monkeypatch):
    monkeypatch.setattr(compiled, "OLDER_EMITTER", {"xla_has_no_such_option": False})
    assert compiled._quicker() == {}
    assert float(jitted(jnp.sin)(2.0)) == pytest.approx(float(jnp.sin(2.0)), rel=1e-15)


@pytest.mark.skipif(jax.default_backend() != "cpu" or not jax.__version__.startswith("0.10."), reason="another XLA")
def test_the_pinned_xla_knows_the_older_emitter(forgetful):
    """Where it does not, programs take twice as long to compile and the README's times do not hold."""
    assert compiled._quicker() == compiled.OLDER_EMITTER


def test_arguments_are_traced(forgetful):
    assert at_once(lambda x: jnp.asarray(isinstance(x, Tracer)), jnp.ones(2))
