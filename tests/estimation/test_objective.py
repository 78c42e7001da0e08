"""Derivatives by hand against automatic ones, and the frames in which steps are taken."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_theory.estimation import frames
from moe_theory.estimation.frames import CROSSING, Frame, closest_pair, enter, gauge_slice, leave, see, split_scale
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import design_of, flatten, gradient, objective, products_of, second_order
from moe_theory.estimation.space import Chart, ParameterSpace
from moe_theory.models.adapters import Lora, Projections, RepLora
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AttentionGate, GaussianGate
from moe_theory.models.regression import Coefficients, RegressionModel, frozen_pretrained
from moe_theory.sampling.statistics import Statistics
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec

D, K, POINTS = 4, 3, 64
N = 1e6

GATES = ("attention", "gaussian")
ADAPTERS = ("lora", "identity", "tanh", "sigmoid")
CASES = list(itertools.product(GATES, ADAPTERS))
VIEWED = [("attention", "lora"), ("gaussian", "identity"), ("attention", "sigmoid")]

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Each shape runs once or twice, so that compiling costs more than running."""


class Setting(NamedTuple):
    chart: Chart
    problem: Problem
    rng: np.random.Generator

    def random_z(self, size=0.7):
        """Positive weights and Gaussian factors."""
        chart = self.chart
        weights = self.rng.uniform(0.4, 1.5, size=chart.k)
        return jnp.asarray(np.concatenate([weights, size * self.rng.normal(size=chart.size - chart.k)]))


def make_setting(gate, adapter, frozen=1, k=K, rank=1, seed=0):
    """LoRA with d_out = 3; data that no fit explains, so that residuals count."""
    rng = np.random.default_rng([seed, GATES.index(gate), ADAPTERS.index(adapter)])
    d_out = 3 if adapter == "lora" else D
    pretrained = Projections(jnp.asarray(0.5 * rng.normal(size=(D, D))), jnp.asarray(0.5 * rng.normal(size=(d_out, D))))
    attention = AttentionGate(jnp.asarray(np.linalg.qr(rng.normal(size=(D, D)))[0]))
    model = RegressionModel(
        attention if gate == "attention" else GaussianGate(jnp.asarray(0.5 * rng.normal(size=D))),
        LinearExpert(),
        Lora(rank) if adapter == "lora" else RepLora(rank, adapter),
        pretrained,
        frozen_pretrained(pretrained, frozen),
    )
    support = rng.normal(size=(POINTS, D))
    counts = rng.multinomial(int(N), np.full(POINTS, 1 / POINTS)).astype(float)
    counts[:2] = 0.0
    data = Statistics(counts, rng.normal(size=(d_out, POINTS)))  # pyright: ignore[reportArgumentType]
    chart = Chart(model, ParameterSpace(), k)
    return Setting(chart, Problem(chart, design_of(model, jnp.asarray(support)), data), rng)


def relative(found, expected):
    """Largest deviation over the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def unflatten(flat, like):
    k, s = like.score.shape
    rows = flat.reshape(k, -1)
    return Coefficients(rows[:, 0], rows[:, 1 : 1 + s], rows[:, 1 + s :].reshape(like.output.shape))


@quick_jit
def by_hand(coefficients, design, data):
    return second_order(coefficients, design, data), gradient(coefficients, design, data)


@quick_jit
def automatic(coefficients, design, data):
    def value(flat):
        return objective(unflatten(flat, coefficients), design, data)

    flat = flatten(coefficients)
    return value(flat), jax.grad(value)(flat), jax.hessian(value)(flat)


@pytest.mark.parametrize(("gate", "adapter"), CASES)
def test_derivatives_in_coefficients_are_exact(gate, adapter):
    setting = make_setting(gate, adapter, frozen=0 if adapter == "lora" else 1)
    chart, design, data = setting.chart, setting.problem.design, setting.problem.data
    coefficients = chart.model.coefficients(chart.measure(setting.random_z()))
    exact, (value, slope) = by_hand(coefficients, design, data)
    expected = automatic(coefficients, design, data)
    for found, reference in zip(exact, expected, strict=True):
        assert relative(found, reference) < 1e-12
    assert relative(value, expected[0]) < 1e-14
    assert relative(flatten(slope), expected[1]) < 1e-12
    assert relative(exact.hessian, exact.hessian.T) < 1e-14


def test_products_that_are_multiples_of_each_other_are_formed_once():
    """Monomials of even degree up to 4 in d variables for the squares of the attention gate's features (1, x x')."""
    support = np.random.default_rng(0).uniform(-1.0, 1.0, (256, 3))
    score = np.column_stack([np.ones(256), *(support[:, i] * support[:, j] for i in range(3) for j in range(i, 3))])
    for left, right, monomials in ((score, score, 1 + 6 + 15), (score, support, 3 + 10)):
        found = products_of(jnp.asarray(left), jnp.asarray(right))
        assert found.distinct.shape == (256, monomials)
        expected = left[:, :, None] * right[:, None, :]
        np.testing.assert_allclose(np.einsum("mu,uab->mab", *found), expected, rtol=0, atol=1e-13)


def test_objective_is_a_sum_over_samples():
    """Against loops over points and outputs, weights N / sigma^2; points without samples do not count."""
    setting = make_setting("attention", "lora")
    chart, design, data = setting.chart, setting.problem.design, setting.problem.data
    measure = chart.measure(setting.random_z())
    support = np.asarray(design.heads.output[0])
    slow = 0.0
    predictions = np.asarray(jax.vmap(chart.model.predict, (None, 0))(measure, jnp.asarray(support)))
    for point, output in np.ndindex(predictions.shape):
        slow += 0.5 * data.precision[point] * (predictions[point, output] - data.mean[output, point]) ** 2
    coefficients = chart.model.coefficients(measure)
    assert objective(coefficients, design, data) == pytest.approx(slow, rel=1e-13)
    unseen = data._replace(mean=np.where(data.precision > 0, data.mean, 1e6))
    assert objective(coefficients, design, unseen) == pytest.approx(slow, rel=1e-13)


def frame_at(setting, z, beside_frozen):
    beside = jnp.asarray(beside_frozen)
    return Frame(beside, split_scale(setting.chart, beside, z, jnp.asarray(N)))


@quick_jit
def viewed(problem, frame, z):
    """The view's derivatives at z, the automatic ones, and the slope alone."""
    view = problem.seen_in(frame)
    y = enter(problem.chart, frame, z)
    multipliers = jnp.linspace(0.5, 2.0, view.slacks(y).shape[0])
    lagrangian = jax.hessian(lambda point: view.value(point) - jnp.vdot(multipliers, view.slacks(point)))(y)
    automatic = view.value(y), jax.grad(view.value)(y), lagrangian, view.slacks(y), jax.jacobian(view.slacks)(y)
    return view.derivatives(y, multipliers), automatic, view.slope(y), gauge_in_frame(problem.chart, frame, z)[1]


@pytest.mark.parametrize(("gate", "adapter"), VIEWED)
def test_derivatives_in_moment_coordinates_are_exact(gate, adapter):
    setting = make_setting(gate, adapter)
    for beside_frozen in (False, True):
        z = setting.random_z()
        frame = frame_at(setting, z, beside_frozen)
        exact, expected, (value, slope), tangents = viewed(setting.problem, frame, z)
        for found, reference in zip(exact, expected, strict=True):
            assert relative(found, reference) < 1e-12
        assert relative(value, expected[0]) < 1e-14
        assert relative(slope, expected[1]) < 1e-12
        along = np.asarray(slope) @ np.asarray(tangents) / np.linalg.norm(tangents, axis=0)
        assert np.max(np.abs(along)) < 1e-12 * np.linalg.norm(slope)


FRAMED = {
    (k, frozen): make_setting("attention", "identity", frozen, k) for k, frozen in itertools.product((1, 2, 3), (0, 1))
}


def close_pair_z(setting, weights, separation, seed):
    """Atoms with the given weights; the first two (or the first and the frozen one) that far apart."""
    chart, rng = setting.chart, np.random.default_rng(seed)
    factors = rng.normal(size=(chart.k, (chart.size - chart.k) // chart.k))
    if chart.k > 1:
        factors[1] = factors[0] + separation * factors[1]
    floor = chart.space.weight_floor
    weights = np.asarray(weights[: chart.k])
    return jnp.asarray(np.concatenate([weights - floor * weights.sum(), factors.ravel()]))


@given(
    shape=st.sampled_from(sorted(FRAMED)),
    beside_frozen=st.booleans(),
    weights=st.tuples(*[st.floats(0.05, 5.0)] * 3),
    separation=st.sampled_from([1.0, 1e-3, 1e-6]),
    seed=st.integers(0, 1000),
)
def test_entering_and_leaving_a_frame_are_inverse(shape, beside_frozen, weights, separation, seed):
    setting = FRAMED[shape]
    z = close_pair_z(setting, weights, separation, seed)
    frame = frame_at(setting, z, beside_frozen and shape[1] > 0)
    y = enter(setting.chart, frame, z)
    back = leave(setting.chart, frame, y)
    np.testing.assert_allclose(back, z, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(enter(setting.chart, frame, back) * frame.scale, y * frame.scale, rtol=1e-12, atol=1e-12)


def test_moments_are_what_they_are_called():
    """By the formulas of the module, in NumPy."""
    setting = FRAMED[3, 1]
    weights = np.array([0.9, 0.2, 1.3])
    z = close_pair_z(setting, weights, 0.3, 1)
    factors = np.asarray(z[3:]).reshape(3, -1)
    pair = frame_at(setting, z, False)
    y = np.asarray(enter(setting.chart, pair, z) * pair.scale)
    mean = (0.9 * factors[0] + 0.2 * factors[1]) / 1.1
    split = np.sqrt(0.18) * (factors[0] - factors[1]) / 1.1
    np.testing.assert_allclose(y[:3], [1.1, np.log(4.5), 1.3], rtol=1e-13)
    np.testing.assert_allclose(y[3:].reshape(3, -1), [mean, split, factors[2]], rtol=1e-12, atol=1e-13)
    frozen = frame_at(setting, z, True)
    y = np.asarray(enter(setting.chart, frozen, z) * frozen.scale)
    np.testing.assert_allclose(y[:3], [np.log(0.9), 0.2 / 1.9, 1.3 / 1.9], rtol=1e-13)
    np.testing.assert_allclose(y[3:].reshape(3, -1), [np.sqrt(0.9) * factors[0], factors[1], factors[2]], rtol=1e-12)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("frozen", [0, 1])
def test_planted_close_pair_comes_to_the_front(pair, frozen):
    setting = FRAMED[3, frozen]
    z = np.array(setting.random_z(size=1.0))
    factors = z[3:].reshape(3, -1)
    factors[pair[1]] = factors[pair[0]] + 1e-3
    order, beside_frozen = closest_pair(setting.chart, jnp.asarray(z))
    assert sorted(order.tolist()) == [0, 1, 2]
    assert set(order[:2].tolist()) == set(pair)
    assert not bool(beside_frozen)


@pytest.mark.parametrize("near", range(3))
def test_planted_atom_beside_a_frozen_one_comes_to_the_front(near):
    setting = FRAMED[3, 1]
    z = np.array(setting.random_z(size=1.0))
    z[3:].reshape(3, -1)[near] *= 0.02
    order, beside_frozen = closest_pair(setting.chart, jnp.asarray(z))
    assert order[0] == near
    assert sorted(order.tolist()) == [0, 1, 2]
    assert bool(beside_frozen)


def test_one_atom_has_no_pair():
    order, beside_frozen = closest_pair(FRAMED[1, 0].chart, FRAMED[1, 0].random_z())
    assert order.tolist() == [0]
    assert not bool(beside_frozen)


def test_distance_is_measured_free_of_the_gauge():
    """Factors far apart, one Delta: still the closest pair."""
    setting = FRAMED[3, 1]
    z = np.array(setting.random_z(size=1.0))
    factors = z[3:].reshape(3, -1)
    factors[2] = np.concatenate([factors[0, :D] * -5.0, factors[0, D:] / -5.0])
    order, _ = closest_pair(setting.chart, jnp.asarray(z))
    assert set(order[:2].tolist()) == {0, 2}


def gauge_in_frame(chart, frame, z):
    """The slice, and all gauge tangents (with the weights' common scale where free) pushed into the frame."""

    def of_atom(index):
        atom = jax.tree.map(lambda leaf: leaf[index], chart.atoms(z))
        gauge = jax.tree.leaves(chart.model.gauge(atom, chart.common(z)))
        tangents = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in gauge], axis=1)
        start = chart.k + index * tangents.shape[1]
        return jnp.zeros((tangents.shape[0], chart.size)).at[:, start : start + tangents.shape[1]].set(tangents)

    in_z = [of_atom(index) for index in range(chart.k)]
    if not chart.model.frozen.count:
        in_z.append(jnp.where(jnp.arange(chart.size) < chart.k, z, 0.0)[None])
    y, push = jax.linearize(lambda point: enter(chart, frame, point), z)
    return gauge_slice(chart, frame, y), jax.vmap(push)(jnp.concatenate(in_z)).T


compiled_gauge = quick_jit(gauge_in_frame)


def least_crossing(normals, tangents):
    """Least singular value of the cosines between normals and gauge orbit: 0 where the slice holds a gauge motion."""
    span = np.linalg.qr(tangents / np.linalg.norm(tangents, axis=0))[0]
    return np.linalg.svd(normals.T @ span, compute_uv=False)[-1]


@pytest.mark.parametrize(
    ("gate", "adapter", "frozen", "rank"),
    [
        ("attention", "lora", 1, 2),
        ("gaussian", "lora", 0, 1),
        ("gaussian", "identity", 1, 2),
        ("attention", "tanh", 1, 1),
        ("attention", "sigmoid", 0, 2),
    ],
)
def test_slice_crosses_every_gauge_orbit_once(gate, adapter, frozen, rank):
    setting = make_setting(gate, adapter, frozen, rank=rank)
    for beside_frozen in (False, True)[: 1 + frozen]:
        z = setting.random_z()
        frame = frame_at(setting, z, beside_frozen)
        (normals, basis, _), tangents = jax.tree.map(np.asarray, compiled_gauge(setting.chart, frame, z))
        assert normals.shape == tangents.shape
        both = np.hstack([normals, basis])
        np.testing.assert_allclose(both.T @ both, np.eye(setting.chart.size), atol=1e-12)
        assert least_crossing(normals, tangents) > 1e-2


def test_slice_crosses_the_orbits_of_atoms_far_apart_too(monkeypatch):
    """DoRA's gauge under the attention gate is curved: its tangents at the mean of two atoms are not those at them.

    With the mean's tangents alone, lanes ended where F could fall by 0.03 sigma^2 / n (by its model) along a direction
    that the slice had left out for a gauge motion.
    """
    setup = build(ProblemSpec(adapter="dora", dimension=3, support=64))
    chart, rng = Chart(setup.model, setup.space, 3), np.random.default_rng(0)
    drawn = rng.normal(size=(400, chart.size))
    drawn[:, :3] = 0.3
    points = jnp.asarray(drawn)

    def crossings():
        def of(z):
            seen = see(chart, z, jnp.asarray(1e8))
            return gauge_in_frame(chart, Frame(jnp.asarray(False), seen.frame.scale), seen.z)

        compiled = quick_jit(of)
        found = (jax.tree.map(np.asarray, compiled(z)) for z in points)
        return [least_crossing(normals, tangents) for (normals, *_), tangents in found]

    assert min(crossings()) > CROSSING
    monkeypatch.setattr(frames, "CROSSING", 0.0)
    assert min(crossings()) < 0.2 * CROSSING
