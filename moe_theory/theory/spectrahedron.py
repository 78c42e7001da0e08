"""Minimise || sum_b <S_b, R_b> || over positive semidefinite S_b with sum_b trace S_b = 1, with a certified gap.

R_b holds n symmetric forms of p_b x p_b. With S_b = Y_b Y_b', q = sum_b <S_b, R_b> and A_b = sum_n q_n R_bn:

- *upper bound*: ||q|| at any feasible S;
- *lower bound*: for every feasible S', ||q(S')|| >= <q/||q||, q(S')> = sum_b <S'_b, A_b> / ||q|| >= least eigenvalue of
  the A_b over ||q||. At a minimiser A_b Y_b = ||q||^2 Y_b and the two agree (theory section 8; our derivation).

Y has few columns and the problem in Y is a sum of squares of quadratic forms on a sphere: Newton's method with the
exact Hessian, indefinite curvature replaced by its size. With c columns it is the *rank-limited* problem (a cell of
c + 1 atoms), not convex, solved from many starts. Where the lower bound shows that more columns help, the eigenvector
that says so is appended (Burer and Monteiro 2003), until the gap closes: then the answer is that of the convex problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

ITERATIONS = 2000
"""At most. Half of the searches end after 9 to 21 (five claims), the longest after 82; where S is to lose rank more
are needed (976 in one cell of the atlas), and a search that is cut short goes on with more columns, to no avail."""
LENGTHS = (1.0, 3.0)
"""Multiples of a Newton step that are tried: where a zero is attained ||q||^2 is a quartic, whose minimum is three
Newton steps away."""
GROWTH = 0.25
"""Columns that are added at once, as a share of those there are: fewer Newton runs than one at a time, few too many."""
CLOSED = 1e-3
"""Relative gap at which the convex problem counts as solved."""

Forms = Sequence[Float[np.ndarray, "n _ _"]]
Factors = list[Float[np.ndarray, "_ _"]]


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
    def matrices(self) -> list[Float[np.ndarray, "_ _"]]:
        """S_b = Y_b Y_b'."""
        return [factor @ factor.T for factor in self.factors]


def compressed(forms: Forms) -> list[Float[np.ndarray, "fewer _ _"]]:
    """The same problem in the fewest coordinates of q: forms whose number n is at most that of their entries."""
    packed, places = [], []
    for block in forms:
        rows, columns = np.triu_indices(block.shape[1])
        packed.append(block[:, rows, columns])
        places.append((rows, columns))
    joined = np.concatenate(packed, axis=1)
    if joined.shape[0] > joined.shape[1]:
        joined = np.asarray(np.linalg.qr(joined).R)
    made, start = [], 0
    for block, (rows, columns) in zip(forms, places, strict=True):
        unpacked = np.zeros((joined.shape[0], *block.shape[1:]))
        unpacked[:, rows, columns] = unpacked[:, columns, rows] = joined[:, start : start + len(rows)]
        made.append(unpacked)
        start += len(rows)
    return made


def rank_limited(forms: Forms, columns: int, starts: int, seed: int = 0, enough: float = 0.0) -> list[Minimum]:
    """Local minima over S of at most so many columns, the best first.

    Args:
        forms: R_b.
        columns: c, of every Y_b together with the others: a cell of c + 1 atoms.
        starts: random starting points.
        seed: of the starts.
        enough: a value that counts as zero, at which a search ends.
    """
    rng = np.random.default_rng(seed)
    stacks = [_packed(block) for block in forms]
    sizes = [block.shape[1] for block in forms]
    found = []
    for _ in range(starts):
        start = _unit([rng.standard_normal((size, columns)) for size in sizes])
        found.append(_descend(stacks, start, enough))
    return sorted(found, key=lambda each: each.value)


def convex(forms: Forms, start: Minimum, enough: float = 0.0) -> Minimum:
    """The minimum over S of any rank, from a rank-limited one, with the gap closed as far as columns help.

    Args:
        forms: R_b.
        start: a local minimum.
        enough: a value that counts as zero, at which the search ends.
    """
    best = start
    stacks = [_packed(block) for block in forms]
    most = sum(block.shape[1] for block in forms)
    while not best.is_certified and best.value > enough and sum(own.shape[1] for own in best.factors) < most:
        grown = _descend(stacks, _escaped(stacks, best), enough)
        if grown.value >= best.value * (1.0 - 1e-9):
            break
        best = Minimum(grown.value, max(grown.lower, best.lower), grown.factors)
    return best


def bounds(forms: Forms, factors: Factors) -> tuple[float, float]:
    """(||q||, lower bound) at a feasible point."""
    return _bounds([_packed(block) for block in forms], factors)


class _Packed(NamedTuple):
    """A stack of symmetric forms as a matrix: most of the time goes into reading it, and half of it is copies.

    Attributes:
        full: R_n.
        upper: the entries of their upper triangles, one form per row.
        places: of these entries.
    """

    full: Float[np.ndarray, "n p p"]
    upper: Float[np.ndarray, "n entries"]
    places: tuple[np.ndarray, np.ndarray]

    def times(self, factor: Float[np.ndarray, "p c"]) -> Float[np.ndarray, "n p c"]:
        """R_n Y of all forms."""
        n, p, _ = self.full.shape
        return (self.full.reshape(n * p, p) @ factor).reshape(n, p, -1)

    def entries(self, factor: Float[np.ndarray, "p c"]) -> Float[np.ndarray, " entries"]:
        """What the rows are multiplied by for <Y Y', R_n>: off the diagonal an entry stands for two."""
        rows, columns = self.places
        matrix = factor @ factor.T
        return np.where(rows == columns, 1.0, 2.0) * matrix[rows, columns]

    def pulled(self, q: Float[np.ndarray, " n"]) -> Float[np.ndarray, "p p"]:
        """sum_n q_n R_n."""
        rows, columns = self.places
        matrix = np.empty(self.full.shape[1:])
        matrix[rows, columns] = matrix[columns, rows] = q @ self.upper
        return matrix


Stacks = Sequence[_Packed]


def _packed(block: Float[np.ndarray, "n p p"]) -> _Packed:
    rows, columns = np.triu_indices(block.shape[1])
    return _Packed(np.ascontiguousarray(block), block[:, rows, columns], (rows, columns))


def _images(stacks: Stacks, tried: Sequence[Factors]) -> Float[np.ndarray, "n t"]:
    """q of several points at once."""
    return sum(
        stack.upper @ np.stack([stack.entries(factors[place]) for factors in tried], axis=1)
        for place, stack in enumerate(stacks)
    ) + np.zeros((stacks[0].upper.shape[0], len(tried)))  # fmt: skip


def _bounds(stacks: Stacks, factors: Factors) -> tuple[float, float]:
    q = _images(stacks, [factors])[:, 0]
    size = float(np.linalg.norm(q))
    if size == 0.0:
        return 0.0, 0.0
    least = min(float(eigh(stack.pulled(q), eigvals_only=True, subset_by_index=[0, 0])[0]) for stack in stacks)
    return size, max(0.0, least / size)


def _unit(factors: Factors) -> Factors:
    size = np.sqrt(sum(np.sum(factor**2) for factor in factors))
    return [factor / size for factor in factors]


def _joined(factors: Factors) -> Float[np.ndarray, " y"]:
    return np.concatenate([factor.ravel() for factor in factors])


def _split(flat: Float[np.ndarray, " y"], like: Factors) -> Factors:
    ends = np.cumsum([factor.size for factor in like])[:-1]
    return [part.reshape(factor.shape) for part, factor in zip(np.split(flat, ends), like, strict=True)]


def _descend(stacks: Stacks, start: Factors, enough: float = 0.0) -> Minimum:
    """Newton's method on the sphere for 1/2 ||q||^2, until ||q|| is enough."""
    factors, damping = start, 1e-3
    for _ in range(ITERATIONS):
        q = _images(stacks, [factors])[:, 0]
        level = float(q @ q)
        if level <= enough**2:
            break
        slope, values, vectors = _model(stacks, factors, q, 0.5 * level)
        along = vectors.T @ slope
        trial, reached = factors, level
        while reached >= level and damping < 1e12:
            step = -vectors @ (along / (np.abs(values) + damping * float(np.max(np.abs(values))) + 1e-300))
            trial, reached = _best_along(stacks, factors, step / max(1.0, float(np.linalg.norm(step))))
            damping *= 8.0
        if reached >= level:
            break
        factors, damping = trial, max(damping / 64.0, 1e-15)
        if level - reached <= 1e-13 * level:
            break
    value, lower = _bounds(stacks, factors)
    return Minimum(value, lower, factors)


def _best_along(stacks: Stacks, factors: Factors, step: Float[np.ndarray, " y"]) -> tuple[Factors, float]:
    """The best of the ``LENGTHS`` along a step, and ||q||^2 there."""
    y = _joined(factors)
    tried = [_unit(_split(y + length * step, factors)) for length in LENGTHS]
    levels = np.sum(_images(stacks, tried) ** 2, axis=0)
    least = int(np.argmin(levels))
    return tried[least], float(levels[least])


def _model(
    stacks: Stacks, factors: Factors, q: Float[np.ndarray, " n"], level: float
) -> tuple[Float[np.ndarray, " y"], Float[np.ndarray, " y"], Float[np.ndarray, "y y"]]:
    """Gradient and spectrum of the Hessian on the sphere: J'J + 2 (A_b x I) - 2 ||q||^2 I, projected off y."""
    jacobian = np.concatenate(
        [2.0 * stack.times(factor).reshape(len(q), -1) for stack, factor in zip(stacks, factors, strict=True)], axis=1
    )
    hessian = jacobian.T @ jacobian
    start = 0
    for stack, factor in zip(stacks, factors, strict=True):
        own = slice(start, start + factor.size)
        hessian[own, own] += 2.0 * np.kron(stack.pulled(q), np.eye(factor.shape[1]))
        start += factor.size
    y = _joined(factors)
    hessian -= 4.0 * level * np.eye(len(y))
    projector = np.eye(len(y)) - np.outer(y, y)
    values, vectors = np.linalg.eigh(projector @ hessian @ projector)
    return projector @ (jacobian.T @ q), values, vectors


def _escaped(stacks: Stacks, best: Minimum) -> Factors:
    """More columns: the eigenvectors whose eigenvalues say most clearly that S gains by them, as long as does best.

    As many as ``GROWTH`` of the columns that there are, each in the block that it belongs to.
    """
    q = _images(stacks, [best.factors])[:, 0]
    level = float(q @ q)
    pairs = [np.linalg.eigh(stack.pulled(q)) for stack in stacks]
    gains = sorted(
        (value, block, place) for block, (values, _) in enumerate(pairs) for place, value in enumerate(values)
    )
    count = 1 + int(GROWTH * sum(factor.shape[1] for factor in best.factors))
    chosen = [gain for gain in gains[:count] if gain[0] < level]
    tried = []
    for size in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
        trial = [factor.copy() for factor in best.factors]
        for value, block, place in chosen:
            column = size * np.sqrt((level - value) / (level - chosen[0][0])) * pairs[block][1][:, place : place + 1]
            trial[block] = np.concatenate([trial[block], column], axis=1)
        tried.append(_unit(trial))
    return tried[int(np.argmin(np.linalg.norm(_images(stacks, tried), axis=0)))]
