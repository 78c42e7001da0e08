"""The claims on low-rank densities: what a likelihood sees of a split that a conditional mean does not.

A density sees the split of a value matrix, A + H and A - H with one center, in the conditional variance: to second
order p moves by [ (g'H x)^2 - |H x|^2 / nu ] p, g = (y - A x) / nu, which no first derivative undoes, because none is
quadratic in g and x together. That holds with nu known or free, shared or not. Splits of a center are seen at second
order too where Gamma is known. So every variant has n^-1/4 under the likelihood, LoRA included (``docs/density.md``).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from moe_theory.theory.claim import Claim, Measure
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import Statistic

SOURCE = "our derivation (docs/density.md); theory sections 1 and 6"
HALF, QUARTER, NO_POWER = Prediction("power", -0.5), Prediction("power", -0.25), Prediction("no-power")

JOINT_FROM = 1e6
CONDITIONAL_FROM = 1e11
"""Laws are judged from these sizes on: a gate alone tells centers worse than the density of x, and the second-order
margin is a hundredth of the joint density's, so splits are small later. In a first run, at 10^9, half of the fits that
are as good as the truth had an atom at the far end of Theta; the second was raised from 10^8 after that."""

SWEEP: Mapping[str, Any] = MappingProxyType({"sizes": "1e6:1e15:4", "replications": 16, "starts": "few"})
CONDITIONAL_SWEEP: Mapping[str, Any] = MappingProxyType({"sizes": "1e12:1e15:4", "replications": 16, "starts": "few"})

ADAPTERS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({
    "lora": ("LoRA", {"adapter": "lora"}),
    "replora": ("RepLoRA linear", {"adapter": "replora"}),
    "hora": ("HoRA tanh, 2 groups of atoms", {"adapter": "hora", "activation": "tanh", "heads": 2}),
})  # fmt: skip
CONDITIONAL: Mapping[str, Any] = MappingProxyType({"density": "conditional", "anchored": True, "problem_seed": 2})
"""The first truth is left out for its small margins (``certify``)."""

SPLIT = "a likelihood sees every split at second order: over-fitted atoms at n^-1/4, the rest at n^-1/2"
SHIFT = "a likelihood sees every split at second order; at the frozen atom it moves all centers, so D_12 has n^-1/4 too"
"""A softmax does not see a common shift of all centers. The frozen atom fixes it, unless an extra atom stands beside
it: with weight w and center d away, all other centers shifted by w d / (1 + w), the density moves by w d^2. LoRA's
centers, free one by one, have n^-1/4 in *single* cells too where the extra atom is there; RepLoRA's move the value."""
BY_MEAN = "the conditional mean does not see a split of the value matrix that leaves its center: no power law for it"
"""Sharing alone does not help: the gate sees Delta u, so a shared Delta = B A still splits along rows A + z, A - z with
z across u (d > 1). ``certify`` found it."""


def adapted_claims() -> Iterator[Claim]:
    """Every claim on low-rank densities."""
    for name, (words, problem) in ADAPTERS.items():
        yield _claim(f"gaussian-density-{name}-over", f"density p(x, y), {words}", name, SPLIT, SWEEP, problem)
    for name in ("lora", "replora"):
        words, problem = ADAPTERS[name]
        given = {**problem, **CONDITIONAL}
        model = f"density p(y | x), {words}"
        statement = SHIFT if name == "lora" else SPLIT
        yield _claim(f"conditional-density-{name}-over", model, name, statement, CONDITIONAL_SWEEP, given)
        by_mean = {**given, "estimator": "least-squares"}
        model = f"{words}, mean of p(y | x) by least squares"
        yield _claim(f"conditional-mean-{name}-over", model, name, BY_MEAN, CONDITIONAL_SWEEP, by_mean)


def _claim(
    name: str, model: str, adapter: str, statement: str, sweep: Mapping[str, Any], problem: Mapping[str, Any]
) -> Claim:
    """A power law for everything, or by the mean none for what depends on the value.

    Where a shift of all centers is open, fits have it or not as the extra atom falls, and means over both are judged.
    """
    begin = CONDITIONAL_FROM if "density" in problem else JOINT_FROM
    slow, shifts = "estimator" in problem, "density" in problem and adapter == "lora"
    single = QUARTER if shifts else HALF
    best, atoms = (NO_POWER, NO_POWER) if slow else (single, QUARTER)
    statistic: Statistic = "mean" if slow or shifts else "median"
    loss = Measure("D_12", "Voronoi loss D_12", best, begin, statistic)
    others = [
        Measure("overfitted_value_error", "value block of over-fitted atoms", atoms, begin, statistic, True),
        Measure("singleton_error", "singleton atoms", single, begin, "mean" if shifts else "median", True),
        Measure("function_error", "conditional mean" if "density" in problem else "Hellinger distance", HALF, begin),
    ]
    if adapter == "lora":
        others.insert(
            1, Measure("overfitted_query_error", "centers of over-fitted atoms", QUARTER, begin, "median", True)
        )
    searched = "density" in problem
    main = Measure("D_12_truth_highest", "largest D_12 of fits as good as the truth", best, begin)
    if shifts and not slow:
        others.append(Measure("frozen_error", "atoms beside the frozen one", QUARTER, begin, conditional=True))
    chosen = (main, (loss, *others)) if searched else (loss, tuple(others))
    return Claim(
        name, model, "over", statement, SOURCE, *chosen, MappingProxyType(dict(problem)), identified_set=searched,
        sweep=sweep, kind="adapted-density",
    )  # fmt: skip
