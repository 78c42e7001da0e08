"""The trust-region step against brute force, and whole fits: the floor, the KKT conditions, batches."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, linear_sum_assignment

from moe_theory.estimation.frames import enter, see
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import design_of, objective
from moe_theory.estimation.space import Chart, ParameterSpace
from moe_theory.estimation.spectrum import (
    REACH,
    RESOLUTION,
    Spectrum,
    decompose,
    possible_gains,
    trust_region_step,
)
from moe_theory.estimation.trust_region import (
    CENTRALITY,
    CONVERGED,
    DECREMENT,
    GROWTH,
    LARGEST_RADIUS,
    RUNNING,
    SHRINKAGE,
    attempt,
    initial_state,
    look,
    one_step,
    restored,
    standpoint,
    step,
)
from moe_theory.models.adapters import Lora, LoraAtom, Projections, RepLora, SharedAtom
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AttentionGate
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel, frozen_pretrained
from moe_theory.sampling.inputs import finite_support
from moe_theory.sampling.statistics import Statistics, draw_statistics

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Problems here are so small that compiling costs more than running."""

SIZE = 5


def spectrum_of(values, slope):
    """A quadratic in its own eigenbasis."""
    values, slope = jnp.asarray(values), jnp.asarray(slope)
    return Spectrum(values, jnp.eye(values.shape[0]), slope, RESOLUTION * jnp.max(values))


def test_possible_gains_are_what_the_quadratic_loses():
    """Each against the model itself: the Newton step, a slope without curvature, a descent from a maximum."""
    values, slope = np.array([-2e-6, 1e-18, 3.0, 1e4]), np.array([0.0, 5e-5, 0.6, 20.0])
    gains = possible_gains(spectrum_of(values, slope))
    newton = np.array([0.0, 0.0, -0.6 / 3.0, -20.0 / 1e4])
    assert float(gains.decrement) == pytest.approx(-model_value(values, slope, newton), rel=1e-12)
    assert float(gains.unresolved) == pytest.approx(-model_value(values, slope, np.array([0, -REACH, 0, 0])), rel=1e-9)
    assert float(gains.downward) == pytest.approx(-model_value(values, slope, np.array([REACH, 0, 0, 0])), rel=1e-12)
    assert float(possible_gains(spectrum_of(np.abs(values), slope)).downward) == 0.0


solved = jax.jit(trust_region_step)


def model_value(values, slope, at):
    return float(slope @ at + 0.5 * np.sum(values * at**2))


def brute_force(values, slope, radius):
    """Least value of slope . p + 1/2 p' diag(values) p in the ball, by the secular equation (More and Sorensen)."""
    values, slope = np.asarray(values), np.asarray(slope)
    above = values - min(values[0], 0.0)

    def step_at(excess):
        """With the shift max(0, -least value) + excess, free of cancellation."""
        return np.where(above + excess > 0, -slope / np.where(above + excess > 0, above + excess, 1.0), 0.0)

    if values[0] > 0 and np.linalg.norm(step_at(0.0)) <= radius:
        return model_value(values, slope, step_at(0.0))
    lowest = above == 0
    if not np.any(slope[lowest]) and np.linalg.norm(step_at(0.0)) <= radius:
        at = step_at(0.0)
        at[0] = np.sqrt(radius**2 - np.sum(at**2))
        return model_value(values, slope, at)

    def miss(log_excess):
        return np.log(np.linalg.norm(step_at(np.exp(log_excess))) / radius)

    log_excess: Any = brentq(miss, -80.0, np.log(np.linalg.norm(slope) / radius) + 1.0, xtol=1e-13)
    return model_value(values, slope, step_at(np.exp(log_excess)))


def check_step(values, slope, radius):
    """Inside the ball, and as low as brute force says is possible; the shift makes the Hessian semidefinite."""
    values, slope = np.sort(np.asarray(values, float)), np.asarray(slope, float)
    found, shift = solved(spectrum_of(values, slope), jnp.asarray(radius, float))
    found = np.asarray(found)
    assert np.linalg.norm(found) <= radius * (1 + 1e-9)
    best = brute_force(values, slope, radius)
    assert model_value(values, slope, found) <= best + 1e-7 * abs(best)
    assert values[0] + float(shift) >= 0
    return found


SLOPES = st.lists(st.floats(-1, 1).map(lambda x: x if abs(x) > 1e-3 else 0.5), min_size=SIZE, max_size=SIZE)
RADII = st.sampled_from([1e-6, 1e-2, 1.0, 4.0])


@given(log_values=st.lists(st.floats(-6, 6), min_size=SIZE, max_size=SIZE), slope=SLOPES, radius=RADII)
def test_step_in_a_definite_model(log_values, slope, radius):
    check_step(10.0 ** np.asarray(log_values), slope, radius)


@given(values=st.lists(st.floats(-10, 10), min_size=SIZE - 1, max_size=SIZE - 1), slope=SLOPES, radius=RADII)
def test_step_in_an_indefinite_model_reaches_the_boundary(values, slope, radius):
    found = check_step([-11.0, *np.abs(values[:1]), *values[1:]], slope, radius)
    assert np.linalg.norm(found) == pytest.approx(radius, rel=1e-6)


@given(slope=SLOPES, radius=RADII, lowest=st.floats(-5, -0.1))
def test_step_in_the_hard_case(slope, radius, lowest):
    """No slope along the lowest curvature: the step is completed along it, on either side."""
    found = check_step([lowest, 1.0, 2.0, 5.0, 1e4], [0.0, *slope[1:]], radius)
    assert np.linalg.norm(found) == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("faint", [1e-16, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-8])
def test_step_near_the_hard_case(faint):
    check_step([-1.0, 1.0, 2.0, 5.0, 1e4], [faint, 0.3, 0.2, 0.1, 1.0], 2.0)
    check_step([-1.0, 1.0, 2.0, 5.0, 1e4], [-faint, 0.3, 0.2, 0.1, 1.0], 2.0)


def test_step_beats_random_points_of_the_ball():
    rng = np.random.default_rng(0)
    for _ in range(5):
        values, slope, radius = np.sort(rng.normal(size=SIZE)), rng.normal(size=SIZE), 10 ** rng.uniform(-2, 1)
        found, _ = solved(spectrum_of(values, slope), jnp.asarray(radius))
        at = rng.normal(size=(4000, SIZE))
        at *= radius * rng.uniform(size=(4000, 1)) ** 0.2 / np.linalg.norm(at, axis=1, keepdims=True)
        level = at @ slope + 0.5 * at**2 @ values
        assert model_value(values, slope, np.asarray(found)) <= level.min()


def test_decomposition_leaves_the_normals_out():
    """Steps stay in the slice: same spectrum as of the Hessian restricted to the complement of the normals."""
    rng = np.random.default_rng(1)
    size, gauge = 9, 3
    hessian = rng.normal(size=(size, size))
    hessian = hessian + hessian.T
    slope = rng.normal(size=size)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    normals, inside = basis[:, :gauge], basis[:, gauge:]
    spectrum = decompose(jnp.asarray(inside), jnp.asarray(slope), jnp.asarray(hessian))
    found, _ = solved(spectrum, jnp.asarray(0.7))
    step_found = np.asarray(spectrum.vectors @ found)
    np.testing.assert_allclose(normals.T @ step_found, 0.0, atol=1e-13)
    values, vectors = np.linalg.eigh(inside.T @ hessian @ inside)
    restricted = vectors.T @ inside.T @ slope
    level = slope @ step_found + 0.5 * step_found @ hessian @ step_found
    assert level == pytest.approx(brute_force(values, restricted, 0.7), rel=1e-7)


def test_curvature_of_an_atom_with_hardly_any_weight_is_resolved():
    """A Hessian of entries from 1e12 down to 1e-6 of that again: an eigensolver alone would lose the small block."""
    rng = np.random.default_rng(2)
    stiff, soft = (part @ part.T for part in rng.normal(size=(2, 4, 4)))
    coupling = rng.normal(size=(4, 4))
    hessian = np.block([[1e12 * stiff, 1e2 * coupling], [1e2 * coupling.T, 1e-6 * soft]])
    spectrum = decompose(jnp.eye(8), jnp.ones(8), jnp.asarray(hessian))
    schur = 1e-6 * soft - 1e-8 * coupling.T @ np.linalg.solve(stiff, coupling)
    expected = np.linalg.eigvalsh(schur)  # up to the fourth power of the small angle between the blocks
    assert bool(jnp.all(spectrum.resolved))
    np.testing.assert_allclose(np.sort(np.asarray(spectrum.values))[:4], expected, rtol=1e-6)
    rebuilt = np.asarray(spectrum.vectors * spectrum.values[None]) @ np.asarray(spectrum.vectors).T
    np.testing.assert_allclose(rebuilt, hessian, atol=1e-15 * 8 * np.abs(hessian).max())
    np.testing.assert_allclose(np.asarray(spectrum.vectors.T @ spectrum.vectors), np.eye(8), atol=1e-13)


D, POINTS, LANES, N = 4, 64, 6, 10**6


class Case(NamedTuple):
    chart: Chart
    truth: MixingMeasure
    problem: Problem

    @property
    def truth_value(self):
        model = self.chart.model
        return float(objective(model.coefficients(self.truth), self.problem.design, self.problem.data))


def orthogonal(rng):
    return np.linalg.qr(rng.normal(size=(D, D)))[0]


def make_case(adapter, k_fit, n, noise):
    """Two true atoms with || Delta ||_F = 1.5, one frozen atom, attention gate."""
    rng = np.random.default_rng(0)
    pretrained = Projections(jnp.asarray(0.5 * orthogonal(rng)), jnp.asarray(orthogonal(rng)))
    gate = AttentionGate(jnp.asarray(orthogonal(rng)))
    model = RegressionModel(gate, LinearExpert(), adapter, pretrained, frozen_pretrained(pretrained))
    kind = LoraAtom if isinstance(adapter, Lora) else SharedAtom
    factors = rng.normal(size=(2, len(kind._fields), D))
    factors *= np.sqrt(1.5) / np.linalg.norm(factors, axis=2, keepdims=True)
    columns = [factors[:, i, :, None] if i % 2 == 0 else factors[:, i, None, :] for i in range(factors.shape[1])]
    truth = MixingMeasure(jnp.zeros(2), kind(*(jnp.asarray(column) for column in columns)))
    support = jnp.asarray(finite_support("gaussian", POINTS, D, 0))
    values = np.asarray(jax.vmap(model.predict, (None, 0))(truth, support)).T
    data = draw_statistics(values, 1.0, n, 0, 0) if noise else Statistics(np.full(POINTS, n / POINTS), values)
    chart = Chart(model, ParameterSpace(), k_fit)
    return Case(chart, truth, Problem(chart, design_of(model, support), data))


def untied_starts(chart, lanes=LANES, seed=1):
    """Nothing of the truth in them: equal weights, Gaussian factors shrunk into the balls."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(lanes, chart.k, (chart.size - chart.k) // chart.k // D, D))
    factors *= np.minimum(1.0, 1.5 / np.linalg.norm(factors, axis=-1, keepdims=True))
    return jnp.asarray(np.concatenate([np.full((lanes, chart.k), 0.8), factors.reshape(lanes, -1)], axis=1))


def test_a_step_along_a_curved_boundary_is_brought_back_inside():
    """Just inside a ball a tangent step leaves it; restored, it keeps the slack of the tangent."""
    case = make_case(Lora(1), 3, N, True)
    chart = case.chart
    z = np.array(untied_starts(chart, 1)[0])
    own = z[chart.k :].reshape(chart.k, 4, D)[0]
    own[:2] *= np.sqrt(chart.space.radius * (1 - 1e-6) / np.linalg.norm(np.outer(own[0], own[1])))
    seen = see(chart, jnp.asarray(z), jnp.asarray(1.0 * N))
    view = case.problem.seen_in(seen.frame)
    local = look(view, initial_state(case.problem, seen.z), enter(chart, seen.frame, seen.z))
    ball = int(jnp.argmin(local.slacks))
    assert 0 < float(local.slacks[ball]) < 1e-5
    normal = local.slack_slopes[ball] / jnp.linalg.norm(local.slack_slopes[ball])
    tangent = np.random.default_rng(4).normal(size=normal.shape)
    tangent = 0.2 * (tangent - normal * (normal @ tangent)) / np.linalg.norm(tangent)
    assert float(view.slacks(local.y + tangent)[ball]) < 0
    kept = view.slacks(restored(view, local, tangent, jnp.zeros_like(tangent)))
    assert float(kept[ball]) > 0.4 * float(local.slacks[ball])
    assert bool(jnp.all(kept > 0))


def test_the_better_of_two_steps_is_taken():
    """From starts far and near, with trust regions wide and narrow: a longer step after one as good as the model said,
    a shorter one after one that was not, and never the worse of the two."""
    case = make_case(RepLora(1), 3, N, True)
    starts = untied_starts(case.chart, 12)

    def both(z, radius):
        state = initial_state(case.problem, z)._replace(radius=radius)
        at = standpoint(case.problem, state)
        view = case.problem.seen_in(at.frame)
        alone = one_step(view, at.state, at.local, radius, jnp.zeros_like(at.local.y))
        level = at.local.value - at.state.barrier * jnp.sum(jnp.log(at.local.slacks))
        return level, alone, attempt(view, at.state, at.local)

    radii = np.array([[0.1, 0.5, 4.0, 30.0]])
    each = quick_jit(jax.vmap(jax.vmap(both, (None, 0)), (0, None)))(starts, radii[0])
    level, alone, best = jax.tree.map(np.asarray, each)
    longer = alone.promising & (best.merit < alone.merit)
    shorter = ~alone.accepted & best.accepted
    assert np.all(best.merit <= alone.merit)
    assert np.all(best.accepted == (best.merit < level))
    assert np.all(np.where(shorter, best.radius <= SHRINKAGE * radii, True))
    expected = np.where(alone.promising, np.minimum(GROWTH * radii, LARGEST_RADIUS), radii)
    assert np.allclose(np.where(longer, best.radius, expected), expected)
    assert longer.sum() > 8
    assert shorter.sum() > 2
    assert (best.merit == alone.merit).sum() > 2


@quick_jit
def begin(problem, z):
    return jax.vmap(lambda point: initial_state(problem, point))(z)


@quick_jit
def advance(problem, states):
    return jax.vmap(lambda state: step(problem, state))(states)


def run(problem, states, steps):
    for _ in range(steps):
        states = advance(problem, states)
    return states


def lane(states, index):
    return jax.tree.map(lambda leaf: leaf[index], states)


@functools.cache
def fitted_from_afar(adapter):
    """Noise-free fits, exact-specified; a Case and the final states."""
    case = make_case(adapter, 2, 10**14, noise=False)
    starts = untied_starts(case.chart)
    return case, starts, run(case.problem, begin(case.problem, starts), 60)


def effective_error(case, z):
    """Largest error in effective coordinates and in the weights, after matching labels."""
    model = case.chart.model

    def points(atoms):
        return np.asarray(jax.vmap(lambda a: jnp.concatenate(model.effective(model.update(a))))(atoms))

    measure = case.chart.measure(z)
    found, true = points(measure.atoms), points(case.truth.atoms)
    cost = np.max(np.abs(found[:, None] - true[None]), axis=2)
    rows, columns = linear_sum_assignment(cost)
    weights = np.exp(np.asarray(measure.log_weights))[rows] - np.exp(np.asarray(case.truth.log_weights))[columns]
    return max(cost[rows, columns].max(), np.abs(weights).max())


@pytest.mark.parametrize("adapter", [RepLora(1), Lora(1)], ids=["replora", "lora"])
def test_optimisation_floor(adapter):
    """Noise-free data: the best of the starts far away ends at the truth, far below any sweep's least error."""
    case, starts, states = fitted_from_afar(adapter)
    far = [effective_error(case, start) for start in starts]
    assert min(far) > 0.3
    best = int(np.argmin(states.value))
    assert int(states.status[best]) == CONVERGED
    assert effective_error(case, states.z[best]) < 1e-6
    assert float(states.value[best]) < 1e-6


@functools.cache
def over_fitted():
    case = make_case(RepLora(1), 3, N, noise=True)
    return case, run(case.problem, begin(case.problem, untied_starts(case.chart)), 100)


def converged_lanes(case, states):
    """Lanes that passed for minima: converged and below the truth."""
    good = (np.asarray(states.status) == CONVERGED) & (np.asarray(states.value) < case.truth_value)
    return np.flatnonzero(good)


def test_over_fitted_starts_far_from_the_truth_end_at_few_minima_below_it():
    """Blind starts may find another valley, but one that is stopped on its way would end at a value of its own."""
    case, states = over_fitted()
    good = converged_lanes(case, states)
    assert len(good) >= LANES // 2
    assert int(states.status[np.argmin(states.value)]) == CONVERGED
    assert np.min(states.value) < case.truth_value
    assert len(np.unique(np.round(np.asarray(states.value)[good], 4))) <= len(good) // 2


def level_at(problem, z):
    """F in the coordinates z."""
    return objective(problem.chart.model.coefficients(problem.chart.measure(z)), problem.design, problem.data)


@quick_jit
def sloped(problem, z):
    """Gradient of F in z, slacks and their Jacobian."""
    chart = problem.chart
    return jax.grad(level_at, 1)(problem, z), chart.slacks(z), jax.jacrev(chart.slacks)(z)


@quick_jit
def lagrangian_hessian(problem, z, multipliers):
    return jax.hessian(lambda point: level_at(problem, point) - multipliers @ problem.chart.slacks(point))(z)


def loss_left(hessian, residual, pull):
    """1/2 r' H^-1 r in the tangent space of the active constraints, without the gauge (curvature of rounding)."""
    tangent = np.linalg.svd(pull)[2][len(pull) :]
    values, vectors = np.linalg.eigh(tangent @ hessian @ tangent.T)
    curved = np.abs(values) > 1e-9 * values[-1]
    return 0.5 * np.sum((vectors.T @ tangent @ residual)[curved] ** 2 / np.abs(values[curved]))


def test_solution_satisfies_the_kkt_conditions():
    """Multipliers recomputed from the gradient at the active constraints are positive, and leave nothing of it.

    The minima lie on the boundary: an over-fitted atom's weight is at its floor, for example.
    """
    case, states = over_fitted()
    for index in converged_lanes(case, states):
        state = lane(states, index)
        slope, slacks, pull = (np.asarray(leaf) for leaf in sloped(case.problem, state.z))
        assert np.all(slacks > 0)
        assert np.all(np.asarray(state.multipliers) > 0)
        assert float(np.sum(state.multipliers * slacks)) < 1e-3
        np.testing.assert_allclose(state.multipliers * slacks, state.barrier, rtol=CENTRALITY)
        active = np.asarray(state.multipliers) > slacks
        assert active.any()
        multipliers = np.linalg.lstsq(pull[active].T, slope, rcond=None)[0]
        assert np.all(multipliers > 0)
        hessian = np.asarray(lagrangian_hessian(case.problem, state.z, state.multipliers))
        assert loss_left(hessian, slope - pull[active].T @ multipliers, pull[active]) < 10 * DECREMENT


def test_sixty_more_steps_gain_nothing():
    case, states = over_fitted()
    again = run(case.problem, states._replace(status=jnp.full_like(states.status, RUNNING)), 60)
    good = converged_lanes(case, states)
    assert np.all(np.asarray(again.value)[good] > np.asarray(states.value)[good] - 1e-4)


def test_finished_lanes_do_not_move():
    case, states = over_fitted()
    after = advance(case.problem, states)
    good = converged_lanes(case, states)
    for before, now in zip(states, after, strict=True):
        np.testing.assert_array_equal(np.asarray(now)[good], np.asarray(before)[good])


def apart(chart, one, other):
    """Largest difference of two points after matching labels: rounding may list a pair in either order."""
    orders = itertools.permutations(range(chart.k))
    return min(float(jnp.max(jnp.abs(chart.reordered(one, jnp.array(order)) - other))) for order in orders)


def test_batch_equals_a_loop_over_lanes():
    """To rounding all the way: 1e-11 on the path (n = 10^14 amplifies it), 1e-13 at the end, the same step count."""
    case, starts, together = fitted_from_afar(RepLora(1))
    first = begin(case.problem, starts)
    halfway = run(case.problem, first, 8)
    single = quick_jit(step)
    for index in (0, 1):
        alone = lane(first, index)
        for count in range(60):
            if count == 8:
                assert apart(case.chart, alone.z, halfway.z[index]) < 1e-11
            alone = single(case.problem, alone)
        assert apart(case.chart, alone.z, together.z[index]) < 1e-13
        assert int(alone.iterations) == int(together.iterations[index]) < 60
        assert int(alone.status) == int(together.status[index]) == CONVERGED
