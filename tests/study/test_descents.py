"""First-order fits beside a sweep's own: the same data, starts that show themselves, certificates that can pass."""

import numpy as np
import pandas as pd
import pytest

from moe_theory.estimation.first_order import adam, lbfgs
from moe_theory.study.descents import Descents, descent_table
from moe_theory.study.panels import claim_panel
from moe_theory.study.replicate import Replicator
from moe_theory.study.spec import ProblemSpec, SweepSpec

EXACT = ProblemSpec(dimension=2, support=64, adapter="replora", k_fit=2)
OVER = ProblemSpec(dimension=2, support=64, adapter="replora")
SIZES = (10**4, 10**5, 10**6)


def sweep_of(problem, **changes):
    return SweepSpec(**({"problem": problem, "sizes": SIZES, "replications": 3, "starts": "smoke"} | changes))


@pytest.fixture(scope="module")
def exact(quick):
    return Descents(sweep_of(EXACT)).rows(lbfgs(), 400)


@pytest.mark.slow
def test_a_descent_that_converges_is_the_certified_fit_of_the_same_data(exact):
    sweep = sweep_of(EXACT)
    (cell,) = Replicator(sweep).cells([(SIZES[0], 0, sweep.replications)])
    fitted, own = cell[1], exact[exact["n"] == SIZES[0]]
    assert own["replication"].tolist() == [0, 1, 2]
    both = fitted["certified"].to_numpy() & own["certified"].to_numpy()
    assert both.sum() >= 2
    np.testing.assert_allclose(own["excess"].to_numpy()[both], fitted["excess"].to_numpy()[both], atol=1e-3)
    np.testing.assert_allclose(own["D_1"].to_numpy()[both], fitted["D_1"].to_numpy()[both], rtol=0.05)


@pytest.mark.slow
def test_rows_do_not_depend_on_their_neighbours(exact):
    alone = Descents(sweep_of(EXACT, sizes=SIZES[1:2], replications=2, block=2)).rows(lbfgs(), 400)
    same = exact[(exact["n"] == SIZES[1]) & (exact["replication"] < 2)].reset_index(drop=True)
    np.testing.assert_allclose(alone["excess"], same["excess"], atol=1e-4)


@pytest.mark.slow
def test_starts_that_never_moved_show_the_predicted_rates_and_no_certificate(quick):
    """The trap itself: nothing was estimated, and yet the slopes are -1/2 and -1/4."""
    rows = Descents(sweep_of(OVER, replications=24)).rows(adam(1), 0)
    assert not np.any(rows["certified"].to_numpy())
    assert np.all(rows["decrement"].to_numpy() > 0.1)
    medians = rows.groupby("n")[["D_12", "overfitted_error"]].median().map(np.log)
    slopes = (medians.iloc[-1] - medians.iloc[0]) / np.log(SIZES[-1] / SIZES[0])
    assert slopes["D_12"] == pytest.approx(-0.5, abs=0.1)
    assert slopes["overfitted_error"] == pytest.approx(-0.25, abs=0.05)


def test_the_table_says_how_far_each_optimiser_stayed_from_the_minimum():
    n = np.repeat(SIZES, 4)
    rows = pd.DataFrame({"n": n, "replication": np.tile(np.arange(4), 3), "certified": True, "decrement": 1e-9})
    rows["excess"], rows["D_12"] = -3.0, n**-0.5 * np.tile([1.0, 1.1, 1.2, 1.3], 3)
    early = rows.assign(excess=-1.0, decrement=0.5, certified=rows["replication"] > 0)
    drawn = [(claim_panel(title, each, None, 1e4, ["D_12"]), each) for title, each in (("a", rows), ("b", early))]
    lines = descent_table(drawn, {"D_12": "D"}).splitlines()[2:]
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert first[0] == "a"
    assert first[1].startswith("-0.500 [")
    assert first[2:] == ["1e-09", "0", "100.0 %"]
    assert second[2:] == ["0.5", "2", "75.0 %"]
