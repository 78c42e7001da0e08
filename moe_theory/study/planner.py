"""Which grid of sizes and how many replications would decide a prediction, found by simulating the verdict.

The simulation is the calibration's: replications of known law and noise, summarised and judged as stored
results are. A default plan judges 4000 curves per assumed law at about 3 ms each: on an idle core the command takes
13 seconds for a power law, and 24 for no power law, which assumes two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_theory.study.calibration import (
    PLATEAU,
    Noise,
    Truth,
    grid,
    inverse_log,
    is_right,
    noisy_errors,
    power,
)
from moe_theory.study.verdict import Status, judge
from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import ErrorCurve, summarise

Array = NDArray[np.float64]
GRIDS: tuple[tuple[float, int], ...] = tuple((decades, sizes) for decades in (3, 5, 7, 9, 12) for sizes in (6, 10))
REPLICATIONS: tuple[int, ...] = (16, 32, 64, 128)
ENOUGH = 0.9


@dataclass(frozen=True)
class Option:
    """One choice of grid and replications.

    Args:
        decades: log10 of the largest over the smallest size.
        sizes: number of sizes, evenly spaced in log n.
        replications: per size.
        correct: share of simulated curves with a decided and right verdict, worst over the truths.
        wrong: share with a wrong verdict, worst over the truths.
    """

    decades: float
    sizes: int
    replications: int
    correct: float
    wrong: float

    @property
    def fits(self) -> int:
        """Fits that it costs: sizes times replications (with sufficient statistics n costs nothing)."""
        return self.sizes * self.replications


@dataclass(frozen=True)
class Plan:
    """All options tried, and the chosen one: the fewest fits that decide in 90 % of cases (None: none does).

    Among equal numbers of fits the shorter range of n is preferred.
    """

    prediction: Prediction
    log_sd: float
    options: tuple[Option, ...]
    chosen: Option | None

    def table(self) -> str:
        """The options as a Markdown table, fewest fits first, the chosen one marked."""
        rows = ["| decades | sizes | replications | fits | decided and right | wrong | |", "|" + "---|" * 7]
        for o in self.options:
            numbers = f"{o.decades:g} | {o.sizes} | {o.replications} | {o.fits}"
            mark = "chosen" if o == self.chosen else ""
            rows.append(f"| {numbers} | {100 * o.correct:.0f} % | {100 * o.wrong:.1f} % | {mark} |")
        return "\n".join(rows)


def plan(
    prediction: Prediction,
    log_sd: float = 0.5,
    grids: Sequence[tuple[float, int]] = GRIDS,
    replications: Sequence[int] = REPLICATIONS,
    *,
    first: float = 1e3,
    truths: Sequence[Truth] | None = None,
    noise: Noise = "lognormal",
    simulations: int = 100,
    seed: int = 0,
) -> Plan:
    """The cheapest grid and replications whose verdict is decided and right with probability at least 0.9.

    Args:
        prediction: what is to be decided; by default it is assumed true (no power law: both as a plateau
            and as 1/log n, and the harder counts).
        log_sd: standard deviation of one replication's log error; `measured_log_sd` takes it from stored
            results.
        grids: (decades, sizes) to try.
        replications: per size, to try.
        first: smallest size.
        truths: laws to assume instead of the prediction.
        noise: shape of the replications' noise.
        simulations: curves per option; the standard error of a share of 0.9 is 0.03 at 100.
        seed: of the simulation.

    Raises:
        ValueError: log_sd is not positive, or nothing to try.

    Source: our derivation.
    """
    if not log_sd > 0:
        raise ValueError(f"the log standard deviation must be positive, not {log_sd:g}")
    if not grids or not replications:
        raise ValueError("a plan needs at least one grid and one number of replications to try")
    assumed = assumed_truths(prediction) if truths is None else tuple(truths)
    options = []
    for decades, sizes in grids:
        n = grid(decades, sizes, first)
        for count in replications:
            shares = [
                simulate_shares(prediction, truth, n, count, log_sd, noise, simulations, seed) for truth in assumed
            ]
            correct, wrong = min(s[0] for s in shares), max(s[1] for s in shares)
            options.append(Option(decades, sizes, count, correct, wrong))
    options.sort(key=lambda o: (o.fits, o.decades))
    chosen = next((o for o in options if o.correct >= ENOUGH), None)
    return Plan(prediction, log_sd, tuple(options), chosen)


def assumed_truths(prediction: Prediction) -> tuple[Truth, ...]:
    """The laws under which a prediction is right and to be planned for."""
    if prediction.exponent is None:
        return (PLATEAU, inverse_log(1.0, "1/log n"))
    return (power(prediction.exponent, f"n^{prediction.exponent:g}"),)


def measured_log_sd(curve: ErrorCurve) -> float:
    """The standard deviation of one replication's log error that a measured curve's standard errors imply.

    Pooled over sizes: log_sd^2 = mean(count * standard_error^2) / c, c = pi / 2 for a median of lognormal
    errors, 1 for a mean (to first order).
    """
    per_replication = float(np.mean(curve.count * curve.standard_error**2))
    return (per_replication / _variance_factor(curve)) ** 0.5


def _variance_factor(curve: ErrorCurve) -> float:
    return np.pi / 2 if curve.statistic == "median" else 1.0


def simulate_shares(
    prediction: Prediction,
    truth: Truth,
    n: Array,
    replications: int,
    log_sd: float = 0.5,
    noise: Noise = "lognormal",
    simulations: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """Shares of curves, drawn under `truth`, whose verdict is decided and right, and decided and wrong."""
    rng = np.random.default_rng([seed, n.size, replications])
    right_status = Status.SUPPORTED if is_right(truth, prediction) else Status.REFUTED
    right = decided = 0
    for _ in range(simulations):
        curve = summarise(n, noisy_errors(truth, n, replications, rng, noise, log_sd))
        status = judge(prediction, curve).status
        decided += status != Status.UNDECIDED
        right += status == right_status
    return right / simulations, (decided - right) / simulations
