"""Orders of visibility with known answers: Gaussian mixtures, an invisible split, a regular one."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.margins import cells_of, first_order
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.second_order import second_order
from moe_theory.theory.user_families import density_mixture
from moe_theory.theory.visibility import at_truth, leading, residual_of, simplex, split_of, visibility

pytestmark = pytest.mark.usefixtures("quick")
GRID = np.linspace(-9.0, 9.0, 361)[:, None]


def _normal(x, location, variance):
    return jnp.exp(-0.5 * (x - location) ** 2 / variance) / jnp.sqrt(2 * jnp.pi * variance)


def location_and_scale():
    """A Gaussian whose mean and variance are free."""
    atom = {"mean": jnp.zeros(1), "variance": jnp.ones(1)}
    return density_mixture(lambda x, t: _normal(x[0], t["mean"][0], t["variance"][0]), [atom], GRID, 0.05, [1.0])


def _gaussian(variance_is_free):
    if variance_is_free:
        return location_and_scale()
    return density_mixture(lambda x, t: _normal(x[0], t[0], 1.0), [jnp.zeros(1)], GRID, 0.05, [1.0])


def _seen(mixture, atoms=None):
    cells, first = cells_of(mixture), first_order(mixture)
    second = second_order(first, [cells[0]], starts=6)
    return visibility(mixture, split_of(cells[:1], second.limited[second.fewest or 2].factors), atoms), second


@pytest.mark.parametrize(("variance_is_free", "atoms", "order"), [(False, 2, 2), (True, 2, 4), (True, 3, 6)])
def test_gaussian_mixtures_have_the_orders_of_chen_and_of_ho_and_nguyen(variance_is_free, atoms, order):
    seen, _ = _seen(_gaussian(variance_is_free), atoms)
    assert not seen.is_invisible
    assert seen.order == pytest.approx(order, abs=0.1)
    assert seen.even_order == order


def test_a_visible_split_shows_by_its_margin():
    """With one parameter the distance of a split is t^2 times the second-order margin, 1 / sqrt 2."""
    seen, second = _seen(_gaussian(False))
    np.testing.assert_allclose(seen.distances[-1] / seen.amplitudes[-1] ** 2, second.minimum.value, rtol=2e-3)


def test_the_split_of_loras_value_is_invisible_at_amplitudes_of_order_one():
    setup = build(ProblemSpec(adapter="lora", support=128))
    seen, second = _seen(mixture_of(setup.model, setup.truth, setup.design))
    assert second.decision == "zero"
    assert seen.is_invisible
    assert seen.amplitudes[0] > 0.2
    assert np.isnan(seen.order)
    assert seen.even_order is None


@pytest.mark.parametrize("chosen", [[1], [1, 0], [0, 1]])
def test_the_order_of_a_sets_atoms_changes_nothing(chosen):
    """Of several heads with atoms of their own: the split atoms come first, and f moves by the same."""
    setup = build(ProblemSpec(adapter="lora", heads=2, support=128, k_true=2))
    mixture = mixture_of(setup.model, setup.truth, setup.design)
    cells = cells_of(mixture)
    cells = [cells[number] for number in chosen] + [cells[-1]]
    split = split_of(cells, [np.eye(cell.chart.lifts.shape[1])[:, :1] for cell in cells])
    moved, first = leading(mixture, split)
    assert {place: sorted(atom for at, atom in first.where if at == place) for place in (0, 1)} == {
        0: list(range(len(chosen))), 1: [0],
    }  # fmt: skip
    placed = [simplex(2, 1)] * len(cells)
    sides = [(each, way, way.lifted(each, placed)) for each, way in ((mixture, split), (moved, first))]
    ends = [
        residual_of(each, way.where, at_truth(each, [0.3 * part for part in parts]), jnp.asarray(0.3))
        for each, way, parts in sides
    ]
    assert float(jnp.linalg.norm(ends[0])) > 1e-3
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-13)
