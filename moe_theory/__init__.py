"""Validate, by simulation and by computation, the statistical theory of mixtures of experts and low-rank adaptation."""

from typing import TYPE_CHECKING, Any

from moe_theory.precision import enable_x64, require_x64

if TYPE_CHECKING:
    from moe_theory.estimation.fit import DensityFit, fit_gaussian_gated, fit_softmax_gated, select_k
    from moe_theory.estimation.regressors import GaussianGatedRegressor, SoftmaxGatedRegressor

__version__ = "0.1.0"

__all__ = [
    "DensityFit",
    "GaussianGatedRegressor",
    "SoftmaxGatedRegressor",
    "__version__",
    "enable_x64",
    "fit_gaussian_gated",
    "fit_softmax_gated",
    "require_x64",
    "select_k",
]


def __getattr__(name: str) -> Any:
    """The estimators, imported when asked for: they import JAX, and ``moe-theory --help`` must answer at once."""
    if name.endswith("Regressor") and name in __all__:
        from moe_theory.estimation import regressors

        return getattr(regressors, name)
    if name in __all__:
        from moe_theory.estimation import fit

        return getattr(fit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
