"""What a problem and a sweep are: checked before anything is computed, and hashed to name results."""

import hashlib
import json
import reprlib
import tomllib
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from moe_theory.errors import InputError

LARGEST_SIZE = 10**15
"""Largest sample size: the exact sampler's counts are exact in float64 up to about 2^53."""

RESULTS_REVISION, DENSITY_REVISION = 7, 6
"""Of regression and of densities, raised by hand whenever a change of the code changes what a stored row says."""

_MOST_SIZES = 1000
_ARITHMETIC = Context(prec=50, rounding=ROUND_HALF_EVEN)
_EXAMPLE = "for example '1e3:1e12:10'"

_Info = Any  # pydantic's ValidationInfo is a protocol that cannot be checked at run time

SpecificationT = TypeVar("SpecificationT", bound=BaseModel)


def _size(text: str, name: str) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise InputError(f"the {name} of a grid must be a number, got {text!r}: write {_EXAMPLE}") from None
    if not value.is_finite() or not 1 <= value <= LARGEST_SIZE:
        raise InputError(f"the {name} of a grid must lie between 1 and 1e15, got {text!r}: write {_EXAMPLE}")
    return value


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read a grid of sample sizes such as '1e3:1e12:10' (first, last, how many).

    n_i = round(first (last / first)^(i / (count - 1))), i = 0 ... count - 1, without repetitions. Decimal
    arithmetic of 50 digits makes the grid the same on every machine, so that stored rows are found again.

    Args:
        text: 'first:last:count' with 1 <= first < last <= 1e15 and 2 <= count <= 1000.

    Raises:
        InputError: if the text has another form, or the numbers are reversed, out of range or not finite.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"a grid of sizes is 'first:last:count', got {text!r}: write {_EXAMPLE}")
    first, last = _size(parts[0], "first size"), _size(parts[1], "last size")
    if first >= last:
        raise InputError(
            f"a grid of sizes must increase, got {text!r}: write {parts[1]}:{parts[0]}:{parts[2]}"
            if first > last
            else f"a grid of sizes must increase, got {text!r}: give a last size above the first"
        )
    try:
        count = int(parts[2])
    except ValueError:
        count = 0
    if not 2 <= count <= _MOST_SIZES:
        raise InputError(
            f"a grid needs a whole number of sizes between 2 and {_MOST_SIZES}, got {parts[2]!r}: write {_EXAMPLE}"
        )
    return _logarithmic_grid(first, last, count)


def _logarithmic_grid(first: Decimal, last: Decimal, count: int) -> tuple[int, ...]:
    span = _ARITHMETIC.ln(_ARITHMETIC.divide(last, first))
    sizes = {int(first.to_integral_value(ROUND_HALF_EVEN)), int(last.to_integral_value(ROUND_HALF_EVEN))}
    for index in range(1, count - 1):
        exponent = _ARITHMETIC.divide(_ARITHMETIC.multiply(span, Decimal(index)), Decimal(count - 1))
        size = _ARITHMETIC.multiply(first, _ARITHMETIC.exp(exponent))
        sizes.add(int(size.to_integral_value(ROUND_HALF_EVEN)))
    return tuple(sorted(sizes))


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 equals 0.0 but is written otherwise, and would change the hash


def _read_sizes(value: Any) -> Any:
    return parse_sizes(value) if isinstance(value, str) else value


Real = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_positive_zero)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1), BeforeValidator(_read_sizes)]


ADAPTERS = ("lora", "replora", "dora", "doran", "dial", "hora", "hora-heads")
DECOMPOSED = ("dora", "doran")
OWN_PAIRS = ("lora", "dora", "dial", "hora-heads")
"""Adapters whose query and value have a pair (B, A) each."""
GENERATED = ("replora", "doran", "hora", "hora-heads")
"""Adapters whose factors may pass through an activation."""
EMBEDDED = ("hora", "hora-heads")
"""Adapters of which all heads share the atoms."""


def free_parameters(dimension: int, rank: int, atoms: int, adapter: str, heads: int = 1) -> int:
    """Count the weights and factors of a fit: k (1 + 2 r d) for one pair, k (1 + 4 r d) for two, heads times that
    where each head has atoms of its own."""
    projections = 2 if adapter in OWN_PAIRS else 1
    return atoms * (1 + 2 * rank * dimension * projections) * (1 if adapter in EMBEDDED else heads)


class Specification(BaseModel):
    """Immutable, complete, and closed: a misspelt setting is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ProblemSpec(Specification):
    """One estimation problem: the model f_G, the truth's size, the inputs and the parameter space.

    Attributes:
        dimension: d, width of inputs and outputs.
        rank: r, rank of every low-rank adapter, 1 <= r <= d.
        k_true: atoms of the true measure, frozen atom not counted.
        k_fit: atoms of the fitted measure, k_fit >= k_true.
        sigma: standard deviation of the Gaussian noise on every output.
        gate: how an atom scores an input.
        adapter: how an atom's free parameters make the adapted matrices.
        activation: elementwise activation of generated factors (RepLoRA, DoRAN, HoRA); 'identity' is the linear one.
        magnitudes: of DoRA and DoRAN: fixed (the pre-trained norms), global (one vector for all atoms) or free.
        tau: of DoRA and DoRAN: 0, a positive number, or 'free' (positive, for all atoms).
        eta: of the dial: share of the query's update in the value's, 0 <= eta < 1.
        heads: attention heads with pre-trained matrices of their own; 'hora' and 'hora-heads' share their atoms.
        anchored: whether one frozen atom (Delta = 0, c = 0) anchors the softmax.
        support: M, number of points of the inputs' finite support.
        input_law: law that the support points are mapped to.
        problem_seed: draws truth, pre-trained matrices and support.
        radius: R, bound on the Frobenius norm of each adapted Delta.
        weight_floor: least share of the total fitted weight that an atom may have; 0 for no floor.
        weight_cap: largest weight of a fitted atom, relative to the frozen atom's.
    """

    dimension: Annotated[int, Field(ge=1)] = 4
    rank: int = 1
    k_true: Annotated[int, Field(ge=1)] = 2
    k_fit: int = 3
    sigma: Positive = 1.0
    gate: Literal["attention", "gaussian", "density"] = "attention"
    adapter: Literal["lora", "replora", "dora", "doran", "dial", "hora", "hora-heads"] = "lora"
    activation: Literal["identity", "tanh", "sigmoid"] = "identity"
    magnitudes: Literal["fixed", "global", "free"] = "fixed"
    tau: Annotated[Real, Field(ge=0)] | Literal["free"] = 0.0
    eta: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    heads: Annotated[int, Field(ge=1)] = 1
    anchored: bool = True
    support: int = 512
    input_law: Literal["uniform", "gaussian"] = "uniform"
    problem_seed: Seed = 1
    radius: Positive = 3.0
    weight_floor: Annotated[Real, Field(ge=0)] = 0.05
    weight_cap: Positive = 20.0

    # Field validators, not one for the whole model: pydantic reports them together with all other errors,
    # each at its own path. They see the fields declared above theirs.

    @field_validator("rank")
    @classmethod
    def _rank_fits(cls, rank: int, info: _Info) -> int:
        dimension = info.data.get("dimension")
        if rank < 1 or (dimension is not None and rank > dimension):
            raise ValueError(f"rank must be between 1 and dimension{'' if dimension is None else f' = {dimension}'}")
        return rank

    @field_validator("k_fit")
    @classmethod
    def _truth_can_be_fitted(cls, k_fit: int, info: _Info) -> int:
        k_true = info.data.get("k_true")
        if k_fit < 1 or (k_true is not None and k_fit < k_true):
            known = "" if k_true is None else f" = {k_true}"
            raise ValueError(f"k_fit must be at least k_true{known}, or the model cannot contain the truth")
        return k_fit

    @field_validator("activation")
    @classmethod
    def _activation_is_used(cls, activation: str, info: _Info) -> str:
        adapter = info.data.get("adapter")
        if activation != "identity" and adapter not in (None, *GENERATED):
            raise ValueError(f"{adapter} has no activation: use 'identity', or one of {', '.join(GENERATED)}")
        return activation

    @field_validator("magnitudes", "tau", "eta")
    @classmethod
    def _belongs_to_the_adapter(cls, value: Any, info: _Info) -> Any:
        name, adapter = info.field_name, info.data.get("adapter")
        default = cls.model_fields[name].default
        users = ("dial",) if name == "eta" else DECOMPOSED
        if value != default and adapter not in (None, *users):
            raise ValueError(f"{adapter} has no {name}: leave it at {default!r}, or use {' or '.join(users)}")
        return value

    @field_validator("support")
    @classmethod
    def _support_is_rich(cls, support: int, info: _Info) -> int:
        known = info.data
        if {"dimension", "rank", "k_fit", "adapter"} <= known.keys():
            size = (known["dimension"], known["rank"], known["k_fit"], known["adapter"], known.get("heads", 1))
            least = free_parameters(*size)
            if support < least:
                raise ValueError(f"support must be at least {least}, one point per free parameter of the fit")
        return support

    @field_validator("weight_floor")
    @classmethod
    def _floor_leaves_room(cls, weight_floor: float, info: _Info) -> float:
        k_fit = info.data.get("k_fit", 1)
        if weight_floor * k_fit >= 1:
            raise ValueError(f"weight_floor must be below 1/k_fit = 1/{k_fit}, or no weights satisfy it")
        return weight_floor


class SweepSpec(Specification):
    """A problem swept over sample sizes.

    Attributes:
        problem: the estimation problem.
        sizes: sample sizes n, strictly increasing, between 1 and 10^15; also a text for `parse_sizes`.
        replications: independent data sets per sample size.
        seed: root of the random keys of the data.
        starts: name of the preset of starting points.
        block: lanes that one compiled call fits together; it changes results by rounding only.
        revision: of the code that computes rows.
    """

    revision: ClassVar[int] = RESULTS_REVISION
    problem: ProblemSpec = ProblemSpec()
    sizes: Sizes = parse_sizes("1e3:1e12:10")
    replications: Annotated[int, Field(ge=1)] = 64
    seed: Seed = 0
    starts: Annotated[str, Field(min_length=1)] = "standard"
    block: Annotated[int, Field(ge=1)] = 16

    @field_validator("sizes")
    @classmethod
    def _sizes_increase(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ValueError("sizes must be strictly increasing: sort them and remove repetitions")
        return sizes


def specification_hash(specification: BaseModel) -> str:
    """Name a specification by 16 hexadecimal digits: sha256 of its JSON with sorted keys.

    Neither the order of fields nor that of the settings given matters; every value does.
    """
    return _digest(specification.model_dump(mode="json"))


def problem_hash(sweep: SweepSpec) -> str:
    """Name what the row (n, replication) of a sweep depends on: problem, seed, starts and the revision.

    Sizes and replications are left out, so that an extended grid finds its rows again; the block of lanes
    too, because it changes rows by rounding only and is recorded with them. Settings of the problem at their
    defaults are left out as well, so that a setting that is added later renames no row.
    """
    return _digest(
        {
            "problem": sweep.problem.model_dump(mode="json", exclude_defaults=True),
            "seed": sweep.seed,
            "starts": sweep.starts,
            "revision": sweep.revision,
        }
    )


CERTIFY_REVISION, CERTIFY_DENSITY_REVISION = 4, 6
"""Raised by hand whenever a change of the code changes what certify finds of means, and of densities."""


def truth_hash(problem: Specification) -> str:
    """Name what margins and modulus of a problem depend on: the model and its truth, not the fit.

    Neither do they depend on the noise of a regression; that of a density is a part of its truth. Kinds of problems
    have defaults of their own, which are left out, so another kind than regression is named.
    """
    regression = type(problem) is ProblemSpec
    fitted = {"k_fit", "weight_floor", *(("sigma",) if regression else ())}
    settings = problem.model_dump(mode="json", exclude_defaults=True, exclude=fitted)
    kind = {} if regression else {"kind": type(problem).__name__}
    revision = CERTIFY_REVISION if regression else CERTIFY_DENSITY_REVISION
    return _digest({"problem": settings, "revision": revision, **kind})


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def specify(kind: type[SpecificationT], settings: Mapping[str, Any]) -> SpecificationT:
    """Make a specification of the given kind, or say everything that is wrong with the settings at once.

    Raises:
        InputError: with one line 'path: what to change, got value' for every error.
    """
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise InputError("\n".join(_explain(kind, detail) for detail in details)) from None


def revise(specification: SpecificationT, **changes: Any) -> SpecificationT:
    """Copy a specification with some settings changed, all of it checked again.

    Raises:
        InputError: as `specify`.
    """
    return specify(type(specification), {**specification.model_dump(), **changes})


def _explain(kind: type[BaseModel], detail: Any) -> str:
    location = detail["loc"]
    path = ".".join(str(part) for part in location) or "specification"
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown setting; known are {', '.join(_known_settings(kind, location[:-1]))}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{path}: {message}, got {reprlib.repr(detail['input'])}"


def _known_settings(kind: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    for part in location:
        nested: Any = kind.model_fields[part].annotation
        kind = nested
    return sorted(kind.model_fields)


def load_sweep(path: str | Path) -> SweepSpec:
    """Load a sweep from a TOML file: the settings of `SweepSpec`, those of the problem in a table [problem].

    Raises:
        InputError: if the file is missing, is not TOML or asks for the impossible; the message names it.
    """
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None
    try:
        return specify(SweepSpec, settings)
    except InputError as error:
        raise InputError(f"{path}:\n{error}") from None
