"""Three ways to one exponent, side by side: prediction (margins), deterministic asymptotics (modulus), simulation.

What `moe-theory certify` finds of a problem is kept in the store as one JSON file, since it takes seconds to a minute
and a verdict must cost nothing:

    root / certified / hash of the truth .json

Verdicts only read it. A disagreement between any two of claim, prediction, modulus and simulation is a finding of its
own and is told as one. The law of a cell of m = k_fit - k_true + 1 atoms is turned into that of each error by theory
section 3: D_12 takes distances in such a cell squared, so its exponent is twice that of the atoms, at most 1/2.
"""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from moe_theory.errors import StoreError
from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.density_spec import AnyProblem, DensityProblemSpec
from moe_theory.study.provenance import provenance
from moe_theory.study.report import Judged, Report, predicted_words
from moe_theory.study.spec import ProblemSpec, truth_hash
from moe_theory.study.store import Store
from moe_theory.study.sweep import sweep_of
from moe_theory.study.verdict import CANDIDATE_EXPONENTS, Status, Terms, judge
from moe_theory.theory.cells import KINDS, WHOLE
from moe_theory.theory.claims import Claim, Measure
from moe_theory.theory.envelope import Modulus, chi_of
from moe_theory.theory.laws import Prediction

FOLDER = "certified"
TOGETHER = "together"
"""Among the laws that `certify` stores, that of all cells over-fitted at once."""
BLOCKS = ("block_moduli", "block_moduli_all_cells_at_once")
"""What `certify` stores of a density with free parameters beside the laws."""
SQUARED = ("D_12", "D_12_truth_highest", "D_12_confidence_highest", "D_12_highest")
"""Columns in which the atoms of a cell of several count by the square of their distance."""
ATOMS = ("overfitted_error", "overfitted_value_error", "farthest_error")
"""Columns that are distances of the atoms of such a cell."""

CELLS = {"pair_error": "2", "triple_error": "3"}
"""Of a density with free parameters: errors of all atoms in cells of so many."""


def keep(store: Store, problem: AnyProblem, answer: Mapping[str, Any]) -> None:
    """Store what was found of a problem, in one step.

    Args:
        store: where.
        problem: what was certified.
        answer: `Certified.as_json()`.

    Raises:
        StoreError: if the file cannot be written.
    """
    store.check_writable()
    path = store.root / FOLDER / f"{truth_hash(problem)}.json"
    described = {"problem": problem.model_dump(mode="json"), "found": answer, "provenance": provenance()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(described, allow_nan=False), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose another folder with --results") from None


def kept(store: Store, problem: AnyProblem) -> dict[str, Any] | None:
    """What is stored of a problem; None if nothing is.

    Raises:
        StoreError: if the file is damaged.
    """
    path = store.root / FOLDER / f"{truth_hash(problem)}.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["found"]
        if absent := {"laws", *(BLOCKS if isinstance(problem, DensityProblemSpec) else ())} - found.keys():
            raise KeyError(f"without {', '.join(sorted(absent))}")
        return found
    except (ValueError, KeyError, OSError) as error:
        raise StoreError(f"{path} is not an answer of certify ({error}): move or delete it") from None


@dataclass(frozen=True)
class Witness:
    """One error of a claim, seen three ways.

    Attributes:
        judged: the simulation.
        foreseen: law that the margins predict; None where they say nothing.
        exponent: of n by the modulus of continuity, -a/2 for its slope a; None where it says nothing.
        disagreements: who contradicts whom; empty if no two do.
    """

    judged: Judged
    foreseen: Prediction | None
    exponent: float | None
    disagreements: tuple[str, ...]

    @property
    def finding(self) -> str:
        """In words."""
        if self.disagreements:
            return "DISAGREE: " + "; ".join(self.disagreements)
        if self.foreseen is None and self.exponent is None:
            return "-"
        supported = self.judged.verdict.status is Status.SUPPORTED
        return "agree" if supported else "no contradiction, the simulation is undecided"


@dataclass(frozen=True)
class Witnesses:
    """All errors of a claim, or how to get the two witnesses that are absent.

    Attributes:
        claim: whose.
        each: one per measure; empty if nothing is stored of the problem.
        advice: the command that stores them; empty if they are stored, or cannot be found.
    """

    claim: Claim
    each: tuple[Witness, ...]
    advice: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [
            {
                "loss": witness.judged.measure.column,
                "claimed": predicted_words(witness.judged.measure.prediction),
                "certify": None if witness.foreseen is None else predicted_words(witness.foreseen),
                "modulus_exponent": witness.exponent,
                "simulated_exponent": witness.judged.verdict.exponent,
                "disagreements": list(witness.disagreements),
            }
            for witness in self.each
        ]
        return {"measures": rows, "advice": self.advice or None}


def witnesses(made: Report, store: Store) -> Witnesses:
    """What the store holds beside the simulation of a claim.

    Raises:
        StoreError: a stored answer is damaged.
    """
    claim, problem = made.claim, made.sweep.problem
    found = kept(store, problem)
    if found is None:
        return Witnesses(claim, (), _advice(claim, problem, store))
    moduli, each = _moduli_of(made, found), []
    for judged in (made.main, *made.others):
        measure = judged.measure
        if isinstance(problem, DensityProblemSpec):
            law = foreseen_of_density(measure, found["laws"], problem)
        else:
            law = foreseen(measure, found["laws"], problem)
        each.append(_witness(judged, law, moduli.get(measure.column), made.certified_share))
    return Witnesses(claim, tuple(each), "")


def _moduli_of(made: Report, found: Mapping[str, Any]) -> dict[str, Modulus]:
    """The moduli that speak of a claim's errors, by column.

    Of the whole measure: of D, with one atom too many at most. Of an over-fitted density with free parameters: of its
    cells by block, with what leaves the density as it is where all atoms are fitted twice; of D, with as many atoms as
    are fitted.
    """
    problem, spare = made.sweep.problem, made.sweep.problem.k_fit - made.sweep.problem.k_true
    if spare == 0 or not isinstance(problem, DensityProblemSpec):
        whole = _modulus(found.get("modulus" if spare else "modulus_exact")) if spare < 2 else None
        return {} if whole is None else dict.fromkeys(("D_1", *SQUARED), whole)
    alone, together = (found[name] for name in BLOCKS)
    everywhere = together if spare >= problem.k_true else {}
    stored = {name: _modulus(each) for name, each in {**alone, **everywhere}.items()}
    moduli = {f"{name}_error": each for name, each in stored.items() if each is not None}
    of_cells = {atoms: moduli.pop(f"{kind}_{WHOLE}_error", None) for kind, atoms in KINDS.items()}
    whole = of_cells[2 if everywhere else spare + 1]
    return moduli if whole is None else {**moduli, WHOLE: whole}


def kept_moduli(made: Report, store: Store) -> dict[str, Modulus]:
    """The moduli whose two-point bounds are drawn, by column, without judging anything by them: that of the main error,
    and of a density with free parameters all, their distances those of ``Modulus.two_densities``.

    None where a mean is fitted to draws from a mixture: what is hidden from the mean is not hidden from the draws.

    Raises:
        StoreError: a stored answer is damaged.
    """
    problem, found = made.sweep.problem, kept(store, made.sweep.problem)
    if isinstance(problem, AdaptedProblemSpec) and problem.estimator != "likelihood":
        return {}
    moduli = {} if found is None else _moduli_of(made, found)
    if isinstance(problem, DensityProblemSpec) and made.claim.specification == "over":
        return {column: each._replace(distances=chi_of(each.distances)) for column, each in moduli.items()}
    main = made.main.measure.column
    return {main: moduli[main]} if main in moduli else {}


def foreseen(measure: Measure, laws: Mapping[str, Any], problem: ProblemSpec) -> Prediction | None:
    """The law of an error that follows from those of the atoms.

    Args:
        measure: the error.
        laws: of the atoms, 'exact', by the number of atoms in a cell, and with all cells over-fitted at once (which
            as many spare as true atoms allow), as `certify` stores them.
        problem: how many atoms are fitted, and whether a weight floor holds them.
    """
    spare, column = problem.k_fit - problem.k_true, measure.column
    if column == "singleton_error" or (spare == 0 and column in ("D_1", *SQUARED)):
        return _law(laws.get("exact"))
    if spare == 0 or column not in (*SQUARED, *ATOMS) or (column == "farthest_error" and problem.weight_floor == 0.0):
        return None
    law = _law(laws.get(str(spare + 1)))
    if TOGETHER in laws and spare >= problem.k_true > 1 and law is not None:
        law = slower(law, _law(laws[TOGETHER]))
    if law is None or law.exponent is None or column in ATOMS:
        return law
    return Prediction("power", max(2.0 * law.exponent, -0.5))


def foreseen_of_density(measure: Measure, laws: Mapping[str, Any], problem: DensityProblemSpec) -> Prediction | None:
    """The law of an error of a mixture whose parameters are all free, as `foreseen`.

    The order of the best split is that of a cell's atoms as a whole; how single blocks fall the modulus tells.

    Args:
        measure: the error.
        laws: as `certify` stores them.
        problem: how many atoms are fitted.
    """
    spare, column = problem.k_fit - problem.k_true, measure.column
    if column.startswith("singleton_") or (spare == 0 and column == "D_1"):
        return _law(laws.get("exact"))
    if column not in CELLS:
        return None
    law, together = _law(laws.get(CELLS[column])), _law(laws.get(TOGETHER))
    every_cell = CELLS[column] == "2" and spare >= problem.k_true
    return slower(law, together) if law is not None and every_cell and together is not None else law


def slower(one: Prediction, other: Prediction | None) -> Prediction | None:
    """What holds where either may happen; None if one of them is unknown and the other is a power."""
    if one.exponent is None or other is None or other.exponent is None:
        return one if one.exponent is None else other
    return max(one, other, key=lambda law: law.exponent or 0.0)


def _law(stored: Mapping[str, Any] | None) -> Prediction | None:
    return None if stored is None else Prediction(stored["kind"], stored["exponent"])


def _modulus(stored: Mapping[str, Any] | None) -> Modulus | None:
    if stored is None:
        return None
    return Modulus(np.asarray(stored["distances"]), np.asarray(stored["losses"]), float(stored["slope"]))


def nearest_law(exponent: float) -> Prediction:
    """The law of the theory whose exponent is the nearest: one of `CANDIDATE_EXPONENTS`, or none at 0."""
    nearest = min((0.0, *CANDIDATE_EXPONENTS), key=lambda each: abs(each + exponent))
    return Prediction("power", -nearest) if nearest else Prediction("no-power")


def _witness(judged: Judged, law: Prediction | None, bound: Modulus | None, share: float) -> Witness:
    measure = judged.measure
    exponent = None if bound is None else -0.5 * bound.slope
    asymptotic = None if exponent is None else nearest_law(exponent)
    every = {"the claim": measure.prediction, "certify": law, "the modulus": asymptotic}
    told = {name: each for name, each in every.items() if each is not None}
    disagreements = [
        f"{later} says {predicted_words(told[later])}, {earlier} {predicted_words(told[earlier])}"
        for earlier, later in pairwise(told)
        if told[later] != told[earlier]
    ]
    for each in dict.fromkeys(told.values()):
        if _status(judged, each, share) is Status.REFUTED:
            names = " and ".join(name for name in told if told[name] == each)
            disagreements.append(f"the simulation refutes {predicted_words(each)} ({names})")
    return Witness(judged, law, exponent, tuple(disagreements))


def _status(judged: Judged, law: Prediction, share: float) -> Status:
    """The verdict of the simulation on another law than the claim's."""
    measure = judged.measure
    if law == measure.prediction:
        return judged.verdict.status
    lost = sum(count for n, count in judged.left_out.items() if n >= measure.from_size)
    return judge(law, judged.curve, measure.from_size or None, Terms(share, measure.conditional, lost)).status


def _advice(claim: Claim, problem: AnyProblem, store: Store) -> str:
    """The command that stores prediction and modulus."""
    usual, given = sweep_of(claim).problem.model_dump(), problem.model_dump()
    differs = {name: value for name, value in given.items() if value != usual[name]}
    asked = {name: differs[name] for name in ("rank", "dimension", "k_true") if name in differs}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items()]
    if "anchored" in differs:
        words.append("--anchored" if given["anchored"] else "--no-anchor")
    return " ".join(["moe-theory certify", claim.id, *words, f"--results {store.root}"])
