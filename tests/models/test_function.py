"""A user's function as a regression model: its f, its gauge, its derivatives, and functions that will not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import design_of, mix
from moe_theory.estimation.space import Chart, ParameterSpace
from moe_theory.models.function import function_model
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.statistics import draw_statistics
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec

pytestmark = pytest.mark.usefixtures("quick")


def two_layers(x, atom):
    return x @ atom["a"], jnp.stack([atom["v"] * jnp.tanh(x @ atom["w"]), x[0] * atom["v"]])


def scale_free(x, atom):
    return x @ atom["a"], jnp.tanh(x @ atom["w"] / jnp.linalg.norm(atom["w"]))


def atoms_of(count, rng):
    return [{"a": rng.normal(size=2), "v": rng.normal(), "w": rng.normal(size=2)} for _ in range(count)]


def stacked(atoms):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, jnp.float64) for leaf in leaves]), *atoms)


def test_f_is_the_mixture_of_the_function():
    rng = np.random.default_rng(0)
    atoms, frozen, support = atoms_of(2, rng), atoms_of(1, rng), rng.normal(size=(20, 2))
    model = function_model(two_layers, atoms, support, frozen)
    measure = MixingMeasure(jnp.array([0.3, -0.2]), stacked(atoms))
    found = np.asarray(jax.vmap(model.predict, (None, 0))(measure, jnp.asarray(support)))
    for x, f in zip(support, found, strict=True):
        scores = [c + x @ own["a"] for c, own in zip((0.3, -0.2, 0.0), [*atoms, *frozen], strict=True)]
        outputs = [[own["v"] * np.tanh(x @ own["w"]), x[0] * own["v"]] for own in [*atoms, *frozen]]
        gates = np.exp(scores - np.max(scores))
        np.testing.assert_allclose(f, gates / gates.sum() @ outputs, rtol=1e-12, atol=1e-13)
    design = design_of(model, jnp.asarray(support))
    assert not design.has_products
    np.testing.assert_allclose(mix(model.coefficients(measure), design).prediction.T, found, rtol=1e-12, atol=1e-13)


def test_coordinates_have_the_norm_of_functions():
    rng = np.random.default_rng(1)
    atoms, support = atoms_of(1, rng), rng.normal(size=(30, 2))
    model = function_model(two_layers, atoms, support)
    atom = jax.tree.map(jnp.asarray, atoms[0])
    query, value = model.effective(model.update(atom))
    scores = support @ atoms[0]["a"]
    outputs = atoms[0]["v"] * np.stack([np.tanh(support @ atoms[0]["w"]), support[:, 0]])
    assert float(jnp.linalg.norm(query)) == pytest.approx(np.sqrt(np.mean(scores**2)), rel=1e-12)
    assert float(jnp.linalg.norm(value)) == pytest.approx(np.sqrt(np.mean(np.sum(outputs**2, axis=0))), rel=1e-12)


def test_the_gauge_of_a_scale_free_function_is_found():
    rng = np.random.default_rng(2)
    atoms = [{"a": rng.normal(size=2), "w": rng.normal(size=2)} for _ in range(2)]
    model = function_model(scale_free, atoms, rng.normal(size=(40, 2)))
    atom = jax.tree.map(jnp.asarray, atoms[0])
    tangents = model.gauge(atom)
    assert tangents["w"].shape == (1, 2)
    np.testing.assert_allclose(tangents["a"], 0.0, atol=1e-12)
    direction = atoms[0]["w"] / np.linalg.norm(atoms[0]["w"])
    np.testing.assert_allclose(np.abs(tangents["w"][0] @ direction), 1.0, rtol=1e-10)


@pytest.mark.slow
def test_derivatives_without_products_are_those_with_them():
    """A registered model's derivatives by automatic differentiation against the chained ones."""
    setup = build(ProblemSpec(support=64, adapter="replora"))
    chart = Chart(setup.model, setup.space, 3)
    data = draw_statistics(setup.values, 1.0, 10**6, 0, 0)
    atoms = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 0.9 * leaf[:1]]), setup.truth.atoms)
    z = chart.coordinates(MixingMeasure(jnp.array([0.0, 0.1, -0.3]), atoms))
    found = []
    for design in (setup.design, setup.design._replace(score_score=None, score_output=None, output_output=None)):
        problem = Problem(chart, design, data)

        def at(point, own=problem):
            sight = own.sight(point, 1e-3 * jnp.ones(own.slacks(point).shape[0]))
            return sight.view.derivatives(sight.view.enter(sight.z), sight.multipliers)

        found.append(jax.jit(at)(z))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * float(jnp.max(jnp.abs(jnp.asarray(one)))))


def test_the_parameter_space_is_measured_in_the_truths_sizes():
    rng = np.random.default_rng(3)
    atoms = [{"a": np.array([3.0, 4.0]), "v": 10.0, "w": np.zeros(2)}]
    model = function_model(two_layers, atoms, rng.normal(size=(20, 2)))
    atom = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), atoms[0])
    np.testing.assert_allclose(model.interior(atom, (), 2.0), [0.75, 0.75, 1.0])
    drawn, _ = model.draw(jax.random.key(0), 1.0)
    assert {name: leaf.shape for name, leaf in drawn.items()} == {"a": (2,), "v": (), "w": (2,)}
    space = ParameterSpace(2.0, 0.05)
    assert float(jnp.min(Chart(model, space, 1).slacks(Chart(model, space, 1).coordinates(
        MixingMeasure(jnp.zeros(1), stacked(atoms))
    )))) > 0.0  # fmt: skip


BAD = {
    "two things": lambda x, atom: x @ atom["a"],
    "a scalar score": lambda x, atom: (x, x @ atom["a"]),
    "is not finite": lambda x, atom: (x @ atom["a"], jnp.log(0.0 * atom["v"])),
}


@pytest.mark.parametrize("message", BAD)
def test_a_function_that_will_not_do_is_refused(message):
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match=message):
        function_model(BAD[message], atoms_of(1, rng), rng.normal(size=(10, 2)))


def test_atoms_need_one_structure():
    rng = np.random.default_rng(5)
    with pytest.raises(InputError, match="same blocks"):
        function_model(two_layers, [*atoms_of(1, rng), {"a": np.zeros(2)}], rng.normal(size=(10, 2)))
    with pytest.raises(InputError, match="at least one true atom"):
        function_model(two_layers, [], rng.normal(size=(10, 2)))
