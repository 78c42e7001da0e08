"""Errors of worker processes."""

import pickle

import jax
import jax.numpy as jnp
import pytest

from moe_theory.errors import InputError, portable_errors


def concretised():
    return jax.jit(lambda x: float(jnp.min(x)))(jnp.ones(2))


def test_an_error_that_cannot_be_unpickled_is_told_by_one_that_can():
    with pytest.raises(jax.errors.ConcretizationTypeError) as original:
        concretised()
    sent = pickle.dumps(original.value)
    with pytest.raises(AttributeError):
        pickle.loads(sent)
    with pytest.raises(RuntimeError, match="ConcretizationTypeError") as told:
        portable_errors()(concretised)()
    assert "concretised" in str(told.value)
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_our_own_errors_pass():
    with pytest.raises(InputError, match="rank"), portable_errors():
        raise InputError("rank 9 is above d = 4: ask for at most 4")
