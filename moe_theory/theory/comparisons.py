"""Claims about two systems side by side: which of them needs more samples, and whether their laws are the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Literal

from moe_theory.errors import InputError
from moe_theory.theory.adapted_claims import CONDITIONAL_FROM, SOURCE
from moe_theory.theory.claims import CLAIMS, DORAN, EXACT_FROM, GROUPS, HEADS, HORA, OVER_FROM


@dataclass(frozen=True)
class Pair:
    """Two claims whose stored errors are compared.

    Attributes:
        label: what distinguishes this pair from the others.
        x: the number that a series of pairs runs over, such as the number of heads.
        first, second: ids of claims.
        ratio: n_first / n_second that is predicted for equal function error; None where nothing is.
    """

    label: str
    x: float
    first: str
    second: str
    ratio: float | None = None


@dataclass(frozen=True)
class Aspect:
    """An error in which systems are compared.

    Attributes:
        column, words: its stored name, and what it is.
        exponent: the common exponent at which sample sizes are compared.
        predicted: whether the pairs' ``ratio`` is the prediction for it.
    """

    column: str
    words: str
    exponent: float
    predicted: bool = False


@dataclass(frozen=True)
class Comparison:
    """A row of the claims table that compares claims.

    Attributes:
        id, model, statement, source: as of a ``Claim``.
        question: 'advantage': the first of every pair needs more samples, by a factor that grows with x;
            'other law': the exponents of some pair differ.
        pairs: in increasing order of x.
        main: the aspect whose verdict is the comparison's.
        others: further aspects.
        from_size: sizes below it are not compared.
    """

    id: str
    model: str
    statement: str
    source: str
    question: Literal["advantage", "other law"]
    pairs: tuple[Pair, ...]
    main: Aspect
    others: tuple[Aspect, ...]
    from_size: float

    @property
    def parts(self) -> tuple[str, ...]:
        """Ids of the claims that are compared, each once."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in (pair.first, pair.second)))


def _identified(heads: int) -> float:
    """p of multi-head LoRA over p of HoRA tanh, both of rank one, d = 4 and two true atoms under the attention gate.

    A function error has mean square sigma^2 p / n to first order, p the number of parameters that f_G depends on: for
    LoRA 2 H (1 + 16 - 2), the factors less two scales per atom and head; for HoRA 2 (1 + 8), and one scale per atom
    less in one head alone, where act(U B) act(A R) is a product whose scale may move between its factors (two heads
    with different embeddings fix it). Source: our derivation.
    """
    return 2 * heads * (1 + 16 - 2) / (2 * (1 + 8 - (heads == 1)))


COMPARISONS: Mapping[str, Comparison] = MappingProxyType(
    {
        comparison.id: comparison
        for comparison in (
            Comparison(
                id="hora-vs-mh-lora",
                model="HoRA tanh against multi-head LoRA, " + ", ".join(map(str, HEADS)) + " heads, exact-specified",
                statement="multi-head LoRA needs more samples than HoRA for equal error, by a factor that grows with H",
                source=HORA + "; the factor for function errors is our derivation",
                question="advantage",
                pairs=tuple(
                    Pair(f"H = {h}", h, f"mh-lora-exact-h{h}", f"hora-exact-h{h}", _identified(h)) for h in HEADS
                ),
                main=Aspect("function_error", "function error", -0.5, predicted=True),
                others=(Aspect("D_1", "Voronoi loss D_1 (effective)", -0.5),),
                from_size=EXACT_FROM,
            ),
            Comparison(
                id="dora-tau-role",
                model="DoRA and DoRAN, tau > 0 against tau = 0",
                statement="tau > 0 changes the exponent at which over-fitted atoms are estimated",
                source=DORAN + "; theory section 7, 'role of tau'",
                question="other law",
                pairs=tuple(
                    Pair(
                        f"{adapter}, {magnitudes} magnitudes, tau {tau}", 1.0,
                        f"{adapter}-{magnitudes}-tau-{tau}", f"{adapter}-{magnitudes}-tau-0",
                    )
                    for adapter, magnitudes, tau in product(("dora", "doran"), ("fixed", "global"), ("0.5", "free"))
                ),
                main=Aspect("overfitted_error", "over-fitted atoms", -0.25),
                others=(
                    Aspect("D_12", "Voronoi loss D_12", -0.5),
                    Aspect("D_12_truth_highest", "largest D_12 of fits as good as the truth", -0.5),
                ),
                from_size=OVER_FROM,
            ),
            Comparison(
                id="likelihood-vs-least-squares",
                model="one model p(y | x), the same draws: its mean by least squares against its likelihood",
                statement="the slow rate is the loss's: by its likelihood the same model has a power law",
                source=SOURCE,
                question="other law",
                pairs=tuple(
                    Pair(words, 1.0, f"conditional-mean-{name}-over", f"conditional-density-{name}-over")
                    for name, words in (("lora", "LoRA"), ("replora", "RepLoRA linear"))
                ),
                main=Aspect("D_12_truth_highest", "largest D_12 of fits as good as the truth", -0.5),
                others=(
                    Aspect("D_12", "Voronoi loss D_12", -0.5),
                    Aspect("overfitted_value_error", "value block of over-fitted atoms", -0.25),
                    Aspect("function_error", "conditional mean", -0.5),
                ),
                from_size=CONDITIONAL_FROM,
            ),
        )
    }
)  # fmt: skip


def parts_of(names: list[str]) -> list[str]:
    """The names with every comparison and every group replaced by its claims, each once.

    Raises:
        InputError: for a name that is none of a claim, a comparison or a group; the message lists the known ones.
    """
    several = {name: comparison.parts for name, comparison in COMPARISONS.items()} | dict(GROUPS)
    unknown = [name for name in names if name not in CLAIMS and name not in several]
    if unknown:
        raise InputError(f"unknown claim {unknown[0]!r}: choose from {', '.join([*CLAIMS, *several])}")
    return list(dict.fromkeys(part for name in names for part in several.get(name, (name,))))
