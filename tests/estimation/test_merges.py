"""Moment coordinates: inverse maps, and cumulants of a pair as the module says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation.merges import choose, enter, leave, merged, parted
from tests.models.mixtures import MODELS, random_measure

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_leave_undoes_enter(name, levels):
    model = MODELS[name]
    rows = model.rows(random_measure(model, 4, np.random.default_rng(levels)))
    chosen = choose(model, rows, levels, jnp.ones(model.joint), jnp.asarray(1e6))
    np.testing.assert_allclose(leave(model, chosen, enter(model, chosen, rows)), rows, rtol=1e-12, atol=1e-13)


def test_the_closest_pair_is_merged_first():
    model = MODELS["gaussian"]
    rows = np.array(model.rows(random_measure(model, 4, np.random.default_rng(0), spread=3.0)))
    rows[3] = rows[1]
    rows[3, 1] += 1e-3
    chosen = choose(model, jnp.asarray(rows), 1, jnp.ones(2), jnp.asarray(1e6))
    assert {int(chosen.kept[0]), int(chosen.spent[0])} == {1, 3}


def test_cumulants_of_a_pair_are_those_that_the_coordinates_name():
    """With E = 0 the third cumulant vanishes and the fourth is -2/3 xi^4, along any line."""
    model = MODELS["gaussian"]
    atom = model.rows(random_measure(model, 1, np.random.default_rng(1)))[0]
    differences = jnp.asarray([0.7, 0.2, -0.3, 0.0, 0.0, 0.0])
    pair = np.asarray(parted(model, atom, differences))
    line = np.array([0.8, -0.6])
    share = pair[:, 0] / pair[:, 0].sum()
    mean = np.array([line @ np.asarray(model.mean(jnp.asarray(row))) for row in pair])
    variance = np.array([line @ np.asarray(model.matrix(jnp.asarray(row))) @ line for row in pair])
    center = share @ mean
    m = mean - center
    second = share @ (m**2 + variance)
    third = share @ (m**3 + 3 * m * variance)
    fourth = share @ (m**4 + 6 * m**2 * variance + 3 * variance**2) - 3 * second**2
    assert center == pytest.approx(float(line @ np.asarray(model.mean(atom))), rel=1e-12)
    assert second == pytest.approx(float(line @ np.asarray(model.matrix(atom)) @ line), rel=1e-12)
    assert third == pytest.approx(0.0, abs=1e-14)
    assert fourth == pytest.approx(-2.0 / 3.0 * float(line @ np.asarray(differences[1:3])) ** 4, rel=1e-9)


def test_merging_is_differentiable_where_atoms_coincide():
    model = MODELS["gaussian"]
    row = model.rows(random_measure(model, 1, np.random.default_rng(2)))[0]
    differences = jnp.zeros_like(row)
    slope = jax.jacfwd(lambda point: parted(model, row, point))(differences)
    assert bool(jnp.all(jnp.isfinite(slope)))
    np.testing.assert_allclose(merged(model, *parted(model, row, differences))[0], row, rtol=1e-13)
