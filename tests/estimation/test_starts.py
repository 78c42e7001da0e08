"""Starts: inside Theta, functions of (seed, n, replication) alone, of the planned kinds, untied where they say so."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from moe_theory.errors import InputError
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import PLANS, StartMaker, plan_named
from moe_theory.models.measure import MixingMeasure
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec

N = 10**6


def make(plan="standard", truth=None, **changes):
    """(setup, chart, maker) of a small problem; ``truth`` maps the problem's truth to another."""
    setup = build(ProblemSpec(**({"dimension": 2, "support": 64, "adapter": "replora"} | changes)))
    chart = Chart(setup.model, setup.space, setup.k_fit)
    atoms = setup.truth if truth is None else truth(setup.truth)
    return setup, chart, StartMaker(chart, atoms, plan_named(plan))


@pytest.fixture(scope="module")
def over():
    return make()


def flat_atoms(chart, z):
    """Factors as a table, one row per atom."""
    return np.asarray(z)[chart.k :].reshape(chart.k, -1)


CASES = {
    "lora": {"adapter": "lora"},
    "tanh": {"activation": "tanh", "gate": "gaussian", "weight_floor": 0.0},
    "sigmoid": {"activation": "sigmoid"},
    "exact": {"k_fit": 2},
    "two extra atoms": {"k_fit": 4},
    "no anchor": {"anchored": False},
}


@pytest.mark.parametrize("case", CASES)
def test_every_start_lies_inside_the_parameter_space(case):
    _, chart, maker = make(**CASES[case])
    slacks = jax.jit(jax.vmap(chart.slacks))
    for n in (1, 10**3, 10**12):
        for replication in range(3):
            starts = maker.make(n, 0, replication)
            assert starts.z.shape == (len(starts.kinds), chart.size)
            assert np.all(np.isfinite(starts.z))
            assert np.min(slacks(starts.z)) > 0


def test_starts_depend_on_seed_size_and_replication_only(over):
    _, _, maker = over
    first = maker.make(N, 3, 5)
    maker.make(10**3, 0, 0)
    again = make()[2].make(N, 3, 5)
    np.testing.assert_array_equal(first.z, again.z)
    assert first.kinds == again.kinds
    for other in (maker.make(N, 3, 6), maker.make(N, 4, 5), maker.make(10 * N, 3, 5)):
        assert other.kinds == first.kinds
        assert np.all(np.any(other.z != first.z, axis=1))


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("k_fit", [2, 3])
def test_kinds_are_those_of_the_plan(name, k_fit):
    plan = PLANS[name]
    kinds = Counter(make(name, k_fit=k_fit)[2].make(N, 0, 0).kinds)
    if k_fit == 2:
        expected = {"near": len(plan.near), "untied": plan.untied_exact}
    else:
        tied = {"split-0": len(plan.splits), "split-1": len(plan.splits), "far": plan.far, "frozen": plan.frozen}
        expected = tied | {"untied": plan.untied}
    assert kinds == Counter(expected)


def test_without_a_frozen_atom_none_starts_beside_one():
    assert "frozen" not in make(anchored=False)[2].make(N, 0, 0).kinds


def test_unknown_plan_names_the_known_ones():
    with pytest.raises(InputError, match=r"unknown starts 'nearby'.*standard.*untied"):
        plan_named("nearby")


def check_splits(setup, chart, maker):
    """Count the splits that keep their atom's mean and weight; those pulled towards the interior are left out."""
    true = np.asarray(jax.vmap(lambda atom: ravel_pytree(atom)[0])(setup.truth.atoms))
    weights = np.exp(np.asarray(setup.truth.log_weights))
    checked, separations = 0, []
    for replication in range(4):
        starts = maker.make(N, 0, replication)
        for kind, z in zip(starts.kinds, starts.z, strict=True):
            if not kind.startswith("split"):
                continue
            atom = int(kind.removeprefix("split-"))
            own, held = flat_atoms(chart, z), np.asarray(chart.weights(jnp.asarray(z)))
            if not np.array_equal(own[1 - atom], true[1 - atom]):
                continue
            parts = [atom, *range(2, chart.k)]
            np.testing.assert_allclose(held[parts].sum(), weights[atom], rtol=1e-12)
            np.testing.assert_allclose(held[1 - atom], weights[1 - atom], rtol=1e-12)
            assert np.min(held) > setup.space.weight_floor * held.sum()
            np.testing.assert_allclose(np.average(own[parts], axis=0, weights=held[parts]), true[atom], atol=1e-12)
            separations.append(np.linalg.norm(own[parts[1]] - own[atom]))
            checked += 1
    return checked, separations


def test_a_split_keeps_mean_and_weight_of_its_atom(over):
    checked, separations = check_splits(*over)
    assert checked >= 24
    planned = [N**-exponent for exponent, _ in PLANS["standard"].splits]
    for separation in separations:
        assert min(abs(separation / scale - 1) for scale in planned) < 1e-9


def test_a_split_in_three_keeps_mean_and_weight_of_its_atom():
    assert check_splits(*make(k_fit=4))[0] >= 16


def test_untied_starts_know_nothing_of_the_true_atoms(over):
    """Another truth of the same weights: the same untied starts, bit by bit, and other tied ones."""

    def moved(truth):
        return MixingMeasure(truth.log_weights, jax.tree.map(lambda leaf: 0.8 * leaf[::-1] + 0.1, truth.atoms))

    one, other = over[2].make(N, 0, 1), make(truth=moved)[2].make(N, 0, 1)
    assert one.kinds == other.kinds
    for kind, a, b in zip(one.kinds, one.z, other.z, strict=True):
        assert np.array_equal(a, b) == (kind == "untied"), kind
    untied = [z for kind, z in zip(one.kinds, one.z, strict=True) if kind == "untied"]
    assert len(untied) == 3
    assert len({tuple(z) for z in untied}) == 3
