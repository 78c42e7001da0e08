"""Moduli of continuity by block: exponents of known envelopes, and those of cells of two."""

import json

import numpy as np
import pytest

from moe_theory.study import block_moduli as block_moduli_module
from moe_theory.study.block_moduli import BlockModuli, block_moduli
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensityProblemSpec
from moe_theory.study.modulus_figures import moduli_figure
from moe_theory.theory.envelope import Modulus, envelope
from moe_theory.theory.summaries import summarise


def known() -> BlockModuli:
    """Errors h^(1/3) and h^(1/6)."""
    distances = np.geomspace(1e-9, 1e-2, 8)
    made = {
        name: envelope([(h, h**power) for h in distances]) for name, power in (("pair_a", 1 / 3), ("pair_b", 1 / 6))
    }
    return BlockModuli(made, 32)


def test_exponents_are_half_the_slopes_of_the_envelopes():
    moduli = known()
    np.testing.assert_allclose(moduli.distance(np.array([4.0])), [1.0])
    assert moduli.exponent("pair_a", 1e6, 1e12) == pytest.approx(-1 / 6)
    assert moduli.exponent("pair_b", 1e6, 1e12) == pytest.approx(-1 / 12)
    np.testing.assert_allclose(moduli.errors("pair_a", np.array([4e8])), [1e-4 ** (1 / 3)])


def test_the_figure_shows_means_and_envelopes(tmp_path):
    sizes = np.array([1e8, 1e10, 1e12])
    rng = np.random.default_rng(0)
    curves = {
        name: summarise(sizes, [n**-0.1 * np.exp(0.3 * rng.standard_normal(20)) for n in sizes], "mean")
        for name in ("pair_a", "pair_b")
    }
    words = {"pair_a": "first", "pair_b": "second"}
    paths = moduli_figure({"made up": (curves, known())}, words, tmp_path / "moduli", {})
    assert {path.suffix for path in paths} == {".png", ".pdf", ".csv", ".json"}
    told = json.loads((tmp_path / "moduli.json").read_text())
    assert told["modulus_exponents"]["made up"]["pair_b"] == pytest.approx(-1 / 12)
    assert (tmp_path / "moduli.csv").read_text().count("pair_a") == 3


def test_the_slowest_block_of_a_cell_is_never_the_loss_of_the_whole():
    """Nor where neither falls, as with every softmax atom fitted twice."""
    flat = {name: Modulus(np.array([1e-12, 1e-1]), np.array([height, height]), 0.0)
            for name, height in (("pair_D", 4.0), ("pair_gate", 1.4))}  # fmt: skip
    found = block_moduli_module._with_slopes("pair", BlockModuli(flat, 15))
    np.testing.assert_array_equal(found["pair"].losses, flat["pair_gate"].losses)
    assert set(found) == {"pair", "pair_D", "pair_gate"}


@pytest.mark.slow
def test_a_cell_of_two_parts_at_the_published_rates():
    """Without noise: n^-1/8 for b and n^-1/4 for nu, at h from 10^-5 to 10^-7."""
    setup = build_density(DensityProblemSpec(k_fit=4, deviation_floor=0.9))
    moduli = block_moduli(setup, 2, [(0.0, 1.0)], [0.2, 0.08, 0.03], cells=[1])
    last = float(moduli.parameters / (8 * moduli.blocks["pair_intercept"].distances[0] ** 2))
    assert moduli.exponent("pair_intercept", last / 1e3, last) == pytest.approx(-1 / 8, abs=0.003)
    assert moduli.exponent("pair_noise", last / 1e3, last) == pytest.approx(-1 / 4, abs=0.006)
