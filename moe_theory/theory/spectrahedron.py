"""The least || sum_b <S_b, R_b> || over positive semidefinite S_b with sum_b trace S_b = 1: the problem and its bounds.

R_b holds n symmetric forms of p_b x p_b. With q = sum_b <S_b, R_b> and A_b = sum_n q_n R_bn:

- *upper bound*: ||q|| at any feasible S;
- *lower bound*: for every feasible S', ||q(S')|| >= <q/||q||, q(S')> = sum_b <S'_b, A_b> / ||q|| >= least eigenvalue of
  the A_b over ||q||. At a minimiser A_b S_b = ||q||^2 S_b and the two agree (theory section 8; our derivation).

Minima are sought by ``low_rank`` (S = Y Y' with few columns: zeros) and by ``central_path`` (S of any rank: positive
minima, whose S often has many).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

CLOSED = 1e-3
"""Relative gap at which a problem counts as solved."""

Factors = list[Float[np.ndarray, "_ _"]]
Matrices = list[Float[np.ndarray, "_ _"]]


class Minimum(NamedTuple):
    """A feasible point of the problem and what it proves.

    Attributes:
        value: ||q(S)||, an upper bound of the minimum.
        lower: a lower bound of the minimum over all S, of any rank; 0 where none is known.
        factors: Y_b, one per block, sum_b ||Y_b||_F^2 = 1.
    """

    value: float
    lower: float
    factors: Factors

    @property
    def is_certified(self) -> bool:
        """Whether the bounds agree to ``CLOSED``."""
        return self.value - self.lower <= CLOSED * self.value

    @property
    def matrices(self) -> Matrices:
        """S_b = Y_b Y_b'."""
        return [factor @ factor.T for factor in self.factors]


class Problem(NamedTuple):
    """The forms, twice: most of the time goes into reading them.

    Attributes:
        forms: R_b.
        rows: R_n, one per row, in orthonormal coordinates of symmetric matrices: entries of the upper triangles, off
            the diagonal times sqrt 2, block by block.
        places: the upper triangle of each block.
    """

    forms: list[Float[np.ndarray, "n _ _"]]
    rows: Float[np.ndarray, "n unknowns"]
    places: list[tuple[np.ndarray, np.ndarray]]

    @property
    def sizes(self) -> list[int]:
        """p_b."""
        return [form.shape[1] for form in self.forms]

    def coordinates(self, matrices: Matrices) -> Float[np.ndarray, " unknowns"]:
        """Of symmetric matrices, one per block."""
        return np.concatenate([
            own[place] * weights(place) for own, place in zip(matrices, self.places, strict=True)
        ])  # fmt: skip

    def matrices(self, coordinates: Float[np.ndarray, " unknowns"]) -> Matrices:
        """That have these coordinates."""
        return [stack[0] for stack in _unpacked(coordinates[None], self.places)]

    def images(self, tried: Sequence[Factors]) -> Float[np.ndarray, "n t"]:
        """q of several points at once."""
        return self.rows @ np.stack([self.coordinates([own @ own.T for own in factors]) for factors in tried], axis=1)

    def pulled(self, q: Float[np.ndarray, "n t"]) -> list[Matrices]:
        """A_b = sum_n q_n R_bn of several q at once."""
        return [self.matrices(own) for own in (self.rows.T @ q).T]

    def measured(self, factors: Factors) -> Minimum:
        """A feasible point with its bounds."""
        q = self.images([factors])
        size = float(np.linalg.norm(q))
        if size == 0.0:
            return Minimum(0.0, 0.0, factors)
        least = min(float(eigh(own, eigvals_only=True, subset_by_index=[0, 0])[0]) for own in self.pulled(q)[0])
        return Minimum(size, max(0.0, least / size), factors)


def problem_of(forms: Sequence[Float[np.ndarray, "n _ _"]]) -> Problem:
    """The problem of these forms, in fewer coordinates of q where they are more than twice as many as their entries."""
    places = [np.triu_indices(block.shape[1]) for block in forms]
    rows = np.concatenate(
        [block[:, own[0], own[1]] * weights(own) for block, own in zip(forms, places, strict=True)], axis=1
    )
    if rows.shape[0] > 2 * rows.shape[1]:
        rows = np.asarray(np.linalg.qr(rows).R)
    return _of_rows(rows, places)


def sketched(problem: Problem, count: int, seed: int = 0) -> Problem:
    """The problem of so many signed sums of the forms, each form in one of them, by chance (a *count sketch*).

    The mean of its ||q||^2 is that of the problem, and a zero of the problem is one of it. As long as there are several
    sums for each unknown of Y, its other zeros are few.

    Args:
        problem: n forms.
        count: how many sums, at most n.
        seed: of the sketch.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(problem.rows))
    signed = problem.rows[order] * rng.choice([-1.0, 1.0], len(order))[:, None]
    return _of_rows(np.add.reduceat(signed, np.arange(count) * len(order) // count), problem.places)


def _of_rows(rows: Float[np.ndarray, "n unknowns"], places: list[tuple[np.ndarray, np.ndarray]]) -> Problem:
    return Problem(_unpacked(rows, places), rows, places)


def _unpacked(
    rows: Float[np.ndarray, "n unknowns"], places: list[tuple[np.ndarray, np.ndarray]]
) -> list[Float[np.ndarray, "n _ _"]]:
    """Symmetric matrices from their coordinates, one stack per block."""
    stacks, start = [], 0
    for i, j in places:
        size, end = int(i[-1]) + 1, start + len(i)
        stack = np.empty((len(rows), size, size))
        stack[:, i, j] = stack[:, j, i] = rows[:, start:end] / weights((i, j))
        stacks.append(stack)
        start = end
    return stacks


def unit(factors: Factors) -> Factors:
    """Y_b divided by their joint norm, so that sum_b trace S_b = 1."""
    size = np.sqrt(sum(np.sum(factor**2) for factor in factors))
    return [factor / size for factor in factors]


def weights(place: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, " entries"]:
    """Of entries of an upper triangle in orthonormal coordinates."""
    return np.where(place[0] == place[1], 1.0, np.sqrt(2.0))
