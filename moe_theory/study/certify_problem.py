"""What `moe-theory certify` looks at: from a model's name and options to the functions whose margins are computed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moe_theory.errors import InputError
from moe_theory.study.adapted_problem import build_adapted
from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import AnyProblem, DensityProblemSpec
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import ADAPTERS, ProblemSpec, free_parameters, specify
from moe_theory.theory.claims import CLAIMS
from moe_theory.theory.density_families import adapted_mixture, free_mixture
from moe_theory.theory.margins import Mixture
from moe_theory.theory.registered_families import mixture_of

DEFAULTS = {
    "lora": "lora-over", "replora": "replora-linear-over", "dora": "dora-over", "doran": "doran-over",
    "hora": "hora-over", "hora-heads": "hora-heads-over", "dial": "dial-eta-0.7",
}  # fmt: skip
"""The claim whose settings an adapter's name stands for."""

COARSER = 2.0
"""Cells on which a density's margins are taken are so much farther apart than those that are drawn. Sums are integrals
to 10^-5 there (margins of type1-k4: 0.30012, 0.30012), which is enough: nothing is sampled. The time falls to 40 %."""


def problem_of(model: str, changes: Mapping[str, Any]) -> AnyProblem:
    """The problem that a model's name and options stand for.

    Args:
        model: an adapter (with the settings of its over-specified claim) or the id of a claim.
        changes: settings that differ.

    Raises:
        InputError: for an unknown model, or settings that do not fit; the message says what to do.
    """
    claim = CLAIMS.get(model) or CLAIMS.get(DEFAULTS.get(model, ""))
    if claim is None:
        known = f"an adapter ({', '.join(ADAPTERS)}) or the id of a claim, see `moe-theory claims`"
        raise InputError(f"unknown model {model!r}: give {known}")
    settings = {**claim.problem, **changes}
    if claim.kind == "density":
        return specify(DensityProblemSpec, settings)
    k_fit = settings.get("k_true", ProblemSpec().k_true) + 1
    kind = AdaptedProblemSpec if claim.kind == "adapted-density" else ProblemSpec
    default = kind()
    size = (settings.get("dimension", default.dimension), settings.get("rank", default.rank), k_fit)
    least = free_parameters(*size, settings["adapter"], settings.get("heads", 1))
    support = max(default.support, 2 ** int(np.ceil(np.log2(max(1, least)))))
    return specify(kind, {"support": support, **settings, "k_fit": k_fit})


class Subject(NamedTuple):
    """What margins and moduli of a problem are taken of.

    Attributes:
        mixture: a mean, or a density.
        mean: the regression, where the mixture is its mean; None of a density.
    """

    mixture: Mixture
    mean: Setup | None


def subject_of(problem: AnyProblem) -> Subject:
    """The functions of a problem."""
    if isinstance(problem, DensityProblemSpec):
        coarse = build_density(problem, COARSER)
        return Subject(free_mixture(coarse.model, coarse.truth, coarse.grid, coarse.metric), None)
    adapted = build_adapted(problem) if isinstance(problem, AdaptedProblemSpec) else None
    if isinstance(problem, AdaptedProblemSpec) and adapted is not None and problem.estimator == "likelihood":
        return Subject(adapted_mixture(adapted.density, adapted.regression.truth, adapted.grid), None)
    own = build(problem) if adapted is None else adapted.regression
    return Subject(mixture_of(own.model, own.truth, own.design), own)
