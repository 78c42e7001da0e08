"""The answer of `certify`: agreement with what was simulated, words, and requests that cannot be met."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel
from moe_theory.study.block_moduli import exact_modulus, moduli_together
from moe_theory.study.certification import certified
from moe_theory.study.certify_problem import problem_of, subject_of
from moe_theory.study.density_problem import build_density, published_truth, random_truth
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.study.identification import CELL_SIZES, Certified
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.claims import CLAIMS
from moe_theory.theory.density_families import MixtureSet
from moe_theory.theory.envelope import INVISIBLE, Modulus
from moe_theory.theory.identifiability import hidden_together, identify
from moe_theory.theory.laws import Prediction
from moe_theory.theory.margins import first_order
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.user_families import user_mixture
from moe_theory.theory.voronoi import effective_losses

pytestmark = pytest.mark.usefixtures("quick")


def test_lora_is_told_apart_with_its_blame():
    answer = certified("lora", {})
    told = json.loads(json.dumps(answer.as_json(), allow_nan=False))
    assert told["model"] == "lora"
    assert told["gauge_dimension"] == 4
    assert told["second_order_margin"] == 0.0
    assert told["visibility"].startswith("invisible")
    assert told["predicted"] == {
        "exact": "n^-0.5", "over, cells of 2 atoms": "no power law", "over, cells of 3 atoms": "no power law",
        "over, all cells at once": "no power law",
    }  # fmt: skip
    assert set(told["blame"]["blocks"]) == {"B_V", "A_V"} == set(told["exact_arithmetic"])
    assert "gate does not contain them and the output is linear in each of them" in told["blame"]["words"]
    text = answer.as_text()
    assert "GL(r)" in text
    assert "all cells at once: zero, because that of atom" in text
    assert len(text.splitlines()) < 26


def test_sharing_makes_the_split_visible():
    told = certified("replora-tanh-over", {}).as_json()
    assert told["second_order_margin"] > 0.01
    assert told["predicted"][f"over, cells of {CELL_SIZES[0]} atoms"] == "n^-0.25"
    assert told["visibility"].startswith("order 2")


BLAMED = {
    "dora": ({}, ("the gate does not contain them", "the output is linear in m_V and bends along ", "A_V", "B_V")),
    "replora": ({"rank": 2}, ("the gate contains them but does not move along this direction", "linear in each")),
    "replora-linear-over": ({}, ("the gate contains them and the output is linear in each of them",)),
}


@pytest.mark.parametrize("model", BLAMED)
def test_the_blame_says_what_gate_and_output_do_along_the_blocks(model):
    changes, told = BLAMED[model]
    problem = problem_of(model, changes)
    assert isinstance(problem, ProblemSpec)
    setup = build(problem)
    words = identify(mixture_of(setup.model, setup.truth, setup.design), look=False).worst.reason
    for part in told:
        assert part in words


def test_margins_at_random_truths_and_on_the_way_to_a_bad_one_are_told():
    answer = certified("replora", {}, truths=3, towards="equal")
    told = json.loads(json.dumps(answer.as_json(), allow_nan=False))
    assert told["truths"]["share_positive"] == 1.0
    assert told["truths"]["share_singular"] == 0.0
    assert len({each["first"] for each in told["truths"]["margins"]}) == 3
    assert told["path"]["sizes"][0] == 1.0
    assert told["path"]["margins"][0]["first"] == pytest.approx(told["first_order_margin"], rel=1e-8)
    assert 0.5 < told["path"]["powers"]["first"] < 4.0
    text = answer.as_text()
    assert "random truths        3: first-order" in text
    assert "nearby truths        two atoms become one" in text


def test_a_model_of_ones_own_is_certified():
    """The example of docs/certify.md, on fewer points: the slopes' shifts are found, and v is to blame."""

    def model(x, atom):
        return x @ atom["a"], atom["v"] * jnp.tanh(x @ atom["w"])

    rng = np.random.default_rng(0)
    atoms = [{name: jnp.asarray(rng.normal(size=3 if name != "v" else ())) for name in "avw"} for _ in range(2)]
    answer = Certified("mine", {}, identify(user_mixture(model, atoms, rng.normal(size=(128, 3)))))
    told = answer.as_json()
    assert told["gauge_dimension"] == 4
    assert [part["dimension"] for part in told["gauge"]] == [1, 3]
    assert told["predicted"]["over, cells of 2 atoms"] == "no power law"
    assert told["blame"]["blocks"] == {"v": 100.0}
    assert answer.as_text().startswith("model                mine\n")


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "gauge"), [("doran", 27), ("hora", 0)])
def test_three_atoms_of_rank_three_in_eight_dimensions_are_decided(adapter, gauge):
    """The joint margin is of matrices of full rank in 2,340 and 3,528 unknowns, and certified from both sides."""
    found = identify(subject_of(problem_of(adapter, {"dimension": 8, "rank": 3, "k_true": 3})).mixture)
    assert found.gauge_dimension == gauge
    assert found.together.decision == "positive"
    assert 0.999 * found.together.value <= found.together.lower <= found.together.value
    assert found.together.value <= min(each.second.minimum.value for each in found.cells)
    for each in found.cells:
        assert each.second.minimum.is_certified
        assert each.second.minimum.value <= each.second.limited[2].value


@pytest.mark.slow
def test_global_magnitudes_hide_a_split_of_all_atoms_at_once():
    """Magnitudes rho m in common and, in every atom, columns on both sides of the old one at angle acos(1 / rho).

    Their mean is the old column, so f stays, although no atom can be split alone (its second-order margin is positive).
    """
    setup = build(ProblemSpec(adapter="dora", magnitudes="global", support=128))
    model, truth, rho = setup.model, setup.truth, 1.05
    assert isinstance(model, RegressionModel)
    pretrained, low_rank = np.asarray(model.pretrained.value), truth.atoms.low_rank
    rows = []
    lefts, rights = np.asarray(low_rank.value_left)[..., 0], np.asarray(low_rank.value_right)[:, 0]
    for left, right in zip(lefts, rights, strict=True):
        moved = np.zeros((2, 4))
        for column in range(4):
            normal = pretrained[:, column] + left * right[column]
            along = normal / np.linalg.norm(normal)
            aside = left - along * (left @ along)
            aside /= np.linalg.norm(aside)
            for row, sign in enumerate((1.0, -1.0)):
                angle = sign * np.arccos(1.0 / rho)
                across = np.cos(angle) * aside - np.sin(angle) * along
                moved[row, column] = -(pretrained[:, column] @ across) / (left @ across)
        rows.append(moved)
    twice = np.array([0, 0, 1, 1])
    atoms = jax.tree.map(lambda leaf: leaf[twice], truth.atoms)
    halves = atoms.low_rank._replace(value_right=jnp.asarray(np.concatenate(rows)[:, None]))
    gains = truth.common.gains._replace(value=(1.0 + truth.common.gains.value) * rho - 1.0)
    split = MixingMeasure(
        truth.log_weights[twice] - np.log(2.0), atoms._replace(low_rank=halves), truth.common._replace(gains=gains)
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)))
    values = jax.vmap(model.predict, (None, 0))
    np.testing.assert_allclose(values(split, x), values(truth, x), atol=1e-13)
    assert float(effective_losses(model, split, truth).d_12) > 0.5
    found = identify(mixture_of(model, truth, setup.design))
    assert [each.second.decision for each in found.cells] == ["positive", "positive"]
    assert found.law(2) == Prediction("power", -0.25)
    assert found.law_together == Prediction("no-power")
    told = Certified("global", {}, found).as_json()
    assert (
        "although that of every atom is positive; invisible: split into 2 and 2" in told["all_cells_at_once"]["words"]
    )
    assert found.together.decision == "zero"
    np.testing.assert_allclose(found.together.shares, 0.5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name, claim in CLAIMS.items() if claim.specification == "over" and claim.kind == "regression"],
)
def test_predictions_agree_with_the_claims_that_were_simulated(name):
    claim = CLAIMS[name]
    law = certified(name, {}).found.law(2)
    slow = claim.main.prediction.kind == "no-power"
    assert law is not None
    assert (law.kind == "no-power") == slow
    if not slow:
        assert law.exponent == -0.25


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hidden"), [("gaussian-gated-type1-k5", False), ("softmax-gated-k4", True)])
def test_orders_of_mixtures_with_free_parameters(name, hidden):
    """q = 4 and 6, as for location and variance; twice as many softmax atoms hide along their common shift."""
    found = certified(name, {}).found
    assert (found.exact, found.law(2)) == (Prediction("power", -1 / 2), Prediction("power", -1 / 8))
    assert found.law(3) == Prediction("power", -1 / 12)
    assert found.law_together == (Prediction("no-power") if hidden else None)


@pytest.mark.slow
def test_the_split_of_all_softmax_atoms_leaves_their_density_and_parts_their_gates():
    """So that beta1 has no rate with four atoms for two, and has one with three."""
    problem = problem_of("softmax-gated-k4", {})
    assert isinstance(problem, DensityProblemSpec)
    subject = subject_of(problem)
    sets = hidden_together(subject.mixture, identify(subject.mixture))
    assert sets is not None
    (own,), (measure,) = subject.mixture, sets
    assert isinstance(own, MixtureSet)
    rows = np.asarray(own.rows(own.measure(*measure)))
    alone = Modulus(np.array([1e-9, 1e-1]), np.array([1e-3, 1e-1]), 0.5)
    cells = {"pair_D": alone, "pair_gate": alone, "pair_intercept": alone}
    found = moduli_together(build_density(problem), cells, rows)
    assert found["pair_D"].slope == 0.0
    assert found["pair_D"].losses[0] > found["pair"].losses[0]  # the slowest block's, not D's
    np.testing.assert_array_equal(found["pair"].losses, found["pair_gate"].losses)
    assert found["pair_gate"].distances[0] <= INVISIBLE
    assert found["pair_gate"].losses[0] > 0.1
    assert found["pair"].slope == found["pair_gate"].slope == 0.0
    assert found["pair_intercept"].slope == pytest.approx(0.25, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian-gated-type1-k4", "softmax-gated-k3", "gaussian-density-lora-over"])
def test_margins_of_densities_at_random_truths(name):
    """Generic: identified at first order; of a free Gaussian one direction is not seen at second order."""
    spread = certified(name, {}, truths=3).spread
    assert spread is not None
    assert len(spread.truths) == 3
    assert spread.singular == 0.0
    assert len({each.first for each in spread.truths}) == 3
    generic = "positive" if name == "gaussian-density-lora-over" else "zero"
    assert spread.share(generic) == 1.0


def test_a_random_truth_is_of_the_size_of_the_published_one():
    for problem in (DensityProblemSpec(), DensityProblemSpec(family="softmax-gated", setting="published", k_true=2)):
        _, published = published_truth(problem)
        one, again, other = (random_truth(problem, seed) for seed in (3, 3, 4))
        drawn = zip(*(map(np.asarray, each.atoms) for each in (one, again, other, published)), strict=True)
        for first, second, third, known in drawn:
            np.testing.assert_array_equal(first, second)
            assert np.any(first != third)
            assert np.all((first >= known.min(axis=0)) & (first <= known.max(axis=0)))
        model, x = published_truth(problem)[0], jnp.linspace(0.0, 1.0, 33)[:, None]
        gate = model.log_gate(model.rows(one), x)
        if gate is None:
            np.testing.assert_array_equal(one.log_weights, published.log_weights)
        else:
            shares = jax.nn.softmax(gate, axis=0)
            assert float(jnp.min(jnp.mean(shares, axis=1))) > 0.1


def test_a_low_rank_density_has_a_modulus_of_the_rate_that_its_margins_predict():
    found = certified("gaussian-density-replora-over", {}, with_modulus=True)
    assert found.modulus is not None
    assert found.modulus_exact is not None
    assert found.found.law(2) == Prediction("power", -1 / 4)
    assert found.modulus.slope == pytest.approx(1.0, abs=0.05)
    assert found.modulus_exact.slope == pytest.approx(1.0, abs=0.05)


def test_a_density_of_known_size_parts_as_its_margin_says():
    """D_1 of the motion that shows least, in the units of chi."""
    subject = subject_of(problem_of("gaussian-gated-exact", {}))
    (own,), first = subject.mixture, first_order(subject.mixture)
    assert isinstance(own, MixtureSet)
    found = exact_modulus(own, first)
    assert found.slope == pytest.approx(1.0, abs=1e-3)
    ratio = found.losses[2] / found.distances[2]
    assert 0.3 / first.margin < ratio < 3.0 / first.margin


def test_a_model_and_its_settings_are_checked(tmp_path):
    with pytest.raises(InputError, match="unknown model 'lorra'"):
        problem_of("lorra", {})
    with pytest.raises(InputError, match="rank must be between"):
        problem_of("lora", {"rank": 9})
    with pytest.raises(InputError, match="gate"):
        problem_of("lora", {"gate": "linear"})
    with pytest.raises(InputError, match="a path leads towards equal or zero"):
        certified("replora", {}, towards="nowhere")
    with pytest.raises(InputError, match="rank: unknown setting; known are"):
        problem_of("softmax-gated-k3", {"rank": 2})
    with pytest.raises(InputError, match="--figures is there for means alone"):
        certified("gaussian-density-lora-over", {}, figures=tmp_path)
    with pytest.raises(InputError, match="no pre-trained atom to shrink to: use --towards equal"):
        certified("softmax-gated-k3", {}, towards="zero")
    problem = problem_of("lora", {"dimension": 8, "rank": 3, "k_true": 3})
    assert isinstance(problem, ProblemSpec)
    assert (problem.k_fit, problem.support >= 388) == (4, True)
