"""Functions are compiled as one program each, by the emitter of kernels that is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from moe_theory import jitting
from moe_theory.jitting import at_once, bound, filter_jitted, jitted


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
    jitting._known.cache_clear()
    yield
    jitting._known.cache_clear()


def test_an_option_that_xla_does_not_know_is_done_without(forgetful, monkeypatch):
    monkeypatch.setattr(jitting, "OLDER_EMITTER", {"xla_has_no_such_option": False})
    assert jitting._quicker() == {}
    assert jitting._quicker(summing=True) == jitting.OWN_SUMS
    assert float(jitted(jnp.sin)(2.0)) == pytest.approx(float(jnp.sin(2.0)), rel=1e-15)


def test_every_kind_of_device_has_options_of_its_own(forgetful, monkeypatch):
    """XLA for processors knows those for a GPU too, so that they can be asked for here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jitting._quicker() == jitting.UNTUNED
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert jitting._quicker() == {}


@pytest.mark.skipif(jax.default_backend() != "cpu" or not jax.__version__.startswith("0.10."), reason="another XLA")
def test_the_pinned_xla_knows_what_spares_time(forgetful):
    """Where it does not, programs take half again as long to compile and the README's times do not hold."""
    assert jitting._quicker(summing=True) == jitting.OLDER_EMITTER | jitting.OWN_SUMS


def test_arguments_are_traced(forgetful):
    assert at_once(lambda x: jnp.asarray(isinstance(x, Tracer)), jnp.ones(2))


def test_what_is_no_array_is_not_traced(forgetful):
    """As with equinox: a name chooses a branch, and the documentation stays."""

    @filter_jitted
    def change(name, x):
        """Of sign."""
        return -x if name == "minus" else x

    assert float(change("minus", jnp.ones(()))) == -1.0
    assert float(change("plus", jnp.ones(()))) == 1.0
    assert change.__doc__ == "Of sign."


def test_a_part_of_another_program_is_traced_with_it(forgetful):
    @filter_jitted
    def square(x):
        return x**2

    assert float(jax.grad(square)(jnp.asarray(3.0))) == 6.0
    assert float(jax.jit(lambda x: square(x) + 1.0)(3.0)) == 10.0


def test_what_is_held_is_an_argument_of_one_program(forgetful):
    """Other arrays in the same places compile nothing new; another name is another program."""
    traced = []

    def scaled(name, held, x):
        traced.append(name)
        return held["a"] * x + (held["b"] if name == "sum" else 0.0)

    for a, b in ((2.0, 1.0), (3.0, 5.0)):
        held = {"a": jnp.asarray(a), "b": np.asarray(b)}
        assert float(bound(scaled, "sum", held)(jnp.asarray(7.0))) == 7.0 * a + b
        assert float(bound(scaled, "product", held)(jnp.asarray(7.0))) == 7.0 * a
    assert traced == ["sum", "product"]
