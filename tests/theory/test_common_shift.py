"""Without an anchor all scores can move by one function: what that hides, built by hand and found by the margins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel
from moe_theory.study.identification import Certified
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.gauges import orbit_split
from moe_theory.theory.identifiability import identify
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import cells_of, first_order, off_span
from moe_theory.theory.registered_families import ModelView, mixture_of
from moe_theory.theory.voronoi import effective_losses

pytestmark = pytest.mark.usefixtures("quick")


def setting(**changes: Any) -> Setup:
    return build(
        ProblemSpec(**({"adapter": "dora", "magnitudes": "fixed", "anchored": False, "support": 128} | changes))
    )


def common_shifts(setup: Setup, amplitude: float) -> tuple[int, MixingMeasure | None]:
    """In how many dimensions all scores can shift alike; and theta_i' with s_i(theta_i') = s_i + g, g not 0.

    Newton's method in the query factors from a step along the first of these directions.
    """
    model, truth = setup.model, setup.truth
    assert isinstance(model, RegressionModel)
    low = truth.atoms.low_rank
    begin, unravel = ravel_pytree((low.query_left, low.query_right))

    def atoms(point):
        left, right = unravel(point)
        return truth.atoms._replace(low_rank=low._replace(query_left=left, query_right=right))

    def scores(point):
        return jax.vmap(lambda atom: model.scored(model.update(atom, truth.common)))(atoms(point))

    def apart(point):
        moved = scores(point) - scores(begin)
        return (moved[1:] - moved[:1]).reshape(-1)

    compiled = jax.jit(jax.jacfwd(apart))

    def slope(point):
        return np.asarray(compiled(point))

    _, sizes, right = np.linalg.svd(slope(begin))
    null = right[np.sum(sizes > 1e-10 * sizes[0]) :].T
    _, sizes, turn = np.linalg.svd(np.asarray(jax.jacfwd(scores)(begin))[0] @ null)
    count = int(np.sum(sizes > 1e-9))
    if not count:
        return 0, None
    begun = begin + amplitude * null @ turn[0]
    options: dict[str, Any] = {"jac": slope, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    found = least_squares(apart, begun, **options)
    return count, MixingMeasure(truth.log_weights, atoms(jnp.asarray(found.x)), truth.common)


@pytest.mark.parametrize(
    ("gate", "rank", "k_true", "count"),
    [("attention", 1, 2, 4),
     pytest.param("attention", 1, 4, 0, marks=pytest.mark.slow),
     pytest.param("gaussian", 2, 2, 8, marks=pytest.mark.slow),
     pytest.param("gaussian", 1, 2, 4, marks=pytest.mark.slow),
     pytest.param("attention", 1, 3, 1, marks=pytest.mark.slow),
     pytest.param("attention", 2, 2, 10, marks=pytest.mark.slow)],
)  # fmt: skip
def test_scores_that_shift_alike_are_no_error_and_hide_a_split_of_all_atoms(gate, rank, k_true, count):
    """As many dimensions as tangent spaces of 7 have in common in one of 10; the mean of two measures with f has f."""
    setup = setting(gate=gate, rank=rank, k_true=k_true, k_fit=k_true)
    model, truth = setup.model, setup.truth
    dimensions, moved = common_shifts(setup, 2.0)
    assert dimensions == count
    first = first_order(mixture_of(model, truth, setup.design))
    assert first.generic_nullity == count + 1
    if moved is None:
        return
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)))
    values = jax.jit(jax.vmap(model.predict, (None, 0)))
    np.testing.assert_allclose(values(moved, x), values(truth, x), atol=1e-12)
    assert float(effective_losses(model, moved, truth).d_1) < 1e-10
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), truth.atoms, moved.atoms)
    split = MixingMeasure(jnp.concatenate([truth.log_weights, truth.log_weights]), both, truth.common)
    np.testing.assert_allclose(values(split, x), values(truth, x), atol=1e-12)
    assert float(effective_losses(model, split, truth).d_12) > 0.01


@pytest.mark.parametrize(
    ("changes", "hides"),
    [({}, True), ({"k_true": 4, "k_fit": 4}, False), ({"adapter": "doran"}, False), ({"anchored": True}, False)],
    ids=["two atoms", "four atoms", "shared", "anchor"],
)
def test_the_gauge_splits_all_atoms_where_scores_can_shift_alike(changes, hides):
    setup = setting(**changes)
    mixture = mixture_of(setup.model, setup.truth, setup.design)
    split = orbit_split(mixture, first_order(mixture), cells_of(mixture))
    assert (split is not None) == hides
    if split is not None:
        assert split.where == ((0, 0), (0, 1))


def test_certify_follows_the_gauge():
    setup = setting()
    found = identify(mixture_of(setup.model, setup.truth, setup.design))
    assert found.law(2) == Prediction("power", -0.25)
    assert found.law_together == Prediction("no-power")
    assert found.together.by_gauge
    words = Certified("dora", {}, found).as_json()["all_cells_at_once"]["words"]
    assert "along motions of all atoms that the softmax does not see; invisible: split into 2 and 2" in words


@pytest.mark.slow
def test_with_more_true_atoms_than_the_gauge_allows_all_of_them_can_be_over_fitted():
    setup = setting(k_true=4, k_fit=4)
    found = identify(mixture_of(setup.model, setup.truth, setup.design))
    assert not found.together.by_gauge
    assert found.together.decision == "positive"
    assert found.law_together == Prediction("power", -0.25)


@pytest.mark.parametrize(("anchored", "hides"), [(False, True), (True, False)])
def test_hora_of_rank_three_hides_a_split_from_the_attention_gate_where_nothing_is_frozen(anchored, hides):
    """Any motion along which no score moves at first order: 48 conditions, as many numbers as two atoms have."""
    setup = build(ProblemSpec(adapter="hora", activation="tanh", heads=2, rank=3, anchored=anchored, support=256))
    (own,) = mixture_of(setup.model, setup.truth, setup.design)
    first, cell, view = first_order((own,)), cells_of((own,))[0], own.view
    assert isinstance(view, ModelView)
    slope = jax.jacfwd(lambda atom: view.coefficients(atom, own.common)[0].reshape(-1))(own.atoms[0])
    still = np.linalg.svd(np.asarray(slope) @ cell.chart.lifts)[2][20:]
    assert still.shape == (4, 24)
    bends = off_span(first, cell.bends.reshape(len(cell.response), -1)).reshape(cell.bends.shape)
    left = np.linalg.norm(np.einsum("npq,ip,iq->in", bends, still, still), axis=1)
    assert np.all(left < 1e-11) if hides else np.all(left > 0.05)
