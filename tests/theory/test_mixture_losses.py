"""Block losses by hand, invariances, and cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.models.measure import MixingMeasure
from moe_theory.study.density_problem import published_gaussian, published_softmax
from moe_theory.theory.mixture_losses import Metric, block_losses, metric_of

pytestmark = pytest.mark.usefixtures("quick")

measured = jax.jit(block_losses, static_argnums=(0, 3))


def over_fitted(truth, moved):
    """The truth with its second atom in two parts, 0.1 and 0.3 of weight; the first part's blocks moved."""
    order = np.array([0, 1, 2, 1])
    atoms = jax.tree.map(lambda leaf: leaf[order], truth.atoms)
    atoms = atoms._replace(**{name: getattr(atoms, name).at[1].add(by) for name, by in moved.items()})
    return MixingMeasure(jnp.log(jnp.asarray([0.31, 0.1, 0.29, 0.3])), atoms)


def test_losses_of_a_split_by_hand():
    model, truth = published_gaussian("type-1")
    fitted = over_fitted(truth, {"center": 0.02, "spread": 0.003, "slope": 0.04, "intercept": -0.01, "noise": 0.002})
    metric = metric_of(model, truth)
    x, y = metric
    assert x == pytest.approx(np.sqrt(np.mean([0.042824, 0.0175, 0.01])))
    away = {"center": 0.02 / x, "spread": 0.003 / x**2, "slope": 0.04 * x / y, "intercept": 0.01 / y,
            "noise": 0.002 / y**2}  # fmt: skip
    found = measured(model, fitted, truth, metric)
    power = {name: 4.0 if name in ("center", "intercept") else 2.0 for name in away}
    spread = sum(0.1 * away[name] ** power[name] for name in away)
    assert float(found.weight) == pytest.approx(0.02, rel=1e-9)
    assert float(found.d) == pytest.approx(0.02 + spread, rel=1e-9)
    assert float(found.d_published) == pytest.approx(float(found.d), rel=1e-12)
    assert int(found.pattern) == 121
    for name, distance in away.items():
        assert float(found.errors[f"pair_{name}"]) == pytest.approx(np.sqrt(0.25) * distance, rel=1e-9)
        assert np.isnan(float(found.errors[f"triple_{name}"]))
        assert float(found.errors[f"singleton_{name}"]) < 1e-12


def test_a_cell_of_three_has_powers_six_and_three_and_the_published_one_two():
    model, truth = published_gaussian("type-1")
    order = np.array([0, 1, 2, 1, 1])
    atoms = jax.tree.map(lambda leaf: leaf[order], truth.atoms)
    atoms = atoms._replace(slope=atoms.slope.at[1].add(0.2), center=atoms.center.at[3].add(0.02))
    fitted = MixingMeasure(jnp.log(jnp.asarray([0.3, 0.1, 0.3, 0.2, 0.1])), atoms)
    metric = metric_of(model, truth)
    found = measured(model, fitted, truth, metric)
    slope, center = 0.2 * metric.x / metric.y, 0.02 / metric.x
    assert int(found.pattern) == 131
    assert float(found.d) == pytest.approx(0.1 * slope**3 + 0.2 * center**6, rel=1e-9)
    assert float(found.d_published) == pytest.approx(0.1 * slope**2 + 0.2 * center**6, rel=1e-9)
    assert float(found.errors["triple_slope"]) == pytest.approx(0.5 * slope, rel=1e-9)


@pytest.mark.parametrize("setting", ["type-1", "type-2", "published"])
def test_losses_vanish_at_the_truth_and_ignore_order(setting):
    model, truth = published_softmax() if setting == "published" else published_gaussian(setting)
    inputs = np.linspace(0.0, 1.0, 20)[:, None]
    metric = metric_of(model, truth, inputs)
    order = np.arange(truth.k)[::-1].copy()
    turned = jax.tree.map(lambda leaf: leaf[order], truth)
    found = measured(model, turned, truth, metric)
    assert float(found.d) < 1e-12
    assert float(found.d_1) < 1e-12


def test_the_common_shift_of_a_softmax_gate_costs_nothing():
    model, truth = published_softmax()
    metric = Metric(0.29, 0.35)
    moved = truth.atoms._replace(gate=truth.atoms.gate + 7.0, slope=truth.atoms.slope.at[0].add(0.01))
    shifted = measured(model, MixingMeasure(truth.log_weights - 3.0, moved), truth, metric)
    plain = measured(model, MixingMeasure(truth.log_weights, truth.atoms._replace(slope=moved.slope)), truth, metric)
    assert float(plain.d) == pytest.approx(float(jnp.exp(-8.0)) * 0.01 * 0.29 / 0.35, rel=1e-9)
    assert float(shifted.d) == pytest.approx(float(plain.d), rel=1e-9)
