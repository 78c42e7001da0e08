"""The claims table: what is measured, where it comes from, and what theory predicts before anything is sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from moe_theory.errors import InputError
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import Statistic

HALF = Prediction("power", -0.5)
QUARTER = Prediction("power", -0.25)
NO_POWER = Prediction("no-power")

REPLORA = "RepLoRA (Truong et al., ICML 2025, arXiv 2502.03044), in the toolkit's own notation"


@dataclass(frozen=True)
class Measure:
    """One error of a claim and the law predicted for it.

    Attributes:
        column: name of the error among the stored columns.
        words: what it is, for tables.
        prediction: the law.
        from_size: sizes below it are stored and drawn but not judged: the law is asymptotic.
        statistic: the curve that is judged, 'median' or 'mean' over replications. A law for the mean is the stronger
            statement: rare replications that do not converge leave the median alone.
        conditional: whether only a fit with such a cell has a value; which cell the extra atom joins is random. The law
            is that of the fits that have one; the others are counted and shown.
    """

    column: str
    words: str
    prediction: Prediction
    from_size: float = 0.0
    statistic: Statistic = "median"
    conditional: bool = False


@dataclass(frozen=True)
class Claim:
    """A row of the claims table.

    Attributes:
        id: its name.
        model: in words.
        specification: 'exact' (k_fit = k_true) or 'over'.
        statement: what is claimed.
        source: where the claim comes from.
        main: the measure whose verdict is the claim's.
        others: further measures, each with a verdict of its own.
        problem: settings of the problem that differ from the defaults.
        identified_set: whether the range of D over the identified set is computed (the objective leaves it open).
    """

    id: str
    model: str
    specification: str
    statement: str
    source: str
    main: Measure
    others: tuple[Measure, ...] = ()
    problem: Mapping[str, Any] = field(default_factory=dict)
    identified_set: bool = False


def _exact(column_from: float = 1e4) -> tuple[Measure, tuple[Measure, ...]]:
    main = Measure("D_1", "Voronoi loss D_1", HALF, column_from)
    return main, (Measure("function_error", "function error", HALF, column_from),)


OVER_FROM = 1e5
"""Over-fitted laws are judged from this size on, stated before sampling: at n = 10^4 the scale n^-1/4 of a split is
still 0.1, as wide as the atoms."""


def _over() -> tuple[Measure, tuple[Measure, ...]]:
    return Measure("D_12", "Voronoi loss D_12", HALF, OVER_FROM), (
        Measure("overfitted_error", "over-fitted atoms", QUARTER, OVER_FROM, conditional=True),
        Measure("singleton_error", "singleton atoms", HALF, OVER_FROM, conditional=True),
        Measure("function_error", "function error", HALF, 1e4),
    )


WITHIN = "largest D_12 within 10^-3 of the minimum"
CONFIDENCE = "largest D_12 in the 95 % likelihood-ratio set"
AS_GOOD = "largest D_12 of fits as good as the truth"


def _claim(name: str, model: str, exact: bool, statement: str, more: tuple[Measure, ...] = (), **problem: Any) -> Claim:
    main, others = _exact() if exact else _over()
    others = (*others, *more)
    identified_set = any(measure.column == "D_12_truth_highest" for measure in more)
    sizes = {"k_fit": 2} if exact else {}
    return Claim(
        name, model, "exact" if exact else "over", statement, REPLORA, main, others, MappingProxyType(problem | sizes),
        identified_set,
    )  # fmt: skip


def _lora_over(name: str, model: str, **problem: Any) -> Claim:
    return Claim(
        id=name,
        model=model,
        specification="over",
        statement="the value matrices of over-fitted atoms do not converge at any power of n",
        source=REPLORA + "; theory section 7, 'why the slow ones are slow'",
        main=Measure("D_12_truth_highest", AS_GOOD, NO_POWER, OVER_FROM),
        others=(
            Measure("D_12_confidence_highest", f"{CONFIDENCE}, mean", NO_POWER, OVER_FROM, "mean"),
            Measure("D_12", "Voronoi loss D_12 of the minimiser, mean", NO_POWER, OVER_FROM, "mean"),
            Measure("D_12_highest", f"{WITHIN}, mean", NO_POWER, OVER_FROM, "mean"),
            Measure(
                "overfitted_value_error", "value block of over-fitted atoms", NO_POWER, OVER_FROM, conditional=True
            ),
            Measure("function_error", "function error", HALF, 1e4),
        ),
        problem=MappingProxyType({"adapter": "lora", **problem}),
        identified_set=True,
    )


def _farthest(prediction: Prediction) -> Measure:
    return Measure("farthest_error", "farthest over-fitted atom", prediction, OVER_FROM, conditional=True)


_ROOT = "parameters are estimated at n^-1/2"
_SPLIT = "D_12 falls as n^-1/2: single atoms at n^-1/2, over-fitted ones at n^-1/4 with the weight floor"

CLAIMS: Mapping[str, Claim] = MappingProxyType(
    {
        claim.id: claim
        for claim in (
            _claim("lora-exact", "LoRA", True, _ROOT, adapter="lora"),
            _lora_over("lora-over", "LoRA"),
            _claim("replora-linear-exact", "RepLoRA linear", True, _ROOT, adapter="replora"),
            _claim(
                "replora-linear-over", "RepLoRA linear", False, _SPLIT,
                (Measure("D_12_truth_highest", AS_GOOD, HALF, OVER_FROM), _farthest(QUARTER)), adapter="replora",
            ),
            _claim("replora-tanh-exact", "RepLoRA tanh", True, _ROOT, adapter="replora", activation="tanh"),
            _claim("replora-tanh-over", "RepLoRA tanh", False, _SPLIT, adapter="replora", activation="tanh"),
            _claim("replora-sigmoid-over", "RepLoRA sigmoid", False, _SPLIT, adapter="replora", activation="sigmoid"),
            _lora_over("lora-over-gaussian", "LoRA, Gaussian gate", gate="gaussian"),
            _claim(
                "replora-linear-over-gaussian", "RepLoRA linear, Gaussian gate", False, _SPLIT,
                adapter="replora", gate="gaussian",
            ),
            _claim(
                "replora-linear-over-nofloor", "RepLoRA linear, no weight floor", False,
                "D_12 still falls as n^-1/2; without a floor the extra atom may leave with a vanishing weight",
                (_farthest(NO_POWER),), adapter="replora", weight_floor=0.0,
            ),
        )
    }
)  # fmt: skip

HEADLINE = (
    "replora-linear-exact", "replora-tanh-exact", "lora-exact", "replora-linear-over", "replora-linear-over-nofloor",
    "replora-tanh-over", "replora-sigmoid-over", "lora-over",
)  # fmt: skip
"""What `moe-theory reproduce` runs, each at its default sizes and replications."""


def claim_named(name: str) -> Claim:
    """The claim of that id.

    Raises:
        InputError: for an unknown id; the message lists the known ones.
    """
    if name not in CLAIMS:
        raise InputError(f"unknown claim {name!r}: choose from {', '.join(CLAIMS)}")
    return CLAIMS[name]
