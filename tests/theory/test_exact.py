"""Exact arithmetic: fractions against known values, and splits that must and must not be exact."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.exact import Rational, fractions, split_is_exact
from moe_theory.theory.registered_families import ModelView, mixture_of


def test_matrix_arithmetic_is_exact():
    def function(a, b):
        return (a @ b).T / 3.0, jnp.sum(a[:, ::-1] ** 2), jnp.concatenate([a[0], 2.0 * b[:, 0]])

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    exact = Rational()(function, fractions(a), fractions(b))
    for ours, theirs in zip(exact, function(a, b), strict=True):
        np.testing.assert_allclose(ours.astype(float), theirs, rtol=1e-14)
    assert exact[0][1, 0] == sum(fractions(a)[0, i] * fractions(b)[i, 1] for i in range(3)) / 3


def test_numbers_without_an_axis_stay_arrays():
    outputs = Rational()(lambda x: (x.reshape(()), x[0] ** 3, jnp.sum(x) + 1.0), fractions(np.array([0.5])))
    assert [(type(each), each.shape, each[()]) for each in outputs] == [
        (np.ndarray, (), Fraction(value)) for value in (0.5, 0.125, 1.5)
    ]


def test_irrational_functions_are_functions_and_nothing_more():
    rational = Rational()
    (same,) = rational(lambda x: jnp.tanh(x) - jnp.tanh(2.0 * x / 2.0), fractions(np.array([0.3, 0.4])))
    (odd,) = rational(lambda x: jnp.tanh(x) + jnp.tanh(-x), fractions(np.array([0.3])))
    assert np.all(same == Fraction(0))
    assert odd[0] != 0


CASES = {
    "lora": ({"adapter": "lora"}, {"B_V", "A_V"}),
    "lora rank 2, gaussian": ({"adapter": "lora", "rank": 2, "gate": "gaussian"}, {"B_V", "A_V"}),
    "dial": ({"adapter": "dial", "eta": 0.7}, {"B_V", "A_V"}),
    "replora": ({"adapter": "replora"}, set()),
    "dora fixed": ({"adapter": "dora", "magnitudes": "fixed"}, set()),
    "dora free": ({"adapter": "dora", "magnitudes": "free"}, {"m_V"}),
    "doran free": ({"adapter": "doran", "activation": "tanh", "magnitudes": "free", "tau": 0.5}, {"m_V"}),
    "hora": ({"adapter": "hora", "activation": "tanh", "heads": 2}, set()),
    "hora-heads linear": ({"adapter": "hora-heads", "heads": 2}, {"B_V", "A_V"}),
    "hora-heads tanh": ({"adapter": "hora-heads", "activation": "tanh", "heads": 2}, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_blocks_that_split_without_a_trace_are_known(name):
    settings, expected = CASES[name]
    setup = build(ProblemSpec(**settings))
    (own,) = mixture_of(setup.model, setup.truth, setup.design)
    view = own.view
    assert isinstance(view, ModelView)
    found = {
        block
        for block, place in zip(own.blocks.names, own.blocks.slices, strict=True)
        if split_is_exact(partial(view.coefficients, common=own.common), np.asarray(own.atoms[0]), place)
    }
    assert found == expected


def test_a_nested_call_is_followed():
    (value,) = Rational()(jax.jit(lambda x: x * x), fractions(np.array([0.5])))
    assert value[0] == Fraction(1, 4)
