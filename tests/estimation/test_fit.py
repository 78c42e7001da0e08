"""Fits to a user's data: a correct fit or a clear error, whatever the data."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import chi2

import moe_theory
from moe_theory.errors import InputError
from moe_theory.estimation.fit import fit_gaussian_gated, fit_softmax_gated, select_k

pytestmark = pytest.mark.usefixtures("quick")

FEW: dict[str, Any] = {"starts": 2}


def two_lines(n=120, seed=0):
    """Two clusters of x with a line each, in units far from one."""
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.4
    x = np.where(which, rng.normal(-300.0, 40.0, n), rng.normal(200.0, 60.0, n))
    y = np.where(which, 0.02 * x + 9.0, -0.01 * x + 1.0) + rng.normal(0.0, 0.3, n)
    return x, y


@pytest.fixture(scope="module")
def fitted():
    return fit_gaussian_gated(*two_lines(), 2, **FEW)


def in_order(fit):
    return np.argsort(np.asarray(fit.measure.atoms.center[:, 0]))


def test_a_fit_finds_the_lines_within_its_standard_errors(fitted):
    assert fitted.certified, fitted.reason
    order, errors = in_order(fitted), fitted.standard_errors
    found, wide = (np.asarray(part.atoms.slope[order, 0, 0]) for part in (fitted.measure, errors))
    deviation = (found - np.array([0.02, -0.01])) / wide
    assert chi2.sf(np.sum(deviation**2), 2) > 1e-3
    assert np.all(wide < 0.003)


def test_log_likelihood_and_criteria(fitted):
    x, y = two_lines()
    model, measure = fitted.model, fitted.measure
    each = jax.vmap(model.log_density, (None, 0, 0))(measure, x[:, None], y[:, None])
    assert fitted.log_likelihood == pytest.approx(float(np.sum(each)), rel=1e-10)
    assert fitted.parameters == 11
    assert fitted.aic == pytest.approx(22.0 - 2.0 * fitted.log_likelihood)
    assert fitted.bic == pytest.approx(11.0 * np.log(120.0) - 2.0 * fitted.log_likelihood)


@pytest.mark.slow
def test_weights_are_counts_and_zero_weight_points_are_absent(fitted):
    """Every point twice by weight, junk at weight zero: the same measure, errors smaller by sqrt 2."""
    x, y = two_lines()
    doubled = fit_gaussian_gated(
        np.append(x, [np.pi, 1e9]), np.append(y, [1e5, 0.0]), 2, np.append(np.full(120, 2.0), [0.0, 0.0]), **FEW
    )
    one, two = (np.asarray(fit.measure.atoms.slope[in_order(fit), 0, 0]) for fit in (fitted, doubled))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    errors = []
    for fit in (fitted, doubled):
        assert fit.standard_errors is not None
        errors.append(np.asarray(fit.standard_errors.atoms.intercept[in_order(fit), 0]))
    np.testing.assert_allclose(errors[1], errors[0] / np.sqrt(2.0), rtol=1e-4)


@pytest.mark.slow
def test_a_huge_outlier_does_not_spoil_the_others():
    """A third atom for it has no variance: the fit finds both lines all the same and says that it is degenerate."""
    x, y = two_lines()
    x, y = np.append(x[1:], 1e7), np.append(y[1:], -1e6)
    found = fit_gaussian_gated(x, y, 3, starts=4)
    assert not found.certified
    assert "degenerate" in found.reason
    heaviest = np.argsort(np.asarray(found.measure.log_weights))[1:]
    slopes = np.sort(np.asarray(found.measure.atoms.slope[heaviest, 0, 0]))
    np.testing.assert_allclose(slopes, [-0.01, 0.02], atol=0.004)


@pytest.mark.parametrize("fit", [fit_gaussian_gated, fit_softmax_gated])
def test_a_line_through_too_few_points_is_degenerate(fit):
    """Four points in three dimensions of (x, y) are the least that leave a variance."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2)), rng.standard_normal(4)
    found = fit(np.repeat(x[:3], 5, axis=0), np.repeat(y[:3], 5), 1, starts=1)
    assert not found.certified
    assert "give 1 more distinct points" in found.reason
    assert found.standard_errors is None
    np.testing.assert_allclose(found.predict(x[:3])[:, 0], y[:3], atol=0.02)
    assert fit(x, y, 1, starts=1).certified


@pytest.mark.slow
def test_repeated_points_are_recognised_as_degenerate():
    """Forty copies of one point, on which a variance can shrink for ever."""
    x, y = two_lines(60)
    x, y = np.append(x, np.full(60, -800.0)), np.append(y, np.full(60, 40.0))
    found = fit_gaussian_gated(x, y, 3, starts=4)
    assert not found.certified
    assert "degenerate" in found.reason
    assert found.standard_errors is None


@pytest.mark.slow
def test_softmax_gate_on_separated_inputs():
    x, y = two_lines(120, 1)
    found = fit_softmax_gated(x, y, 2, **FEW)
    assert found.certified, found.reason
    slopes = np.sort(np.asarray(found.measure.atoms.slope[:, 0, 0]))
    np.testing.assert_allclose(slopes, [-0.01, 0.02], atol=0.004)
    assert float(found.measure.log_weights[-1]) == 0.0


@pytest.mark.slow
def test_selection_over_k():
    best, fits = select_k(fit_gaussian_gated, *two_lines(), [1, 2], **FEW)
    assert best is fits[2]
    assert fits[1].bic > fits[2].bic
    with pytest.raises(InputError, match="'aic' or 'bic'"):
        select_k(fit_gaussian_gated, *two_lines(), [1], criterion="r2")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x, np.full_like(y, 3.0), 2), "column 0 of y is constant"),
        (lambda x, y: (x[:1], y[:1], 1), "one sample"),
        (lambda x, y: (x[:5], y[:5], 6), "positive weight, 5: got 6"),
        (lambda x, y: (x, np.where(np.arange(120) == 7, np.nan, y), 2), "row 7 of y holds NaN"),
        (lambda x, y: (x[:-1], y, 2), "same number of rows"),
        (lambda x, y: (x, y, 0), "positive weight, 120: got 0"),
        (lambda x, y: (np.repeat(x[:2], 30), np.repeat(y[:2], 30), 3), "positive weight, 2: got 3"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(change, told):
    with pytest.raises(InputError, match=told):
        fit_gaussian_gated(*change(*two_lines()))


def test_weights_must_be_weights():
    x, y = two_lines()
    with pytest.raises(InputError, match="none negative"):
        fit_softmax_gated(x, y, 2, -np.ones(120))
    with pytest.raises(InputError, match="deviation_floor"):
        fit_gaussian_gated(x, y, 2, deviation_floor=2.0)


def test_the_package_exports_the_estimators():
    assert moe_theory.fit_gaussian_gated is fit_gaussian_gated
    with pytest.raises(AttributeError):
        moe_theory.no_such_thing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
