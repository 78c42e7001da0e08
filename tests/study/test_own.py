"""A user's model from prediction to verdict: the example of the documentation, and what is refused."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.own import predicted_claim, study_model
from moe_theory.theory.identifiability import identify
from moe_theory.theory.laws import Prediction
from moe_theory.theory.user_families import user_mixture

pytestmark = pytest.mark.usefixtures("quick")

PAGE = Path(__file__).resolve().parents[2] / "README.md"
HALF = Prediction("power", -0.5)


def shared(x, atom):
    return x @ atom["w"], jnp.tanh(x @ atom["w"])


def apart(x, atom):
    return x @ atom["a"], atom["v"] * jnp.tanh(x @ atom["w"])


ZERO = [{"w": np.zeros(2)}]
SHARED = [{"w": np.array([1.0, 0.5])}, {"w": np.array([-0.5, 1.2])}]


def test_a_model_is_certified_simulated_judged_and_drawn(tmp_path):
    """With the number of atoms known, which compiles least; the slow test below has one atom too many."""
    study = study_model(
        "mine", shared, SHARED, 2, frozen=ZERO, k_fit=2, sizes="1e6:1e10:4", replications=3, starts="smoke"
    )
    assert study.certified.found.law(2) == Prediction("power", -0.25)
    assert len(study.rows) == 12
    assert study.report.certified_share == 1.0
    for judged in (study.report.main, *study.report.others):
        assert judged.measure.prediction == HALF
        assert judged.verdict.interval is not None
        low, high = judged.verdict.interval
        assert low - 0.1 < -0.5 < high + 0.1
    assert study.report.main.measure.column == "D_1"
    assert "second-order margin" in study.as_text()
    assert "Voronoi loss D_1" in study.as_text()
    assert [path.name for path in study.draw(tmp_path)] == ["mine.png", "mine.pdf", "mine.csv", "mine.json"]


def test_predictions_become_claims():
    rng = np.random.default_rng(0)
    atoms = [{"a": jnp.asarray(rng.normal(size=2)), "v": jnp.asarray(1.5), "w": jnp.asarray(rng.normal(size=2))}]
    held = [{"a": jnp.zeros(2), "v": jnp.asarray(0.0), "w": jnp.zeros(2)}]
    found = identify(user_mixture(apart, atoms, rng.normal(size=(64, 2)), frozen=held))
    over, exact = predicted_claim("mine", found, 1, 2), predicted_claim("mine", found, 1, 1)
    assert (over.main.column, over.main.prediction.kind, over.identified_set) == (
        "D_12_truth_highest",
        "no-power",
        True,
    )
    assert (exact.main.column, exact.main.prediction, exact.identified_set) == ("D_1", HALF, False)
    with pytest.raises(InputError, match="k_fit must be at least 1"):
        predicted_claim("mine", found, 1, 0)


def test_a_softmax_without_an_anchor_is_refused():
    rng = np.random.default_rng(1)
    atoms = [{"a": rng.normal(size=2), "v": 1.0, "w": rng.normal(size=2)} for _ in range(2)]
    with pytest.raises(InputError, match=r"3 motions open .*give a frozen atom"):
        study_model("mine", apart, atoms, rng.normal(size=(64, 2)))


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"certified, simulated and drawn:\n\n((?:    .*\n)+)", PAGE.read_text(encoding="utf-8"))
    assert code is not None
    lines = [line[4:] for line in code.group(1).splitlines()]
    assert len([line for line in lines if line]) <= 10
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    printed = capsys.readouterr().out
    assert "SUPPORTED" in printed
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".pdf", ".csv", ".json"}
