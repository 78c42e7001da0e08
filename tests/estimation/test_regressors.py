"""The scikit-learn estimators: its own checks where they apply, and agreement with the fits that they wrap."""

import subprocess
import sys
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import moe_theory
from moe_theory.estimation.fit import fit_gaussian_gated, fit_softmax_gated

pytestmark = pytest.mark.usefixtures("quick")

sklearn = pytest.importorskip("sklearn")

NOT_OURS = {
    "check_regressors_no_decision_function": "predict_proba gives the gate's probabilities, which a regressor with "
    "experts has",
}


def lines(n=150, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.4
    x = np.where(which, rng.normal(-3.0, 0.4, n), rng.normal(2.0, 0.6, n))
    return x[:, None], np.where(which, 2.0 * x + 9.0, 1.0 - x) + rng.normal(0.0, 0.3, n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fit"), [("GaussianGatedRegressor", fit_gaussian_gated), ("SoftmaxGatedRegressor", fit_softmax_gated)]
)
def test_a_regressor_is_its_fit(kind, fit):
    from sklearn.base import clone

    x, y = lines()
    made = getattr(moe_theory, kind)(n_components=2, n_starts=2)
    copied: Any = clone(made)
    fitted = copied.set_params(random_state=0).fit(x, y)
    own = fit(x, y, 2, starts=2)
    assert fitted.fit_.log_likelihood == pytest.approx(own.log_likelihood, rel=1e-12)
    share, atoms = fitted.predict_proba(x), own.measure.atoms
    np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-12)
    experts = x @ np.asarray(atoms.slope)[:, 0].T + np.asarray(atoms.intercept)[:, 0]
    np.testing.assert_allclose(fitted.predict(x), np.sum(share * experts, axis=1), rtol=1e-10)
    assert fitted.score(x, y) > 0.9
    assert made.get_params()["n_starts"] == 2


@pytest.mark.slow
def test_the_gate_is_bayes_rule_on_the_density():
    """gate_i(x) = integral over y of the atom's part of p(x, y), over that of all: sums over a fine grid of y."""
    x, y = lines()
    found = fit_gaussian_gated(x, y, 2, starts=2)
    grid = np.linspace(-30.0, 30.0, 20001)
    model, rows = found.model, found.model.rows(found.measure)
    for point in (-3.0, -0.5, 2.0):
        terms = np.exp(model.log_terms(rows, jnp.full((grid.size, 1), point), jnp.asarray(grid)[:, None]))
        np.testing.assert_allclose(found.gate(np.array([point]))[0], terms.sum(axis=1) / terms.sum(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GaussianGatedRegressor", "SoftmaxGatedRegressor"])
def test_check_estimator(kind):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that are not certified, and of the checks' own skips
        done = check_estimator(
            getattr(moe_theory, kind)(n_components=1, n_starts=1, method="em"), expected_failed_checks=NOT_OURS
        )
    assert {each["check_name"] for each in done if each["status"] == "xfail"} == set(NOT_OURS)


def test_the_package_imports_without_scikit_learn_and_says_how_to_get_it():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import moe_theory\n"
        "assert moe_theory.fit_gaussian_gated\n"
        "try:\n    moe_theory.GaussianGatedRegressor\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "pip install 'moe-theory[sklearn]'" in done.stdout
