"""The options by which commands choose a sweep of a claim, named once for all of them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import typer

from moe_theory.certifying import Anchored, Dimension, KTrue, Rank, given
from moe_theory.errors import InputError
from moe_theory.study.report import FEWEST
from moe_theory.study.spec import SweepSpec, parse_sizes, revise
from moe_theory.study.sweep import smoke_of, sweep_of
from moe_theory.theory.claims import Claim

Smoke = Annotated[bool, typer.Option(help="Four sizes, eight replications: seconds, decides nothing.")]

OF_SWEEPS: dict[str, tuple[Any, Any]] = {
    "smoke": (Smoke, False),
    "n": (
        Annotated[str | None, typer.Option("--n", help="Grid of sizes first:last:count, log-spaced.", metavar="GRID")],
        None,
    ),
    "reps": (Annotated[int | None, typer.Option(help="Replications per size.")], None),
    "seed": (Annotated[int, typer.Option(help="Root of the random streams of data and starts.")], 0),
    "starts": (
        Annotated[str | None, typer.Option(help="Starting points: standard, lean, near, few, untied or smoke.")],
        None,
    ),
    "block": (
        Annotated[int | None, typer.Option(help="Fits that one program advances: 16 for a processor, 1024 for a GPU.")],
        None,
    ),
}
"""Options that every claim's sweep has, with their defaults."""

OF_PROBLEMS: dict[str, Any] = {
    "rank": Rank,
    "dimension": Dimension,
    "k_true": KTrue,
    "k_fit": Annotated[int | None, typer.Option(help="Fitted atoms.")],
    "sigma": Annotated[float | None, typer.Option(help="Noise standard deviation.")],
    "weight_floor": Annotated[
        float | None, typer.Option("--weight-floor", help="Least share of an atom's weight; 0 for none.")
    ],
    "anchored": Anchored,
}
"""Settings of a problem (``stored.OPTIONS``) that the command line can change."""


class Asked(NamedTuple):
    """What was asked for.

    Attributes:
        smoke, n, reps, seed, starts, block: of the sweep.
        problem: settings of the problem that were given.
    """

    smoke: bool = False
    n: str | None = None
    reps: int | None = None
    seed: int = 0
    starts: str | None = None
    block: int | None = None
    problem: Mapping[str, Any] = MappingProxyType({})

    def sweep(self, claim: Claim) -> SweepSpec:
        """The claim's sweep with these changes.

        Raises:
            InputError: for a setting out of range, or a sweep that could not be judged.
        """
        if self.starts is not None:
            from moe_theory.estimation.starts import plan_named

            plan_named(self.starts)
        changes = {**(smoke_of(claim) if self.smoke else {}), "seed": self.seed}
        changes |= given(replications=self.reps, starts=self.starts, block=self.block)
        if self.n is not None:
            changes["sizes"] = parse_sizes(self.n)
        base, problem = sweep_of(claim, **changes), self.problem
        if problem.get("k_true") and "k_fit" not in problem:
            problem = {**problem, "k_fit": problem["k_true"] + (claim.specification == "over")}
        sweep = revise(base, problem={**base.problem.model_dump(), **problem}) if problem else base
        check_judgeable(claim, sweep)
        return sweep


def asks_for_sweeps(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter ``asked`` the command line fills from ``OF_SWEEPS`` and ``OF_PROBLEMS``."""
    options = {**OF_SWEEPS, **{name: (annotation, None) for name, annotation in OF_PROBLEMS.items()}}

    @functools.wraps(command)
    def filled(**named: Any) -> None:
        bound = signature.bind(**named)
        bound.apply_defaults()
        arguments = bound.arguments
        of_sweep = {name: arguments.pop(name) for name in OF_SWEEPS}
        problem = given(**{name: arguments.pop(name) for name in OF_PROBLEMS})
        command(asked=Asked(**of_sweep, problem=problem), **arguments)

    own = inspect.signature(command).parameters
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name != "asked":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        parameters += [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for option, (annotation, default) in options.items()
        ]
    signature = inspect.Signature(parameters)
    filled.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    filled.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return filled


def check_judgeable(claim: Claim, sweep: SweepSpec) -> None:
    """Refuse at once what could not be judged after everything was computed.

    Raises:
        InputError: a grid out of range, k_fit that does not fit the claim, or too few replications.
    """
    least = max(measure.from_size for measure in (claim.main, *claim.others))
    known, extra = claim.specification == "exact", sweep.problem.k_fit - sweep.problem.k_true
    if sweep.sizes[0] < 3 or sweep.sizes[-1] < least:
        raise InputError(f"{claim.id} needs a grid --n from 3 or more to {least:.0e} or more, got {sweep.sizes}")
    if known != (extra == 0):
        got = f"--k-fit {sweep.problem.k_fit} and --k-true {sweep.problem.k_true}"
        raise InputError(f"{claim.id} needs k_fit {'=' if known else '>'} k_true, got {got}")
    if sweep.replications < FEWEST:
        raise InputError(f"a curve needs at least --reps {FEWEST}, got {sweep.replications}")
