"""The command ``moe-theory certify``: predict rates before anything is sampled.

JAX is imported when the command runs, so that ``--help`` answers at once.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_theory.errors import InputError

Model = Annotated[str, typer.Argument(help="An adapter (lora, replora, dora, doran, dial, hora, ...) or a claim's id.")]
Gate = Annotated[str | None, typer.Option(help="attention or gaussian.")]
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
Figures = Annotated[Path | None, typer.Option(help="Folder for the figure of the modulus; implies --modulus.")]
Kept = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of stored results: keep the answer there for verdicts; implies --modulus."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def certify(
    model: Model,
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
    results: Kept = None,
    as_json: AsJson = False,
) -> None:
    """Say at which rate a model's parameters can be estimated, and which are to blame if not: no sample is drawn.

    Example: moe-theory certify lora --rank 2 --gate gaussian
    """
    from moe_theory.precision import enable_x64
    from moe_theory.study.identification import certified
    from moe_theory.study.store import Store

    enable_x64()
    options: dict[str, Any] = {
        "rank": rank, "dimension": dimension, "k_true": k_true, "gate": gate, "activation": activation,
        "magnitudes": magnitudes, "tau": None if tau is None else _tau(tau), "eta": eta, "heads": heads,
        "anchored": anchored, "problem_seed": problem_seed,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    store = None if results is None else Store(results)
    answer = certified(model, given, figures, modulus or figures is not None or store is not None, store)
    typer.echo(json.dumps(answer.as_json(), allow_nan=False) if as_json else answer.as_text())


def _tau(text: str) -> float | str:
    if text == "free":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--tau must be 0, a positive number or 'free', got {text!r}") from None
