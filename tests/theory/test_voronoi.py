"""Voronoi losses against a slow oracle, the frozen-cell fact, and what an un-anchored model does not see."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from moe_theory.models.measure import MixingMeasure
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.voronoi import Losses, Points, effective_losses, factor_losses, losses

QUERY, VALUE = 2, 3

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
compiled = quick_jit(losses, static_argnums=3)


class Oracle(NamedTuple):
    """The definition, by loops."""

    d_1: float
    d_2: float
    d_12: float
    weight: float
    singleton: float
    overfitted: float
    farthest: float
    frozen: float
    query: float
    value: float
    pattern: int


def oracle(fitted: Points, true: Points, frozen: Points) -> Oracle:
    """Theory section 3 with a cell for every frozen atom, weights relative to what the frozen cells hold."""
    fitted, true, frozen = (jax.tree.map(np.asarray, atoms) for atoms in (fitted, true, frozen))
    k_true = len(true.weights)
    centers = [*zip(true.query, true.value, strict=True), *zip(frozen.query, frozen.value, strict=True)]
    target = [*true.weights, *frozen.weights]
    squares = []
    cells: list[list[int]] = [[] for _ in centers]
    for i in range(len(fitted.weights)):
        apart = [(np.sum((fitted.query[i] - q) ** 2), np.sum((fitted.value[i] - v) ** 2)) for q, v in centers]
        nearest = min(range(len(centers)), key=lambda j: (sum(apart[j]), j))
        cells[nearest].append(i)
        squares.append(apart[nearest])
    scale = 1.0
    if len(frozen.weights):
        joined = sum(fitted.weights[i] for cell in cells[k_true:] for i in cell)
        scale = sum(frozen.weights) / (sum(frozen.weights) + joined)

    def loss(power_of_cell):
        total = 0.0
        for j, cell in enumerate(cells):
            own = target[j] * scale if j >= k_true else 0.0
            total += abs(sum(scale * fitted.weights[i] for i in cell) + own - target[j])
            power = power_of_cell(cell)
            total += sum(scale * fitted.weights[i] * sum(squares[i]) ** (power / 2) for i in cell) if power else 0.0
        return total

    def error(members, block=lambda pair: sum(pair)):
        if not members:
            return np.nan
        weights = [fitted.weights[i] for i in members]
        return np.sqrt(np.average([block(squares[i]) for i in members], weights=weights))

    estimated = cells[:k_true]
    crowded = [i for cell in estimated if len(cell) > 1 for i in cell]
    return Oracle(
        d_1=loss(lambda cell: 1),
        d_2=loss(lambda cell: 2),
        d_12=loss(lambda cell: 1 if len(cell) == 1 else 2),
        weight=loss(lambda cell: 0),
        singleton=error([cell[0] for cell in estimated if len(cell) == 1]),
        overfitted=error(crowded),
        farthest=max((sum(squares[i]) ** 0.5 for i in crowded), default=np.nan),
        frozen=error([i for cell in cells[k_true:] for i in cell]),
        query=error(crowded, lambda pair: pair[0]),
        value=error(crowded, lambda pair: pair[1]),
        pattern=int("".join(str(len(cell)) for cell in estimated) + str(sum(map(len, cells[k_true:])))),
    )


def points_at(query, value, weights) -> Points:
    return Points(jnp.asarray(query), jnp.asarray(value), jnp.asarray(weights))


def points(rng, k, spread=1.0, grid=False):
    """Random atoms; on a grid many distances tie."""
    coordinates = rng.normal(scale=spread, size=(k, QUERY + VALUE))
    if grid:
        coordinates = np.round(coordinates)
    weights = rng.choice([0.25, 0.5, 1.0, 2.0], size=k) if grid else rng.uniform(0.1, 3.0, size=k)
    return points_at(coordinates[:, :QUERY], coordinates[:, QUERY:], weights)


def without_query(atoms: Points) -> Points:
    return atoms._replace(query=atoms.query[:, :0])


def none_of(atoms: Points) -> Points:
    return Points(*(leaf[:0] for leaf in atoms))


def agree(found: Losses, expected: Oracle, rtol: float = 1e-11, atol: float = 0.0):
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("k_fit", "k_true", "k_frozen"), [(1, 1, 0), (1, 1, 1), (3, 2, 1), (2, 3, 1), (5, 2, 2), (4, 3, 0)]
)
@pytest.mark.parametrize("grid", [False, True])
def test_losses_are_those_of_the_definition(k_fit, k_true, k_frozen, grid):
    rng = np.random.default_rng([k_fit, k_true, k_frozen, grid])
    for _ in range(20):
        fitted, true = points(rng, k_fit, grid=grid), points(rng, k_true, grid=grid)
        frozen = points(rng, max(k_frozen, 1), grid=grid) if k_frozen else none_of(true)
        agree(compiled(fitted, true, frozen, False), oracle(fitted, true, frozen), atol=1e-13)


@given(seed=st.integers(0, 10**6), grid=st.booleans(), fit_scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_losses_of_random_measures(seed, grid, fit_scale):
    """Fits near the truth and far from it; atoms at exactly one place, too."""
    rng = np.random.default_rng(seed)
    true, frozen = points(rng, 2, grid=grid), points(rng, 1, grid=grid)
    away = points(rng, 3, fit_scale, grid=grid)
    at = rng.integers(2, size=3)
    fitted = points_at(true.query[at] + away.query, true.value[at] + away.value, away.weights)
    agree(compiled(fitted, true, frozen, False), oracle(fitted, true, frozen), atol=1e-13 * fit_scale**2)


def test_ties_go_to_the_lowest_index():
    """Halfway between two true atoms, between a true and a frozen one, and between all of them."""
    line = np.asarray([[-1.0], [1.0]])
    true = points_at(np.zeros((2, 0)), line, np.asarray([1.0, 2.0]))
    middle = points_at(np.zeros((1, 0)), np.zeros((1, 1)), np.asarray([0.5]))
    found = compiled(middle, true, none_of(true), False)
    assert int(found.pattern) == 100
    assert float(found.d_1) == pytest.approx(0.5 + 2.0 + 0.5)
    frozen = points_at(np.zeros((1, 0)), np.asarray([[-3.0]]), np.asarray([1.0]))
    left = middle._replace(value=np.asarray([[-2.0]]))
    assert int(compiled(left, true, frozen, False).pattern) == 100
    assert int(compiled(left, true._replace(value=line[::-1]), frozen, False).pattern) == 10


def test_two_true_atoms_at_one_place_leave_the_second_cell_empty():
    true = points_at(np.zeros((2, 0)), np.zeros((2, 1)), np.asarray([1.0, 2.0]))
    found = compiled(true, true, none_of(true), False)
    assert int(found.pattern) == 200
    assert float(found.d_12) == pytest.approx(2.0 + 2.0)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), divide=st.booleans())
def test_zero_at_the_truth_and_blind_to_order(seed, divide):
    rng = np.random.default_rng(seed)
    true, fitted = points(rng, 3), points(rng, 4)
    frozen = none_of(true) if divide else points(rng, 1)
    at_truth = compiled(true, true, frozen, divide)
    for name in ("d_1", "d_2", "d_12", "weight", "singleton"):
        assert abs(float(getattr(at_truth, name))) < 1e-14, name
    assert int(at_truth.pattern) == 1110
    shuffle = rng.permutation(4)
    moved = compiled(jax.tree.map(lambda leaf: leaf[shuffle], fitted), true, frozen, divide)
    agree(moved, Oracle._make(np.asarray(leaf) for leaf in compiled(fitted, true, frozen, divide)), rtol=1e-12)
    order = rng.permutation(3)
    renamed = compiled(fitted, jax.tree.map(lambda leaf: leaf[order], true), frozen, divide)
    for name in ("d_1", "d_2", "d_12", "weight", "singleton", "overfitted", "farthest", "frozen"):
        np.testing.assert_allclose(
            getattr(renamed, name), getattr(compiled(fitted, true, frozen, divide), name), rtol=1e-12, err_msg=name
        )


def test_an_empty_cell_costs_its_weight_and_missing_kinds_are_nan():
    true = points_at(np.zeros((2, 0)), np.asarray([[0.0], [10.0]]), np.asarray([1.0, 0.7]))
    both = points_at(np.zeros((2, 0)), np.asarray([[0.0], [0.0]]), np.asarray([0.25, 0.75]))
    crowded = compiled(both, true, none_of(true), False)
    assert float(crowded.d_12) == float(crowded.weight) == pytest.approx(0.7)
    assert int(crowded.pattern) == 200
    assert np.isnan(crowded.singleton)
    assert np.isnan(crowded.frozen)
    assert float(crowded.overfitted) == 0.0
    one = points_at(both.query[:1], both.value[:1], np.asarray([1.0]))
    alone = compiled(one, true, none_of(true), False)
    assert float(alone.d_12) == pytest.approx(0.7)
    assert float(alone.singleton) == 0.0
    for name in ("overfitted", "farthest", "query", "value", "frozen"):
        assert np.isnan(getattr(alone, name)), name


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), offset=st.sampled_from([1e-3, 0.1, 0.2]))
def test_without_an_anchor_the_best_common_scale_is_divided_out(seed, offset):
    """A bounded scalar search over log a, refined from a grid, finds the loss and none lower.

    Fits nearer than 1 on average: farther ones would have the infimum sum w* at a -> 0, where no fit is left.
    """
    rng = np.random.default_rng(seed)
    true, away = without_query(points(rng, 2)), without_query(points(rng, 3, offset))
    at = rng.integers(2, size=3)
    fitted = points_at(away.query, true.value[at] + away.value, away.weights)
    frozen = none_of(true)
    found = compiled(fitted, true, frozen, True)
    for name in ("d_1", "d_2", "d_12", "weight"):

        def scaled_loss(log_scale, name=name):
            scaled = fitted._replace(weights=fitted.weights * np.exp(log_scale))
            return getattr(oracle(scaled, true, frozen), name)

        grid = np.linspace(-5, 5, 41)
        start = grid[np.argmin([scaled_loss(log_scale) for log_scale in grid])]
        best: Any = minimize_scalar(scaled_loss, bounds=(start - 0.3, start + 0.3), method="bounded")
        own = float(getattr(found, name))
        assert own <= best.fun * (1 + 1e-9) + 1e-12, name
        assert own >= best.fun - 1e-4 * (1 + best.fun), name
    again = compiled(fitted._replace(weights=37.0 * fitted.weights), true, frozen, True)
    for name in ("d_1", "d_2", "d_12", "weight"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-12, atol=1e-14)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), offset=st.sampled_from([1e-3, 0.1, 0.5]), away=st.sampled_from([0.0, 1.0, 30.0]))
def test_without_an_anchor_a_common_shift_of_scores_is_divided_out(seed, offset, away):
    """A search over shifts and scales finds no loss much lower, however far the common shift."""
    rng = np.random.default_rng(seed)
    true, moved = points(rng, 3), points(rng, 4, offset)
    true = true._replace(value=true.value + 8.0 * np.eye(3, VALUE))
    at = np.append(np.arange(3), rng.integers(3))
    fitted = points_at(true.query[at] + moved.query, true.value[at] + moved.value, moved.weights)
    shift = away * rng.normal(size=QUERY)
    found = compiled(fitted._replace(query=fitted.query + shift[None]), true, none_of(true), True)
    for name in ("d_1", "d_2", "d_12"):

        def shifted_loss(by, name=name):
            scaled = fitted._replace(query=fitted.query + by[None, :QUERY], weights=fitted.weights * np.exp(by[QUERY]))
            return getattr(oracle(scaled, true, none_of(true)), name)

        own, none = float(getattr(found, name)), float(getattr(compiled(fitted, true, none_of(true), True), name))
        least = minimize(shifted_loss, np.zeros(QUERY + 1), method="Nelder-Mead", options={"maxiter": 600}).fun
        assert none * (1 - 1e-6) <= own <= 4.0 * least, name


def test_a_shift_of_one_atoms_score_alone_is_an_error():
    rng = np.random.default_rng(0)
    true = points(rng, 2)
    one = true._replace(query=true.query + np.asarray([[0.3, 0.0], [0.0, 0.0]]))
    both = true._replace(query=true.query + np.asarray([[0.3, 0.0], [0.3, 0.0]]))
    assert float(compiled(both, true, none_of(true), True).d_1) < 1e-14
    least = 0.3 * float(jnp.min(true.weights))
    assert float(compiled(one, true, none_of(true), True).d_1) == pytest.approx(least, rel=1e-12)
    assert float(compiled(both, true, none_of(true), False).d_1) > 0.3 * float(jnp.sum(true.weights)) * (1 - 1e-12)


def setting(**changes):
    return build(ProblemSpec(**({"dimension": 3, "support": 64, "adapter": "replora"} | changes)))


def beside_frozen(setup, weight):
    """The truth with one more atom at the frozen one's place and all other weights times 1 + weight."""
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), setup.truth.atoms)
    atoms = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), setup.truth.atoms, nothing)
    added = jnp.concatenate([setup.truth.log_weights + jnp.log1p(weight), jnp.log(jnp.asarray([weight]))])
    return MixingMeasure(added, atoms)


@pytest.mark.parametrize(("gate", "adapter"), [("attention", "lora"), ("gaussian", "replora")])
def test_an_atom_at_the_frozen_place_changes_no_function_and_no_anchored_loss(gate, adapter):
    setup = setting(gate=gate, adapter=adapter)
    model, truth = setup.model, setup.truth
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)))
    predict = quick_jit(lambda measure: jax.vmap(model.predict, (None, 0))(measure, x))
    anchored = quick_jit(lambda measure: effective_losses(model, measure, truth))
    plain = quick_jit(lambda measure: effective_losses(model, measure, truth, anchored=False))
    for weight in (0.05, 1.0, 7.0):
        same = beside_frozen(setup, weight)
        np.testing.assert_allclose(predict(same), predict(truth), rtol=0, atol=1e-12)
        found = anchored(same)
        for name in ("d_1", "d_2", "d_12", "weight", "singleton", "frozen"):
            assert abs(float(getattr(found, name))) < 1e-12, name
        assert int(found.pattern) == 111
        without = plain(same)
        assert float(without.weight) >= 0.9 * weight
        assert float(without.d_12) >= 0.9 * weight
        assert int(without.pattern) % 10 == 0
        wrong = MixingMeasure(same.log_weights.at[0].add(0.1), same.atoms)
        assert float(anchored(wrong).d_12) > 0.05


def test_effective_losses_do_not_see_the_gauge_and_factor_losses_do():
    setup = setting(adapter="lora")
    turned = jax.vmap(lambda atom: atom._replace(value_left=-atom.value_left, value_right=-atom.value_right))(
        setup.truth.atoms
    )
    fitted = MixingMeasure(setup.truth.log_weights, turned)
    assert float(effective_losses(setup.model, fitted, setup.truth).d_1) < 1e-12
    assert float(factor_losses(setup.model, fitted, setup.truth).d_1) > 0.1
    assert float(factor_losses(setup.model, setup.truth, setup.truth).d_1) < 1e-12


def test_without_an_anchor_a_common_shift_of_log_weights_costs_nothing():
    setup = setting(anchored=False)
    shifted = MixingMeasure(setup.truth.log_weights + 1.7, setup.truth.atoms)
    assert float(effective_losses(setup.model, shifted, setup.truth).d_12) < 1e-12
    anchored = setting()
    assert float(effective_losses(anchored.model, shifted, anchored.truth).d_12) > 1.0
