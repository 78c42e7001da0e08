"""An oracle that shares no code with the estimator: objective, gradient and parameter space in NumPy, scipy's SLSQP.

Linear RepLoRA under the attention gate, written out by hand: with w_0 = 1 for the frozen atom,

    f(x) = sum_i w_i exp(s_i) h_i / sum_i w_i exp(s_i),
    s_i = x' (M_Q + B_i A_i) M_K x / sqrt d,   h_i = (M_V + B_i A_i) x,

over (w, B, A) with w_i >= w_min sum w, sum w <= W, || B_i A_i ||_F <= R.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from moe_theory.estimation.certificate import SPREAD, certify
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.pool import Lane
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.models.adapters import SharedAtom
from moe_theory.models.regression import RegressionModel
from moe_theory.sampling.inputs import finite_support
from moe_theory.sampling.statistics import Statistics, draw_statistics
from moe_theory.study.problem import Setup, build
from moe_theory.study.spec import ProblemSpec

N = 10**6
SMALL = ProblemSpec(dimension=2, support=64, adapter="replora")
DEFAULT = ProblemSpec(adapter="replora")
ROUNDS = 4


class Oracle:
    """F, its gradient and the slacks of one data set; a point is (w, B, A) in one vector."""

    def __init__(self, spec: ProblemSpec, setup: Setup, data: Statistics):
        self.k, self.d = spec.k_fit, spec.dimension
        self.floor, self.cap, self.radius = spec.weight_floor, spec.weight_cap, spec.radius
        x = finite_support(spec.input_law, spec.support, spec.dimension, spec.problem_seed)
        assert isinstance(setup.model, RegressionModel)
        query, self.value_matrix = (np.asarray(matrix) for matrix in setup.model.pretrained)
        gate: Any = setup.model.gate
        self.x, self.keyed = x, x @ np.asarray(gate.key).T / np.sqrt(self.d)
        self.frozen_score = np.einsum("md,de,me->m", x, query, self.keyed)
        self.frozen_output = x @ self.value_matrix.T
        self.precision, self.mean = np.asarray(data.precision), np.asarray(data.mean).T

    def parts(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """w (k,), B (k, d), A (k, d); the rank is one."""
        factors = point[self.k :].reshape(2, self.k, self.d)
        return point[: self.k], factors[0], factors[1]

    def value_and_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        w, left, right = self.parts(point)
        along_right = self.x @ right.T  # A_i . x, (M, k)
        keyed_right = self.keyed @ right.T
        score = self.frozen_score[:, None] + (self.x @ left.T) * keyed_right
        largest = np.maximum(score.max(axis=1), self.frozen_score)
        raised = w * np.exp(score - largest[:, None])
        gates = raised / (raised.sum(axis=1) + np.exp(self.frozen_score - largest))[:, None]
        outputs = self.frozen_output[:, None] + along_right[:, :, None] * left[None]
        fitted = self.frozen_output + np.einsum("mk,mkd->md", gates, along_right[:, :, None] * left[None])
        residual = fitted - self.mean
        along = np.einsum("md,mkd->mk", residual, outputs - fitted[:, None])
        pull = self.precision[:, None] * gates
        by_score, by_output = pull * along, pull[:, :, None] * residual[:, None]
        by_update = np.einsum("mk,md,me->kde", by_score, self.x, self.keyed)
        by_update += np.einsum("mkd,me->kde", by_output, self.x)
        by_left = np.einsum("kde,ke->kd", by_update, right)
        by_right = np.einsum("kde,kd->ke", by_update, left)
        value = 0.5 * float(self.precision @ np.sum(residual**2, axis=1))
        return value, np.concatenate([by_score.sum(axis=0) / w, by_left.ravel(), by_right.ravel()])

    def slacks(self, point: np.ndarray) -> np.ndarray:
        """Weights over the floor, total under the cap, balls."""
        w, left, right = self.parts(point)
        norms = np.sum(left**2, axis=1) * np.sum(right**2, axis=1)
        return np.concatenate([w - self.floor * w.sum(), [1.0 - w.sum() / self.cap], 1.0 - norms / self.radius**2])

    def slack_slopes(self, point: np.ndarray) -> np.ndarray:
        _, left, right = self.parts(point)
        slopes = np.zeros((2 * self.k + 1, point.size))
        slopes[: self.k, : self.k] = np.eye(self.k) - self.floor
        slopes[self.k, : self.k] = -1.0 / self.cap
        for i in range(self.k):
            for block, own, other in ((0, left[i], right[i]), (1, right[i], left[i])):
                start = self.k + (block * self.k + i) * self.d
                slopes[self.k + 1 + i, start : start + self.d] = -2.0 * (other @ other) * own / self.radius**2
        return slopes

    def hessian(self, point: np.ndarray) -> np.ndarray:
        """By central differences of the gradient."""
        step = 1e-5
        columns = []
        for direction in step * np.eye(point.size):
            ahead, behind = (self.value_and_gradient(point + sign * direction)[1] for sign in (1, -1))
            columns.append((ahead - behind) / (2 * step))
        return 0.5 * (np.array(columns) + np.array(columns).T)

    def minimise(self, start: np.ndarray) -> tuple[float, np.ndarray]:
        """SLSQP, begun again a few times in coordinates in which the curvature is of order one."""
        point, value = start, self.value_and_gradient(start)[0]
        for _ in range(ROUNDS):
            values, vectors = np.linalg.eigh(self.hessian(point))
            across = vectors / np.sqrt(np.maximum(np.abs(values), 1.0))
            found = self._descend(point, across)
            if found is None:
                break
            gained, point, value = value - found[0], found[1], found[0]
            if gained < 1e-6:
                break
        return value, point

    def _descend(self, origin: np.ndarray, across: np.ndarray) -> tuple[float, np.ndarray] | None:
        """One run of SLSQP over u, at origin + across u; None if it ends outside or no lower."""

        def level(u: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self.value_and_gradient(origin + across @ u)
            return value, slope @ across

        room = {
            "type": "ineq",
            "fun": lambda u: self.slacks(origin + across @ u),
            "jac": lambda u: self.slack_slopes(origin + across @ u) @ across,
        }
        with np.errstate(all="ignore"):
            options = {"maxiter": 300, "ftol": 1e-9}
            found: Any = minimize(level, np.zeros(origin.size), jac=True, method="SLSQP", constraints=[room],
                                  options=options)  # fmt: skip
        point = origin + across @ found.x
        inside = np.isfinite(found.fun) and self.slacks(point).min() > -1e-9
        return (float(found.fun), point) if inside and found.fun <= self.value_and_gradient(origin)[0] else None


def from_chart(chart: Chart, z: np.ndarray) -> np.ndarray:
    """The toolkit's point in the oracle's coordinates."""
    atoms: SharedAtom = chart.atoms(jnp.asarray(z))
    parts = (chart.weights(jnp.asarray(z)), atoms.left, atoms.right)
    return np.concatenate([np.asarray(part).ravel() for part in parts])


class Contest(NamedTuple):
    """One replication fitted by both.

    Attributes:
        oracle: the independent problem.
        lowest: F of the toolkit's certified fit.
        fit: that fit, in the oracle's coordinates.
        others: F at the ends of the toolkit's other starts.
        reached: F at the ends of the oracle's starts.
    """

    oracle: Oracle
    lowest: float
    fit: np.ndarray
    others: list[float]
    reached: np.ndarray


def contest(spec: ProblemSpec, replication: int, pool: Any) -> Contest:
    """Fit one replication from the toolkit's own starts, and by the oracle from those, from untied ones and the fit."""
    setup = build(spec)
    chart = Chart(setup.model, setup.space, setup.k_fit)
    data = draw_statistics(setup.values, setup.sigma, N, 0, replication)
    starts = StartMaker(chart, setup.truth, plan_named("standard")).make(N, 0, replication).z
    untied = StartMaker(chart, setup.truth, plan_named("untied")).make(N, 1, replication).z
    ends = [end.state for end in pool.run(Lane(0, data, z) for z in starts)]
    truth_value = 0.5 * float(data.precision @ np.sum((setup.values - data.mean) ** 2, axis=0))
    check = jax.jit(certify)
    passed = [s for s in ends if bool(check(Problem(chart, setup.design, data), s, truth_value).passed)]
    best = min(passed, key=lambda state: float(state.value))
    oracle = Oracle(spec, setup, data)
    fit = from_chart(chart, best.z)
    begun = [from_chart(chart, z) for z in [*starts, *untied]]
    reached = np.array([oracle.minimise(point)[0] for point in [fit, *begun]])
    return Contest(oracle, float(best.value), fit, [float(state.value) for state in ends], reached)


@pytest.fixture(scope="module")
def contests(quick, pool_of) -> list[Contest]:
    return [contest(SMALL, replication, pool_of(SMALL, 8)) for replication in range(3)]


@pytest.mark.slow
def test_the_oracle_is_right(contests):
    """Its objective is the toolkit's, its derivatives are those of its functions."""
    for played in contests:
        oracle, fit = played.oracle, played.fit
        value, slope = oracle.value_and_gradient(fit)
        assert value == pytest.approx(played.lowest, abs=1e-6)
        away = fit + 0.1 * np.random.default_rng(0).uniform(-1, 1, fit.size)
        slope, slopes = oracle.value_and_gradient(away)[1], oracle.slack_slopes(away)
        for i, direction in enumerate(1e-6 * np.eye(fit.size)):
            ahead, behind = (oracle.value_and_gradient(away + sign * direction)[0] for sign in (1, -1))
            assert slope[i] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4, abs=1e-2)
            ahead, behind = (oracle.slacks(away + sign * direction) for sign in (1, -1))
            np.testing.assert_allclose(slopes[:, i], (ahead - behind) / 2e-6, atol=1e-7)


@pytest.mark.slow
def test_it_finds_no_lower_objective_than_the_certified_fit(contests):
    for played in contests:
        assert len(played.reached) > 16
        assert played.reached.min() >= played.lowest - SPREAD


@pytest.mark.slow
def test_it_would_find_a_lower_one(contests):
    """From its own starts alone it comes as low as the fit, so a fit that is higher by little more is caught.

    Also where the toolkit itself ends higher from another start: a fit that stopped there would be caught.
    """
    for played in contests:
        own = played.reached[1:]
        assert own.min() <= played.lowest + SPREAD
        assert max(played.others) > own.min() + SPREAD
        moved = played.fit + 1e-3 * np.random.default_rng(1).uniform(-1, 1, played.fit.size)
        moved[: played.oracle.k] = played.fit[: played.oracle.k]
        before = played.oracle.value_and_gradient(moved)[0]
        assert played.oracle.minimise(moved)[0] <= played.lowest + SPREAD < before


@pytest.mark.slow
@pytest.mark.parametrize("replication", [0, 1])
def test_nor_in_the_default_problem(quick, pool_of, replication):
    played = contest(DEFAULT, replication, pool_of(DEFAULT, 8))
    assert played.oracle.value_and_gradient(played.fit)[0] == pytest.approx(played.lowest, abs=1e-6)
    assert played.reached.min() >= played.lowest - SPREAD
    assert played.reached[1:].min() <= played.lowest + SPREAD
