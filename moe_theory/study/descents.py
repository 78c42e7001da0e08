"""First-order fits of a sweep's data, measured and certified as its own fits are, to be shown beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Bool, Float

from moe_theory.estimation.certificate import certify
from moe_theory.estimation.first_order import descend
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.objective import mix
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, StartPlan
from moe_theory.estimation.trust_region import SMALLEST_BARRIER, initial_state
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.statistics import Statistics, draw_statistics
from moe_theory.study.panels import Panel
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import SweepSpec
from moe_theory.study.tables import aligned, exponent_words
from moe_theory.theory.voronoi import Losses, effective_losses

NEAR = StartPlan(splits=((0.25, 1.0),), far=0, frozen=0, untied=0, near=(0.25,), untied_exact=0)
"""Each true atom in halves n^-1/4 apart, the others in their places: as near as the minimiser itself, or nearer."""


class _End(NamedTuple):
    """One lane's end: whether it is certified, its decrement, its errors."""

    certified: Bool[Array, "*lanes"]
    decrement: Float[Array, "*lanes"]
    losses: Losses
    distance: Float[Array, "*lanes"]


class Descents:
    """Fits every replication of a sweep by first-order methods, from the same `NEAR` starts, on the sweep's own data.

    Args:
        sweep: problem, sizes, replications and seed; its block is the number of lanes that advance together.

    Raises:
        InputError: if float64 is off.
    """

    def __init__(self, sweep: SweepSpec):
        self._setup: Setup = build(sweep.problem)
        setup, self._block = self._setup, sweep.block
        self._chart = Chart(setup.model, setup.space, setup.k_fit)
        maker = StartMaker(self._chart, setup.truth, NEAR)
        self._keys = [(n, number) for n in sweep.sizes for number in range(sweep.replications)]
        drawn = [draw_statistics(setup.values, setup.sigma, n, sweep.seed, number) for n, number in self._keys]
        self._data: Statistics = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
        self._starts = np.stack([maker.make(n, sweep.seed, number).z for n, number in self._keys])
        squares = np.sum((setup.values - self._data.mean) ** 2, axis=1)
        self._truth_values = 0.5 * np.sum(self._data.precision * squares, axis=1)
        self._measure = jax.jit(self._in_blocks(self._end))

    def rows(self, method: optax.GradientTransformationExtraArgs, steps: int) -> pd.DataFrame:
        """One row per replication: the end with the lowest objective among those of its starts.

        Columns as in the sweep's rows: n, replication, certified, decrement (units of sigma^2 / n), excess
        (F - F(truth), the same units), D_1, D_12, singleton_error, overfitted_error, function_error. `certified` says
        that the end lies inside Theta and passes `certify`.

        Args:
            method: an optax method, see `estimation.first_order`.
            steps: how many; 0 shows the starts themselves.
        """
        setup, starts = self._setup, self._starts.shape[1]

        def fit(lane: tuple[Statistics, Float[Array, " z"]]) -> tuple[MixingMeasure, Float[Array, ""]]:
            data, z = lane
            found = descend(setup.model, setup.design, data, self._chart.measure(z), method, steps)
            return found.measure, found.value

        repeated = jax.tree.map(lambda leaf: np.repeat(leaf, starts, axis=0), self._data)
        ends_at, reached = jax.jit(self._in_blocks(fit))((repeated, self._starts.reshape(-1, self._chart.size)))
        values = np.asarray(reached).reshape(-1, starts)
        best = np.arange(len(values)) * starts + np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1)
        measures: MixingMeasure = jax.tree.map(lambda leaf: np.asarray(leaf)[best], ends_at)
        ends: _End = jax.tree.map(np.asarray, self._measure((self._data, measures, self._truth_values)))
        sizes, numbers = zip(*self._keys, strict=True)
        columns = {
            "n": sizes,
            "replication": numbers,
            "certified": ends.certified,
            "decrement": ends.decrement,
            "excess": np.asarray(reached)[best] - self._truth_values,
            "D_1": ends.losses.d_1,
            "D_12": ends.losses.d_12,
            "singleton_error": ends.losses.singleton,
            "overfitted_error": ends.losses.overfitted,
            "function_error": ends.distance,
        }
        return pd.DataFrame(columns)

    def _in_blocks(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda lanes: jax.lax.map(function, lanes, batch_size=self._block)

    def _end(self, lane: tuple[Statistics, MixingMeasure, Float[Array, ""]]) -> _End:
        data, fitted, truth_value = lane
        setup, chart = self._setup, self._chart
        problem, z = Problem(chart, setup.design, data), chart.coordinates(fitted)
        state = initial_state(problem, z)._replace(barrier=jnp.asarray(SMALLEST_BARRIER))
        own = certify(problem, state, truth_value)
        inside = jnp.min(chart.slacks(z)) > 0
        prediction = mix(setup.model.coefficients(fitted), setup.design).prediction
        distance = jnp.sqrt(jnp.mean(jnp.sum((prediction - setup.values) ** 2, axis=0)))
        return _End(own.passed & inside, own.decrement, effective_losses(setup.model, fitted, setup.truth), distance)


def descent_table(drawn: Sequence[tuple[Panel, pd.DataFrame]], columns: Mapping[str, str]) -> str:
    """One row per optimiser: the exponents of its panel; how far its ends are from the minimum; its certified share.

    Distances are medians in units of sigma^2 / n: of the Newton decrement, and of F above that of the first optimiser's
    fit of the same data.

    Args:
        drawn: a panel and the rows that it shows, for each optimiser; the certified minimiser first.
        columns: errors shown, with their names in words.
    """
    rows = [["optimiser", *columns.values(), "decrement", "F above the first's", "certified"]]
    keys = ["n", "replication"]
    reference = drawn[0][1][[*keys, "excess"]]
    for panel, frame in drawn:
        by_name = {series.name: series for series in panel.series}
        both = frame[[*keys, "excess"]].merge(reference, on=keys, suffixes=("", "_first"))
        above = np.median(both["excess"].to_numpy() - both["excess_first"].to_numpy())
        share = 100 * np.mean(frame["certified"].to_numpy(dtype=np.float64))
        decrement = np.median(frame["decrement"].to_numpy())
        last = [f"{decrement:.2g}", f"{above:.2g}", f"{share:.1f} %"]
        shown = [by_name.get(column) for column in columns]
        words = ["-" if each is None else exponent_words(each.exponent, each.interval) for each in shown]
        rows.append([panel.title, *words, *last])
    return aligned(rows)
