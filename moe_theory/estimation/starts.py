"""Starting points: splits of the truth at several scales and ratios, far atoms, and starts not tied to the truth.

The theorems speak of the global minimiser, so several starts compete (theory section 4). Draws depend on (seed, n,
replication) alone. A start outside Theta is pulled towards its interior by shrinking its factors.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from moe_theory.errors import InputError
from moe_theory.estimation.space import Chart, TrueSet, joined, true_sets
from moe_theory.jitting import jitted
from moe_theory.models.measure import MixingMeasure
from moe_theory.sampling.statistics import replication_generator

FRESH_SIZE = 1.2
"""|| Delta ||_F of atoms that are drawn anew."""

STREAM = 1
"""Separates the random stream of starts from that of data."""


PlanT = TypeVar("PlanT")


class StartPlan(NamedTuple):
    """How many starts of which kind.

    Attributes:
        splits: (exponent e, ratio) for each split of each true atom: parts n^-e apart, lighter part's share 'ratio'
            of the atom's weight (relative 1 means equal halves); a tuple of pairs.
        far: extra atoms drawn anew beside the true ones.
        frozen: extra atoms near a frozen one.
        untied: all atoms drawn anew, nothing of the truth in them.
        near: for exact-specified models, in place of splits: exponents e, the truth perturbed by n^-e.
        untied_exact: as ``untied``, for exact-specified models, which have few minima.
    """

    splits: tuple[tuple[float, float], ...]
    far: int
    frozen: int
    untied: int
    near: tuple[float, ...]
    untied_exact: int


STANDARD = StartPlan(
    splits=((0.25, 1.0), (0.15, 0.3), (0.08, 0.1), (0.0, 0.0)),
    far=1,
    frozen=1,
    untied=3,
    near=(0.25, 0.1),
    untied_exact=2,
)

PLANS = {
    "standard": STANDARD,
    "lean": STANDARD._replace(untied=1),
    "near": StartPlan(
        splits=((0.25, 1.0), (0.25, 0.3), (0.25, 0.1)), far=0, frozen=1, untied=0, near=(0.25, 0.25), untied_exact=0
    ),
    "few": StartPlan(splits=((0.25, 1.0), (0.08, 0.1)), far=0, frozen=1, untied=2, near=(0.25,), untied_exact=1),
    "untied": StartPlan(splits=(), far=0, frozen=0, untied=8, near=(), untied_exact=8),
    "smoke": StartPlan(splits=((0.25, 1.0), (0.08, 0.1)), far=0, frozen=1, untied=1, near=(0.25,), untied_exact=1),
}
"""``lean`` spares two of the three untied starts of ``standard``, the dearest: of 13 starts the three take 29 % (DoRA,
n = 10^10), 33 % (LoRA, 10^9) and 42 % (multi-head LoRA, 10^9) of all iterations. Without two of them 3 of 80
replications had a higher minimum: none of DoRA's 32, 2 of LoRA's 32 (by 0.25 and 0.34 units of F), 1 of multi-head
LoRA's 16 (by 2.7)."""


class Starts(NamedTuple):
    """Starting points of one replication: z of shape (starts, z) and the kind of each."""

    z: np.ndarray
    kinds: tuple[str, ...]


def plan_named(name: str) -> StartPlan:
    """The plan of that name.

    Raises:
        InputError: for an unknown name.
    """
    return plan_among(PLANS, name)


def plan_among(plans: Mapping[str, PlanT], name: str) -> PlanT:
    """The one of these plans that has the name.

    Raises:
        InputError: for an unknown name.
    """
    if name not in plans:
        raise InputError(f"unknown starts {name!r}: choose one of {', '.join(plans)}")
    return plans[name]


_Made = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Kind, weights, factors and common parameters of one set."""


class StartMaker:
    """Makes the starts of any replication of one problem; host-side except for compiled draws and a projection.

    Where every head has atoms of its own, all heads get a start of the same kind, with random numbers of their own.
    """

    def __init__(self, chart: Chart, truth: MixingMeasure, plan: StartPlan):
        self._chart, self._plan = chart, plan
        self._sets = true_sets(chart, truth)
        self._inside = jitted(jax.vmap(_pulled_inside, (None, 0)))
        self._draw = jitted(jax.vmap(lambda key: _drawn(chart, key)), seldom=True)

    def make(self, n: int, seed: int, replication: int) -> Starts:
        """All starts of one replication, inside Theta."""
        rng = np.random.default_rng(replication_generator(seed, n, replication).integers(2**63, size=4) + STREAM)
        made = [list(self._of_set(place, n, rng)) for place in range(len(self._sets))]
        space = self._chart.space
        z = np.stack(
            [np.concatenate([joined(space, w, a, c) for _, w, a, c in start]) for start in zip(*made, strict=True)]
        )
        return Starts(np.asarray(self._inside(self._chart, z)), tuple(kind for kind, *_ in made[0]))

    def _of_set(self, place: int, n: int, rng: np.random.Generator) -> Iterator[_Made]:
        true = self._sets[place]
        exact = self._chart.k == len(true.weights)
        yield from self._exact(true, n, rng) if exact else self._over(place, n, rng)
        for index in range(self._plan.untied_exact if exact else self._plan.untied):
            size = 0.7 if index % 2 else 1.3
            weights = np.full(self._chart.k, float(np.mean(true.weights)) * size)
            yield "untied", weights, *self._fresh(place, rng, self._chart.k)

    def _exact(self, true: TrueSet, n: int, rng: np.random.Generator) -> Iterator[_Made]:
        for exponent in self._plan.near:
            moved = true.atoms + float(n) ** -exponent * rng.standard_normal(true.atoms.shape)
            yield "near", true.weights, moved, true.common

    def _over(self, place: int, n: int, rng: np.random.Generator) -> Iterator[_Made]:
        true = self._sets[place]
        for atom in range(len(true.weights)):
            for exponent, ratio in self._plan.splits:
                yield f"split-{atom}", *self._split(true, atom, float(n) ** -exponent, ratio, rng), true.common
        extra = self._chart.k - len(true.weights)
        for _ in range(self._plan.far):
            atoms = np.vstack([true.atoms, self._fresh(place, rng, extra)[0]])
            yield "far", np.append(true.weights, np.full(extra, 0.2 * true.weights.mean())), atoms, true.common
        for _ in range(self._plan.frozen if self._chart.model.frozen_count else 0):
            small = 0.2 * rng.standard_normal((extra, true.atoms.shape[1]))
            atoms = np.vstack([true.atoms, small])
            yield "frozen", np.append(true.weights, np.full(extra, 0.5)), atoms, true.common

    def _split(
        self, true: TrueSet, atom: int, scale: float, ratio: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Split one true atom in k_fit - k_true + 1 parts, mean and weight kept; the first keeps 1 / (1 + ratio)."""
        extra = self._chart.k - len(true.weights)
        least = 1.3 * self._chart.space.weight_floor * true.weights.sum() / true.weights[atom]
        share = np.clip(ratio / (1.0 + ratio) / extra, min(least, 0.5 / extra), 0.5 / extra)
        direction = rng.standard_normal((extra, true.atoms.shape[1]))
        direction *= scale / np.linalg.norm(direction, axis=1, keepdims=True)
        parts = true.atoms[atom] + direction - share * direction.sum(axis=0)
        atoms, weights = true.atoms.copy(), true.weights.copy()
        atoms[atom] -= share * direction.sum(axis=0)
        weights[atom] *= 1.0 - extra * share
        return np.append(weights, np.full(extra, share * true.weights[atom])), np.vstack([atoms, parts])

    def _fresh(self, place: int, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """At most k atoms of one set drawn anew, and common parameters: (count, q) and (c,)."""
        atoms, common = self._draw(jax.random.split(jax.random.key(int(rng.integers(2**31))), self._chart.k))
        return np.asarray(atoms)[:count, place], np.asarray(common)[0, place]


def _drawn(chart: Chart, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An atom and common parameters of every set: (sets, q) and (sets, c)."""
    drawn = chart.model.draw(key, FRESH_SIZE)
    if chart.sets == 1:
        drawn = jax.tree.map(lambda leaf: leaf[None], drawn)
    atom, common = drawn
    none = jnp.zeros((chart.sets, 0), jnp.float64)
    return _rows(atom), _rows(common) if jax.tree.leaves(common) else none


def _rows(tree: Any) -> jax.Array:
    return jax.vmap(lambda own: ravel_pytree(own)[0])(tree)


def _pulled_inside(chart: Chart, z: jax.Array) -> jax.Array:
    """Shrink the factors by the largest of a few ratios that leaves a hundredth of every slack."""
    if chart.sets > 1:
        return chart.by_set(_pulled_inside, z.reshape(chart.sets, -1)).reshape(-1)
    ratios = jnp.asarray([1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1])
    excess, factors, common = chart.parts(z)

    def shrunk(ratio: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.maximum(excess, 1e-3), ratio * factors.reshape(-1), common])

    tried = jax.vmap(shrunk)(ratios)
    inside = jnp.all(jax.vmap(chart.slacks)(tried)[:, chart.k :] > 0.01, axis=1)
    return tried[jnp.argmax(inside)]
