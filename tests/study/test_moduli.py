"""The figure of a modulus: four files, whose numbers are those that were found."""

import json

import numpy as np
import pandas as pd

from moe_theory.study.modulus_figures import modulus_figure
from moe_theory.theory.envelope import envelope


def test_the_figure_holds_the_measures_and_their_sample_sizes(tmp_path):
    found = envelope([(delta, 2.0 * delta) for delta in np.geomspace(1e-6, 1e-1, 6).tolist()])
    paths = modulus_figure("replora", found, 0.5, tmp_path / "modulus")
    assert {path.suffix for path in paths} == {".png", ".pdf", ".csv", ".json"}
    table = pd.read_csv(tmp_path / "modulus.csv")
    np.testing.assert_allclose(table["omega_at_least"], 2.0 * table["delta"], rtol=1e-9)
    np.testing.assert_allclose(table["n"], (0.5 / table["delta"]) ** 2, rtol=1e-9)
    assert json.loads((tmp_path / "modulus.json").read_text())["slope"] == found.slope
