"""Starting points: splits of the truth at several scales and ratios, far atoms, and starts not tied to the truth.

The theorems speak of the global minimiser, so several starts compete (theory section 4). Draws depend on (seed, n,
replication) alone. A start outside Theta is pulled towards its interior by shrinking its factors.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from moe_theory.errors import InputError
from moe_theory.estimation.space import Chart
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.statistics import replication_generator

FRESH_SIZE = 1.2
"""|| Delta ||_F of atoms that are drawn anew."""

STREAM = 1
"""Separates the random stream of starts from that of data."""


class StartPlan(NamedTuple):
    """How many starts of which kind.

    Attributes:
        splits: (exponent e, ratio) for each split of each true atom: parts n^-e apart, lighter part's share 'ratio'
            of the atom's weight (relative 1 means equal halves); a tuple of pairs.
        far: extra atoms drawn anew beside the true ones.
        frozen: extra atoms near a frozen one.
        untied: all atoms drawn anew, nothing of the truth in them.
        near: (exact-specified only) the truth perturbed by n^-1/4.
    """

    splits: tuple[tuple[float, float], ...]
    far: int
    frozen: int
    untied: int
    near: int


PLANS = {
    "standard": StartPlan(
        splits=((0.25, 1.0), (0.15, 0.3), (0.08, 0.1), (0.0, 0.0)), far=1, frozen=1, untied=3, near=1
    ),
    "near": StartPlan(splits=((0.25, 1.0), (0.25, 0.3), (0.25, 0.1)), far=0, frozen=1, untied=0, near=2),
    "untied": StartPlan(splits=(), far=0, frozen=0, untied=8, near=0),
    "smoke": StartPlan(splits=((0.25, 1.0), (0.08, 0.1)), far=0, frozen=1, untied=1, near=1),
}


class Starts(NamedTuple):
    """Starting points of one replication: z of shape (starts, z) and the kind of each."""

    z: np.ndarray
    kinds: tuple[str, ...]


def plan_named(name: str) -> StartPlan:
    """The plan of that name.

    Raises:
        InputError: for an unknown name.
    """
    if name not in PLANS:
        raise InputError(f"unknown starts {name!r}: choose one of {', '.join(PLANS)}")
    return PLANS[name]


class StartMaker:
    """Makes the starts of any replication of one problem; host-side except for one compiled projection."""

    def __init__(self, chart: Chart, truth: MixingMeasure, plan: StartPlan):
        self._chart, self._plan = chart, plan
        self._atoms = np.asarray(jax.vmap(lambda atom: ravel_pytree(atom)[0])(truth.atoms))
        self._weights = np.asarray(jnp.exp(truth.log_weights))
        self._inside = jax.jit(jax.vmap(_pulled_inside, (None, 0)))
        self._draw = jax.jit(jax.vmap(lambda key: ravel_pytree(self._draw_atom(key))[0]))

    def make(self, n: int, seed: int, replication: int) -> Starts:
        """All starts of one replication, inside Theta."""
        rng = np.random.default_rng(replication_generator(seed, n, replication).integers(2**63, size=4) + STREAM)
        made = list(self._exact(n, rng) if self._chart.k == len(self._weights) else self._over(n, rng))
        for index in range(self._plan.untied):
            size = 0.7 if index % 2 else 1.3
            made.append(
                (
                    "untied",
                    np.full(self._chart.k, float(np.mean(self._weights)) * size),
                    self._fresh(rng, self._chart.k),
                )
            )
        floor = self._chart.space.weight_floor
        z = np.stack([np.concatenate([w - floor * w.sum(), atoms.ravel()]) for _, w, atoms in made])
        return Starts(np.asarray(self._inside(self._chart, z)), tuple(kind for kind, _, _ in made))

    def _exact(self, n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for _ in range(self._plan.near):
            yield "near", self._weights, self._atoms + n**-0.25 * rng.standard_normal(self._atoms.shape)

    def _over(self, n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for atom in range(len(self._weights)):
            for exponent, ratio in self._plan.splits:
                yield f"split-{atom}", *self._split(atom, float(n) ** -exponent, ratio, rng)
        extra = self._chart.k - len(self._weights)
        for _ in range(self._plan.far):
            atoms = np.vstack([self._atoms, self._fresh(rng, extra)])
            yield "far", np.append(self._weights, np.full(extra, 0.2 * self._weights.mean())), atoms
        for _ in range(self._plan.frozen if self._chart.model.frozen.count else 0):
            small = 0.2 * rng.standard_normal((extra, self._atoms.shape[1]))
            yield "frozen", np.append(self._weights, np.full(extra, 0.5)), np.vstack([self._atoms, small])

    def _split(self, atom: int, scale: float, ratio: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Split one true atom in k_fit - k_true + 1 parts, mean and weight kept; the first keeps 1 / (1 + ratio)."""
        extra = self._chart.k - len(self._weights)
        least = 1.3 * self._chart.space.weight_floor * self._weights.sum() / self._weights[atom]
        share = np.clip(ratio / (1.0 + ratio) / extra, min(least, 0.5 / extra), 0.5 / extra)
        direction = rng.standard_normal((extra, self._atoms.shape[1]))
        direction *= scale / np.linalg.norm(direction, axis=1, keepdims=True)
        parts = self._atoms[atom] + direction - share * direction.sum(axis=0)
        atoms, weights = self._atoms.copy(), self._weights.copy()
        atoms[atom] -= share * direction.sum(axis=0)
        weights[atom] *= 1.0 - extra * share
        return np.append(weights, np.full(extra, share * self._weights[atom])), np.vstack([atoms, parts])

    def _fresh(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return np.asarray(self._draw(jax.random.split(jax.random.key(int(rng.integers(2**31))), count)))

    def _draw_atom(self, key: jax.Array) -> Any:
        model = self._chart.model
        return model.adapter.draw(key, model.pretrained, FRESH_SIZE)


def _pulled_inside(chart: Chart, z: jax.Array) -> jax.Array:
    """Shrink the factors by the largest of a few ratios that leaves a hundredth of every slack."""
    ratios = jnp.asarray([1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1])
    shrunk = jnp.concatenate(
        [jnp.broadcast_to(z[: chart.k], (ratios.shape[0], chart.k)), ratios[:, None] * z[None, chart.k :]], axis=1
    )
    shrunk = shrunk.at[:, : chart.k].max(1e-3)
    slacks = jax.vmap(chart.slacks)(shrunk)
    inside = jnp.all(slacks[:, chart.k :] > 0.01, axis=1)
    return shrunk[jnp.argmax(inside)]
