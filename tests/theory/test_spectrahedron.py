"""Least norm over the spectrahedron against brute force and a general-purpose solver."""

import numpy as np
import pytest
from scipy.optimize import minimize

from moe_theory.theory import low_rank
from moe_theory.theory.central_path import central_path
from moe_theory.theory.low_rank import convex, rank_limited
from moe_theory.theory.spectrahedron import problem_of, sketched


def _forms(seed, n=6, p=3):
    raw = np.random.default_rng(seed).normal(size=(n, p, p))
    return raw + raw.transpose(0, 2, 1)


def _least(forms):
    problem = problem_of(forms)
    return convex(problem, rank_limited(problem, 1, 8)[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_two_by_two_problem_agrees_with_a_grid(seed):
    form = _forms(seed, 3, 2)
    found = _least([form])
    share, turn = np.meshgrid(np.linspace(0, 1, 201), np.linspace(-1, 1, 201))
    off = turn * np.sqrt(share * (1 - share))
    q = (
        form[:, 0, 0, None, None] * share
        + form[:, 1, 1, None, None] * (1 - share)
        + 2 * form[:, 0, 1, None, None] * off
    )
    brute = np.sqrt(np.sum(q**2, axis=0)).min()
    assert found.is_certified
    assert found.lower <= brute
    assert found.value == pytest.approx(brute, abs=0.02 * np.abs(form).max())


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_convex_minimum_agrees_with_a_general_solver(seed):
    form = _forms(seed)
    found = _least([form])

    def value(flat):
        lower = np.zeros((3, 3))
        lower[np.tril_indices(3)] = flat
        matrix = lower @ lower.T / np.sum(flat**2)
        return float(np.linalg.norm(np.tensordot(form, matrix, 2)))

    rng = np.random.default_rng(seed)
    best = min(minimize(value, rng.normal(size=6), method="BFGS", tol=1e-12).fun for _ in range(8))
    assert found.is_certified
    assert found.value == pytest.approx(best, rel=2e-3)


def test_no_feasible_point_lies_below_the_lower_bound():
    form = _forms(5)
    found = _least([form])
    rng = np.random.default_rng(0)
    for _ in range(200):
        root = rng.normal(size=(3, 3))
        matrix = root @ root.T / np.sum(root**2)
        assert np.linalg.norm(np.tensordot(form, matrix, 2)) >= found.lower


def test_a_zero_is_found_to_rounding():
    u = np.array([0.6, 0.8, 0.0])
    form = _forms(6)
    form = form - np.einsum("npq,p,q->n", form, u, u)[:, None, None] * np.outer(u, u)
    found = rank_limited(problem_of([form]), 1, 8)[0]
    assert found.value < 1e-14
    assert abs(found.factors[0][:, 0] @ u) == pytest.approx(1.0, abs=1e-7)


def test_several_blocks_share_one_trace_and_compression_keeps_the_problem():
    rng = np.random.default_rng(3)
    blocks = [_forms(7, 40, 3), _forms(8, 40, 2)]
    small = problem_of(blocks)
    factors = [rng.normal(size=(3, 2)), rng.normal(size=(2, 2))]
    assert small.rows.shape[0] == 9
    image = sum(np.tensordot(block, own @ own.T, 2) for block, own in zip(blocks, factors, strict=True))
    assert small.measured(factors).value == pytest.approx(np.linalg.norm(image), rel=1e-12)
    joint = _least(blocks)
    assert sum(np.trace(matrix) for matrix in joint.matrices) == pytest.approx(1.0)
    alone = [_least([block]).value for block in blocks]
    assert joint.is_certified
    assert joint.value <= min(alone) * (1 + 1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_the_path_finds_a_minimiser_of_full_rank(size):
    """||diag S|| is least where all diagonal entries are equal: 1 / sqrt p."""
    problem = problem_of([np.eye(size)[:, :, None] * np.eye(size)[:, None, :]])
    found = central_path(problem)
    assert found.value == pytest.approx(size**-0.5, rel=1e-6)
    assert found.lower == pytest.approx(size**-0.5, rel=1e-6)
    np.testing.assert_allclose(np.diag(found.matrices[0]), 1.0 / size, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_path_ends_where_as_many_columns_as_rows_end(seed):
    """In Y with p columns the problem has no other minima than the convex one."""
    problem = problem_of([_forms(seed, 30, 5), _forms(seed + 10, 30, 4)])
    found, by_columns = central_path(problem), rank_limited(problem, 5, 2)[0]
    assert found.value - found.lower <= 2e-7 * found.value
    assert found.value == pytest.approx(by_columns.value, rel=1e-6)
    assert sum(np.trace(own) for own in found.matrices) == pytest.approx(1.0, abs=1e-12)


def test_the_path_finds_a_minimiser_of_rank_one():
    """Only the last form tells the first direction from the others, and it is least there."""
    forms = np.stack([*(np.diag(own) for own in 3.0 * np.eye(4)[1:]), np.diag([1.0, 2.0, 2.0, 2.0])])
    found = central_path(problem_of([forms]))
    assert found.value == pytest.approx(1.0, rel=1e-6)
    assert found.matrices[0][0, 0] == pytest.approx(1.0, abs=1e-3)


def test_a_zero_that_needs_two_columns_is_found_by_columns():
    """Nine forms that vanish at one S of rank two, and at no S of rank one."""
    root = np.random.default_rng(4).normal(size=(4, 2))
    hidden = root @ root.T / np.sum(root**2)
    form = _forms(9, 9, 4)
    form = form - np.tensordot(form, hidden, 2)[:, None, None] * np.eye(4)
    problem = problem_of([form])
    one = rank_limited(problem, 1, 8)[0]
    found = convex(problem, one, 1e-12)
    assert one.value > 1e-3
    assert found.value <= 1e-12
    assert found.factors[0].shape[1] == 2
    np.testing.assert_allclose(found.matrices[0], hidden, atol=1e-9)


def test_starts_side_by_side_end_where_each_ends_alone():
    problem = problem_of([_forms(11, 12, 4), _forms(12, 12, 3)])
    together = [each.value for each in rank_limited(problem, 1, 6)]
    alone = rank_limited(problem, 1, 1)[0].value
    assert min(abs(value - alone) for value in together) <= 1e-9 * alone


def test_a_minimum_that_is_too_large_for_the_path_is_found_by_columns(monkeypatch):
    forms = [_forms(13, 30, 5), _forms(14, 30, 4)]
    by_path = _least(forms)
    monkeypatch.setattr(low_rank, "MOST_UNKNOWNS", 1)
    by_columns = _least(forms)
    assert by_path.factors[0].shape[1] == 5
    assert by_columns.factors[0].shape[1] < 5
    assert by_columns.is_certified
    assert by_columns.value == pytest.approx(by_path.value, rel=1e-6)


def test_a_sketch_has_every_form_once_and_keeps_zeros():
    u = np.array([0.6, 0.0, 0.8, 0.0])
    form = _forms(15, 40, 4)
    form = form - np.einsum("npq,p,q->n", form, u, u)[:, None, None] * np.outer(u, u)
    problem, point = problem_of([form]), [np.random.default_rng(0).normal(size=(4, 2))]
    whole = sketched(problem, len(problem.rows))
    assert np.linalg.norm(whole.images([point])) == pytest.approx(np.linalg.norm(problem.images([point])), rel=1e-12)
    few = sketched(problem, 5)
    assert few.rows.shape[0] == 5
    assert np.linalg.norm(few.images([[u[:, None]]])) < 1e-13


def test_searches_that_begin_on_a_sketch_end_in_minima_of_the_problem(monkeypatch):
    problem = problem_of([_forms(16, 60, 4), _forms(17, 60, 4)])
    without = [each.value for each in rank_limited(problem, 1, 12)]
    monkeypatch.setattr(low_rank, "MANY", 0)
    monkeypatch.setattr(low_rank, "SUMS", 2)
    found = [each.value for each in rank_limited(problem, 1, 12)]
    assert found[0] == pytest.approx(without[0], rel=1e-9)
    assert all(min(abs(value - other) for other in without) <= 1e-6 * value for value in found)
