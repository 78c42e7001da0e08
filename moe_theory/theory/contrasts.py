"""Two systems compared in one error: do their exponents differ, and how many more samples does one need?

With errors log e_i(n) = log C_i + a_i log n, the difference of exponents is a_1 - a_2, each from its own fit; and at
a common, predicted exponent a the first system needs

    n_1 / n_2 = (C_1 / C_2)^(1 / |a|)

times the samples of the second for the same error, whatever that error is. Both are sums of independent estimates, so
their variances add; the interval is Student's, with Welch and Satterthwaite's degrees of freedom.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from moe_theory.theory.laws import compare_laws
from moe_theory.theory.summaries import LARGEST_DOF, ErrorCurve


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and the degrees of freedom behind that."""

    value: float
    standard_error: float
    dof: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided Student interval."""
        half = float(stdtrit(self.dof, 0.5 + level / 2)) * self.standard_error
        return self.value - half, self.value + half

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two independent estimates. Source: Welch 1947; Satterthwaite 1946."""
        first, second = self.standard_error**2, other.standard_error**2
        dof = (first + second) ** 2 / (first**2 / self.dof + second**2 / other.dof)
        return Estimate(self.value - other.value, float(np.sqrt(first + second)), min(dof, LARGEST_DOF))

    def times(self, factor: float) -> "Estimate":
        """The estimate times a known number."""
        return Estimate(self.value * factor, self.standard_error * abs(factor), self.dof)


@dataclass(frozen=True)
class Contrast:
    """How the first of two systems differs from the second in one error.

    Attributes:
        exponents: a_1 - a_2.
        log_ratio: log of n_1 / n_2 for equal error, at the common exponent.
    """

    exponents: Estimate
    log_ratio: Estimate


def exponent_of(curve: ErrorCurve) -> Estimate:
    """The exponent of the power law fitted to a curve."""
    fit = compare_laws(curve).fits["power"]
    return Estimate(fit.parameters["exponent"], fit.standard_errors["exponent"], fit.quantile_dof)


def log_constant(curve: ErrorCurve, exponent: float) -> Estimate:
    """log C of a power law of known exponent: the weighted mean of log e - a log n, with its Birge ratio if above 1."""
    weights = curve.standard_error**-2.0
    gaps = curve.log_center - exponent * np.log(curve.n)
    middle = float(np.sum(weights * gaps) / np.sum(weights))
    spare = curve.n.size - 1
    birge = np.sqrt(np.sum(weights * (gaps - middle) ** 2) / spare) if spare else 1.0
    dof = min(curve.variance_dof, LARGEST_DOF) if birge <= 1.0 else float(spare)
    return Estimate(middle, float(max(birge, 1.0) / np.sqrt(np.sum(weights))), dof)


def contrast(first: ErrorCurve, second: ErrorCurve, exponent: float) -> Contrast:
    """Compare two systems by their error curves.

    Args:
        first, second: curves of the same error, sizes in the range where the law holds, at least three.
        exponent: a, the predicted common exponent, negative.

    Raises:
        ValueError: the exponent is not negative.
    """
    if not exponent < 0:
        raise ValueError(f"the common exponent must be negative, not {exponent:g}")
    constants = log_constant(first, exponent).minus(log_constant(second, exponent))
    return Contrast(exponent_of(first).minus(exponent_of(second)), constants.times(1.0 / abs(exponent)))
