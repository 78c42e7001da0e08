"""What every system promises: adapter x gate x heads (flat, two with separate atoms, two that share their atoms).

Nothing is compiled as a whole here: with so many small shapes single operations are far cheaper.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from moe_theory.estimation.objective import design_of, mix
from moe_theory.models.hierarchy import HierarchicalModel, as_hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.theory.voronoi import effective_losses, factor_losses
from tests.models.systems import (
    ADAPTERS,
    D_OUT,
    GATES,
    HEADS,
    HORA,
    D,
    K,
    at,
    flat_tangents,
    inputs,
    jacobian,
    make_measure,
    make_model,
    predictions,
    reference,
)

pytestmark = pytest.mark.usefixtures("quick")

SLOW = ("replora", "dora-global-free", "doran-fixed-half", "hora", "hora-heads-only-tanh")
"""Under the Gaussian gate with several heads these run in the slow tests only; they are the fast ones' next of kin."""


def case(gate, adapter, heads):
    slow = gate == "gaussian" and heads != "flat" and adapter in SLOW
    return pytest.param(gate, adapter, heads, marks=[pytest.mark.slow] if slow else [])


CASES = [
    *(case(*own) for own in itertools.product(GATES, ADAPTERS, ("flat", "separate"))),
    *(case(*own) for own in itertools.product(GATES, HORA, ("shared",))),
]


def reordered(model, measure, order):
    """Atoms in another order, log-weights with them; a head axis stays in front."""
    separate = isinstance(model, HierarchicalModel) and not model.shared_atoms
    atoms = jax.tree.map(lambda leaf: leaf[:, order] if separate else leaf[order], measure.atoms)
    return MixingMeasure(measure.log_weights[..., order], atoms, measure.common)


@pytest.mark.parametrize(("gate", "adapter", "heads"), CASES)
def test_f_shapes_coefficients_and_invariances(gate, adapter, heads):
    model = make_model(gate, adapter, heads)
    measure, x = make_measure(model), inputs()
    found = predictions(model, measure, x)
    assert found.shape == (len(x), D if heads == "flat" else D_OUT)
    np.testing.assert_allclose(found, reference(model, measure, x), rtol=1e-12, atol=1e-12)

    stacked = as_hierarchical(model)
    coefficients, design = stacked.coefficients(measure), design_of(stacked, jnp.asarray(x))
    assert coefficients.log_weight.shape == (stacked.count, K)
    mixture = mix(coefficients, design)
    np.testing.assert_allclose(mixture.prediction.T, found, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jnp.einsum("hov,hvm->mo", stacked.outputs, mixture.heads), found, rtol=1e-12, atol=1e-12)

    order = np.array([2, 0, 1])
    np.testing.assert_allclose(predictions(model, reordered(model, measure, order), x), found, atol=1e-13)
    separate = heads == "separate"
    tools = model.heads.adapter if isinstance(model, HierarchicalModel) else model.adapter
    balance = jax.vmap(jax.vmap(tools.balance)) if separate else jax.vmap(tools.balance)
    balanced = MixingMeasure(measure.log_weights, balance(measure.atoms), measure.common)
    np.testing.assert_allclose(predictions(model, balanced, x), found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("gate", "adapter", "heads"), CASES)
def test_losses_vanish_at_the_truth_and_see_neither_order_nor_balance(gate, adapter, heads):
    model = make_model(gate, adapter, heads)
    truth = make_measure(model)

    def losses(fitted):
        return effective_losses(model, fitted, truth)

    at_truth, again = losses(truth), losses(reordered(model, truth, np.array([1, 2, 0])))
    moved = losses(make_measure(model, seed=6))
    for name in ("d_1", "d_2", "d_12", "weight", "singleton"):
        assert float(getattr(at_truth, name)) < 1e-12, name
        assert float(getattr(again, name)) < 1e-12, name
    assert int(at_truth.pattern) == 1110
    assert float(moved.d_12) > 0.1
    heavier = MixingMeasure(truth.log_weights + 0.1, truth.atoms, truth.common)
    total = float(jnp.sum(jnp.exp(truth.log_weights))) * (np.exp(0.1) - 1.0)
    assert float(losses(heavier).d_1) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(("gate", "adapter", "heads"), CASES)
def test_gradients_are_finite_and_those_of_numpy(gate, adapter, heads):
    model = make_model(gate, adapter, heads)
    measure, x = make_measure(model), inputs(2)
    first = make_measure(model, k=1)
    rest = reordered(model, measure, np.array([1, 2]))
    join, points = 1 if heads == "separate" else 0, jnp.asarray(x)

    def total(atom):
        atoms = jax.tree.map(lambda a, b: jnp.concatenate([a, b], join), atom, rest.atoms)
        return jax.vmap(model.predict, (None, 0))(
            MixingMeasure(measure.log_weights, atoms, measure.common), points
        ).sum()

    gradient = jax.grad(total)(first.atoms)
    whole = MixingMeasure(
        measure.log_weights,
        jax.tree.map(lambda a, b: jnp.concatenate([a, b], join), first.atoms, rest.atoms),
        measure.common,
    )
    for head in range(HEADS if heads == "separate" else 1):
        own = at(gradient, head) if heads == "separate" else gradient
        expected = jacobian(model, whole, x, head).sum(axis=0)
        np.testing.assert_allclose(ravel_pytree(own)[0], expected, rtol=1e-9, atol=1e-11)


GAUGES = [
    pytest.param(*own, rank, marks=[pytest.mark.slow] if rank == 2 and own[1] in SLOW else [])
    for rank in (1, 2)
    for own in [*itertools.product(GATES, ADAPTERS, ("flat",)), *itertools.product(GATES, HORA, ("shared",))]
]


@pytest.mark.parametrize(("gate", "adapter", "heads", "rank"), GAUGES)
def test_gauge_tangents_are_exactly_what_f_cannot_see(gate, adapter, heads, rank):
    """They span the null space of df / d(atom), for hierarchical models of all heads together."""
    model = make_model(gate, adapter, heads, rank)
    measure = make_measure(model)
    by_atom = jacobian(model, measure, inputs(60, 0.6))
    sizes = np.linalg.svd(by_atom, compute_uv=False)
    hidden = by_atom.shape[1] - int(np.sum(sizes > 1e-11 * sizes[0]))
    tangents = flat_tangents(model.gauge(at(measure.atoms, 0), measure.common))
    assert len(tangents) == hidden
    assert hidden == expected_dimension(gate, adapter, heads, rank)
    if hidden:
        tangents = tangents / np.linalg.norm(tangents, axis=1, keepdims=True)
        assert np.max(np.abs(by_atom @ tangents.T)) < 1e-12 * sizes[0]
        assert np.linalg.svd(tangents, compute_uv=False)[-1] > 1e-3


def expected_dimension(gate, adapter, heads, rank):
    """Counted by hand for d = 4: GL(r) of every product, and what a gate of few numbers leaves hidden."""
    if heads == "shared":
        products = 0 if adapter.endswith("tanh") else 2 if "heads-only" in adapter else 1
        return products * rank**2
    own = adapter.startswith(("lora", "dial", "dora-"))
    linear = (2 if own else 1) * rank**2
    numbers = 10 if gate == "attention" else 14
    if adapter == "lora":
        return linear + (rank * (rank - 1) if gate == "attention" else 0)
    if not adapter.startswith("dora-"):
        return linear
    directions = rank * (2 * D - rank) + (D if "free-0" in adapter else 0)
    if gate == "gaussian" and rank == 2 and adapter != "dora-global-free":
        # All columns' directions are free, so the rotations about kappa stay inside: a Gram matrix of five vectors.
        numbers = 13 if adapter == "dora-free-0" else 9
    return linear + max(0, directions - numbers)


@pytest.mark.parametrize("gate", GATES)
def test_separate_heads_have_their_own_gauge(gate):
    model = make_model(gate, "dora-free-0", "separate")
    measure = make_measure(model)
    tangents = model.gauge(at(jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), measure.atoms), 0), measure.common)
    for head in range(HEADS):
        by_atom = jacobian(model, measure, inputs(60, 0.6), head)
        moved = by_atom @ flat_tangents(at(tangents, head)).T
        assert moved.shape[1] == (3 if gate == "attention" else 2)
        assert np.max(np.abs(moved)) < 1e-12 * np.max(np.abs(by_atom)) * 100


@pytest.mark.parametrize(("gate", "adapter"), list(itertools.product(GATES, ADAPTERS)))
def test_one_head_with_the_identity_is_the_flat_model(gate, adapter):
    model = make_model(gate, adapter, "flat")
    stacked, measure, x = as_hierarchical(model), make_measure(model), inputs()
    np.testing.assert_allclose(predictions(stacked, measure, x), predictions(model, measure, x), rtol=1e-12, atol=1e-12)
    other = make_measure(model, seed=6)
    for one, two in zip(
        effective_losses(model, other, measure), effective_losses(stacked, other, measure), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)
    assert as_hierarchical(stacked) is stacked
    atom, held = at(measure.atoms, 0), measure.common
    np.testing.assert_allclose(stacked.interior(atom, held, 3.0), model.interior(atom, held, 3.0), rtol=1e-12)


@pytest.mark.parametrize(("gate", "adapter", "heads"), CASES)
def test_drawn_atoms_lie_inside(gate, adapter, heads):
    model = make_model(gate, adapter, heads)
    slacks = [model.interior(*model.draw(jax.random.key(seed), 0.5), 5.0) for seed in range(4)]
    assert np.mean([np.all(np.asarray(own) > 0) for own in slacks]) >= 0.5
    assert slacks[0].ndim == 1


@pytest.mark.parametrize("gate", GATES)
def test_shared_atoms_with_a_weight_for_every_head(gate):
    model, tied = make_model(gate, "hora-tanh", "shared", 1, True), make_model(gate, "hora-tanh", "shared")
    measure, x = make_measure(model), inputs()
    np.testing.assert_allclose(predictions(model, measure, x), reference(model, measure, x), rtol=1e-12)
    assert float(effective_losses(model, measure, measure).d_1) < 1e-13
    one, other = make_measure(tied), make_measure(tied, seed=6)
    spread = [
        MixingMeasure(jnp.broadcast_to(own.log_weights, (HEADS, K)), own.atoms, own.common) for own in (one, other)
    ]
    np.testing.assert_allclose(
        effective_losses(model, spread[1], spread[0]).d_12, effective_losses(tied, other, one).d_12, rtol=1e-13
    )
    assert float(factor_losses(model, spread[1], spread[0]).d_12) == pytest.approx(
        float(factor_losses(tied, other, one).d_12)
    )


@pytest.mark.parametrize("gate", GATES)
def test_separate_heads_losses_are_the_sum_of_the_heads(gate):
    model = make_model(gate, "doran-global-free", "separate")
    assert isinstance(model, HierarchicalModel)
    one, other = make_measure(model), make_measure(model, seed=6)
    each = [effective_losses(at(model.heads, h), at(other, h), at(one, h)) for h in range(HEADS)]
    found = effective_losses(model, other, one)
    for name in ("d_1", "d_2", "d_12", "weight"):
        np.testing.assert_allclose(getattr(found, name), sum(float(getattr(own, name)) for own in each), rtol=1e-13)
    known = [float(own.singleton) for own in each if np.isfinite(own.singleton)]
    np.testing.assert_allclose(found.singleton, np.sqrt(np.mean(np.square(known))) if known else np.nan, rtol=1e-13)
    patterns = {int(own.pattern) for own in each}
    assert int(found.pattern) == (patterns.pop() if len(patterns) == 1 else -1)
    assert float(factor_losses(model, other, one).d_1) > 0.1


@pytest.mark.parametrize(("adapter", "heads"), [("dora-free-0", "flat"), ("hora", "shared")])
def test_the_gauge_may_be_asked_for_inside_compiled_code(adapter, heads):
    """The count is taken while tracing, from shapes alone; the tangents span the same space."""
    model = make_model("attention", adapter, heads, 2)
    measure = make_measure(model)
    mapped = jax.jit(jax.vmap(lambda own, atom: own.gauge(atom, measure.common), (None, 0)))
    inside = flat_tangents(at(mapped(model, measure.atoms), 0))
    outside = flat_tangents(model.gauge(at(measure.atoms, 0), measure.common))
    assert inside.shape == outside.shape
    basis = np.linalg.qr(outside.T)[0]
    np.testing.assert_allclose(basis @ (basis.T @ inside.T), inside.T, atol=1e-10)
