"""Mixtures whose parameters are all free, as margins see them: what is linear, what a split moves, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from moe_theory.models.density import GaussianGated
from moe_theory.study.certify_problem import COARSER
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.theory.density_families import free_mixture
from moe_theory.theory.identifiability import identify
from moe_theory.theory.margins import first_order

SOFTMAX = {"family": "softmax-gated", "setting": "published", "k_true": 2, "k_fit": 3}
PROBLEMS = {"gaussian": DensityProblemSpec(), "softmax": DensityProblemSpec(**SOFTMAX)}


@pytest.fixture(params=PROBLEMS)
def own(request):
    setup = build_density(PROBLEMS[request.param])
    return free_mixture(setup.model, setup.truth, setup.grid, setup.metric)[0]


def test_the_truth_moves_nothing_and_has_no_loss(own):
    at = own.weights, own.atoms, own.common
    np.testing.assert_allclose(np.asarray(own.moved(*at)), 0.0, atol=1e-12)
    assert float(own.loss(*at)) == pytest.approx(0.0, abs=1e-12)


def test_the_response_is_what_a_weight_adds(own):
    """d p_G / d w_i = H(theta_i) / D_G, by automatic differentiation of p_G itself."""
    slopes = jax.jacfwd(own.moved)(own.weights, own.atoms, own.common)
    for number, atom in enumerate(own.atoms):
        expected = np.asarray(own.response(atom, own.common))
        np.testing.assert_allclose(np.asarray(slopes[:, number]), expected, rtol=1e-9, atol=1e-12)


def test_a_softmax_of_all_atoms_has_a_scale_and_a_shift():
    setup = build_density(PROBLEMS["softmax"])
    first = first_order(free_mixture(setup.model, setup.truth, setup.grid, setup.metric))
    assert (first.generic_nullity, first.is_singular) == (2, False)


def test_derivatives_in_many_directions_are_those_of_automatic_differentiation(own):
    """At a measure that is not the truth."""
    moved = [part + 0.01 * np.arange(part.size).reshape(part.shape) for part in (own.weights, own.atoms)]

    def plainly(weights, atoms):
        log_p = own.base.log_densities(own.rows(own.measure(weights, atoms, own.common)), own.x, own.y)
        return jnp.sqrt(own.volume) * jnp.exp(0.5 * own.true) * jnp.expm1(log_p - own.true)

    def by_scores(weights, atoms):
        return own.moved(weights, atoms, own.common)

    np.testing.assert_allclose(by_scores(*moved), plainly(*moved), atol=1e-14)
    for mine, automatic in zip(jax.jacfwd(by_scores, (0, 1))(*moved), jax.jacfwd(plainly, (0, 1))(*moved), strict=True):
        np.testing.assert_allclose(mine, automatic, atol=1e-10 * float(jnp.max(jnp.abs(automatic))))


@pytest.mark.parametrize("name", ["gaussian", pytest.param("softmax", marks=pytest.mark.slow)])
def test_margins_on_the_coarse_cells_are_those_on_the_cells_that_are_drawn(name):
    margins = []
    for coarser in (1.0, COARSER):
        setup = build_density(PROBLEMS[name], coarser)
        margins.append(first_order(free_mixture(setup.model, setup.truth, setup.grid, setup.metric)).margin)
    assert margins[1] == pytest.approx(margins[0], rel=2e-4)


def test_only_the_joint_density_is_known_to_determine_its_atoms(own):
    """With a softmax gate p(y|x) of 2 k_true atoms and more has splits that do not show (docs/density.md)."""
    assert own.is_identified == isinstance(own.model, GaussianGated)


def test_a_location_split_that_keeps_mean_and_covariance_moves_p_at_the_fourth_power():
    """Theory section 6: c, b apart by t with Gamma, A, nu lower by t^2: moments up to three agree."""
    setup = build_density(PROBLEMS["gaussian"])
    own = free_mixture(setup.model, setup.truth, setup.grid, setup.metric)[0]
    rows = np.asarray(setup.rows)
    moved = []
    for t in (0.1, 0.05):
        apart = t * np.sqrt(rows[0, 3:4])
        parts = np.vstack([rows[0], rows[0]])
        parts[:, 0] /= 2.0
        parts[:, 1] += np.array([1.0, -1.0]) * apart
        parts[:, 3] -= apart**2
        measure = setup.model.measure(jnp.asarray(np.vstack([parts, rows[1:]])))
        atoms = jax.vmap(lambda atom: ravel_pytree(atom)[0])(measure.atoms)
        moved.append(float(jnp.linalg.norm(own.moved(jnp.exp(measure.log_weights), atoms, own.common))))
    assert np.log2(moved[0] / moved[1]) == pytest.approx(4.0, abs=0.05)


def test_a_density_has_no_gate_to_blame():
    setup = build_density(PROBLEMS["gaussian"])
    found = identify(free_mixture(setup.model, setup.truth, setup.grid, setup.metric), look=False)
    assert all(each.second.decision == "zero" for each in found.cells)
    assert {each.block for each in found.worst.blame} == {"center", "intercept"}
    assert found.worst.reason == "the density's second derivatives along them are undone by first derivatives"
