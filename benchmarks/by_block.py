"""How fast a pool iterates on the device at hand, by the number of lanes that one program advances.

    python benchmarks/by_block.py [CLAIM] [--blocks 16,64,256] [--n 1e9] [--refills 2]

Fits the first start of as many replications as fill the block ``--refills`` times, and prints for each block: seconds
until the first iteration (compilation included), then lane iterations per second, finished lanes being replaced by
waiting ones, and microseconds per lane and iteration. JAX chooses the device; JAX_PLATFORMS=cpu or cuda asks for one.
"""

import argparse
import time

import jax

import moe_theory


def main() -> None:
    """Time every block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", nargs="?", default="replora-linear-over")
    parser.add_argument("--blocks", default="16,64,256")
    parser.add_argument("--n", type=float, default=1e9)
    parser.add_argument("--refills", type=int, default=2)
    options = parser.parse_args()
    moe_theory.enable_x64()
    blocks = [int(block) for block in options.blocks.split(",")]
    compare(options.claim, blocks, int(options.n), options.refills)


def compare(claim: str, blocks: list[int], n: int, refills: int) -> None:
    """One line per block."""
    from moe_theory.estimation.least_squares import Problem
    from moe_theory.estimation.pool import Lane, Pool
    from moe_theory.estimation.space import Chart
    from moe_theory.estimation.starts import StartMaker, plan_named
    from moe_theory.sampling.statistics import draw_statistics
    from moe_theory.study.problem import build
    from moe_theory.study.sweep import sweep_of
    from moe_theory.theory.claims import claim_named

    setup = build(sweep_of(claim_named(claim)).problem)
    chart = Chart(setup.model, setup.space, setup.k_fit)
    maker = StartMaker(chart, setup.truth, plan_named("near"))
    lanes = [
        Lane(number, draw_statistics(setup.values, setup.sigma, n, 0, number), maker.make(n, 0, number).z[0])
        for number in range(refills * max(blocks))
    ]
    device = jax.local_devices()[0]
    print(
        f"{claim}, {chart.size} parameters, M = {setup.values.shape[1]}, on {device.device_kind}, jax {jax.__version__}"
    )
    for block in blocks:
        pool = Pool(Problem, (chart, setup.design), block)
        begun = time.perf_counter()
        for _ in pool.run(iter(lanes[:block]), longest=1):
            pass
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        ends = list(pool.run(iter(lanes[: refills * block])))
        seconds = time.perf_counter() - begun
        steps = sum(int(end.state.iterations) for end in ends)
        converged = sum(int(end.state.status == 1) for end in ends)
        print(
            f"block {block:5d}: {first:6.1f} s to the first iteration, then {steps / seconds:9.0f} iterations/s, "
            f"{1e6 * seconds / steps:7.1f} us each; {converged} of {len(ends)} lanes converged",
            flush=True,
        )


if __name__ == "__main__":
    main()
