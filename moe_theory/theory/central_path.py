"""The problem of ``spectrahedron`` for S of any rank, by an interior point: for minima that are positive.

For 1/2 ||q(S)||^2, whose gradient is A, a minimiser has a multiplier lambda of the trace with

    Z_b = A_b - lambda I >= 0,   S_b Z_b = 0.

The method follows S_b Z_b = mu I to mu = 0 by Newton's steps in the symmetric scaling of Nesterov and Todd (1997), with
Mehrotra's (1992) choice of mu. S and lambda are the only unknowns, so that every iterate is feasible, and

    ||q||^2 - lambda = sum_b <S_b, Z_b>

is the gap between the bounds, times ||q||. In N = sum_b p_b (p_b + 1) / 2 unknowns an iteration is one factorisation of
N x N, and 8 to 20 close the gap, whatever the rank of S.
"""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular

from moe_theory.theory.spectrahedron import Matrices, Minimum, Problem, unit, weights
from moe_theory.threads import every_thread_of_blas

ITERATIONS = 60
"""At most."""
CLOSED = 1e-7
"""Gap over ||q||^2 at which the path ends."""
LARGE = 2000
"""Unknowns from which on all processors take part in a factorisation."""
FRACTION = 0.98
"""Of the way to the boundary that a step may go."""


class _Point(NamedTuple):
    """An iterate.

    Attributes:
        s: coordinates of S.
        multiplier: lambda.
        level: ||q||^2.
        primal, dual: S and Z.
    """

    s: Float[np.ndarray, " unknowns"]
    multiplier: float
    level: float
    primal: Matrices
    dual: Matrices

    @property
    def gap(self) -> float:
        """sum <S, Z>: of positive parts, where the difference of the bounds would lose it."""
        return sum(float(np.sum(one * other)) for one, other in zip(self.primal, self.dual, strict=True))


def central_path(problem: Problem, enough: float = 0.0) -> Minimum:
    """The end of the path, as near to the minimum as its bounds say.

    Args:
        problem: the forms.
        enough: a value that counts as zero, at which the path ends.
    """
    with every_thread_of_blas() if problem.rows.shape[1] >= LARGE else nullcontext():
        return _end(problem, enough)


def _end(problem: Problem, enough: float) -> Minimum:
    gram = problem.rows.T @ problem.rows
    middle = problem.coordinates([np.eye(size) / sum(problem.sizes) for size in problem.sizes])
    spectra = np.concatenate([eigh(own, eigvals_only=True) for own in problem.matrices(gram @ middle)])
    point = _point(problem, middle, float(spectra.min() - np.abs(spectra).max()))
    for _ in range(ITERATIONS):
        if point.level <= enough**2 or point.gap <= CLOSED * point.level:
            break
        reached = _following(problem, gram, point)
        if reached is None or reached.gap >= point.gap:
            break
        point = reached
    return problem.measured(unit([np.linalg.cholesky(own) for own in point.primal]))


def _point(problem: Problem, s: Float[np.ndarray, " unknowns"], multiplier: float) -> _Point:
    q = problem.rows @ s
    dual = [own - multiplier * np.eye(len(own)) for own in problem.matrices(problem.rows.T @ q)]
    return _Point(s, multiplier, float(q @ q), problem.matrices(s), dual)


def _following(problem: Problem, gram: Float[np.ndarray, "unknowns unknowns"], point: _Point) -> _Point | None:
    """The next iterate; None where rounding leaves none."""
    try:
        scalings = [_scaling(*pair) for pair in zip(point.primal, point.dual, strict=True)]
        factor = cho_factor(_newton(problem, gram, scalings).T, overwrite_a=True)  # in the order that needs no copy
    except np.linalg.LinAlgError:
        return None
    trace = problem.coordinates([np.eye(size) for size in problem.sizes])
    along_trace = cho_solve(factor, trace)

    def step(mu: float, bent: Matrices) -> tuple[_Point, Matrices]:
        """The point that is reached, and by how much the product of S and Z misses its linear part."""
        wanted = [own.wanted(mu, other) for own, other in zip(scalings, bent, strict=True)]
        free = cho_solve(factor, problem.coordinates(wanted))
        multiplier = -float(trace @ free) / float(trace @ along_trace)
        s = free + multiplier * along_trace
        moved = _point(problem, s, multiplier)
        scaled = [own.scaled(*pair) for own, *pair in zip(scalings, moved.primal, moved.dual, strict=True)]
        reach = min(own.reach(part) for own, pair in zip(scalings, scaled, strict=True) for part in pair)
        length = min(1.0, FRACTION * reach)
        products = [0.5 * (one @ other + other @ one) for one, other in scaled]
        return _point(problem, point.s + length * s, point.multiplier + length * multiplier), products

    predicted, bent = step(0.0, [np.zeros_like(own) for own in point.primal])
    return step((predicted.gap / point.gap) ** 3 * point.gap / sum(problem.sizes), bent)[0]


class _Scaling(NamedTuple):
    """Coordinates in which S and Z are the same diagonal matrix: S = R values R', Z = R^-T values R^-1.

    Attributes:
        root: R.
        inverse: R^-1.
        values: the diagonal.
    """

    root: Float[np.ndarray, "p p"]
    inverse: Float[np.ndarray, "p p"]
    values: Float[np.ndarray, " p"]

    def scaled(
        self, primal: Float[np.ndarray, "p p"], dual: Float[np.ndarray, "p p"]
    ) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, "p p"]]:
        """Steps of S and Z in these coordinates."""
        return self.inverse @ primal @ self.inverse.T, self.root.T @ dual @ self.root

    def wanted(self, mu: float, bent: Float[np.ndarray, "p p"]) -> Float[np.ndarray, "p p"]:
        """What the step of Z plus W^-1 . W^-1 of that of S, W = R R', shall be for S Z = mu I, bent by second order."""
        missing = np.diag(mu - self.values**2) - bent
        mean = 0.5 * (self.values[:, None] + self.values[None, :])
        return self.inverse.T @ (missing / mean) @ self.inverse

    def reach(self, step: Float[np.ndarray, "p p"]) -> float:
        """The largest multiple of a scaled step that keeps S, or Z, positive semidefinite."""
        half = np.sqrt(self.values)
        least = float(eigh(step / np.outer(half, half), eigvals_only=True, subset_by_index=[0, 0])[0])
        return -1.0 / least if least < 0.0 else np.inf


def _scaling(primal: Float[np.ndarray, "p p"], dual: Float[np.ndarray, "p p"]) -> _Scaling:
    own, other = np.linalg.cholesky(primal), np.linalg.cholesky(dual)
    _, values, vectors = np.linalg.svd(other.T @ own)
    half = np.sqrt(values)[:, None]
    return _Scaling(own @ (vectors / half).T, half * solve_triangular(own, vectors.T, lower=True, trans=1).T, values)


def _newton(
    problem: Problem, gram: Float[np.ndarray, "unknowns unknowns"], scalings: list[_Scaling]
) -> Float[np.ndarray, "unknowns unknowns"]:
    """gram + W^-1 . W^-1, the latter on the coordinates of symmetric matrices."""
    matrix, start = gram.copy(), 0
    for scaling, place in zip(scalings, problem.places, strict=True):
        inverse = scaling.inverse.T @ scaling.inverse
        weight = weights(place) / np.sqrt(2.0)
        one, other = inverse[:, place[0]] * weight, inverse[:, place[1]]
        columns = slice(start, start + len(weight))
        block, row = matrix[columns, columns], 0
        for first in range(len(inverse)):  # the entries (first, first) to (first, p) of the upper triangle
            rows = slice(row, row + len(inverse) - first)
            both = one[first] * other[first:] + other[first] * one[first:]
            block[rows] += both * weight[rows, None]
            row = rows.stop
        start = columns.stop
    return matrix
