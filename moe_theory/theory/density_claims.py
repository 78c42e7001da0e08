"""The claims on Gaussian mixtures of experts fitted by maximum likelihood: a rate for every block of parameters.

Where our derivation differs from the published rate (theory section 6), a block is judged against both: two measures of
one column, one with each prediction, and the published one with a remark that is said when it is refuted.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from moe_theory.theory.claim import Claim, Measure
from moe_theory.theory.laws import Prediction

GAUSSIAN = "Gaussian-gated MoE (Nguyen et al., AISTATS 2024, arXiv 2305.07572), theory section 6"
SOFTMAX = "softmax-gated Gaussian MoE (Nguyen et al., NeurIPS 2023, arXiv 2305.03288), theory section 6"

ASYMPTOTIC_FROM = 1e8
"""Over-fitted laws are judged from this size on, stated before sampling: at n = 10^6, n^-1/8 = 0.18 is still as wide
as an atom."""
EXACT_FROM = 1e5
HALF = Prediction("power", -1 / 2)
QUARTER = Prediction("power", -1 / 4)
NO_POWER = Prediction("no-power")

RBAR = {"pair": 4, "triple": 6}
BLOCKS = {
    "gaussian-gated": {"center": 1, "intercept": 1, "spread": 2, "noise": 2, "slope": 2},
    "softmax-gated": {"gate": 1, "intercept": 1, "slope": 2, "noise": 2},
}
"""Blocks, and how many times n^-1/(2 rbar) their published exponent is.

A block is judged by its mean over replications: the direction of a split is random, and where the noise asks for a
positive fourth cumulant a pair splits in its covariances and not in its means, so that the median of a single block is
that of two populations (``docs/density.md``)."""
WORDS = {
    "center": "centres c", "spread": "spreads Gamma", "slope": "slopes A", "intercept": "intercepts b",
    "noise": "noise variances nu", "gate": "gate slopes beta1",
}  # fmt: skip
CELLS = {"pair": "in cells of two atoms", "triple": "in cells of three atoms"}

SEEN_BY_ITSELF = (
    "that rate is a bound: a softmax gate has no covariance of its own, so nothing can cancel the positive sum of w "
    "times the squared splits, which the likelihood sees at second order"
)
COMMON_FACTOR = (
    "every true atom is fitted twice: where the gates of all cells split alike, all are multiplied by one function "
    "of x, which the softmax divides out, and the density does not change at all"
)
TRANSLATION = "a translation of x makes any c zero and leaves A as it is, so A cannot be better off than Gamma and nu"


class Other(NamedTuple):
    """Where the published law and ours differ.

    Attributes:
        published, ours: predictions.
        remark: why ours.
    """

    published: Prediction
    ours: Prediction
    remark: str


ALL = ""
"""All blocks of an atom together."""


def _power(kind: str, times: int) -> Prediction:
    return Prediction("power", -times / (2 * RBAR[kind]))


DIFFERENT: Mapping[str, Mapping[tuple[str, str], Other]] = MappingProxyType({
    "gaussian-gated-type1-k5": {("triple", "slope"): Other(QUARTER, _power("triple", 2), TRANSLATION)},
    "softmax-gated-k3": {("pair", "gate"): Other(_power("pair", 1), QUARTER, SEEN_BY_ITSELF)},
    "softmax-gated-k4": {
        ("pair", ALL): Other(_power("pair", 1), NO_POWER, COMMON_FACTOR),
        ("pair", "gate"): Other(_power("pair", 1), NO_POWER, COMMON_FACTOR),
        ("triple", "gate"): Other(_power("triple", 1), QUARTER, SEEN_BY_ITSELF),
        ("triple", "slope"): Other(_power("triple", 2), QUARTER, SEEN_BY_ITSELF),
    },
})  # fmt: skip
"""By claim, then by kind of cell and block."""


def density_claims() -> Iterator[Claim]:
    """Every claim on densities."""
    yield _exact("gaussian-gated-exact", "Gaussian-gated, k = 3", GAUSSIAN, family="gaussian-gated", k_fit=3)
    for setting, extra in (("type-1", 1), ("type-1", 2), ("type-2", 1), ("type-2", 2)):
        name = f"gaussian-gated-{setting.replace('-', '')}-k{3 + extra}"
        model = f"Gaussian-gated, Type {'I' * int(setting[-1])}, k = {3 + extra}"
        yield _over(name, model, GAUSSIAN, extra, family="gaussian-gated", setting=setting, k_fit=3 + extra)
    softmax = {"family": "softmax-gated", "setting": "published", "k_true": 2}
    yield _exact("softmax-gated-k2", "softmax-gated, k = 2", SOFTMAX, **softmax, k_fit=2)
    for extra in (1, 2):
        model = f"softmax-gated, k = {2 + extra}"
        yield _over(f"softmax-gated-k{2 + extra}", model, SOFTMAX, extra, **softmax, k_fit=2 + extra)


EXACT_SWEEP: Mapping[str, Any] = MappingProxyType({"sizes": "1e4:1e12:5", "replications": 32})
OVER_SWEEP: Mapping[str, Any] = MappingProxyType({"sizes": "1e8:1e15:8", "replications": 32})
TWO_MORE_SWEEP: Mapping[str, Any] = MappingProxyType({"sizes": "1e9:1e15:4", "replications": 16, "starts": "near"})
"""With two extra atoms a fit takes several times as long: six choices of cells, a third more atoms."""


def _exact(name: str, model: str, source: str, **problem: Any) -> Claim:
    family = problem["family"]
    return Claim(
        name, model, "exact", "parameters are estimated at n^-1/2", source,
        Measure("D_1", "Voronoi loss D_1", HALF, EXACT_FROM),
        (
            *(Measure(f"singleton_{block}_error", WORDS[block], HALF, EXACT_FROM) for block in BLOCKS[family]),
            Measure("function_error", "Hellinger distance", HALF, EXACT_FROM),
        ),
        MappingProxyType(problem), sweep=EXACT_SWEEP, kind="density",
    )  # fmt: skip


def _over(name: str, model: str, source: str, extra: int, **problem: Any) -> Claim:
    """Rates in cells of as many atoms as can join one cell; with two extra atoms also in cells of two.

    The main measure is of the cells that fits have: two atoms each where there are as many extra atoms as true ones.
    """
    kinds = ("pair",) if extra == 1 else ("triple", "pair") if extra < problem.get("k_true", 3) else ("pair", "triple")
    blocks = {ALL: 1} | BLOCKS[problem["family"]]
    first, *others = (
        measure
        for names in ((ALL,), tuple(blocks)[1:])
        for kind in kinds
        for block in names
        for measure in _measures(name, kind, block, _power(kind, blocks[block]))
    )
    by_factor = name == "softmax-gated-k4"
    rest = (
        Measure("singleton_error", "single atoms", HALF, ASYMPTOTIC_FROM, conditional=True),
        Measure("weight_error", "weights of cells", HALF, ASYMPTOTIC_FROM),
        *_both("D", "Voronoi loss D with block powers", Other(HALF, NO_POWER if by_factor else HALF, COMMON_FACTOR)),
        Measure("function_error", "Hellinger distance", HALF, ASYMPTOTIC_FROM),
    )
    sweep = OVER_SWEEP if extra == 1 else TWO_MORE_SWEEP
    if by_factor:
        sweep = MappingProxyType({**OVER_SWEEP, "starts": "alike"})
    statement = (
        f"cells of {extra + 1} atoms: location blocks at n^-1/(2 rbar), scale blocks at n^-1/rbar, rest at n^-1/2"
    )
    return Claim(
        name, model, "over", statement, source, first, (*others, *rest), MappingProxyType(problem),
        sweep=sweep, kind="density",
    )  # fmt: skip


def _measures(name: str, kind: str, block: str, published: Prediction) -> Iterator[Measure]:
    """One block in one kind of cell; all blocks together go as the location blocks, which are the largest.

    The split of a softmax-gated pair has one direction, b, along which the fourth cumulant has the sign that lets the
    means part in about a third of the replications only: there the median of all blocks is that of the others too.
    """
    column = f"{kind}_{block}_error" if block else f"{kind}_error"
    words = f"{WORDS[block] if block else 'atoms'} {CELLS[kind]}"
    laws = DIFFERENT.get(name, {}).get((kind, block), Other(published, published, ""))
    median = not block and name.startswith("gaussian")
    return _both(column, words, laws, statistic="median" if median else "mean", conditional=True)


def _both(column: str, words: str, laws: Other, **how: Any) -> Iterator[Measure]:
    """Ours, and the published law where it is another one."""
    if laws.ours == laws.published:
        yield Measure(column, words, laws.ours, ASYMPTOTIC_FROM, **how)
        return
    yield Measure(column, f"{words}, our derivation", laws.ours, ASYMPTOTIC_FROM, **how)
    yield Measure(column, f"{words}, as published", laws.published, ASYMPTOTIC_FROM, **how, remark=laws.remark)
