"""Margins: closed forms, the known cases of this toolkit, and what must not change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.models.adapters import Projections, SharedAtom
from moe_theory.models.gates import AttentionGate
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel
from moe_theory.sampling.inputs import finite_support
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.families import Blocks, LinearSet
from moe_theory.theory.identifiability import identify
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import cells_of, chart_of, first_order, rank_of
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.second_order import gauge_leg_residual, second_order
from moe_theory.theory.user_families import density_mixture, user_mixture

pytestmark = pytest.mark.usefixtures("quick")

A, B = (0.7, 0.4), (0.3, 0.8)


def _regular():
    """H = e0 + a1 t1 e1 + a2 t2 e2 + b1 t1^2 e3 / 2 + b2 t2^2 e4 / 2 at t = 0."""

    def function(atom):
        t1, t2 = atom[0], atom[1]
        return jnp.stack([jnp.ones(()), A[0] * t1, A[1] * t2, 0.5 * B[0] * t1**2, 0.5 * B[1] * t2**2])

    return (
        LinearSet(
            weights=jnp.ones(1), atoms=jnp.zeros((1, 2)), common=jnp.zeros(0), blocks=Blocks(("t",), ((2,),)),
            common_blocks=Blocks((), ()), function=function, scale=jnp.ones(5), example=jnp.zeros(2),
        ),
    )  # fmt: skip


def _margins(mixture):
    cells = cells_of(mixture)
    first = first_order(mixture)
    return first, [second_order(first, [cell]) for cell in cells]


def _problem(**settings):
    setup = build(ProblemSpec(**{"support": 256, **settings}))
    return setup, mixture_of(setup.model, setup.truth, setup.design)


def test_the_margins_of_a_regular_model_have_their_closed_forms():
    first, (second,) = _margins(_regular())
    assert first.margin == pytest.approx(min(1.0, *A), rel=1e-12)
    assert second.decision == "positive"
    assert second.minimum.value == pytest.approx(0.5 * B[0] * B[1] / np.hypot(*B), rel=1e-8)
    assert second.minimum.lower == pytest.approx(second.minimum.value, rel=1e-3)


def _cubics_and(extra):
    """Atoms at t = -1 and 1 of H = (1, t, t^2, t^3, extra(t)): values and slopes there span the cubics (Hermite)."""

    def function(atom):
        t = atom[0]
        return jnp.stack([jnp.ones(()), t, t**2, t**3, extra(t)])

    return (
        LinearSet(
            weights=jnp.ones(2), atoms=jnp.array([[-1.0], [1.0]]), common=jnp.zeros(0), blocks=Blocks(("t",), ((1,),)),
            common_blocks=Blocks((), ()), function=function, scale=jnp.ones(5), example=jnp.zeros(1),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("power", "joint"), [(0, 0.5), (1, 0.0)])
def test_two_cells_may_cancel_although_neither_does_alone(power, joint):
    """extra = t^p (t^2 - 1)^2 / 8 and its slope vanish at both atoms; its second derivative is 1, or -1 and 1.

    With p = 1 the parts +-sqrt(1 +- e) of both atoms, in halves, keep all five moments: the joint split is invisible.
    """
    mixture = _cubics_and(lambda t: t**power * (t**2 - 1.0) ** 2 / 8.0)
    found = identify(mixture)
    assert [each.second.decision for each in found.cells] == ["positive", "positive"]
    for each in found.cells:
        assert each.second.minimum.value == pytest.approx(0.5, rel=1e-8)
    together = found.together
    assert together.value == pytest.approx(joint, abs=1e-12)
    assert sum(together.shares) == pytest.approx(1.0)
    assert found.law(2) == Prediction("power", -0.25)
    if joint:
        assert together.lower == pytest.approx(joint, rel=1e-3)
        assert found.law_together == Prediction("power", -0.25)
    else:
        assert together.decision == "zero"
        np.testing.assert_allclose(together.shares, 0.5, atol=1e-6)
        assert together.visibility is not None
        assert together.visibility.atoms == (2, 2)
        assert together.visibility.hidden_at == pytest.approx(0.4)
        assert found.law_together == Prediction("no-power")


def test_the_joint_margin_is_at_most_every_single_one_and_certified():
    found = identify(_problem(adapter="replora")[1], look=False)
    together = found.together
    assert together.decision == "positive"
    assert together.value <= min(each.second.minimum.value for each in found.cells)
    assert together.lower == pytest.approx(together.value, rel=1e-3)
    assert found.law_together == Prediction("power", -0.25)


GRID = np.linspace(-9.0, 9.0, 361)[:, None]


def _normal(x, location, scale):
    return jnp.exp(-0.5 * ((x - location) / scale) ** 2) / (scale * jnp.sqrt(2 * jnp.pi))


def test_a_gaussian_location_family_has_the_norms_of_hermite_polynomials():
    mixture = density_mixture(lambda x, t: _normal(x[0], t[0], 1.0), [jnp.zeros(1)], GRID, 0.05, [1.0])
    first, (second,) = _margins(mixture)
    assert first.margin == pytest.approx(1.0, rel=1e-10)
    assert second.minimum.value == pytest.approx(np.sqrt(0.5), rel=1e-8)
    assert second.decision == "positive"


def test_location_and_variance_hide_a_split_of_the_location():
    atom = {"mean": jnp.zeros(1), "variance": jnp.ones(1)}
    mixture = density_mixture(
        lambda x, t: _normal(x[0], t["mean"][0], jnp.sqrt(t["variance"][0])), [atom], GRID, 0.05, [1.0]
    )
    first, (second,) = _margins(mixture)
    assert first.margin > 0.1
    assert second.decision == "zero"
    assert second.fewest == 2
    np.testing.assert_allclose(second.null[0], np.diag([1.0, 0.0]), atol=1e-6)
    found = identify(mixture)
    assert [found.law(atoms) for atoms in (2, 3)] == [Prediction("power", -0.125), Prediction("power", -1.0 / 12.0)]


KNOWN = {
    "lora": ({"adapter": "lora"}, 2, "zero"),
    "lora-gaussian": ({"adapter": "lora", "gate": "gaussian"}, 2, "zero"),
    "replora": ({"adapter": "replora"}, 1, "positive"),
    "replora-sigmoid": ({"adapter": "replora", "activation": "sigmoid"}, 1, "positive"),
    "dora-fixed": ({"adapter": "dora", "magnitudes": "fixed"}, 2, "positive"),
    "dora-free": ({"adapter": "dora", "magnitudes": "free"}, 3, "zero"),
    "doran-free": ({"adapter": "doran", "activation": "tanh", "magnitudes": "free", "tau": 0.5}, 1, "zero"),
    "doran-global": ({"adapter": "doran", "activation": "tanh", "magnitudes": "global", "tau": "free"}, 1, "positive"),
    "dial": ({"adapter": "dial", "eta": 0.7}, 2, "zero"),
    "hora": ({"adapter": "hora", "activation": "tanh", "heads": 2}, 0, "positive"),
    "mh-lora": ({"adapter": "lora", "heads": 2}, 2, "zero"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_registered_models_are_decided_as_they_were_measured(name):
    settings, gauge, decision = KNOWN[name]
    mixture = _problem(**settings)[1]
    cells, first = cells_of(mixture), first_order(mixture)
    assert cells[0].chart.gauge.shape[1] == gauge
    assert cells[0].chart.rank.gap > 1e6
    assert first.margin > 1e-5
    assert first.generic_nullity == 0
    assert gauge_leg_residual(first, cells) < 1e-10
    second = second_order(first, [cells[0]], starts=8)
    assert second.decision == decision
    if decision == "positive":
        assert second.minimum.is_certified
        assert second.limited[2].value >= second.minimum.lower


def test_the_gauge_is_as_large_as_the_models_say():
    setup, mixture = _problem(adapter="lora", rank=2, support=512)
    known = setup.model.gauge(jax.tree.map(lambda leaf: leaf[0], setup.truth.atoms))
    chart = chart_of(mixture[0], mixture[0].atoms[0], mixture[0].common)
    assert chart.gauge.shape[1] == jax.tree.leaves(known)[0].shape[0] == 10


def test_without_an_anchor_the_common_shifts_are_divided_out():
    first = first_order(_problem(adapter="replora", anchored=False)[1])
    weights = np.zeros(first.columns.shape[1])
    weights[[number for number, name in enumerate(first.names) if name[2] == -1 and name[1] >= 0]] = 1.0
    assert first.generic_nullity == first.invariances.shape[1] == 1
    np.testing.assert_allclose(np.abs(first.invariances[:, 0]), weights / np.linalg.norm(weights), atol=1e-10)
    assert first.margin > 0.01


def _values(setup, measure):
    first, each = _margins(mixture_of(setup.model, measure, setup.design))
    return first.margin, [second.minimum.value for second in each]


def test_margins_do_not_depend_on_the_order_of_the_atoms():
    setup, _ = _problem(adapter="replora")
    first, seconds = _values(setup, setup.truth)
    swapped = MixingMeasure(setup.truth.log_weights[::-1], jax.tree.map(lambda leaf: leaf[::-1], setup.truth.atoms))
    again, turned = _values(setup, swapped)
    assert again == pytest.approx(first, rel=1e-10)
    assert turned[::-1] == pytest.approx(seconds, rel=2e-3)


def test_margins_do_not_move_along_a_gauge_orbit():
    mixture = _problem(adapter="replora")[1]
    first, seconds = _margins(mixture)
    atoms = mixture[0].atoms
    half = atoms.shape[1] // 2
    stretched = mixture[0].at(mixture[0].weights, atoms.at[:, :half].mul(3.0).at[:, half:].divide(3.0), jnp.zeros(0))
    again, others = _margins((stretched,))
    assert again.margin == pytest.approx(first.margin, rel=1e-8)
    for one, other in zip(seconds, others, strict=True):
        assert other.minimum.value == pytest.approx(one.minimum.value, rel=2e-3)
        assert other.limited[2].value == pytest.approx(one.limited[2].value, rel=1e-6)


def test_margins_do_not_depend_on_a_rotation_of_inputs_and_outputs():
    """x -> R x and y -> R y with R M R' for every matrix and (R B, A R') for the factors is the same model."""
    setup, mixture = _problem(adapter="replora")
    support = finite_support("uniform", 256, 4, 1)
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0])
    model, atoms = setup.model, setup.truth.atoms
    assert isinstance(model, RegressionModel)
    assert isinstance(model.gate, AttentionGate)
    turned = RegressionModel(
        AttentionGate(turn @ model.gate.key @ turn.T), model.expert, model.adapter,
        Projections(turn @ model.pretrained.query @ turn.T, turn @ model.pretrained.value @ turn.T), model.frozen,
    )  # fmt: skip
    truth = MixingMeasure(setup.truth.log_weights, SharedAtom(turn @ atoms.left, atoms.right @ turn.T))
    first, seconds = _margins(mixture)
    again, others = _margins(mixture_of(turned, truth, turned.design(jnp.asarray(support) @ turn.T)))
    assert again.margin == pytest.approx(first.margin, rel=1e-8)
    for one, other in zip(seconds, others, strict=True):
        assert other.minimum.value == pytest.approx(one.minimum.value, rel=2e-3)
        assert other.limited[2].value == pytest.approx(one.limited[2].value, rel=1e-6)


def test_a_user_model_with_a_scale_invariant_expert_has_that_gauge_alone():
    def model(x, atom):
        direction = atom["w"] / jnp.linalg.norm(atom["w"])
        return x @ atom["a"], jnp.tanh(x @ direction)

    rng = np.random.default_rng(2)
    atoms = [{"a": jnp.asarray(rng.normal(size=2)), "w": jnp.asarray(rng.normal(size=2))} for _ in range(2)]
    support = rng.normal(size=(200, 2))
    mixture = user_mixture(model, atoms, support, frozen=[{"a": jnp.zeros(2), "w": jnp.ones(2)}])
    cells, first = cells_of(mixture), first_order(mixture)
    for cell, atom in zip(cells, atoms, strict=True):
        assert cell.chart.gauge.shape[1] == 1
        radial = np.concatenate([np.zeros(2), atom["w"] / np.linalg.norm(atom["w"])])
        assert abs(cell.chart.gauge[:, 0] @ radial) == pytest.approx(1.0, abs=1e-10)
    assert first.margin > 1e-4
    assert gauge_leg_residual(first, cells) < 1e-10


def _linear(x, atom):
    return x @ atom["a"], x @ atom["b"]


def test_a_truth_with_two_equal_atoms_is_singular():
    rng = np.random.default_rng(3)
    atom = {"a": jnp.asarray(rng.normal(size=2)), "b": jnp.asarray(rng.normal(size=2))}
    mixture = user_mixture(
        _linear, [atom, atom], rng.normal(size=(100, 2)), frozen=[jax.tree.map(jnp.zeros_like, atom)]
    )
    first = first_order(mixture)
    assert first.is_singular
    assert first.margin == 0.0


def test_too_few_support_points_are_refused():
    atom = {"a": jnp.ones(3), "b": jnp.ones(3)}
    with pytest.raises(InputError, match="use more points"):
        first_order(user_mixture(_linear, [atom], np.random.default_rng(0).normal(size=(4, 3))))


def test_a_rank_is_decided_with_its_gap():
    rank = rank_of(np.array([1.0, 1e-3, 1e-14]))
    assert (rank.rank, rank.least, rank.largest_dropped) == (2, 1e-3, 1e-14)
    assert rank.gap == pytest.approx(1e11)
