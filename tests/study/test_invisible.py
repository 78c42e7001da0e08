"""Splits that do not move f_G: RepLoRA's from rank two on against its closed form, and where none is looked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation.identified import block_splits
from moe_theory.estimation.space import Chart
from moe_theory.sampling.inputs import finite_support
from moe_theory.study import invisible
from moe_theory.study.invisible import farthest_invisible, moves
from moe_theory.study.moduli import modulus_of
from moe_theory.study.problem import build
from moe_theory.study.replicate import Replicator
from moe_theory.study.spec import ProblemSpec, SweepSpec
from moe_theory.theory import following
from moe_theory.theory.envelope import INVISIBLE
from moe_theory.theory.identifiability import identify
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.visibility import descend

pytestmark = pytest.mark.usefixtures("quick")

RANK_TWO = ProblemSpec(dimension=3, rank=2, k_true=1, k_fit=2, support=64, adapter="replora")


def _found(problem):
    setup = build(problem)
    chart = Chart(setup.model, setup.space, setup.k_fit)
    splits = block_splits(chart, setup.truth)
    return setup, chart, splits, farthest_invisible(setup, chart, splits)


@pytest.fixture(scope="module")
def found(quick):
    return _found(RANK_TWO)


def test_rank_two_has_the_split_of_its_closed_form(found):
    """Halves differ by H = B Z with H M_K skew, and the model's own predictions agree at inputs off the support."""
    setup, chart, _, z = found
    measure = chart.measure(jnp.asarray(z))
    deltas = np.asarray(jax.vmap(lambda b, a: b @ a)(measure.atoms.left, measure.atoms.right))
    halves = deltas[1] - deltas[0]
    product = halves @ np.asarray(setup.model.gate.key)
    assert np.linalg.norm(halves) > 0.5
    np.testing.assert_allclose(product + product.T, 0.0, atol=1e-9)
    assert np.linalg.matrix_rank(deltas[0], tol=1e-9) == 2
    x = finite_support("uniform", 32, 3, 77)
    apart = [
        np.asarray(jax.vmap(setup.model.predict, (None, 0))(each, jnp.asarray(x))) for each in (measure, setup.truth)
    ]
    np.testing.assert_allclose(apart[0], apart[1], atol=1e-12)


def test_it_lies_in_theta_and_far_from_the_truth_where_block_splits_are_seen(found):
    setup, chart, splits, z = found
    distances, losses = moves(setup, chart, np.stack([z]))
    assert float(jnp.min(chart.slacks(jnp.asarray(z)))) > 0.0
    assert distances[0] < 1e-12
    assert losses[0] > 0.1
    assert moves(setup, chart, splits)[0].min() > 1e-6


def test_spare_atoms_change_nothing():
    setup, chart, _, z = _found(RANK_TWO.model_copy(update={"k_fit": 4, "weight_floor": 0.01}))
    assert z is not None
    distances, losses = moves(setup, chart, np.stack([z]))
    assert z.shape == (chart.size,)
    assert distances[0] < 1e-12
    assert losses[0] > 0.1


def test_rank_one_has_none():
    assert _found(RANK_TWO.model_copy(update={"rank": 1}))[3] is None


@pytest.mark.slow
def test_atoms_that_cannot_be_split_alone_are_split_together():
    """Global magnitudes: nothing with one spare atom, and an invisible split of both true atoms with two."""
    problem = ProblemSpec(dimension=2, k_true=2, k_fit=3, support=64, adapter="dora", magnitudes="global")
    assert _found(problem)[3] is None
    setup, chart, splits, z = _found(problem.model_copy(update={"k_fit": 4}))
    assert z is not None
    distances, losses = moves(setup, chart, np.stack([z]))
    assert distances[0] < 1e-11
    assert losses[0] > 0.01
    assert moves(setup, chart, splits)[0].min() > INVISIBLE


@pytest.mark.slow
def test_a_narrow_curve_is_followed_where_descents_find_nothing(monkeypatch):
    """HoRA of rank three without an anchor: no descent at one amplitude meets the invisible splits. The modulus holds
    at their height down to a distance of rounding."""

    def lost(*arguments):
        return descend(*arguments)[0], 1.0

    monkeypatch.setattr(following, "descend", lost)
    problem = ProblemSpec(adapter="hora", heads=2, activation="tanh", rank=3, anchored=False, k_true=2, k_fit=3)
    setup, chart, splits, z = _found(problem)
    assert z is not None
    distances, losses = moves(setup, chart, np.stack([z]))
    assert distances[0] < 1e-12
    assert losses[0] > 0.01
    assert float(jnp.min(chart.slacks(jnp.asarray(z)))) > 0.0
    assert moves(setup, chart, splits)[0].min() > INVISIBLE
    mixture = mixture_of(setup.model, setup.truth, setup.design)
    bounds = modulus_of(setup, mixture, identify(mixture, look=False))
    assert bounds.slope == 0.0
    assert bounds.at(np.array([1e-11]))[0] >= losses[0]


def test_nothing_is_looked_for_where_a_split_of_one_block_is_invisible(monkeypatch):
    def refused(*_):
        raise AssertionError("LoRA needs no margins")

    monkeypatch.setattr(invisible, "first_order", refused)
    assert _found(ProblemSpec(dimension=2, k_true=1, k_fit=2, support=64, adapter="lora"))[3] is None


@pytest.mark.slow
def test_the_search_reaches_at_least_the_invisible_split_in_every_replication(found):
    setup, chart, _, z = found
    sweep = SweepSpec(problem=RANK_TWO, sizes=(10**6, 10**10), replications=8, starts="smoke", block=8)
    replicator = Replicator(sweep, identified_set=True)
    cells = [(n, 0, 3) for n in sweep.sizes]
    least = moves(setup, chart, np.stack([z]))[1][0]
    for _, rows in replicator.cells(cells):
        highest = rows["D_12_truth_highest"].to_numpy()
        assert np.all(highest >= least * (1.0 - 1e-12))
        assert np.all(highest >= rows["D_12_confidence_highest"].to_numpy())
