"""The likelihood of low-rank densities as a problem for the trust-region method: derivatives and certified fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation.adapted_likelihood import AdaptedProblem
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.study.adapted_problem import build_adapted
from moe_theory.study.adapted_spec import AdaptedProblemSpec

KINDS = {
    "joint": {"adapter": "lora", "dimension": 1, "noise": "free", "spread": "free"},
    "conditional": {"adapter": "replora", "dimension": 1, "density": "conditional", "anchored": True},
    "groups": {"adapter": "hora", "activation": "tanh", "heads": 2, "dimension": 1},
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "kind", ["conditional", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("joint", "groups"))]
)
def test_derivatives_in_the_coordinates_of_a_step_are_those_of_automatic_differentiation(kind):
    setup = build_adapted(AdaptedProblemSpec(**KINDS[kind]))
    own = setup.regression
    chart = Chart(own.model, own.space, own.k_fit)
    start = StartMaker(chart, own.truth, plan_named("few")).make(10**4, 0, 0).z[0]
    problem = AdaptedProblem(chart, setup.density, jax.tree.map(jnp.asarray, setup.points(10**4, 0, 0)))
    multipliers = 0.1 * jnp.ones(problem.slacks(jnp.asarray(start)).shape[0])

    @jax.jit
    def both(z):
        seen, held, view = problem.sight(z, multipliers)
        y = view.enter(seen)

        def lagrangian(point):
            return view.value(point) - held @ view.slacks(point)

        made = view.derivatives(y, held)
        slow = view.value(y), jax.grad(view.value)(y), jax.hessian(lagrangian)(y), jax.jacfwd(view.slacks)(y)
        back = jnp.max(jnp.abs(view.leave(y) - seen))
        return (made.value, made.slope, made.hessian, made.slack_slopes), slow, view.slope(y)[1], back

    made, slow, slope, back = both(jnp.asarray(start))
    for ours, theirs in zip(made, slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * float(jnp.max(jnp.abs(theirs))))
    np.testing.assert_allclose(slope, slow[1], rtol=1e-8, atol=1e-8 * float(jnp.max(jnp.abs(slow[1]))))
    assert float(back) < 1e-12
