"""First-order descents: they go down, with enough steps to the certified minimum of an easy problem, and no further."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.estimation.certificate import certify
from moe_theory.estimation.first_order import adam, descend, lbfgs
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import objective
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.estimation.trust_region import initial_state, step
from moe_theory.sampling.statistics import draw_statistics
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec

N = 10**4
EXACT = ProblemSpec(dimension=2, support=64, adapter="replora", k_fit=2)


@pytest.fixture(scope="module")
def case(quick):
    """(problem, its two near starts as measures, F at the certified minimum) of one exact-specified replication."""
    setup = build(EXACT)
    chart = Chart(setup.model, setup.space, setup.k_fit)
    data = draw_statistics(setup.values, setup.sigma, N, 0, 0)
    starts = StartMaker(chart, setup.truth, plan_named("near")).make(N, 0, 0).z
    problem = Problem(chart, setup.design, jax.tree.map(jnp.asarray, data))

    @jax.jit
    def fit(z):
        return jax.lax.fori_loop(0, 60, lambda _, state: step(problem, state), initial_state(problem, z))

    state = fit(starts[0])
    truth_value = 0.5 * float(data.precision @ np.sum((setup.values - data.mean) ** 2, axis=0))
    assert bool(jax.jit(certify)(problem, state, truth_value).passed)
    return problem, jax.vmap(chart.measure)(jnp.asarray(starts)), float(state.value)


def run(case, method, steps):
    problem, starts, _ = case
    model = problem.chart.model
    descent = jax.jit(jax.vmap(lambda start: descend(model, problem.design, problem.data, start, method, steps)))
    return descent(starts)


@pytest.mark.parametrize("method", [adam(200), lbfgs()], ids=["adam", "lbfgs"])
def test_the_objective_falls_and_is_recorded(case, method):
    problem, starts, lowest = case
    found = run(case, method, 200)
    assert found.history.shape == (2, 200)
    for lane in range(2):
        start = jax.tree.map(lambda leaf, lane=lane: leaf[lane], starts)
        begun = objective(problem.chart.model.coefficients(start), problem.design, problem.data)
        assert float(found.history[lane, 0]) == pytest.approx(float(begun))
        assert float(found.value[lane]) < 0.9 * float(begun)
        end = jax.tree.map(lambda leaf, lane=lane: leaf[lane], found.measure)
        again = objective(problem.chart.model.coefficients(end), problem.design, problem.data)
        assert float(found.value[lane]) == pytest.approx(float(again))
        assert float(found.value[lane]) > lowest - 1e-3


@pytest.mark.parametrize(("method", "steps"), [(adam(8000), 8000), (lbfgs(), 400)], ids=["adam", "lbfgs"])
def test_many_steps_reach_the_certified_minimum_of_an_exact_specified_problem(case, method, steps):
    found = run(case, method, steps)
    np.testing.assert_allclose(np.asarray(found.value), case[2], atol=1e-4)


def test_no_steps_leave_the_start(case):
    found = run(case, adam(1), 0)
    for end, start in zip(jax.tree.leaves(found.measure), jax.tree.leaves(case[1]), strict=True):
        np.testing.assert_array_equal(np.asarray(end), np.asarray(start))


@pytest.mark.parametrize("given", [(0, 0.1), (10, 0.0), (10, float("nan"))])
def test_bad_schedules_are_told(given):
    with pytest.raises(InputError, match="must be positive"):
        adam(*given)
