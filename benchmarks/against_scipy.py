"""The toolkit's fit against scipy.optimize on the same over-fitted data, same start, same parameter space.

    python benchmarks/against_scipy.py [--n 1e6] [--replications 4]

Prints, for each replication, the objective reached (units of sigma^2 / n, relative to the truth's) and the time of one
start, after compilation. scipy's trust-constr gets the same gradient and Hessian, compiled, and the same constraints.
"""

import argparse
import time

import jax
import numpy as np
from scipy.optimize import NonlinearConstraint, minimize

import moe_theory


def main() -> None:
    """Time both on a handful of replications."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=float, default=1e6)
    parser.add_argument("--replications", type=int, default=4)
    options = parser.parse_args()
    moe_theory.enable_x64()
    compare(int(options.n), options.replications)


def compare(n: int, replications: int) -> None:
    """One line per replication: objective and seconds of both, then the ratio of the times."""
    from moe_theory.estimation.least_squares import Problem
    from moe_theory.estimation.objective import objective
    from moe_theory.estimation.pool import Lane, Pool
    from moe_theory.estimation.space import Chart
    from moe_theory.estimation.starts import StartMaker, plan_named
    from moe_theory.sampling.statistics import draw_statistics
    from moe_theory.study.problem import build
    from moe_theory.study.spec import ProblemSpec

    setup = build(ProblemSpec(adapter="replora"))
    chart = Chart(setup.model, setup.space, setup.k_fit)
    maker, pool = StartMaker(chart, setup.truth, plan_named("near")), Pool(Problem, (chart, setup.design), 1)

    def value(z: jax.Array, data: tuple) -> jax.Array:
        return objective(setup.model.coefficients(chart.measure(z)), setup.design, data)  # pyright: ignore[reportArgumentType]

    compiled = jax.jit(value), jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))
    # A bound method of a module with arrays is not hashable, as jit's cache wants it; a function of z is.
    slacks, slopes = jax.jit(lambda z: chart.slacks(z)), jax.jit(jax.jacobian(chart.slacks))
    constraint = NonlinearConstraint(
        lambda z: np.asarray(slacks(z)),
        0.0,
        np.inf,
        jac=lambda z: np.asarray(slopes(z)),  # pyright: ignore[reportArgumentType]
    )
    ratios = []
    for replication in range(-1, replications):
        data = draw_statistics(setup.values, setup.sigma, n, 0, replication + 1)
        truth = 0.5 * float(data.precision @ np.sum((setup.values - data.mean) ** 2, axis=0))
        start = maker.make(n, 0, replication + 1).z[0]
        begun = time.perf_counter()
        ours = float(next(pool.run(iter([Lane(0, data, start)]))).state.value) - truth
        middle = time.perf_counter()
        found = minimize(
            lambda z, data=data: float(compiled[0](z, data)),
            start,
            jac=lambda z, data=data: np.asarray(compiled[1](z, data)),
            hess=lambda z, data=data: np.asarray(compiled[2](z, data)),
            constraints=constraint,
            method="trust-constr",
            options={"maxiter": 500, "gtol": 1e-6, "xtol": 1e-12},
        )
        ended = time.perf_counter()
        if replication < 0:
            continue  # compiles
        ratios.append((ended - middle) / (middle - begun))
        print(
            f"replication {replication}: moe_theory {ours:9.4f} in {middle - begun:6.3f} s, scipy trust-constr "
            f"{found.fun - truth:9.4f} in {ended - middle:6.3f} s, {found.nit} iterations"
        )
    print(f"ratio of times, median: {np.median(ratios):.1f}")


if __name__ == "__main__":
    main()
