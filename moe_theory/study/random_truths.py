"""Random truths of a problem's model, at which margins show what is generic."""

from collections.abc import Iterator

from moe_theory.study.adapted_problem import build_adapted
from moe_theory.study.adapted_spec import AdaptedProblemSpec
from moe_theory.study.certify_problem import COARSER
from moe_theory.study.density_problem import build_density, random_truth
from moe_theory.study.density_spec import AnyProblem, DensityProblemSpec
from moe_theory.study.problem import build, drawn_truth
from moe_theory.theory.density_families import adapted_mixture, free_mixture
from moe_theory.theory.margins import Mixture
from moe_theory.theory.registered_families import mixture_of

FIRST_SEED = 1000
"""Of the first random truth."""


def random_mixtures(problem: AnyProblem, count: int) -> Iterator[Mixture]:
    """The model at so many random truths of the problem's size; each is a function of its number alone.

    A density's cells lie around its own truth, and are filled up with cells of no probability to the number of the
    truth with the most: programs are compiled once. Distances are in the units of the problem's truth.

    Args:
        problem: which.
        count: how many.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    if isinstance(problem, DensityProblemSpec):
        published = build_density(problem, COARSER)
        setups = [build_density(problem, COARSER, random_truth(problem, seed)) for seed in seeds]
        room = max(len(setup.grid.x) for setup in setups)
        for setup in setups:
            yield free_mixture(setup.model, setup.truth, setup.grid.filled(room), published.metric)
    elif isinstance(problem, AdaptedProblemSpec):
        adapted = [build_adapted(problem, seed) for seed in seeds]
        if problem.estimator != "likelihood":
            for setup in adapted:
                yield mixture_of(setup.regression.model, setup.regression.truth, setup.regression.design)
            return
        room = max(len(setup.grid.x) for setup in adapted)
        for setup in adapted:
            yield adapted_mixture(setup.density, setup.regression.truth, setup.grid.filled(room))
    else:
        own = build(problem)
        for seed in seeds:
            yield mixture_of(own.model, drawn_truth(problem, own.model, seed), own.design)
