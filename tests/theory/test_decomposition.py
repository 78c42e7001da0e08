"""Where NumPy's driver fails on a finite matrix, the other one answers."""

import numpy as np
import pytest

from moe_theory.theory.decomposition import singular_values, svd


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
