"""How often the verdict errs: synthetic errors of exactly known law, judged against every prediction.

`python -m moe_theory.study.calibration --replicates 200 --output docs/verdict-calibration.md` writes the
table.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtri, polygamma

from moe_theory.study.verdict import Status, Verdict, decide, drop_transient
from moe_theory.theory.laws import LawName, Prediction
from moe_theory.theory.summaries import summarise

Array = NDArray[np.float64]
Noise = Literal["lognormal", "gamma", "half-normal"]
NOISES: tuple[Noise, ...] = ("lognormal", "gamma", "half-normal")
HETEROSCEDASTICITY = 0.15
"""Log standard deviation, over sizes, of the noise's own log standard deviation."""
GAMMA_SHAPE = 4.5
"""Shape of a gamma variable whose log has standard deviation 0.5."""
WRONG_LIMIT = 0.01
SETTING = f"log-sd 0.5 per replication, times exp({HETEROSCEDASTICITY} Gaussian) by size"


@dataclass(frozen=True)
class Truth:
    """A law known exactly: `log_error(n)`, up to a constant, with the exponent if it is a power."""

    name: str
    law: LawName
    exponent: float | None
    log_error: Callable[[Array], Array]


def power(exponent: float, name: str) -> Truth:
    """e(n) = n^exponent."""
    return Truth(name, "power", exponent, lambda n: exponent * np.log(n))


def inverse_log(tau: float, name: str) -> Truth:
    """e(n) = (log n)^-tau."""
    return Truth(name, "inverse-log", None, lambda n: -tau * np.log(np.log(n)))


PLATEAU = Truth("plateau", "plateau", None, np.zeros_like)
TRUTHS: tuple[Truth, ...] = (
    power(-1 / 2, "n^-1/2"),
    power(-1 / 4, "n^-1/4"),
    power(-1 / 8, "n^-1/8"),
    inverse_log(1.0, "1/log n"),
    inverse_log(2.0, "(log n)^-2"),
    PLATEAU,
)
PREDICTIONS: dict[str, Prediction] = {
    "n^-1/2": Prediction("power", -1 / 2),
    "n^-1/4": Prediction("power", -1 / 4),
    "n^-1/6": Prediction("power", -1 / 6),
    "n^-1/8": Prediction("power", -1 / 8),
    "n^-1/12": Prediction("power", -1 / 12),
    "no power": Prediction("no-power"),
}
GRIDS: tuple[tuple[int, int], ...] = tuple((decades, sizes) for decades in (3, 5, 9) for sizes in (4, 6, 10))
REPLICATIONS: tuple[int, ...] = (16, 64)


@dataclass(frozen=True)
class Cell:
    """The verdicts in one (truth, grid, replications, noise); all shares are of `replicates` curves.

    Args:
        wrong: curves with at least one wrong verdict, or a wrong law singled out, over all predictions.
        wrong_by_prediction: share wrong, by prediction.
        decided_by_prediction: share not UNDECIDED, by prediction.
        law_decided: share in which a law was singled out.
    """

    truth: Truth
    decades: int
    sizes: int
    replications: int
    noise: Noise
    replicates: int
    wrong: float
    wrong_by_prediction: dict[str, float]
    decided_by_prediction: dict[str, float]
    law_decided: float

    @property
    def decided(self) -> float:
        """Share decided against the truth's own prediction."""
        return self.decided_by_prediction[own_prediction(self.truth)]


def own_prediction(truth: Truth) -> str:
    """The name in `PREDICTIONS` of the prediction that is right for a truth."""
    return truth.name if truth.name in PREDICTIONS else "no power"


def is_right(truth: Truth, prediction: Prediction) -> bool:
    """Whether a prediction is true: the same exponent, or no power for a law that is none."""
    return truth.exponent == prediction.exponent


def is_wrong(verdict: Verdict, truth: Truth, prediction: Prediction) -> bool:
    """A true prediction refuted or a false one supported; UNDECIDED is never wrong."""
    return verdict.status == (Status.REFUTED if is_right(truth, prediction) else Status.SUPPORTED)


def grid(decades: float, sizes: int, first: float = 1e3) -> Array:
    """Sizes spaced evenly in log n from `first` over a number of decades."""
    return first * np.logspace(0.0, decades, sizes)


def noisy_errors(
    truth: Truth, n: Array, replications: int, rng: np.random.Generator, noise: Noise, log_sd: float = 0.5
) -> Array:
    """Errors exp(log_error(n_i) + log_sd_i * z_ir). Shape (sizes, replications).

    z is Gaussian, or log of a gamma (shape 4.5) or of a half-normal variable, with median 0 and standard
    deviation 1: the latter two are skewed as errors of a norm are. log_sd_i = log_sd * exp(0.15 *
    Gaussian), new for every curve and size.
    """
    shape = (n.size, replications)
    if noise == "lognormal":
        z = rng.standard_normal(shape)
    elif noise == "gamma":
        median, deviation = np.log(gammaincinv(GAMMA_SHAPE, 0.5)), polygamma(1, GAMMA_SHAPE) ** 0.5
        z = (np.log(rng.standard_gamma(GAMMA_SHAPE, shape)) - median) / deviation
    else:
        median, deviation = np.log(ndtri(0.75)), np.pi / 8**0.5
        z = (np.log(np.abs(rng.standard_normal(shape))) - median) / deviation
    spread = log_sd * np.exp(HETEROSCEDASTICITY * rng.standard_normal(n.size))
    return np.exp(truth.log_error(n)[:, None] + spread[:, None] * z)


def calibrate_cell(
    truth: Truth, decades: int, sizes: int, replications: int, noise: Noise, replicates: int, seed: int
) -> Cell:
    """Draw `replicates` curves of one cell and judge each against every prediction."""
    rng = np.random.default_rng([seed, decades, sizes, replications, *truth.name.encode(), *noise.encode()])
    n = grid(decades, sizes)
    wrong: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    any_wrong = law_decided = 0
    for _ in range(replicates):
        comparison = drop_transient(summarise(n, noisy_errors(truth, n, replications, rng, noise)))
        verdicts = {name: decide(prediction, comparison) for name, prediction in PREDICTIONS.items()}
        mistaken = [name for name, verdict in verdicts.items() if is_wrong(verdict, truth, PREDICTIONS[name])]
        wrong.update(mistaken)
        decided.update(name for name, verdict in verdicts.items() if verdict.status != Status.UNDECIDED)
        law = verdicts["no power"].law
        law_decided += law != "undetermined"
        any_wrong += bool(mistaken) or law not in ("undetermined", truth.law)
    return Cell(
        truth,
        decades,
        sizes,
        replications,
        noise,
        replicates,
        any_wrong / replicates,
        {name: wrong[name] / replicates for name in PREDICTIONS},
        {name: decided[name] / replicates for name in PREDICTIONS},
        law_decided / replicates,
    )


def calibrate(
    replicates: int,
    seed: int = 0,
    truths: Sequence[Truth] = TRUTHS,
    grids: Sequence[tuple[int, int]] = GRIDS,
    replications: Sequence[int] = REPLICATIONS,
    noises: Sequence[Noise] = NOISES,
) -> Iterator[Cell]:
    """Every cell in turn; a cell's draws depend on the seed and the cell alone."""
    for truth in truths:
        for decades, sizes in grids:
            for count in replications:
                for noise in noises:
                    yield calibrate_cell(truth, decades, sizes, count, noise, replicates, seed)


def merge_noises(cells: Sequence[Cell]) -> Cell:
    """One row from the cells of all noises: the largest wrong share and the smallest decided one."""
    first = cells[0]
    return Cell(
        first.truth,
        first.decades,
        first.sizes,
        first.replications,
        first.noise,
        first.replicates,
        max(cell.wrong for cell in cells),
        {name: max(cell.wrong_by_prediction[name] for cell in cells) for name in PREDICTIONS},
        {name: min(cell.decided_by_prediction[name] for cell in cells) for name in PREDICTIONS},
        min(cell.law_decided for cell in cells),
    )


def report(cells: Sequence[Cell], seed: int) -> str:
    """The calibration as a Markdown page, one row per (truth, grid, replications), the worst noise each."""
    rows: dict[tuple[str, int, int, int], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.truth.name, cell.decades, cell.sizes, cell.replications), []).append(cell)
    merged = [merge_noises(group) for group in rows.values()]
    worst = max(cells, key=lambda cell: cell.wrong)
    above = sum(cell.wrong > WRONG_LIMIT for cell in cells)
    total = sum(cell.wrong for cell in cells) / len(cells)
    noises = ", ".join(dict.fromkeys(cell.noise for cell in cells))
    names = list(PREDICTIONS)
    lines = [
        "# How often the verdict errs",
        "",
        f"Written by `python -m moe_theory.study.calibration --replicates {worst.replicates} --seed {seed}`.",
        "",
        f"Synthetic errors of exactly known law, from n = 10^3 up; {SETTING}; noise: {noises}.",
        "Every curve is judged against every prediction. `wrong`: curves with any wrong verdict or a wrong",
        "law singled out, worst noise (UNDECIDED is never wrong). `law`: curves in which a law was singled",
        "out. Other columns: decided (not UNDECIDED) against that prediction, the right one in bold; least",
        "over noises. All in per cent.",
        "",
        f"Over all {len(cells)} cells (noises apart) {100 * total:.2f} % of curves have a wrong verdict;",
        f"cells above {100 * WRONG_LIMIT:.0f} %: {above}. Worst, with {100 * worst.wrong:.2f} %:",
        f"{worst.truth.name}, {worst.decades} decades, {worst.sizes} sizes, "
        f"{worst.replications} replications, {worst.noise}.",
        "",
        f"| truth | decades | sizes | reps | wrong | law | {' | '.join(names)} |",
        "|" + "---|" * (6 + len(names)),
    ]
    return "\n".join([*lines, *(_row(cell) for cell in merged)]) + "\n"


def _row(cell: Cell) -> str:
    shares = {name: f"{100 * share:.0f}" for name, share in cell.decided_by_prediction.items()}
    shares[own_prediction(cell.truth)] = f"**{shares[own_prediction(cell.truth)]}**"
    head = (cell.truth.name, cell.decades, cell.sizes, cell.replications, f"{100 * cell.wrong:.1f}")
    return f"| {' | '.join(map(str, head))} | {100 * cell.law_decided:.0f} | {' | '.join(shares.values())} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: calibrate and write the page."""
    parser = argparse.ArgumentParser(description="Measure how often the verdict errs on errors of known law.")
    parser.add_argument("--replicates", type=int, default=200, help="synthetic curves per cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/verdict-calibration.md"))
    options = parser.parse_args(arguments)
    text = report(list(calibrate(options.replicates, options.seed)), options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
