"""The command ``moe-theory``: run claims, judge them, draw them, plan them, and certify models before sampling.

JAX is imported by the workers that fit, not here, so that ``--help`` answers at once. Exit status 0: all went well;
1: something was computed but could not be finished; 2: the request cannot be carried out (nothing is half-written);
3: a claim that was run is not certified at the share that a verdict demands (all of it is stored, printed and drawn).
"""

import json
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from moe_theory.asking import Asked, Smoke, asks_for_sweeps, check_judgeable
from moe_theory.certifying import DEFAULT_RESULTS, certify
from moe_theory.compiled import keep_compiled
from moe_theory.errors import InputError, MoeTheoryError, StoreError
from moe_theory.study.comparing import compare, comparison_json, comparison_table
from moe_theory.study.drawing import draw_claims, draw_headline
from moe_theory.study.foreseeing import foresee
from moe_theory.study.report import Report, predicted_words, report
from moe_theory.study.spec import SweepSpec, revise
from moe_theory.study.store import Store
from moe_theory.study.stored import also_stored, holds
from moe_theory.study.sweep import rows_of, run_claims
from moe_theory.study.tables import claims_table, verdict_table, witness_table
from moe_theory.study.verdict import CERTIFIED_SHARE
from moe_theory.study.witnesses import kept_moduli, witnesses
from moe_theory.theory.claims import CLAIMS, HEADLINE, Claim, claim_named
from moe_theory.theory.comparisons import COMPARISONS, Comparison, parts_of
from moe_theory.theory.envelope import Modulus

STATUSES = (
    "Exit status 0: all went well; 1: something was computed but could not be finished; 2: the request cannot be "
    f"carried out; 3: fewer than {100 * CERTIFIED_SHARE:.0f} % of a claim's fits at some size are certified minimisers "
    "(`run` and `reproduce`: all of it is stored, printed and drawn, but that claim is undecided)."
)

app = typer.Typer(
    help="Measure convergence rates of mixtures of experts and low-rank adapters against their theory.",
    epilog=STATUSES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Ids of claims, see `moe-theory claims`; or `singles` (least squares in full), `tables` (many variants, "
        "few replications), `densities`, or `all` of these."
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of stored results; finished cells in it are reused.")]
Figures = Annotated[Path, typer.Option(help="Folder for figures.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that share the work; default one per processor.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per claim.")]
Eps = Annotated[
    list[float] | None,
    typer.Option("--eps", help="Error whose sample size is wanted; may be repeated. Default: powers of ten in range."),
]

DEFAULT_FIGURES = Path("figures")


app.command()(certify)


@app.command()
def claims(as_json: AsJson = False) -> None:
    """List the claims: id, model, what is claimed, the predicted law."""
    if as_json:
        for claim in CLAIMS.values():
            _print_json(_claim_json(claim))
        for comparison in COMPARISONS.values():
            _print_json(comparison_json(comparison))
        return
    typer.echo(claims_table(CLAIMS.values(), COMPARISONS.values()))


@app.command(epilog=STATUSES)
@asks_for_sweeps
def run(
    asked: Asked,
    names: Names = None,
    results: Results = DEFAULT_RESULTS,
    workers: Workers = None,
    eps: Eps = None,
    as_json: AsJson = False,
) -> None:
    """Run claims: sample, fit, certify, store, and print the verdicts.

    Example: moe-theory run replora-linear-over --n 1e3:1e12:10 --reps 64
    """
    compared = _comparisons(names, asked.problem)
    sweeps = [(claim, asked.sweep(claim)) for claim in _claims(names)]
    wanted = _accuracies(eps)
    store = Store(results)
    store.check_writable()
    computed = run_claims(sweeps, store, workers)
    judged = [
        (report(claim, sweep, rows, accuracies=wanted), rows)
        for (claim, sweep), rows in zip(sweeps, computed, strict=True)
    ]
    _print_reports(judged, compared, store, as_json)
    _demand_certified([made for made, _ in judged])


@app.command()
@asks_for_sweeps
def verdict(
    asked: Asked,
    names: Names = None,
    results: Results = DEFAULT_RESULTS,
    statistic: Annotated[
        str | None,
        typer.Option(help="Judge the 'median' or the 'mean' over replications; default: each measure's own."),
    ] = None,
    eps: Eps = None,
    as_json: AsJson = False,
) -> None:
    """Judge stored results again, without computing anything; give the options that `run` was given.

    Without names: every claim that is stored under these options, and how to ask for what else is stored.
    """
    if statistic not in (None, "median", "mean"):
        raise InputError(f"--statistic must be median or mean, got {statistic!r}")
    wanted = _accuracies(eps)
    compared, store = _comparisons(names, asked.problem), Store(results)
    judged = _judge_stored(
        "verdict", names, store, asked.sweep,
        lambda claim, sweep, rows: report(claim, sweep, rows, statistic, wanted),
    )  # fmt: skip
    _print_reports(judged, compared, store, as_json)


@app.command()
@asks_for_sweeps
def plot(
    asked: Asked,
    names: Names = None,
    results: Results = DEFAULT_RESULTS,
    figures: Figures = DEFAULT_FIGURES,
    as_json: AsJson = False,
) -> None:
    """Draw stored results: PNG and PDF, with the plotted numbers (CSV) and provenance (JSON) beside them.

    Give the options that `run` was given.
    """
    store = Store(results)
    judged = _judge_stored("plot", names, store, asked.sweep, report)
    _print_paths(draw_claims(judged, figures, _moduli(judged, store)), as_json)


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="Id of a claim.")],
    log_sd: Annotated[float, typer.Option(help="Standard deviation of one replication's log error.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Say which grid and how many replications would decide a claim."""
    from moe_theory.study.planner import plan as make_plan

    claim = claim_named(name)
    if not log_sd > 0:
        raise InputError(f"--log-sd must be positive, got {log_sd:g}")
    made = make_plan(claim.main.prediction, log_sd)
    chosen = made.chosen
    predicted = predicted_words(claim.main.prediction)
    if as_json:
        best = chosen and {"decades": chosen.decades, "sizes": chosen.sizes, "reps": chosen.replications}
        _print_json({"id": claim.id, "predicted": predicted, "log_sd": log_sd, "plan": best})
        return
    typer.echo(f"{claim.id}: predicted {predicted}, log-sd {log_sd:g}\n{made.table()}")
    if chosen is None:
        typer.echo("no option tried decides in 90 % of cases: use more decades or replications")
        return
    last = 10 ** (3 + chosen.decades)
    typer.echo(f"moe-theory run {claim.id} --n 1e3:{last:.0e}:{chosen.sizes} --reps {chosen.replications}")


@app.command(epilog=STATUSES)
def reproduce(
    smoke: Smoke = False,
    results: Results = DEFAULT_RESULTS,
    figures: Figures = DEFAULT_FIGURES,
    workers: Workers = None,
) -> None:
    """Run the headline claims, certify their models, print the verdicts and draw the figures."""
    store = Store(results)
    store.check_writable()
    asked = Asked(smoke)
    sweeps = [(claim, asked.sweep(claim)) for claim in map(claim_named, HEADLINE)]
    computed = run_claims(sweeps, store, workers)
    judged = [(report(claim, sweep, rows), rows) for (claim, sweep), rows in zip(sweeps, computed, strict=True)]
    for each in [] if smoke else foresee([claim for claim, _ in sweeps], store, workers):
        if each.trouble:
            typer.echo(f"not certified: {each.claim}: {each.trouble}", err=True)
    _print_reports(judged, [], store, False)
    _print_paths(draw_headline(judged, figures, _moduli(judged, store)), False)
    _demand_certified([made for made, _ in judged])


def _claims(names: list[str] | None) -> list[Claim]:
    if not names:
        raise InputError(f"name one or more claims, or all: {', '.join([*CLAIMS, *COMPARISONS])}")
    return list(CLAIMS.values()) if names == ["all"] else [CLAIMS[name] for name in parts_of(names)]


def _comparisons(names: list[str] | None, problem: Mapping[str, Any]) -> list[Comparison]:
    """The comparisons that were named; all of them, at the claims' own problems, where no name was given."""
    if not names or names == ["all"]:
        return [] if problem else list(COMPARISONS.values())
    found = [each for name, each in COMPARISONS.items() if name in names]
    if found and problem:
        option = next(iter(problem)).replace("_", "-")
        raise InputError(f"{found[0].id} compares claims at their own problem: leave out --{option}")
    return found


Judge = Callable[[Claim, SweepSpec, pd.DataFrame], Report]


def _judge_stored(
    command: str, names: list[str] | None, store: Store, sweep_for: Callable[[Claim], SweepSpec], judge: Judge
) -> list[tuple[Report, pd.DataFrame]]:
    """Judge what is stored under the options given; say on standard error what else is, and how to ask for it.

    A claim that was named must be stored so; without names, those that are not are only told of.

    Raises:
        InputError: nothing is stored under these options, or not enough to be judged.
    """
    named = bool(names) and names != ["all"]
    present = {key.claim for key in store.cells()} & set(CLAIMS)
    if not named and not present:
        raise InputError(f"{store.root} holds no results: run `moe-theory run CLAIM` first")
    judged, refused, others = [], [], []
    for claim in _claims(names) if named else [CLAIMS[name] for name in CLAIMS if name in present]:
        read = None
        try:
            sweep = sweep_for(claim)
            judged.append(_judge(claim, sweep, store, judge))
            read = sweep
        except InputError as error:
            refused.append(str(error))
        others += also_stored(store, claim, read, command)
    told = [*refused, *(["stored under other options:", *(f"  {line}" for line in others)] if others else [])]
    if not judged or (named and refused):
        raise InputError("\n".join(told))
    for line in told:
        typer.echo(line, err=True)
    return judged


def _judge(claim: Claim, sweep: SweepSpec, store: Store, judge: Judge) -> tuple[Report, pd.DataFrame]:
    """Judge the sizes that are stored, which may be fewer than asked for, and report those alone."""
    if not holds(store, claim, sweep):
        raise InputError(f"{claim.id} is not stored under these options: run `moe-theory run {claim.id}` with them")
    rows = rows_of(claim, sweep, store)
    stored = revise(sweep, sizes=[int(n) for n in sorted(rows["n"].unique())])
    check_judgeable(claim, stored)
    return judge(claim, stored, rows), rows


def _demand_certified(reports: Sequence[Report]) -> None:
    """End with status 3 if the certified share of a claim is too low for a verdict."""
    short = [f"{made.claim.id} ({100 * made.certified_share:.1f} %)" for made in reports if not made.certified]
    if short:
        demanded = f"at least {100 * CERTIFIED_SHARE:.0f} % of the fits at every size must be certified minimisers"
        typer.echo(f"moe-theory: {demanded}, or nothing is decided; not so: {', '.join(short)}", err=True)
        raise typer.Exit(3)


def _accuracies(eps: list[float] | None) -> list[float] | None:
    for each in eps or []:
        if not (each > 0 and math.isfinite(each)):
            raise InputError(f"--eps must be positive, got {each:g}")
    return eps or None


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "model": claim.model,
        "specification": claim.specification,
        "statement": claim.statement,
        "loss": claim.main.column,
        "predicted": predicted_words(claim.main.prediction),
        "source": claim.source,
    }


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _print_reports(
    judged: list[tuple[Report, pd.DataFrame]], compared: list[Comparison], store: Store, as_json: bool
) -> None:
    seen = [witnesses(made, store) for made, _ in judged]
    rows = {made.claim.id: each for made, each in judged}
    comparisons = [compare(comparison, rows) for comparison in compared if rows.keys() >= set(comparison.parts)]
    if as_json:
        for (made, _), found in zip(judged, seen, strict=True):
            _print_json({**made.as_json(), "witnesses": found.as_json()})
        for made in comparisons:
            _print_json(made.as_json())
        return
    typer.echo(verdict_table(made for made, _ in judged))
    typer.echo(f"\n{witness_table(seen)}")
    for made in comparisons:
        typer.echo(f"\n{comparison_table(made)}")


def _moduli(judged: list[tuple[Report, pd.DataFrame]], store: Store) -> dict[str, dict[str, Modulus]]:
    """The stored moduli, by claim and column."""
    return {made.claim.id: kept_moduli(made, store) for made, _ in judged}


def _print_paths(paths: list[Path], as_json: bool) -> None:
    if as_json:
        _print_json({"figures": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(str(path))


def main() -> None:
    """Entry point: errors of the user's making become one readable text and exit status 2."""
    signal.signal(signal.SIGTERM, _terminated)
    keep_compiled()
    try:
        app(standalone_mode=True)
    except (InputError, StoreError) as error:
        _fail(error, 2)
    except MoeTheoryError as error:
        _fail(error, 1)
    except SystemExit as end:
        if end.code in (130, _TERMINATED):  # 130 is typer's, after Ctrl-C
            print("stopped; the cells finished so far are kept", file=sys.stderr)
        raise


_TERMINATED = 128 + signal.SIGTERM


def _terminated(*_: Any) -> None:
    """End the workers too: they would go on alone. A cell is written whole or not at all."""
    for child in multiprocessing.active_children():
        child.terminate()
    raise SystemExit(_TERMINATED)


def _fail(error: Exception, status: int) -> None:
    print(f"moe-theory: {error}", file=sys.stderr)
    raise SystemExit(status) from None
