"""Certified maximum-likelihood fits of over-fitted mixtures: certificates, EM's gain, and asymptotic covariance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from moe_theory.estimation.certificate import LARGEST_DECREMENT, certify
from moe_theory.estimation.em import em
from moe_theory.estimation.likelihood import objective, second_order
from moe_theory.estimation.mixture import MixtureKind, slacks
from moe_theory.estimation.mixture_starts import MixturePlan, MixtureStartMaker
from moe_theory.estimation.pool import Lane, Pool
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensityProblemSpec

COARSE: dict[str, Any] = {"deviation_floor": 0.9}
"""A coarser grid: the same code on fewer cells."""


def fits_of(setup, sizes, replications, plan, block=8):
    """(points, truth's F, best end, its certificate) of every replication."""

    problem = MixtureKind(setup.model, setup.levels)
    maker = MixtureStartMaker(setup.model, setup.space, setup.k_fit, setup.rows, plan)
    drawn = [(n, r, jax.tree.map(jnp.asarray, setup.draw(n, 0, r))) for n in sizes for r in range(replications)]
    lanes = [Lane(i, points, z) for i, (n, r, points) in enumerate(drawn) for z in maker.make(n, 0, r, points).z]
    value = jax.jit(lambda points: objective(setup.model, jnp.asarray(setup.rows), points))
    check = jax.jit(lambda points, state, level: certify(problem(setup.space, points), state, level))
    ends = {}
    for end in Pool(problem, (setup.space,), block).run(iter(lanes)):
        ends.setdefault(end.owner, []).append(end.state)
    made = []
    for i, (_, _, points) in enumerate(drawn):
        level = value(points)
        judged = [(state, check(points, state, level)) for state in ends[i]]
        passed = [pair for pair in judged if bool(pair[1].passed)]
        assert passed
        made.append((points, level, *min(passed, key=lambda pair: float(pair[1].excess))))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("n", [10**5, 10**12, 10**15])
def test_200_sweeps_of_em_gain_nothing_from_a_certified_over_fitted_minimum(n):
    setup = build_density(DensityProblemSpec(**COARSE))
    ((points, _, state, certificate),) = fits_of(setup, [n], 1, MixturePlan((0.125,), 0, 0))
    rows = jnp.asarray(state.z).reshape(4, -1)
    sweeps = jax.jit(lambda r: em(setup.model, setup.space, r, points, 200))
    value = jax.jit(lambda r: objective(setup.model, r, points))
    assert float(certificate.decrement) <= LARGEST_DECREMENT
    assert float(value(rows) - value(sweeps(rows))) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["type-1", "published"])
def test_exact_fits_have_the_covariance_of_the_inverse_fisher_information(setting):
    """Sum over replications of (G - G*)' I (G - G*), chi-square with p degrees of freedom each."""
    family = "softmax-gated" if setting == "published" else "gaussian-gated"
    k = 2 if setting == "published" else 3
    spec = DensityProblemSpec(family=family, setting=setting, k_true=k, k_fit=k, **COARSE)
    setup = build_density(spec)
    n, replications = 10**5, 24
    made = fits_of(setup, [n], replications, MixturePlan((), 0, 1))
    expected = setup.points(n * setup.grid.probability)
    truth = jnp.asarray(setup.rows)
    at = second_order(setup.model, truth, jax.tree.map(jnp.asarray, expected))
    free = np.arange(truth.size)
    if setting == "published":
        last = (k - 1) * truth.shape[1]
        free = np.delete(free, [last, last + 1])
    information = np.asarray(at.hessian(jnp.eye(truth.size)))[np.ix_(free, free)]
    statistics = []
    for _, _, state, _ in made:
        rows = np.array(state.z).reshape(k, -1)
        if setting == "published":
            order = np.argsort(-rows[:, 1])
            rows = rows[order]
            rows[:, 1] -= rows[-1, 1]
            rows[:, 0] *= setup.rows[-1, 0] / rows[-1, 0]
        else:
            rows = rows[np.argsort(rows[:, 1])]
        gap = (rows - setup.rows).reshape(-1)[free]
        statistics.append(gap @ information @ gap)
    p = len(free) - (setting != "published")
    assert 1e-4 < chi2.sf(np.sum(statistics), p * replications) < 1 - 1e-4


def test_slacks_are_positive_at_the_truth_and_not_outside():
    setup = build_density(DensityProblemSpec(**COARSE))
    rows = jnp.asarray(setup.rows)
    assert bool(jnp.all(slacks(setup.model, setup.space, rows) > 0))
    thin = rows.at[0, 3].set(0.5 * float(setup.space.floor[0]))
    assert not bool(jnp.all(slacks(setup.model, setup.space, thin) > 0))
    light = rows.at[0, 0].set(1e-3)
    assert not bool(jnp.all(slacks(setup.model, setup.space, light) > 0))


@pytest.mark.slow
def test_starts_with_all_gates_split_alike_are_the_truth_as_a_density():
    """F there equals F of the truth to rounding of n = 10^8 counts, though the gates are apart."""
    spec = DensityProblemSpec(family="softmax-gated", setting="published", k_true=2, k_fit=4)
    setup = build_density(spec)
    plan = MixturePlan((), 0, 0, alike=3)
    points = jax.tree.map(jnp.asarray, setup.draw(10**8, 0, 0))
    made = MixtureStartMaker(setup.model, setup.space, 4, setup.rows, plan).make(10**8, 0, 0, points)
    assert made.kinds == ("alike",) * 3
    value = jax.jit(lambda rows: objective(setup.model, rows, points))
    level = float(value(jnp.asarray(setup.rows)))
    for z in made.z:
        rows = jnp.asarray(z).reshape(4, -1)
        assert float(value(rows)) == pytest.approx(level, abs=1e-4)
        assert float(jnp.ptp(rows[:, 1])) > float(np.ptp(setup.rows[:, 1]))
