"""Raw draws from the continuous law: their own law, and the same errors as statistics of the finite support."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import bootstrap, kstest, norm

from moe_theory.errors import InputError
from moe_theory.estimation.certificate import certify
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import design_of, mix
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.estimation.trust_region import initial_state, step
from moe_theory.sampling.raw import draw_continuous
from moe_theory.sampling.statistics import draw_statistics
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.voronoi import effective_losses

SPEC = ProblemSpec(dimension=2, support=1024, adapter="replora", k_fit=2)
REPLICATIONS = 48
STEPS = 60


def doubled(x):
    return 2.0 * x.T


@pytest.mark.parametrize(
    ("law", "distribution"), [("uniform", lambda x: np.clip(x / 12**0.5 + 0.5, 0, 1)), ("gaussian", norm.cdf)]
)
def test_inputs_follow_the_law_and_responses_the_function(law, distribution):
    drawn = draw_continuous(doubled, law, 2, 0.5, 2500, 0, 0, block=1000)
    assert drawn.inputs.shape == (2500, 2)
    assert np.all(drawn.data.precision == 4.0)
    for column in drawn.inputs.T:
        assert kstest(column, distribution).pvalue > 1e-3
    noise = (drawn.data.mean - 2.0 * drawn.inputs.T) / 0.5
    assert kstest(noise.ravel(), norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 4 / np.sqrt(2500)


def test_draws_depend_on_the_key_alone():
    one, same, other = (draw_continuous(doubled, "uniform", 2, 1.0, 50, 0, r) for r in (3, 3, 4))
    np.testing.assert_array_equal(one.data.mean, same.data.mean)
    assert not np.any(one.inputs == other.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "between 1 and 1e"),
        ({"n": 10**7}, "use draw_statistics beyond"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"block": 0}, "at least one input"),
        ({"law": "cauchy"}, "unknown input law"),
    ],
)
def test_bad_input_is_told(changes, message):
    given = {"law": "uniform", "dimension": 2, "sigma": 1.0, "n": 10, "seed": 0, "replication": 0} | changes
    with pytest.raises(InputError, match=message):
        draw_continuous(doubled, **given)


def fitted_errors(n):
    """D_1 of every replication, certified: (from direct statistics, from raw continuous draws)."""
    setup = build(SPEC)
    chart = Chart(setup.model, setup.space, setup.k_fit)
    maker = StartMaker(chart, setup.truth, plan_named("near"))
    predict = jax.jit(lambda x: jax.vmap(setup.model.predict, (None, 0))(setup.truth, x).T)

    @jax.jit
    def fit(design, data, z):
        problem = Problem(chart, design, data)
        state = jax.lax.fori_loop(0, STEPS, lambda _, now: step(problem, now), initial_state(problem, z))
        residual = mix(chart.model.coefficients(setup.truth), design).prediction - data.mean
        own = certify(problem, state, 0.5 * jnp.sum(data.precision * jnp.sum(residual**2, axis=0)))
        return effective_losses(setup.model, chart.measure(state.z), setup.truth).d_1, own.passed

    direct, raw = [], []
    for replication in range(REPLICATIONS):
        z = maker.make(n, 0, replication).z[0]
        direct.append(fit(setup.design, draw_statistics(setup.values, setup.sigma, n, 0, replication), z))
        drawn = draw_continuous(
            lambda x: np.asarray(predict(x)), SPEC.input_law, SPEC.dimension, setup.sigma, n, 0, replication
        )
        raw.append(fit(design_of(setup.model, jnp.asarray(drawn.inputs)), drawn.data, z))
    for fits in (direct, raw):
        assert sum(bool(passed) for _, passed in fits) >= 0.95 * REPLICATIONS
    return np.array([float(d) for d, _ in direct]), np.array([float(d) for d, _ in raw])


@pytest.mark.slow
def test_continuous_draws_have_the_errors_of_the_finite_support():
    """Medians of D_1 agree within a 99 % bootstrap interval of their log ratio, and both fall as n^-1/2."""
    errors = {n: fitted_errors(n) for n in (10**3, 10**4)}

    def log_ratio(one, other, axis=-1):
        return np.median(np.log(one), axis=axis) - np.median(np.log(other), axis=axis)

    for direct, raw in errors.values():
        found = bootstrap((raw, direct), log_ratio, confidence_level=0.99, method="percentile", rng=0)
        interval = found.confidence_interval
        assert interval.low <= 0 <= interval.high
        assert interval.high - interval.low < 1.0  # a factor of two either way would be seen
    for place in (0, 1):
        fall = np.median(errors[10**3][place]) / np.median(errors[10**4][place])
        assert 10**0.3 < fall < 10**0.8
