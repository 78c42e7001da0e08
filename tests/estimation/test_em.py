"""EM sweeps against an independent NumPy version, and what sweeps may and may not do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation.em import em_step
from moe_theory.estimation.likelihood import Points, objective
from moe_theory.estimation.mixture import MixtureSpace
from moe_theory.models.density import GaussianGated
from tests.models.mixtures import MODELS, random_measure, slow_terms

pytestmark = pytest.mark.usefixtures("quick")

K = 3


def space_of(model, weight_floor=1e-6, floor=1e-4):
    ones = np.ones(model.joint)
    parts = (weight_floor, -9 * ones, 9 * ones, 50 * ones, floor * ones, ones, np.zeros((1, model.dimension)))
    return MixtureSpace(*map(jnp.asarray, parts))


def made(name, points=200):
    model, rng = MODELS[name], np.random.default_rng(0)
    measure = random_measure(model, K, rng, spread=2.0)
    x, y = 2.0 * rng.normal(size=(points, model.dimension)), 2.0 * rng.normal(size=(points, model.outputs))
    counts = rng.poisson(3.0, size=points).astype(float)
    mass = counts.sum() if isinstance(model, GaussianGated) else 0.0
    data = Points(*map(jnp.asarray, (x, y, counts, np.full(points, -np.inf), mass)))
    return model, measure, data


sweep = partial(jax.jit, static_argnums=0)(em_step)
value = partial(jax.jit, static_argnums=0)(objective)


@pytest.mark.parametrize("name", ["gaussian", "gaussian-3-2"])
def test_a_sweep_equals_numpy(name):
    """Responsibilities by SciPy, weighted means, and numpy.linalg.lstsq for every expert."""
    model, measure, data = made(name)
    x, y, counts = (np.asarray(part) for part in data[:3])
    terms = np.array([slow_terms(model, measure, *point) for point in zip(x, y, strict=True)])
    share = np.exp(terms - terms.max(axis=1, keepdims=True))
    taken = counts[:, None] * share / share.sum(axis=1, keepdims=True)
    found = model.measure(sweep(model, space_of(model), model.rows(measure), data))
    for i in range(K):
        r = taken[:, i]
        center = r @ x / r.sum()
        gamma = (r[:, None] * (x - center)).T @ (x - center) / r.sum()
        design = np.column_stack([x, np.ones(len(x))])
        root = np.sqrt(r)[:, None]
        beta = np.linalg.lstsq(root * design, root * y, rcond=None)[0].T
        left = y - design @ beta.T
        noise = (r[:, None] * left).T @ left / r.sum()
        expected = (center, gamma, beta[:, :-1], beta[:, -1], noise)
        assert float(jnp.exp(found.log_weights[i])) == pytest.approx(r.sum() / counts.sum(), rel=1e-10)
        for got, wanted in zip(jax.tree.map(lambda leaf, at=i: leaf[at], found.atoms), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_sweeps_never_raise_the_objective(name):
    model, measure, data = made(name)
    space, rows = space_of(model), model.rows(measure)
    values = [float(value(model, rows, data))]
    for _ in range(15):
        rows = sweep(model, space, rows, data)
        values.append(float(value(model, rows, data)))
    assert np.all(np.diff(values) <= 1e-9 * abs(values[0]))
    assert values[0] - values[-1] > 1.0


def test_floors_hold_and_the_sweep_is_still_the_best_that_they_allow():
    """An atom on 40 equal points would have variance 0; with floors its variances end on them."""
    model = MODELS["gaussian"]
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=100), np.full(40, 3.0)])[:, None]
    y = np.concatenate([rng.normal(size=100), np.full(40, 3.0)])[:, None]
    data = Points(*map(jnp.asarray, (x, y, np.ones(140), np.full(140, -np.inf), 140.0)))
    space = space_of(model, weight_floor=0.4, floor=0.01)
    rows = jnp.asarray([[0.5, 0.0, 0.0, 1.0, 0.0, 1.0], [0.5, 3.0, 3.0, 0.02, 0.0, 0.02]])
    for _ in range(30):
        rows = sweep(model, space, rows, data)
    found = model.measure(rows)
    np.testing.assert_allclose(found.atoms.spread[1, 0, 0], 0.01, rtol=1e-9)
    np.testing.assert_allclose(found.atoms.noise[1, 0, 0], 0.01, rtol=1e-9)
    np.testing.assert_allclose(jnp.exp(found.log_weights), [0.6, 0.4], rtol=1e-9)
