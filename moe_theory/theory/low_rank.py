"""The problem of ``spectrahedron`` for S = Y Y' with few columns: cells of few atoms, and zeros.

The problem in Y is a sum of squares of quadratic forms on a sphere: Newton's method with the exact Hessian, indefinite
curvature replaced by its size. With c columns it is the *rank-limited* problem (a cell of c + 1 atoms), not convex,
solved from many starts, which go side by side so that the forms are read once for all of them. Where the lower bound
shows that more columns help, the eigenvector that says so is appended (Burer and Monteiro 2003), until the gap closes:
then the answer is that of the convex problem.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from moe_theory.theory.central_path import central_path
from moe_theory.theory.spectrahedron import Factors, Minimum, Problem, sketched, unit

ITERATIONS = 2000
"""At most. Half of the searches end after 9 to 21 (five claims), the longest after 82; where S is to lose rank more
are needed (976 in one cell of the atlas), and a search that is cut short goes on with more columns, to no avail."""
PATIENCE = 300
"""Iterations in which ||q||^2 has to halve: in some valleys it falls like 1 / iterations, which leads to no zero."""
LENGTHS = (1.0, 3.0)
"""Multiples of a Newton step that are tried: where a zero is attained ||q||^2 is a quartic, whose minimum is three
Newton steps away."""
GROWTH = 0.25
"""Columns that are added at once, as a share of those there are: fewer Newton runs than one at a time, few too many."""
SHARES = (0.3, 0.1, 0.03, 0.01, 0.001)
"""Of the largest eigenvalue of S: those above count."""
MOST_UNKNOWNS = 16_000
"""Entries of S for which ``central_path`` is taken: two matrices of 2 GB."""
SUMS = 4
"""Forms of a sketch, per unknown of Y."""
MANY = 4
"""So many times as many forms as a sketch has, and the search begins on the sketch."""


def rank_limited(problem: Problem, columns: int, starts: int, seed: int = 0, enough: float = 0.0) -> list[Minimum]:
    """Local minima over S of at most so many columns, the best first.

    Args:
        problem: the forms.
        columns: c, of every Y_b together with the others: a cell of c + 1 atoms.
        starts: random starting points.
        seed: of the starts.
        enough: a value that counts as zero, at which a search ends.
    """
    rng = np.random.default_rng(seed)
    tried = [unit([rng.standard_normal((size, columns)) for size in problem.sizes]) for _ in range(starts)]
    count = SUMS * columns * sum(problem.sizes)
    if MANY * count < len(problem.rows):
        tried = [each.factors for each in _descend(sketched(problem, count), tried, enough)]
    return sorted(_descend(problem, tried, enough), key=lambda each: each.value)


def convex(problem: Problem, start: Minimum, enough: float = 0.0) -> Minimum:
    """The minimum over S of any rank, with the gap closed as far as can be.

    A positive minimum is found by ``central_path``; a zero, which that only comes near, by columns that begin at its
    end, or else one by one, as is a minimum whose factorisations would take too much memory.

    Args:
        problem: the forms.
        start: a local minimum with few columns.
        enough: a value that counts as zero, at which the search ends.
    """
    if start.is_certified or start.value <= enough:
        return start
    if problem.rows.shape[1] <= MOST_UNKNOWNS:
        end = central_path(problem, enough)
        if end.is_certified and end.value > enough:
            return end
        for thinned in _thinned(problem, end, enough):
            if thinned.value <= enough:
                return thinned
    return _grown(problem, start, enough)


def _thinned(problem: Problem, end: Minimum, enough: float) -> Iterator[Minimum]:
    """Searches from the eigenvectors that carry most of a path's last S, from few of them to many."""
    pairs = [np.linalg.eigh(own) for own in end.matrices]
    largest = max(values[-1] for values, _ in pairs)
    counts = [tuple(max(1, int(np.sum(values >= share * largest))) for values, _ in pairs) for share in SHARES]
    for kept in dict.fromkeys(counts):
        start = [
            vectors[:, -count:] * np.sqrt(values[-count:]) for (values, vectors), count in zip(pairs, kept, strict=True)
        ]
        yield _descend(problem, [unit(start)], enough)[0]


def _grown(problem: Problem, start: Minimum, enough: float) -> Minimum:
    """The minimum by as many columns as help."""
    best = start
    while (
        not best.is_certified and best.value > enough and sum(own.shape[1] for own in best.factors) < sum(problem.sizes)
    ):
        grown = _descend(problem, [_escaped(problem, best)], enough)[0]
        if grown.value >= best.value * (1.0 - 1e-9):
            break
        best = Minimum(grown.value, max(grown.lower, best.lower), grown.factors)
    return best


class _Model(NamedTuple):
    """Gradient and spectrum of the Hessian of 1/2 ||q||^2 on the sphere."""

    slope: Float[np.ndarray, " y"]
    values: Float[np.ndarray, " y"]
    vectors: Float[np.ndarray, "y y"]

    def step(self, damping: float) -> Float[np.ndarray, " y"]:
        """Newton's, damped, and at most a radius long."""
        sizes = np.abs(self.values)
        step = -self.vectors @ ((self.vectors.T @ self.slope) / (sizes + damping * float(np.max(sizes)) + 1e-300))
        return step / max(1.0, float(np.linalg.norm(step)))


@dataclasses.dataclass
class _Search:
    """One start on its way: where it is, q there, the damping of its next step, and its model once that is made."""

    factors: Factors
    q: Float[np.ndarray, " n"]
    enough: float
    damping: float = 1e-3
    model: _Model | None = None
    ended: bool = False
    reviewed: float = np.inf

    def __post_init__(self) -> None:
        self.ended = self.level <= self.enough**2

    @property
    def level(self) -> float:
        """||q||^2."""
        return float(self.q @ self.q)

    def trials(self) -> list[Factors]:
        """The points along the step that are tried."""
        assert self.model is not None
        step = self.model.step(self.damping)
        return [unit(_split(_joined(self.factors) + length * step, self.factors)) for length in LENGTHS]

    def review(self) -> None:
        """End where too little has been gained since the last time."""
        self.ended = self.level > 0.5 * self.reviewed
        self.reviewed = self.level

    def judge(self, tried: list[Factors], images: Float[np.ndarray, "n t"]) -> None:
        """Go to the best of them, or try a shorter step next."""
        before, levels = self.level, np.sum(images**2, axis=0)
        least = int(np.argmin(levels))
        if levels[least] >= before:
            self.damping *= 8.0
            self.ended = self.damping >= 1e12
            return
        self.factors, self.q, self.model = tried[least], images[:, least], None
        self.damping = max(self.damping / 8.0, 1e-15)
        self.ended = self.level <= self.enough**2 or before - self.level <= 1e-13 * before


def _descend(problem: Problem, starts: list[Factors], enough: float) -> list[Minimum]:
    """Newton's method on the sphere for 1/2 ||q||^2 from each start, until ||q|| is enough."""
    searches = [_Search(start, q, enough) for start, q in zip(starts, problem.images(starts).T, strict=True)]
    for iteration in range(ITERATIONS):
        going = [each for each in searches if not each.ended]
        if iteration % PATIENCE == PATIENCE - 1:
            for each in going:
                each.review()
            going = [each for each in going if not each.ended]
        if not going:
            break
        _model(problem, [each for each in going if each.model is None])
        tried = [each.trials() for each in going]
        images = np.split(problem.images([trial for own in tried for trial in own]), len(going), axis=1)
        for each, own, there in zip(going, tried, images, strict=True):
            each.judge(own, there)
    return [problem.measured(each.factors) for each in searches]


def _model(problem: Problem, searches: list[_Search]) -> None:
    """Their models: the Hessian is J'J + 2 (A_b x I) - 2 ||q||^2 I, projected off y."""
    if not searches:
        return
    jacobians = _jacobians(problem, [each.factors for each in searches])
    pulled = problem.pulled(np.stack([each.q for each in searches], axis=1))
    for each, jacobian, matrices in zip(searches, jacobians, pulled, strict=True):
        hessian, start = jacobian.T @ jacobian, 0
        for matrix, factor in zip(matrices, each.factors, strict=True):
            own = slice(start, start + factor.size)
            hessian[own, own] += 2.0 * np.kron(matrix, np.eye(factor.shape[1]))
            start += factor.size
        y = _joined(each.factors)
        hessian -= 2.0 * each.level * np.eye(len(y))
        projector = np.eye(len(y)) - np.outer(y, y)
        values, vectors = np.linalg.eigh(projector @ hessian @ projector)
        each.model = _Model(projector @ (jacobian.T @ each.q), values, vectors)


def _jacobians(problem: Problem, tried: list[Factors]) -> list[Float[np.ndarray, "n y"]]:
    """dq/dy = 2 R_n Y of all forms and blocks, at each of the points."""
    parts: list[list[np.ndarray]] = [[] for _ in tried]
    for place, forms in enumerate(problem.forms):
        n, p, _ = forms.shape
        own = [factors[place] for factors in tried]
        products = forms.reshape(n * p, p) @ np.concatenate(own, axis=1)
        for part, product in zip(parts, np.split(products, len(tried), axis=1), strict=True):
            part.append(2.0 * product.reshape(n, -1))
    return [np.concatenate(part, axis=1) for part in parts]


def _joined(factors: Factors) -> Float[np.ndarray, " y"]:
    return np.concatenate([factor.ravel() for factor in factors])


def _split(flat: Float[np.ndarray, " y"], like: Factors) -> Factors:
    ends = np.cumsum([factor.size for factor in like])[:-1]
    return [part.reshape(factor.shape) for part, factor in zip(np.split(flat, ends), like, strict=True)]


def _escaped(problem: Problem, best: Minimum) -> Factors:
    """More columns: the eigenvectors whose eigenvalues say most clearly that S gains by them, as long as does best.

    As many as ``GROWTH`` of the columns that there are, each in the block that it belongs to.
    """
    q = problem.images([best.factors])
    level = float(np.sum(q**2))
    pairs = [np.linalg.eigh(own) for own in problem.pulled(q)[0]]
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
        tried.append(unit(trial))
    return tried[int(np.argmin(np.linalg.norm(problem.images(tried), axis=0)))]
