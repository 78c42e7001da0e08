"""The modulus of continuity of densities: orders of contact that theory predicts, without noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.theory.density_modulus import SHAPES, density_modulus
from moe_theory.theory.polynomial_system import moments


@pytest.mark.parametrize(("atoms", "order"), [(2, 4), (3, 6)])
def test_the_closed_form_shapes_cancel_all_moments_below_rbar(atoms, order):
    offsets, shares, changes = SHAPES[atoms]
    found = moments(shares, offsets, 0.5 * changes, order)
    np.testing.assert_allclose(found[: order - 1], 0.0, atol=1e-14)
    assert abs(found[order - 1]) > 1e-3


def modulus_of(cell, atoms, direction, amplitudes, **problem):
    setup = build_density(DensityProblemSpec(deviation_floor=0.9, **problem))
    points = jax.tree.map(jnp.asarray, setup.points(1e15 * setup.grid.probability))
    return density_modulus(setup.model, setup.space, setup.rows, points, cell, atoms, np.array(direction), amplitudes)


SOFTMAX: dict[str, Any] = {"family": "softmax-gated", "setting": "published", "k_true": 2, "k_fit": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("atoms", "direction", "problem", "order"),
    [
        (2, (0.0, 1.0), {}, 4),
        (2, (1.0, 0.0), {}, 4),
        (3, (0.0, 1.0), {"k_fit": 5}, 6),
        (2, (0.0, 1.0), SOFTMAX, 4),
        (2, (1.0, 0.0), SOFTMAX, 2),
    ],
    ids=["b", "c", "b of three", "b behind a softmax", "beta1"],
)
def test_the_distance_falls_with_the_order_that_theory_predicts(atoms, direction, problem, order):
    amplitudes = (0.1, 0.05)
    found = modulus_of(0, atoms, direction, amplitudes, **problem)
    assert np.all(np.diff(found.distances) < 0)
    assert 1.0 / found.slopes(found.amplitudes)[-1] == pytest.approx(order, abs=0.25)
