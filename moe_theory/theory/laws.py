"""Rate laws of an error curve: fits and comparison.

Three laws, each linear in its parameters in log error:

    power         log e(n) = log C + exponent * log n           (exponent < 0 for a decreasing error)
    inverse-log   log e(n) = log C - tau * log log n
    plateau       log e(n) = log C

The plateau is exponent = 0 and tau = 0 of the others, and over few decades a power of a logarithm is a
straight line to within the noise. So laws are not only ranked by AICc but *tested* inside the family that
contains all three, log C + exponent * log n - tau * log log n: a law is rejected when freeing its missing
terms gains more than the noise allows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri, fdtrc, fdtri, stdtrit

from moe_theory.theory.summaries import LARGEST_DOF, ErrorCurve

Array = NDArray[np.float64]
LawName = Literal["power", "inverse-log", "plateau"]
LAWS: tuple[LawName, ...] = ("power", "inverse-log", "plateau")
OVERDISPERSION_LEVEL = 0.05

_REGRESSORS: dict[LawName, list[Callable[[Array], Array]]] = {
    "power": [lambda n: np.log(n)],
    "inverse-log": [lambda n: -np.log(np.log(n))],
    "plateau": [],
}
_SHAPE_PARAMETER: dict[LawName, str] = {"power": "exponent", "inverse-log": "tau"}


@dataclass(frozen=True)
class Prediction:
    """What a claim predicts of an error curve.

    `Prediction("power", -0.5)`: the error goes as n^-1/2. `Prediction("no-power")`: it follows no power law
    (a plateau, or a decrease slower than every power, such as 1/log n).

    Raises:
        ValueError: a power without a negative exponent, or an exponent without a power.
    """

    kind: Literal["power", "no-power"]
    exponent: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("power", "no-power"):
            raise ValueError(f"kind must be 'power' or 'no-power', not {self.kind!r}")
        if self.kind == "power" and (self.exponent is None or not -10 < self.exponent < 0):
            raise ValueError("a predicted power law needs a negative exponent, such as -0.5")
        if self.kind == "no-power" and self.exponent is not None:
            raise ValueError("a prediction of no power law has no exponent")


@dataclass(frozen=True)
class LawFit:
    """One law fitted by weighted least squares in log error, weights 1 / standard_error^2.

    Args:
        name: the law.
        parameters: `log_constant` and, by law, `exponent` (negative when the error falls) or `tau`.
        standard_errors: by parameter, times the Birge ratio where that exceeds 1.
        intervals: 95 % intervals by parameter.
        covariance: of the parameters in their order, Birge ratio included. Shape (p, p).
        scale: max(1, Birge ratio), already in the standard errors.
        critical: number of standard errors in half a 95 % interval.
        quantile_dof: degrees of freedom of Student's t behind `critical`.
        chi_square: weighted residual sum of squares, before any inflation.
        degrees_of_freedom: sizes - p.
        aicc: chi_square + 2 p + 2 p (p + 1) / (sizes - p - 1); infinite if sizes <= p + 1.
        goodness_of_fit: p-value of `chi_square`, by F with the standard errors' own degrees of freedom; 1 if
            the law has as many parameters as sizes.
        n_range: least and largest size fitted.
    """

    name: LawName
    parameters: dict[str, float]
    standard_errors: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    covariance: Array
    scale: float
    critical: float
    quantile_dof: float
    chi_square: float
    degrees_of_freedom: int
    aicc: float
    goodness_of_fit: float
    n_range: tuple[float, float]

    def log_error(self, n: Array) -> Array:
        """The fitted log error at sizes n. Shape as n."""
        return _design(self.name, n) @ np.array(list(self.parameters.values()))

    def interval(self, parameter: str, level: float) -> tuple[float, float]:
        """The two-sided interval of one parameter at another level, such as 0.99.

        Raises:
            KeyError: the law has no such parameter.
        """
        half = float(stdtrit(self.quantile_dof, 0.5 + level / 2)) * self.standard_errors[parameter]
        return self.parameters[parameter] - half, self.parameters[parameter] + half


@dataclass(frozen=True)
class LawComparison:
    """The three laws on one curve.

    Args:
        curve: what was fitted (after `n_min`).
        fits: by law.
        best: the law of least AICc.
        delta_aicc: AICc minus the least one, by law (infinite where AICc is).
        weights: AICc weights exp(-delta/2), normalised.
        rejection: p-value of each law inside the encompassing family; small means rejected in favour of it.
        encompassing_fit: goodness-of-fit p-value of the encompassing family; 1 if it has no degree of
            freedom.
        encompassing_chi_square: its weighted residual sum of squares.
        encompassing_scale: max(1, Birge ratio) of the encompassing family.
        encompassing_dof: second degrees of freedom of the F tests.
    """

    curve: ErrorCurve
    fits: dict[LawName, LawFit]
    best: LawName
    delta_aicc: dict[LawName, float]
    weights: dict[LawName, float]
    rejection: dict[LawName, float]
    encompassing_fit: float
    encompassing_chi_square: float
    encompassing_scale: float
    encompassing_dof: float

    def exponent_region(self, level: float) -> tuple[float, float] | None:
        """The exponents a such that a pure power law n^a is not rejected at a level; None if all are.

        chi2_power + (a - fitted)^2 / variance - chi2_all <= 2 scale^2 F_{1 - level}(2, v): slope and
        curvature are tested at once, so a wrong slope with the wrong curvature is rejected sooner than by
        either alone.

        Source: our derivation.
        """
        power = self.fits["power"]
        q, v = 2, self.encompassing_dof
        critical = chdtri(q, level) if v >= LARGEST_DOF else q * fdtri(q, v, 1 - level)
        room = float(critical) - (power.chi_square - self.encompassing_chi_square) / self.encompassing_scale**2
        if room < 0:
            return None
        half = power.standard_errors["exponent"] / power.scale * self.encompassing_scale * room**0.5
        return power.parameters["exponent"] - half, power.parameters["exponent"] + half


def fit_law(name: LawName, curve: ErrorCurve) -> LawFit:
    """Fit one law: minimise sum_i (log_center_i - law(n_i))^2 / standard_error_i^2.

    With S = sqrt(chi_square / dof) the Birge ratio, standard errors are multiplied by max(1, S). The
    quantile is Student's with the degrees of freedom of the curve's own standard errors; where the excess
    scatter is itself significant (5 %), the scale rests on the few residuals alone, and their degrees of
    freedom are used.

    Args:
        name: `power`, `inverse-log` or `plateau`.
        curve: all of its sizes are fitted.

    Raises:
        ValueError: fewer sizes than parameters, or an unknown law.

    Source: Birge 1932; Hurvich and Tsai 1989 (AICc); the choice of quantile is our derivation.
    """
    if name not in LAWS:
        raise ValueError(f"unknown law {name!r}; the laws are {', '.join(LAWS)}")
    design = _design(name, curve.n)
    sizes, p = design.shape
    if sizes < p:
        raise ValueError(f"the {name} law has {p} parameters, the curve only {sizes} sizes")
    values, covariance, chi_square = _weighted_least_squares(design, curve)
    dof = sizes - p
    scale, quantile_dof = _inflation(chi_square, dof, curve.variance_dof)
    deviations = scale * np.sqrt(np.diag(covariance))
    critical = float(stdtrit(quantile_dof, 0.975))
    keys = ["log_constant", *([_SHAPE_PARAMETER[name]] if p == 2 else [])]
    return LawFit(
        name=name,
        parameters=dict(zip(keys, values.tolist(), strict=True)),
        standard_errors=dict(zip(keys, deviations.tolist(), strict=True)),
        intervals={
            key: (float(v - critical * d), float(v + critical * d))
            for key, v, d in zip(keys, values, deviations, strict=True)
        },
        covariance=scale**2 * covariance,
        scale=scale,
        critical=critical,
        quantile_dof=quantile_dof,
        chi_square=chi_square,
        degrees_of_freedom=dof,
        aicc=_aicc(chi_square, p, sizes),
        goodness_of_fit=_goodness_of_fit(chi_square, dof, curve.variance_dof),
        n_range=(float(curve.n[0]), float(curve.n[-1])),
    )


def compare_laws(curve: ErrorCurve, n_min: float | None = None) -> LawComparison:
    """Fit the three laws, rank them by AICc and test each inside the family that contains all of them.

    The test of a law with q missing terms is the F test
    ((chi2_law - chi2_all) / q) / max(1, chi2_all / dof_all), referred to F(q, v), v as in `fit_law`. Under
    the law it rejects at its level whatever the parameters are, which a threshold on AICc differences does
    not.

    Args:
        curve: at least three sizes after `n_min`.
        n_min: sizes below are left out.

    Raises:
        ValueError: fewer than three sizes.

    Source: our derivation (an encompassing test, as Davidson and MacKinnon 1981, exact because all is
    linear).
    """
    part = curve if n_min is None else curve.from_size(n_min)
    sizes = part.n.size
    if sizes < 3:
        raise ValueError(f"comparing laws needs at least three sample sizes, not {sizes}")
    fits: dict[LawName, LawFit] = {name: fit_law(name, part) for name in LAWS}
    least = min(fit.aicc for fit in fits.values())
    delta: dict[LawName, float] = {name: fit.aicc - least if np.isfinite(least) else 0.0 for name, fit in fits.items()}
    likelihoods: dict[LawName, float] = {name: float(np.exp(-d / 2)) for name, d in delta.items()}
    total = sum(likelihoods.values())
    everything = np.column_stack([_design("power", part.n), _design("inverse-log", part.n)[:, 1]])
    _, _, chi_square = _weighted_least_squares(everything, part)
    scale, v = _inflation(chi_square, sizes - 3, part.variance_dof)
    rejection: dict[LawName, float] = {
        name: _f_tail((fit.chi_square - chi_square) / scale**2, 3 - len(fit.parameters), v)
        for name, fit in fits.items()
    }
    return LawComparison(
        curve=part,
        fits=fits,
        best=min(LAWS, key=lambda name: fits[name].aicc),
        delta_aicc=delta,
        weights={name: value / total for name, value in likelihoods.items()},
        rejection=rejection,
        encompassing_fit=_goodness_of_fit(chi_square, sizes - 3, part.variance_dof),
        encompassing_chi_square=chi_square,
        encompassing_scale=scale,
        encompassing_dof=v,
    )


def _design(name: LawName, n: Array) -> Array:
    return np.column_stack([np.ones_like(n), *(regressor(n) for regressor in _REGRESSORS[name])])


def _weighted_least_squares(design: Array, curve: ErrorCurve) -> tuple[Array, Array, float]:
    """Parameters, their covariance and the weighted residual sum of squares."""
    weighted = design / curve.standard_error[:, None]
    target = curve.log_center / curve.standard_error
    q, r = np.linalg.qr(weighted)
    inverse: Array = np.linalg.inv(r).astype(np.float64)
    values = inverse @ (q.T.astype(np.float64) @ target)
    return values, inverse @ inverse.T, float(np.sum((target - weighted @ values) ** 2))


def _aicc(chi_square: float, p: int, sizes: int) -> float:
    if sizes <= p + 1:
        return float("inf")
    return chi_square + 2 * p + 2 * p * (p + 1) / (sizes - p - 1)


def _f_tail(excess: float, q: int, v: float) -> float:
    """P(F(q, v) >= excess / q)."""
    excess = max(excess, 0.0)
    if v >= LARGEST_DOF:
        return float(chdtrc(q, excess))
    return float(fdtrc(q, v, excess / q))


def _goodness_of_fit(chi_square: float, dof: int, variance_dof: float) -> float:
    return _f_tail(chi_square, dof, variance_dof) if dof > 0 else 1.0


def _inflation(chi_square: float, dof: int, variance_dof: float) -> tuple[float, float]:
    """The factor max(1, Birge ratio) and the degrees of freedom of the quantile that goes with it."""
    known = min(variance_dof, LARGEST_DOF)
    if dof == 0 or chi_square <= dof:
        return 1.0, known
    significant = _goodness_of_fit(chi_square, dof, variance_dof) < OVERDISPERSION_LEVEL
    return float(np.sqrt(chi_square / dof)), float(dof) if significant else known
