"""Column normalisation: the table of variants, its limits, the zero column, and which splits of an atom f can see."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.models.adapters import Dial, Lora, Projections, RepLora
from moe_theory.models.decomposed import WeightDecomposed, dora, doran
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel, frozen_pretrained
from tests.models.systems import D, at, inputs, make_head, make_measure, plain, predictions, reference_updates

pytestmark = pytest.mark.usefixtures("quick")

MAGNITUDES = ("fixed", "global", "free")
TAUS = (0.0, 0.5, "free")
TABLE = list(itertools.product((Lora(1), RepLora(1, "tanh")), MAGNITUDES, TAUS))


@pytest.mark.parametrize(("inner", "magnitudes", "tau"), TABLE)
def test_updates_are_those_of_the_formula_and_parameters_sit_where_they_belong(inner, magnitudes, tau):
    model = make_head("attention", WeightDecomposed(inner, magnitudes, tau), 0)
    atom, common = model.draw(jax.random.key(1))
    found = model.update(atom, common)
    expected = reference_updates(model.adapter, plain(atom), plain(common), model.pretrained)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13, atol=1e-14)
    assert (atom.gains != ()) == (magnitudes == "free")
    assert (common.gains != ()) == (magnitudes == "global")
    assert (common.tau != ()) == (tau == "free" and magnitudes != "free")
    count = model.adapter.common_interior(common, 3.0).shape[0]
    assert count == 2 * D * (magnitudes == "global") + 4 * (tau == "free" and magnitudes != "free")
    assert np.all(np.asarray(model.adapter.common_interior(common, 3.0)) > 0)


@pytest.mark.parametrize("magnitudes", MAGNITUDES)
def test_without_update_the_normalised_model_is_the_pretrained_one(magnitudes):
    """tau = 0, B = 0 and gains 0."""
    model = make_head("gaussian", dora(2, magnitudes, 0.0), 0)
    atom, common = jax.tree.map(jnp.zeros_like, model.draw(jax.random.key(0)))
    for adapted, base in zip(model.adapted(atom, common), model.pretrained, strict=True):
        np.testing.assert_allclose(adapted, base, rtol=1e-12)


@pytest.mark.parametrize("adapter", [doran, dora])
def test_for_large_tau_the_matrix_tends_to_a_scaled_plain_update(adapter):
    """W -> (m / tau)(M + B A), with an error of order 1 / tau relative to it."""
    errors = []
    for tau in (1e3, 1e6):
        model = make_head("attention", adapter(1, magnitudes="fixed", tau=tau), 0)
        atom, common = model.draw(jax.random.key(0))
        assert isinstance(model.adapter, WeightDecomposed)
        inner = model.adapter.inner.update(atom.low_rank, (), model.pretrained)
        for base, low_rank, adapted in zip(model.pretrained, inner, model.adapted(atom, common), strict=True):
            norms = np.linalg.norm(base, axis=0)
            limit = norms / tau * (np.asarray(base) + np.asarray(low_rank))
            errors.append(np.max(np.abs(adapted - limit)) / np.max(np.abs(limit)))
    assert max(errors[:2]) < 1e-2
    assert max(errors[2:]) < 1e-5


def with_zero_column(tau, column=2):
    """A value product that cancels one column of M_V exactly."""
    model = make_head("attention", dora(1, "fixed", tau), 0)
    measure = make_measure(model)
    left = -np.asarray(model.pretrained.value)[:, [column]]
    right = np.eye(D)[[column]]
    low_rank = measure.atoms.low_rank._replace(
        value_left=measure.atoms.low_rank.value_left.at[1].set(jnp.asarray(left)),
        value_right=measure.atoms.low_rank.value_right.at[1].set(jnp.asarray(right)),
    )
    return model, MixingMeasure(measure.log_weights, measure.atoms._replace(low_rank=low_rank), measure.common)


def test_a_column_of_norm_zero_is_an_error_and_never_a_nan():
    model, measure = with_zero_column(0.0)
    with pytest.raises(InputError, match=r"column 2 of M_V \+ Delta_0,V has norm 0"):
        predictions(model, measure, inputs())
    traced = jax.jit(jax.grad(lambda own: model.predict(own, jnp.ones(D)).sum(), allow_int=True))(measure)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(traced))
    assert np.min(model.interior(at(measure.atoms, 1), measure.common, 3.0)) < 0
    model, measure = with_zero_column(0.3)
    assert np.all(np.isfinite(predictions(model, measure, inputs())))


def test_bad_variants_and_matrices_are_refused():
    with pytest.raises(InputError, match="fixed, global, free"):
        dora(1, "learned")
    with pytest.raises(InputError, match="tau must be 0"):
        dora(1, "fixed", -0.1)
    model = make_head("attention", Lora(1), 0)
    base = Projections(model.pretrained.query.at[:, 1].set(0.0), model.pretrained.value)
    with pytest.raises(InputError, match="column 1 of M_Q"):
        RegressionModel(model.gate, model.expert, dora(1), base, frozen_pretrained(base))
    free = make_head("attention", dora(1, "fixed", "free"), 0)
    measure = make_measure(free)
    negative = jax.tree.map(lambda leaf: -leaf, measure.common)
    with pytest.raises(InputError, match="free tau must be positive"):
        predictions(free, MixingMeasure(measure.log_weights, measure.atoms, negative), inputs())
    for eta in (1.0, -0.1):
        with pytest.raises(InputError, match="eta must lie in"):
            Dial(1, eta)


def test_free_magnitudes_absorb_every_tau():
    """The same W for another tau: m' = m (||N|| + tau') / (||N|| + tau)."""
    one, two = make_head("attention", dora(1, "free", 0.0), 0), make_head("attention", dora(1, "free", 2.0), 0)
    atom, common = one.draw(jax.random.key(4))
    assert isinstance(one.adapter, WeightDecomposed)
    inner = one.adapter.inner.update(atom.low_rank, (), one.pretrained)
    gains = [
        (1.0 + gain) * (np.linalg.norm(base + low_rank, axis=0) + 2.0) / np.linalg.norm(base + low_rank, axis=0) - 1.0
        for gain, base, low_rank in zip(atom.gains, one.pretrained, inner, strict=True)
    ]
    moved = atom._replace(gains=type(atom.gains)(*map(jnp.asarray, gains)))
    for a, b in zip(one.update(atom, common), two.update(moved, common), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


def split_effect(model, atom, common, step, size):
    """Largest change of f when one atom becomes two halves at atom +- size step, beside one other atom."""
    other = model.draw(jax.random.key(77))[0]
    halves = [jax.tree.map(lambda leaf, way, s=s: leaf + s * size * way, atom, step) for s in (1.0, -1.0)]

    def of(atoms, weights):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *atoms)
        return predictions(model, MixingMeasure(jnp.log(jnp.asarray(weights)), stacked, common), inputs(6))

    return np.max(np.abs(of([*halves, other], [0.5, 0.5, 1.0]) - of([atom, other], [1.0, 1.0])))


@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("adapter", [dora, doran])
def test_free_magnitudes_leave_an_invisible_split_even_where_factors_are_shared(adapter, tau):
    """m_V +- t with all else equal: f is linear in it and the gate does not contain it."""
    model = make_head("attention", adapter(1, magnitudes="free", tau=tau), 0)
    atom, common = model.draw(jax.random.key(2))
    still = jax.tree.map(jnp.zeros_like, atom)
    step = still._replace(gains=still.gains._replace(value=jnp.asarray([0.5, -0.3, 0.2, 0.4])))
    assert split_effect(model, atom, common, step, 1.0) < 1e-13


@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("magnitudes", ["fixed", "global"])
def test_without_free_magnitudes_a_split_of_the_value_shows_at_second_order(magnitudes, tau):
    model, plain_model = make_head("attention", dora(1, magnitudes, tau), 0), make_head("attention", Lora(1), 0)
    atom, common = model.draw(jax.random.key(2))
    still = jax.tree.map(jnp.zeros_like, atom)
    way = jnp.asarray([[0.5, -0.3, 0.2, 0.4]])
    step = still._replace(low_rank=still.low_rank._replace(value_right=way))
    effects = [split_effect(model, atom, common, step, size) for size in (0.02, 0.01)]
    assert effects[1] > 1e-7
    assert effects[0] / effects[1] == pytest.approx(4.0, rel=0.05)
    low_rank = atom.low_rank
    assert split_effect(plain_model, low_rank, (), step.low_rank, 1.0) < 1e-13


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.9])
def test_any_own_part_leaves_an_invisible_split(eta):
    model = make_head("gaussian", Dial(1, eta), 0)
    atom, common = model.draw(jax.random.key(2))
    still = jax.tree.map(jnp.zeros_like, atom)
    step = still._replace(value_right=jnp.asarray([[0.5, -0.3, 0.2, 0.4]]))
    assert split_effect(model, atom, common, step, 1.0) < 1e-13


def test_the_dial_runs_from_lora_to_a_shared_update():
    atom, common = make_head("gaussian", Dial(1, 0.0), 0).draw(jax.random.key(2))
    models = [make_head("gaussian", Dial(1, eta), 0) for eta in (0.0, 0.25, 1.0 - 1e-12)]
    own, between, shared = (model.update(atom, common) for model in models)
    lora = make_head("gaussian", Lora(1), 0).update(atom)
    np.testing.assert_allclose(own.value, lora.value, rtol=1e-12)
    np.testing.assert_allclose(between.value, 0.25 * lora.query + 0.75 * lora.value, rtol=1e-12)
    np.testing.assert_allclose(shared.value, lora.query, atol=1e-11)
