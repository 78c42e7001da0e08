"""Certify a registered model: margins, laws and blame, and on request moduli, random truths, nearby truths."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moe_theory.errors import InputError
from moe_theory.study.block_moduli import cell_moduli, exact_modulus, moduli_together
from moe_theory.study.certify_problem import Subject, problem_of, subject_of
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import AnyProblem, DensityProblemSpec
from moe_theory.study.identification import Certified
from moe_theory.study.moduli import modulus_of
from moe_theory.study.random_truths import random_mixtures
from moe_theory.study.spec import ProblemSpec
from moe_theory.study.store import Store
from moe_theory.study.witnesses import keep
from moe_theory.theory.density_families import MixtureSet
from moe_theory.theory.envelope import Modulus
from moe_theory.theory.identifiability import Identifiability, hidden_together, identify
from moe_theory.theory.modulus import modulus
from moe_theory.theory.truths import Spread, margins_of, path_towards


def certified(
    model: str,
    changes: Mapping[str, Any],
    figures: pathlib.Path | None = None,
    with_modulus: bool = False,
    store: Store | None = None,
    truths: int = 0,
    towards: str | None = None,
) -> Certified:
    """Certify a registered model.

    Args:
        model, changes: see ``problem_of``.
        figures: folder for the figure of the modulus, of a mean; None for no figure.
        with_modulus: whether to bound the modulus of continuity; what is stored has it wherever there is one.
        store: where the answer is kept for verdicts; None for nowhere.
        truths: random truths of the same model, at which margins are computed too.
        towards: a path to a truth where the model breaks down (``path_towards``), along which they are.

    Raises:
        InputError: as ``problem_of``, for a figure of a density, or a path that leads nowhere.
        StoreError: figure or answer cannot be written.
    """
    problem = problem_of(model, changes)
    if towards == "zero" and isinstance(problem, DensityProblemSpec):
        raise InputError(f"{model} has no pre-trained atom to shrink to: use --towards equal")
    subject = subject_of(problem)
    if figures is not None and subject.mean is None:
        raise InputError("--figures is there for means alone: leave it out for a density")
    found = identify(subject.mixture)
    wanted = with_modulus or figures is not None or store is not None
    moduli = _moduli(problem, subject, found) if wanted else _Moduli()
    if moduli.modulus is not None and figures is not None:
        from moe_theory.study.modulus_figures import modulus_figure  # takes half a second, and is seldom asked for

        assert isinstance(problem, ProblemSpec)
        modulus_figure(model, moduli.modulus, problem.sigma, figures / f"modulus-{model}")
    path = None if towards is None else path_towards(subject.mixture, towards)
    spread = Spread(tuple(map(margins_of, random_mixtures(problem, truths)))) if truths else None
    answer = Certified(model, _settings_of(problem), found, spread=spread, path=path, **moduli._asdict())
    if store is not None:
        keep(store, problem, answer.as_json())
    return answer


class _Moduli(NamedTuple):
    """The moduli of a `Certified`, under its names."""

    modulus: Modulus | None = None
    modulus_exact: Modulus | None = None
    blocks: Mapping[str, Modulus] | None = None
    every: Mapping[str, Modulus] | None = None


def _moduli(problem: AnyProblem, subject: Subject, found: Identifiability) -> _Moduli:
    """Of the whole measure; where every parameter is free by block, and of the whole with the number of atoms known."""
    if not isinstance(problem, DensityProblemSpec):
        exact = modulus(subject.mixture, found.first, [], density=subject.mean is None)
        return _Moduli(modulus_of(subject.mean, subject.mixture, found), exact)
    (own,), setup = subject.mixture, build_density(problem)
    assert isinstance(own, MixtureSet)
    blocks, hidden = cell_moduli(setup), hidden_together(subject.mixture, found)
    rows = None if hidden is None else np.asarray(own.rows(own.measure(*hidden[0])))
    every = {} if rows is None else moduli_together(setup, blocks, rows)
    return _Moduli(None, exact_modulus(own, found.first), blocks, every)


def _settings_of(problem: AnyProblem) -> dict[str, Any]:
    """What the answer says of the problem: always the size, and what differs from the defaults."""
    told = problem.model_dump(exclude_defaults=True, exclude={"k_fit", "support"})
    always = ("family", "setting", "dimension", "rank", "k_true", "gate")
    return {**{name: getattr(problem, name) for name in always if hasattr(problem, name)}, **told}
