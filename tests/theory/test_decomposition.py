"""Where NumPy's driver fails on a finite matrix, the other one answers."""

import numpy as np
import pytest

from moe_theory.theory.decomposition import pulled_svd, singular_values, svd


@pytest.fixture
def failing(monkeypatch):
    def fails(*_, **__):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fails)


@pytest.mark.parametrize("full", [False, True])
def test_the_other_driver_gives_the_same_decomposition(failing, full):
    matrix = np.random.default_rng(0).standard_normal((7, 4))
    left, values, right = svd(matrix, full_matrices=full)
    assert left.shape == (7, 7 if full else 4)
    np.testing.assert_allclose(left[:, :4] * values @ right, matrix, atol=1e-14)
    np.testing.assert_allclose(singular_values(matrix), values, rtol=1e-14)
    assert np.all(np.diff(values) <= 0.0)


def test_what_is_not_finite_is_refused(failing):
    with pytest.raises(ValueError, match="NaN"):
        svd(np.full((3, 2), np.nan))


@pytest.mark.parametrize("rows", [3, 4, 5, 40])
def test_what_a_step_needs_is_that_of_the_whole_decomposition(rows):
    rng = np.random.default_rng(rows)
    matrix, vector = rng.standard_normal((rows, 4)) * np.array([1.0, 1e-3, 1e3, 1.0]), rng.standard_normal(rows)
    pulled, values, right = pulled_svd(matrix, vector)
    left, expected, other = svd(matrix)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_allclose(np.abs(right @ other.T), np.eye(len(values)), atol=1e-9)
    np.testing.assert_allclose(right.T @ (pulled * values), other.T @ (left.T @ vector * expected), atol=1e-9)


def test_a_step_of_a_matrix_without_full_rank_is_the_shortest():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 4))
    vector = rng.standard_normal(30)
    pulled, values, right = pulled_svd(matrix, vector)
    kept = values > 1e-9 * values[0]
    assert kept.sum() == 2
    step = right[kept].T @ (pulled[kept] / values[kept])
    np.testing.assert_allclose(step, np.linalg.lstsq(matrix, vector)[0], atol=1e-12)
