"""The answer of `certify`: agreement with what was simulated, words, and requests that cannot be met."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.identification import CELL_SIZES, Certified, certified, problem_of
from moe_theory.theory.claims import CLAIMS
from moe_theory.theory.families import user_mixture
from moe_theory.theory.identifiability import identify

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
    }  # fmt: skip
    assert set(told["blame"]["blocks"]) == {"B_V", "A_V"} == set(told["exact_arithmetic"])
    assert "gate does not contain them and the output is linear in each of them" in told["blame"]["words"]
    text = answer.as_text()
    assert "GL(r)" in text
    assert len(text.splitlines()) < 24


def test_sharing_makes_the_split_visible():
    told = certified("replora-tanh-over", {}).as_json()
    assert told["second_order_margin"] > 0.01
    assert told["predicted"][f"over, cells of {CELL_SIZES[0]} atoms"] == "n^-0.25"
    assert told["visibility"].startswith("order 2")


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


def test_a_model_and_its_settings_are_checked():
    with pytest.raises(InputError, match="unknown model 'lorra'"):
        problem_of("lorra", {})
    with pytest.raises(InputError, match="rank must be between"):
        problem_of("lora", {"rank": 9})
    with pytest.raises(InputError, match="gate"):
        problem_of("lora", {"gate": "linear"})
    problem = problem_of("lora", {"dimension": 8, "rank": 3, "k_true": 3})
    assert (problem.k_fit, problem.support >= 388) == (4, True)
