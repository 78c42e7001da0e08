"""Least norm over the spectrahedron against brute force and a general-purpose solver."""

import numpy as np
import pytest
from scipy.optimize import minimize

from moe_theory.theory.spectrahedron import bounds, compressed, convex, rank_limited


def _forms(seed, n=6, p=3):
    raw = np.random.default_rng(seed).normal(size=(n, p, p))
    return raw + raw.transpose(0, 2, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_two_by_two_problem_agrees_with_a_grid(seed):
    form = _forms(seed, 3, 2)
    found = convex([form], rank_limited([form], 1, 8)[0])
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
    found = convex([form], rank_limited([form], 1, 8)[0])

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
    found = convex([form], rank_limited([form], 1, 8)[0])
    rng = np.random.default_rng(0)
    for _ in range(200):
        root = rng.normal(size=(3, 3))
        matrix = root @ root.T / np.sum(root**2)
        assert np.linalg.norm(np.tensordot(form, matrix, 2)) >= found.lower


def test_a_zero_is_found_to_rounding():
    u = np.array([0.6, 0.8, 0.0])
    form = _forms(6)
    form = form - np.einsum("npq,p,q->n", form, u, u)[:, None, None] * np.outer(u, u)
    found = rank_limited([form], 1, 8)[0]
    assert found.value < 1e-14
    assert abs(found.factors[0][:, 0] @ u) == pytest.approx(1.0, abs=1e-7)


def test_several_blocks_share_one_trace_and_compression_keeps_the_problem():
    rng = np.random.default_rng(3)
    blocks = [_forms(7, 40, 3), _forms(8, 40, 2)]
    small = compressed(blocks)
    factors = [rng.normal(size=(3, 2)), rng.normal(size=(2, 2))]
    assert small[0].shape[0] == 9
    assert bounds(small, factors)[0] == pytest.approx(bounds(blocks, factors)[0], rel=1e-12)
    joint = convex(small, rank_limited(small, 1, 8)[0])
    assert sum(np.trace(matrix) for matrix in joint.matrices) == pytest.approx(1.0)
    alone = [convex([block], rank_limited([block], 1, 8)[0]).value for block in blocks]
    assert joint.is_certified
    assert joint.value <= min(alone) * (1 + 1e-9)
