"""Small pools that several modules share: compiling one costs more than all that is run in it."""

from collections.abc import Callable

import pytest

from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.pool import Pool
from moe_theory.estimation.space import Chart
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec


@pytest.fixture(scope="session")
def pool_of() -> Callable[[ProblemSpec, int], Pool]:
    """A function (problem, block) -> its pool, the same for every module that asks."""

    made: dict[tuple[ProblemSpec, int], Pool] = {}

    def make(spec: ProblemSpec, block: int) -> Pool:
        if (spec, block) not in made:
            setup = build(spec)
            made[spec, block] = Pool(Problem, (Chart(setup.model, setup.space, setup.k_fit), setup.design), block)
        return made[spec, block]

    return make
