"""Rows of a sweep: what they hold, that company changes none of it, and that raw draws give the same errors."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from moe_theory.estimation.certificate import LARGEST_DECREMENT, SPREAD
from moe_theory.estimation.pool import LONGEST, Pool
from moe_theory.sampling.statistics import draw_raw, summarise_raw
from moe_theory.study import replicate as module
from moe_theory.study.replicate import Replicator
from moe_theory.study.spec import ProblemSpec, SweepSpec

N = 10**6
PROBLEM = ProblemSpec(dimension=2, support=64, adapter="replora")
SWEEP = SweepSpec(problem=PROBLEM, sizes=(10**4, N), replications=8, starts="smoke", block=8)

ERRORS = ["D_1", "D_2", "D_12", "weight_error", "singleton_error", "overfitted_error", "frozen_error", "cells",
          "overfitted_query_error", "overfitted_value_error", "function_error", "plain_D_12", "factors_D_1",
          "factors_D_12", "start_D_1", "start_D_12", "farthest_error"]  # fmt: skip
FIT = ["n", "replication", "status", "certified", "reason", "excess", "decrement", "gap", "at_bound", "iterations",
       "start", "starts"]  # fmt: skip
COMPETITION = ["total_iterations", "starts_certified", "starts_agreeing", "spread", "far_excess", "untied_agrees",
               "converged_starts", "far_D_12", "far_overfitted_error"]  # fmt: skip
"""What may depend on when a hopeless start was stopped, and so on its neighbours."""


@pytest.fixture(scope="module")
def over(quick):
    return Replicator(SWEEP)


def rows_of(replicator, gaps):
    """Rows by gap."""
    found = dict(replicator.cells(gaps))
    assert sorted(found) == sorted(gaps)
    return found


@pytest.fixture(scope="module")
def rows(over):
    return rows_of(over, [(N, 0, 6)])[(N, 0, 6)]


def test_one_row_per_replication_with_every_column(rows):
    assert rows["n"].tolist() == [N] * 6
    assert rows["replication"].tolist() == list(range(6))
    assert sorted(rows.columns) == sorted([*FIT, *COMPETITION, *ERRORS, "seconds"])
    assert (rows["starts"] == 6).all()
    assert not rows.drop(columns=[*COMPETITION, "singleton_error", "overfitted_error", "farthest_error", "frozen_error",
                                  "overfitted_query_error", "overfitted_value_error"]).isna().any().any()  # fmt: skip


def test_a_small_over_fitted_problem_is_certified(rows):
    assert rows["certified"].all()
    assert rows["status"].isin(["converged", "converged_at_bound"]).all()
    assert ((rows["status"] == "converged_at_bound") == rows["at_bound"]).all()
    assert (rows["excess"] < 0).all()
    assert (rows["decrement"] <= LARGEST_DECREMENT).all()
    assert (rows["starts_agreeing"].between(1, rows["starts_certified"])).all()
    assert (rows["spread"] >= 0).all()
    assert (rows["far_excess"].dropna() >= 0).all()


def test_a_fit_that_was_given_up_has_a_second_chance(over, rows, monkeypatch):
    """All lanes stop early; the fit is what it would have been, because those that matter go on."""
    resumed = []

    def counted(self, data, states, longest):
        resumed.append(states)
        return as_it_is(self, data, states, LONGEST)

    as_it_is = Pool.resume
    monkeypatch.setattr(Pool, "resume", lambda self, data, states, longest: states)
    given_up = next(iter(over.cells([(N, 0, 6)], longest=1)))[1]
    assert not given_up["certified"].all()
    monkeypatch.setattr(Pool, "resume", counted)
    taken_up = next(iter(over.cells([(N, 0, 6)], longest=1)))[1]
    assert resumed
    assert taken_up["certified"].sum() > given_up["certified"].sum()
    later = taken_up["certified"] & ~given_up["certified"]
    assert (taken_up["excess"] <= given_up["excess"] + SPREAD)[later].all()
    assert (taken_up["iterations"] >= given_up["iterations"])[later].all()


def test_errors_fit_together(rows):
    """The pattern of cells tells which errors exist; without the frozen cell the loss is no smaller there."""
    pattern = rows["cells"].astype(str).str.zfill(3)
    assert (pattern.map(lambda digits: sum(map(int, digits))) == PROBLEM.k_fit).all()
    estimated = pattern.str[:2]
    assert (rows["frozen_error"].notna() == (pattern.str[2] != "0")).all()
    assert (rows["singleton_error"].notna() == estimated.str.contains("1")).all()
    assert (rows["overfitted_error"].notna() == estimated.str.contains("[23]")).all()
    assert (rows["weight_error"] <= rows["D_12"]).all()
    assert (rows["function_error"] < 0.02).all()
    alone = pattern.str[2] == "0"
    np.testing.assert_allclose(rows.loc[alone, "plain_D_12"], rows.loc[alone, "D_12"], rtol=1e-12)


def same(one, other, columns):
    for name in columns:
        assert one[name].equals(other[name]), name


def test_more_sizes_and_replications_change_no_bit_of_a_row(over, rows):
    extended = rows_of(over, [(10**8, 0, 2), (N, 0, 6), (N, 6, 2), (10**5, 0, 1)])
    same(extended[(N, 0, 6)], rows, [*FIT, *ERRORS])
    assert extended[(N, 6, 2)]["replication"].tolist() == [6, 7]
    parts = rows_of(over, [(N, 4, 2), (N, 0, 4)])
    same(parts[(N, 0, 4)], rows.iloc[:4], [*FIT, *ERRORS])
    same(parts[(N, 4, 2)], rows.iloc[4:].reset_index(drop=True), [*FIT, *ERRORS])


@pytest.mark.slow
def test_another_block_changes_rounding_only(quick, rows):
    other = rows_of(Replicator(SWEEP.model_copy(update={"block": 3})), [(N, 0, 6)])[(N, 0, 6)]
    same(other, rows, ["n", "replication", "status", "certified", "reason", "at_bound", "cells", "starts"])
    np.testing.assert_allclose(other["excess"], rows["excess"], rtol=0, atol=1e-6)
    for name in ERRORS[:6]:
        np.testing.assert_allclose(other[name], rows[name], rtol=1e-5, err_msg=name)


def p_value(one, other) -> float:
    """Of the two-sample Kolmogorov-Smirnov test."""
    outcome: Any = stats.ks_2samp(one, other)
    return outcome.pvalue


@pytest.mark.slow
def test_raw_draws_give_the_errors_of_directly_drawn_statistics(quick, monkeypatch):
    """Exact-specified, 40 data sets of n = 10^4 either way, fitted by the same machinery."""
    sweep = SWEEP.model_copy(update={"problem": PROBLEM.model_copy(update={"k_fit": 2})})
    replicator = Replicator(sweep)
    gap = (10**4, 0, 40)
    direct = rows_of(replicator, [gap])[gap]

    def from_raw(truth, sigma, n, seed, replication):
        generator = np.random.default_rng([20, seed, replication])
        return summarise_raw(*draw_raw(truth, sigma, n, generator), truth, sigma)

    monkeypatch.setattr(module, "draw_statistics", from_raw)
    raw = rows_of(replicator, [gap])[gap]
    assert direct["certified"].tolist() == raw["certified"].tolist() == [True] * 40
    assert not np.isin(raw["D_1"], direct["D_1"]).any()
    for name in ("D_1", "function_error", "excess"):
        assert p_value(raw[name], direct[name]) > 1e-3, name
