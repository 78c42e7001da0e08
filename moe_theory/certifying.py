"""The command ``moe-theory certify``: predict rates before anything is sampled.

JAX is imported when the command runs, so that ``--help`` answers at once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_theory.errors import InputError, MoeTheoryError
from moe_theory.study.foreseeing import foresee
from moe_theory.study.store import Store
from moe_theory.theory.claims import CLAIMS, GROUPS

MANY = {**{name: GROUPS[name] for name in ("singles", "tables")}, "all": tuple(CLAIMS)}
"""Names for the problems of many claims."""
DEFAULT_RESULTS = Path("results")

Model = Annotated[
    str | None,
    typer.Argument(
        help="An adapter (lora, replora, dora, doran, dial, hora, ...) or a claim's id; or `singles`, `tables` or "
        "`all`: what the store lacks of the problems of many claims."
    ),
]
Gate = Annotated[str | None, typer.Option(help="attention, gaussian or density.")]
Activation = Annotated[str | None, typer.Option(help="Of generated factors: identity, tanh or sigmoid.")]
Magnitudes = Annotated[str | None, typer.Option(help="Of DoRA and DoRAN: fixed, global or free.")]
Tau = Annotated[str | None, typer.Option(help="Of DoRA and DoRAN: 0, a positive number, or free.")]
Eta = Annotated[float | None, typer.Option(help="Of the dial: share of the query's update in the value's.")]
Heads = Annotated[int | None, typer.Option(help="Attention heads.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the adapters.")]
Dimension = Annotated[int | None, typer.Option(help="Width d of inputs and outputs.")]
KTrue = Annotated[int | None, typer.Option(help="True atoms.")]
Anchored = Annotated[bool | None, typer.Option("--anchored/--no-anchor", help="One frozen atom, or none.")]
Seed = Annotated[int | None, typer.Option("--problem-seed", help="Draws truth, matrices and support.")]
WithModulus = Annotated[bool, typer.Option("--modulus", help="Also bound the modulus of continuity from below.")]
Figures = Annotated[
    Path | None, typer.Option(help="Folder for figures; with a model that of its modulus, and implies --modulus.")
]
Truths = Annotated[int, typer.Option(min=0, help="Also tell the margins at so many random truths of the model.")]
Towards = Annotated[
    str | None,
    typer.Option(help="Also follow the margins on the way to a bad truth: 'equal' (two atoms) or 'zero' (an update)."),
]
Atlas = Annotated[bool, typer.Option("--atlas", help="Certify every adapter, gate, sharing, rank and anchor instead.")]
Results = Annotated[
    Path | None,
    typer.Option(
        help="Folder of stored results: keep answers there for verdicts (implies --modulus); cells of the atlas."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Of the atlas, or of many claims: processes; default one per processor.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def certify(
    model: Model = None,
    rank: Rank = None,
    dimension: Dimension = None,
    k_true: KTrue = None,
    gate: Gate = None,
    activation: Activation = None,
    magnitudes: Magnitudes = None,
    tau: Tau = None,
    eta: Eta = None,
    heads: Heads = None,
    anchored: Anchored = None,
    problem_seed: Seed = None,
    modulus: WithModulus = False,
    figures: Figures = None,
    truths: Truths = 0,
    towards: Towards = None,
    atlas: Atlas = False,
    results: Results = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Say at which rate a model's parameters can be estimated, and which are to blame if not: no sample is drawn.

    Example: moe-theory certify lora --rank 2 --gate gaussian
    """
    if atlas:
        _atlas(model, figures or Path("figures"), results or DEFAULT_RESULTS, workers)
        return
    if model is None:
        raise InputError("name a model: an adapter (lora, replora, ...) or a claim's id; or ask for --atlas")
    settings = given(
        rank=rank, dimension=dimension, k_true=k_true, gate=gate, activation=activation, magnitudes=magnitudes,
        tau=None if tau is None else _tau(tau), eta=eta, heads=heads, anchored=anchored, problem_seed=problem_seed,
    )  # fmt: skip
    if model in MANY:
        settings |= given(figures=figures, truths=truths or None, towards=towards)
        _claims(model, settings, results or DEFAULT_RESULTS, workers, as_json)
        return
    from moe_theory.precision import enable_x64
    from moe_theory.study.certification import certified

    enable_x64()
    store = None if results is None else Store(results)
    answer = certified(model, settings, figures, modulus, store, truths, towards)
    typer.echo(json.dumps(answer.as_json(), allow_nan=False) if as_json else answer.as_text())


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _atlas(model: str | None, figures: Path, results: Path, workers: int | None) -> None:
    """Print the table and draw the figure."""
    if model is not None:
        raise InputError(f"the atlas covers every model: leave out {model!r}, or --atlas")
    from moe_theory.study.atlas import atlas_table, make_atlas
    from moe_theory.study.atlas_figure import atlas_figure
    from moe_theory.study.drawing import lasting
    from moe_theory.study.provenance import provenance

    made = make_atlas(results / "atlas", workers)
    typer.echo(atlas_table(made))
    for path in atlas_figure(made, figures / "identifiability-atlas", lasting(provenance())):
        typer.echo(path)


def _claims(group: str, settings: Mapping[str, Any], results: Path, workers: int | None, as_json: bool) -> None:
    """Certify what the store lacks of a group of claims, and keep the answers there.

    Raises:
        InputError: for settings, which a group has not.
        MoeTheoryError: at the end, where some could not be certified.
    """
    if settings:
        option = next(iter(settings)).replace("_", "-")
        raise InputError(f"{group} certifies claims at their own problems: leave out --{option}, or name one claim")
    store = Store(results)
    found = foresee([CLAIMS[name] for name in MANY[group]], store, workers)
    certified = [each.claim for each in found if not each.trouble]
    told = f"{len(certified)} problems certified, their answers kept in {store.root} for `moe-theory verdict`"
    typer.echo(json.dumps({"certified": certified, "results": str(store.root)}) if as_json else told)
    if failed := [f"{each.claim}: {each.trouble}" for each in found if each.trouble]:
        raise MoeTheoryError("\n".join(["not certified:", *failed]))


def _tau(text: str) -> float | str:
    if text == "free":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--tau must be 0, a positive number or 'free', got {text!r}") from None
