"""scikit-learn estimators over `fit_gaussian_gated` and `fit_softmax_gated`; nothing else needs scikit-learn."""

import warnings
from typing import Any, TypeVar, no_type_check

import numpy as np
from jaxtyping import Float

from moe_theory.estimation.fit import (
    DEVIATION_FLOOR,
    STARTS,
    WEIGHT_FLOOR,
    DensityFit,
    fit_gaussian_gated,
    fit_softmax_gated,
)

try:
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "GaussianGatedRegressor and SoftmaxGatedRegressor need scikit-learn: pip install 'moe-theory[sklearn]'. "
        "fit_gaussian_gated and fit_softmax_gated do the same without it"
    ) from error


Fitted = TypeVar("Fitted", bound="_GatedRegressor")
"""The estimator's own class; typing.Self cannot be checked method by method, as the tests do."""


class _GatedRegressor(RegressorMixin, MultiOutputMixin, BaseEstimator):
    """What the two regressors share: from arrays to a `DensityFit` and back.

    Attributes (after ``fit``):
        fit_: the `DensityFit`, with measure, certificate and standard errors.
        n_features_in_: d.
    """

    @no_type_check  # scikit-learn's convention: any value is kept, and fit judges it
    def __init__(
        self,
        n_components: int = 2,
        *,
        weight_floor: float = WEIGHT_FLOOR,
        deviation_floor: float = DEVIATION_FLOOR,
        n_starts: int = STARTS,
        method: str = "trust-region",
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.weight_floor = weight_floor
        self.deviation_floor = deviation_floor
        self.n_starts = n_starts
        self.method = method
        self.random_state = random_state

    def _fitted(self, x: Any, y: Any, weights: Any, **options: Any) -> DensityFit:
        raise NotImplementedError

    def fit(self: Fitted, X: Any, y: Any, sample_weight: Any = None) -> Fitted:
        """Fit by maximum likelihood; warns where no certified minimum was found.

        Args:
            X: inputs, (n, d).
            y: outputs, (n,) or (n, d_out).
            sample_weight: of the rows, non-negative; counts are weights.

        Raises:
            ValueError: for data that cannot be fitted; the message says what to do.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=self.n_components
        )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        self._flat = y.ndim == 1
        self.fit_ = self._fitted(
            X, y, weights, k=self.n_components, weight_floor=self.weight_floor, deviation_floor=self.deviation_floor,
            starts=self.n_starts, seed=self.random_state, method=self.method,
        )  # fmt: skip
        if not self.fit_.certified:
            warnings.warn(f"the fit is not certified: {self.fit_.reason}", ConvergenceWarning, stacklevel=2)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "n"] | Float[np.ndarray, "n d_out"]:
        """E[y | x] = sum_i gate_i(x) (A_i x + b_i)."""
        inputs = self._inputs(X)
        found = self.fit_.predict(inputs)
        return found[:, 0] if self._flat else found

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Probability of each expert given x alone, the gate."""
        inputs = self._inputs(X)
        return self.fit_.gate(inputs)

    def _inputs(self, X: Any) -> Float[np.ndarray, "n d"]:
        """Checked inputs; before ``fit``, scikit-learn's NotFittedError."""
        check_is_fitted(self, "fit_")
        return np.asarray(validate_data(self, X, dtype=np.float64, reset=False))


class GaussianGatedRegressor(_GatedRegressor):
    """p(x, y) = sum_i w_i N(x; c_i, Gamma_i) N(y; A_i x + b_i, nu_i) as a scikit-learn regressor.

    Args:
        n_components: k, atoms.
        gate_covariance: Gamma 'full' or 'diagonal'.
        weight_floor, deviation_floor, method: as `fit_gaussian_gated` takes them.
        n_starts: how many compete.
        random_state: seed of the starts.
    """

    @no_type_check  # scikit-learn's convention: any value is kept, and fit judges it
    def __init__(
        self,
        n_components: int = 2,
        *,
        gate_covariance: str = "full",
        weight_floor: float = WEIGHT_FLOOR,
        deviation_floor: float = DEVIATION_FLOOR,
        n_starts: int = STARTS,
        method: str = "trust-region",
        random_state: int = 0,
    ):
        super().__init__(
            n_components, weight_floor=weight_floor, deviation_floor=deviation_floor, n_starts=n_starts,
            method=method, random_state=random_state,
        )  # fmt: skip
        self.gate_covariance = gate_covariance

    def _fitted(self, x: Any, y: Any, weights: Any, **options: Any) -> DensityFit:
        return fit_gaussian_gated(x, y, weights=weights, gate_covariance=self.gate_covariance, **options)


class SoftmaxGatedRegressor(_GatedRegressor):
    """p(y | x) = sum_i softmax_i(beta0_i + beta1_i . x) N(y; a_i x + b_i, nu_i) as a scikit-learn regressor.

    Args: as `GaussianGatedRegressor`, without gate_covariance.
    """

    def _fitted(self, x: Any, y: Any, weights: Any, **options: Any) -> DensityFit:
        return fit_softmax_gated(x, y, weights=weights, **options)
