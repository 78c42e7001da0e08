"""The claims on Gaussian mixtures of experts fitted by maximum likelihood: a rate for every block of parameters."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from moe_theory.theory.claim import Claim, Measure
from moe_theory.theory.laws import Prediction

GAUSSIAN = "Gaussian-gated MoE (Nguyen et al., AISTATS 2024, arXiv 2305.07572), theory section 6"
SOFTMAX = "softmax-gated Gaussian MoE (Nguyen et al., NeurIPS 2023, arXiv 2305.03288), theory section 6"

ASYMPTOTIC_FROM = 1e8
"""Over-fitted laws are judged from this size on, stated before sampling: at n = 10^6, n^-1/8 = 0.18 is still as wide
as an atom."""
EXACT_FROM = 1e5
HALF = Prediction("power", -0.5)

RBAR = {"pair": 4, "triple": 6}
BLOCKS = {
    "gaussian-gated": {"center": 1, "intercept": 1, "spread": 2, "noise": 2, "slope": 2},
    "softmax-gated": {"gate": 1, "intercept": 1, "slope": 2, "noise": 2},
}
"""Blocks, and how many times n^-1/(2 rbar) their exponent is.

A block is judged by its mean over replications: the direction of a split is random, and where the noise asks for a
positive fourth cumulant a pair splits in its covariances and not in its means, so that the median of a single block is
that of two populations (``docs/density.md``)."""
WORDS = {
    "center": "centres c", "spread": "spreads Gamma", "slope": "slopes A", "intercept": "intercepts b",
    "noise": "noise variances nu", "gate": "gate slopes beta1",
}  # fmt: skip
CELLS = {"pair": "in cells of two atoms", "triple": "in cells of three atoms"}


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
    """Rates in cells of as many atoms as can join one cell; with two extra atoms also in cells of two."""
    family = problem["family"]
    kinds = ("pair",) if extra == 1 else ("triple", "pair")
    first, *others = (_atoms(kind) for kind in kinds)
    blocks = (_block(kind, block, times) for kind in kinds for block, times in BLOCKS[family].items())
    rest = (
        Measure("singleton_error", "single atoms", HALF, ASYMPTOTIC_FROM, conditional=True),
        Measure("weight_error", "weights of cells", HALF, ASYMPTOTIC_FROM),
        Measure("D", "Voronoi loss D with block powers", HALF, ASYMPTOTIC_FROM),
        Measure("function_error", "Hellinger distance", HALF, ASYMPTOTIC_FROM),
    )
    statement = (
        f"cells of {extra + 1} atoms: location blocks at n^-1/(2 rbar), scale blocks at n^-1/rbar, rest at n^-1/2"
    )
    return Claim(
        name, model, "over", statement, source, first, (*others, *blocks, *rest), MappingProxyType(problem),
        sweep=OVER_SWEEP, kind="density",
    )  # fmt: skip


def _atoms(kind: str) -> Measure:
    """All blocks together, of which the location blocks are the largest."""
    prediction = Prediction("power", -1 / (2 * RBAR[kind]))
    return Measure(f"{kind}_error", f"atoms {CELLS[kind]}", prediction, ASYMPTOTIC_FROM, conditional=True)


def _block(kind: str, block: str, times: int) -> Measure:
    prediction = Prediction("power", -times / (2 * RBAR[kind]))
    words = f"{WORDS[block]} {CELLS[kind]}"
    return Measure(f"{kind}_{block}_error", words, prediction, ASYMPTOTIC_FROM, "mean", conditional=True)
