"""Starting points of mixture fits: splits of the truth, and starts that hold nothing of it.

A split parts a true atom (``merges.parted``) along a direction in the plane of mu, at a scale from n^-1/8 to order one;
with two atoms to spare both may join one cell or two. An untied start takes its atoms from the data: centres at points
drawn with probability proportional to the squared distance from those drawn before (k-means++), the data's own
covariance, and a few sweeps of EM. Draws depend on (seed, n, replication) alone.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.estimation.em import em
from moe_theory.estimation.likelihood import Points
from moe_theory.estimation.merges import parted
from moe_theory.estimation.mixture import MixtureSpace, slacks
from moe_theory.estimation.starts import STREAM, Starts, plan_among
from moe_theory.models.density import AbstractDensity, GaussianGated
from moe_theory.sampling.statistics import replication_generator

SWEEPS = 40
"""EM sweeps of an untied start."""
SCALE = 1.5
"""Splits are this many times n^-exponent, in the units of ``MixtureSpace.scale``."""
LEAST_SLACK = 1e-3
"""A start has no slack below it..."""
LEAST_RAISED = 1e-6
"""...but where data have no truth behind them. Far outliers make the box so wide that all others are near its walls."""
RAISE = 1.01
"""Times their floors, the least variances and weights of such a start."""
LIGHTER = 0.25
"""Share of the lighter part of a split."""


_part = jax.jit(parted, static_argnums=0)
_sweep = jax.jit(em, static_argnums=(0, 4))
_slacks = jax.jit(slacks, static_argnums=0)


class MixturePlan(NamedTuple):
    """How many starts of which kind.

    Attributes:
        splits: exponents e of splits n^-e for every choice of cells that the extra atoms may join, one start each.
        untied: starts from the data alone.
        near: (exact-specified only) the truth moved by n^-1/4.
        alike: (softmax gate with every true atom fitted twice) all gates split alike by up to one standard deviation of
            x, which leaves the density as it is.
    """

    splits: tuple[float, ...]
    untied: int
    near: int
    alike: int = 0


PLANS = {
    "standard": MixturePlan((0.125, 0.125, 0.125, 0.0), untied=2, near=2),
    "alike": MixturePlan((0.125, 0.125, 0.125, 0.0), untied=2, near=2, alike=4),
    "near": MixturePlan((0.125, 0.125, 0.125), untied=0, near=2),
    "untied": MixturePlan((), untied=8, near=0),
    "smoke": MixturePlan((0.125,), untied=1, near=1),
}


def mixture_plan_named(name: str) -> MixturePlan:
    """The plan of that name.

    Raises:
        InputError: for an unknown name.
    """
    return plan_among(PLANS, name)


class MixtureStartMaker:
    """Makes the starts of any replication of one problem.

    Args:
        model, space, k: what is fitted.
        truth: rows of G*, (k_true, q); None where there is none (data of a user).
        plan: see ``MixturePlan``.
    """

    def __init__(
        self,
        model: AbstractDensity,
        space: MixtureSpace,
        k: int,
        truth: Float[np.ndarray, "k_true q"] | None,
        plan: MixturePlan,
    ):
        self._model, self._space, self._k, self._truth, self._plan = model, space, k, truth, plan

    def make(self, n: int, seed: int, replication: int, points: Points) -> Starts:
        """All starts of one replication, inside Theta."""
        rng = np.random.default_rng(replication_generator(seed, n, replication).integers(2**63, size=4) + STREAM)
        made = list(self._tied(n, rng))
        made += [("untied", self.inside(self._untied(points, rng))) for _ in range(self._plan.untied)]
        return Starts(np.stack([rows.reshape(-1) for _, rows in made]), tuple(kind for kind, _ in made))

    def _tied(self, n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        if self._truth is None:
            return
        extra = self._k - len(self._truth)
        if extra == 0:
            for _ in range(self._plan.near):
                yield "near", self.inside(self._moved(n, rng))
            return
        for cells in combinations_with_replacement(range(len(self._truth)), extra):
            first = rng.uniform(0.0, np.pi)
            for turn, exponent in enumerate(self._plan.splits):
                angle = first + np.pi * turn / max(len(self._plan.splits), 1)
                name = f"split-{'-'.join(map(str, cells))}"
                yield name, self.inside(self._split(cells, SCALE * float(n) ** -exponent, angle, rng))

        if extra == len(self._truth) and not isinstance(self._model, GaussianGated):
            for _ in range(self._plan.alike):
                yield "alike", self.inside(self._alike(rng))

    def _alike(self, rng: np.random.Generator) -> np.ndarray:
        """Both halves of every atom with one share and one shift of the gate: a factor common to all gates."""
        assert self._truth is not None
        last = 1 + self._model.dimension
        apart = np.asarray(self._space.scale)[: last - 1] * rng.uniform(-1.0, 1.0, last - 1)
        share = rng.uniform(0.35, 0.65)
        halves = []
        for part, shift in ((share, (1.0 - share) * apart), (1.0 - share, -share * apart)):
            rows = np.array(self._truth)
            rows[:, 0] *= part
            rows[:, 1:last] += shift
            halves.append(rows)
        return np.concatenate(halves)

    def _moved(self, n: int, rng: np.random.Generator) -> np.ndarray:
        assert self._truth is not None
        unit = np.concatenate([[0.0], np.asarray(self._space.scale), np.zeros(self._truth.shape[1] - 1 - self._d)])
        return self._truth + 0.3 * n**-0.25 * unit * rng.standard_normal(self._truth.shape)

    @property
    def _d(self) -> int:
        return self._model.joint

    def _split(self, cells: tuple[int, ...], size: float, angle: float, rng: np.random.Generator) -> np.ndarray:
        """Part the atoms of the named cells; an atom named twice is parted twice, at different angles."""
        assert self._truth is not None
        rows = np.array(self._truth)
        scale = np.asarray(self._space.scale)
        for count, cell in enumerate(cells):
            lighter = max(LIGHTER, min(0.5, 2.0 * float(self._space.weight_floor)))
            tilt = np.log((1.0 - lighter) / lighter) * (-1.0) ** count
            direction = np.zeros(self._d)
            turn = angle + count * np.pi / 2.5
            direction[0], direction[-1] = np.cos(turn), np.sin(turn)
            if self._d > 2:
                direction[1:-1] = 0.5 * rng.standard_normal(self._d - 2)
            differences = np.concatenate([[tilt], size * scale * direction, np.zeros(rows.shape[1] - 1 - self._d)])
            both = np.asarray(_part(self._model, jnp.asarray(rows[cell]), jnp.asarray(differences)))
            rows[cell] = both[0]
            rows = np.vstack([rows, both[1:]])
        return rows

    def _untied(self, points: Points, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(_sweep(self._model, self._space, jnp.asarray(self.spread_out(points, rng)), points, SWEEPS))

    def spread_out(self, points: Points, rng: np.random.Generator) -> Float[np.ndarray, "k q"]:
        """Rows with centres drawn from the data as by k-means++ and the data's covariance, before any EM."""
        k = self._k
        x, y, weight = (np.asarray(part) for part in (points.x, points.y, points.weight))
        share = weight / weight.sum()
        z = np.concatenate([x, y], axis=1)
        mean = share @ z
        covariance = (share[:, None] * (z - mean)).T @ (z - mean)
        units = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        chosen = [int(rng.choice(len(z), p=share))]
        for _ in range(k - 1):
            apart = np.min(np.sum(((z[:, None] - z[chosen][None]) / units) ** 2, axis=2), axis=1) * share
            total = apart.sum()
            chosen.append(int(rng.choice(len(z), p=apart / total if total > 0 else share)))
        return np.stack([self._fresh(z[index], covariance, k) for index in chosen])

    def _fresh(self, center: np.ndarray, covariance: np.ndarray, k: int) -> np.ndarray:
        """A row at a point, with slope 0 and a share 1/k of the data's variances."""
        model, d = self._model, self._model.dimension
        diagonal = np.maximum(np.diag(covariance) / k, 1.5 * np.asarray(self._space.floor))
        matrix = np.diag(diagonal)
        if not isinstance(model, GaussianGated):
            matrix[:d, :d] = 0.0
            center = np.concatenate([np.zeros(d), center[d:]])
        return np.concatenate([[1.0 / k], center, matrix[model.places()]])

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """Off the floors, or drawn towards the middle of Theta, until every slack is above a thousandth."""
        if self._least_slack(rows) > LEAST_SLACK:
            return rows
        if self._truth is None and isinstance(self._model, GaussianGated):
            raised = self._raised(rows)
            if self._least_slack(raised) > LEAST_RAISED:
                return raised
        safe = self._safe(rows)
        for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95):
            tried = (1.0 - share) * rows + share * safe
            if self._least_slack(tried) > LEAST_SLACK:
                return tried
        raise InputError("no start lies inside the parameter space: lower weight_floor or widen the box")

    def _least_slack(self, rows: np.ndarray) -> float:
        least = np.min(np.asarray(_slacks(self._model, self._space, jnp.asarray(rows))))
        return float(least) if np.isfinite(least) else -np.inf

    def _raised(self, rows: np.ndarray) -> np.ndarray:
        """Variances and weights off their floors, nothing else: an atom at one point keeps its place, others theirs."""
        raised, space = np.array(rows), self._space
        first, second = map(np.asarray, self._model.places())
        for column in np.flatnonzero(first == second):
            raised[:, 1 + self._d + column] += (RAISE - 1.0) * float(space.floor[first[column]])
        least = RAISE * float(space.weight_floor) * np.sum(raised[:, 0])
        raised[:, 0] = np.maximum(raised[:, 0], least)
        return raised

    def _safe(self, rows: np.ndarray) -> np.ndarray:
        """The same atoms with equal weights, locations pulled to the box's middle and middling variances.

        The gates of a softmax become equal: two far apart leave a third without a share, whatever the weights are.
        """
        space, model, d = self._space, self._model, self._model.dimension
        low, high = np.asarray(space.low), np.asarray(space.high)
        middle = 0.5 * (low + high)
        center = np.clip(rows[:, 1 : 1 + self._d], middle - 0.4 * (high - low), middle + 0.4 * (high - low))
        variances = np.clip(np.sqrt(np.asarray(space.floor) * np.asarray(space.cap)), None, 0.5 * np.asarray(space.cap))
        matrix = np.diag(variances)
        if not isinstance(model, GaussianGated):
            matrix[:d, :d] = 0.0
            center[:, :d] = center[:, :d].mean(axis=0)
        entries = np.broadcast_to(matrix[model.places()], (len(rows), len(model.free)))
        weights = np.full((len(rows), 1), float(np.sum(rows[:, 0])) / len(rows))
        return np.concatenate([weights, center, entries], axis=1)
