"""Maximum likelihood for a Gaussian mixture of experts, as a problem for the trust-region method.

The parameter space Theta is compact, as the theorems assume: every atom has at least the share w_min of the weight (of
the gate's mean probability, where the gate is a softmax), variances lie between a floor and a cap, locations in a box.
The likelihood of a Gaussian mixture is unbounded as a variance goes to 0; the floor is what excludes that.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.estimation.likelihood import Points, gradient, objective, second_order
from moe_theory.estimation.merges import Merges, choose, enter, leave
from moe_theory.estimation.smooth import AbstractProblem, AbstractView, GaugeSlice, Lagrangian, Sight
from moe_theory.models.density import AbstractDensity, GaussianGated


class MixtureSpace(NamedTuple):
    """The numbers that make Theta compact.

    Attributes:
        weight_floor: w_min, least share of an atom.
        low, high: box of mu, (D,); for a softmax gate the first d entries bound beta1 less its mean over atoms.
        cap: of the diagonal of S, (D,); for the softmax gate its first d entries bound |a_ij| by cap_i cap_j^1/2.
        floor: least variance, (D,): of Gamma in the first d entries (unused by a softmax gate), of nu in the others.
        scale: typical size of each coordinate of mu, (D,), for distances and units.
        nodes: inputs over which a softmax gate's mean probability is taken, (Q, d).
    """

    weight_floor: Float[Array, ""]
    low: Float[Array, " D"]
    high: Float[Array, " D"]
    cap: Float[Array, " D"]
    floor: Float[Array, " D"]
    scale: Float[Array, " D"]
    nodes: Float[Array, "Q d"]


def slacks(model: AbstractDensity, space: MixtureSpace, rows: Float[Array, "k q"]) -> Float[Array, " c"]:
    """Positive inside Theta, of order one in its middle; NaN or negative outside."""
    means, matrices = jax.vmap(model.mean)(rows), jax.vmap(model.matrix)(rows)
    return jnp.concatenate([
        jnp.sum(rows[:, 0], keepdims=True),
        shares(model, space, rows) - space.weight_floor,
        _box(model, space, means).reshape(-1),
        jax.vmap(lambda matrix: _covariance_slacks(model, space, matrix))(matrices).reshape(-1),
    ])  # fmt: skip


def shares(model: AbstractDensity, space: MixtureSpace, rows: Float[Array, "k q"]) -> Float[Array, " k"]:
    """Weights over their sum, or a softmax gate's mean probabilities."""
    gate = model.log_gate(rows, space.nodes)
    if gate is None:
        return rows[:, 0] / jnp.sum(rows[:, 0])
    return jnp.mean(jax.nn.softmax(gate, axis=0), axis=1)


def _box(model: AbstractDensity, space: MixtureSpace, means: Float[Array, "k D"]) -> Float[Array, "k D2"]:
    if not isinstance(model, GaussianGated):
        d = model.dimension
        means = means.at[:, :d].add(-jnp.mean(means[:, :d], axis=0, keepdims=True))
    width = (space.high - space.low)[None]
    return jnp.concatenate([(means - space.low[None]) / width, (space.high[None] - means) / width], axis=1)


def _covariance_slacks(model: AbstractDensity, space: MixtureSpace, matrix: Float[Array, "D D"]) -> Float[Array, " c"]:
    d, root = model.dimension, jnp.sqrt(space.cap)
    unit = matrix / (root[:, None] * root[None])
    least = space.floor / space.cap
    if isinstance(model, GaussianGated):
        cross = unit[d:, :d]
        noise = unit[d:, d:] - cross @ jnp.linalg.solve(unit[:d, :d], cross.T)
        return jnp.concatenate([1.0 - jnp.diagonal(unit), _pivots(unit[:d, :d], least[:d]), _pivots(noise, least[d:])])
    slope = 1.0 - (matrix[:d, d:] / (space.cap[:d, None] * root[None, d:])).reshape(-1) ** 2
    return jnp.concatenate([slope, 1.0 - jnp.diagonal(unit)[d:], _pivots(unit[d:, d:], least[d:])])


def _pivots(matrix: Float[Array, "s s"], least: Float[Array, " s"]) -> Float[Array, " s"]:
    """p / (p + least) for the pivots p of matrix - diag(least): all positive if and only if that is positive definite.

    For one variance v it is 1 - least / v, of order one wherever the variance is not near its floor.
    """
    root = jnp.linalg.cholesky(0.5 * (matrix + matrix.T) - jnp.diag(least))
    pivots = jnp.diagonal(root) ** 2
    return pivots / (pivots + least)


class MixtureProblem(AbstractProblem):
    """F over a parameter space; z is the rows of k atoms, one after the other.

    Attributes:
        model: p_G.
        space: Theta.
        levels: merges of close atoms in the coordinates of a step.
        points: the data.
    """

    model: AbstractDensity
    space: MixtureSpace
    levels: int = eqx.field(static=True)
    points: Points

    def rows(self, z: Float[Array, " z"]) -> Float[Array, "k q"]:
        """z as rows."""
        return z.reshape(-1, self.model.row_size)

    def value(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """F(z), in units of log-likelihood."""
        return objective(self.model, self.rows(z), self.points)

    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return slacks(self.model, self.space, self.rows(z))

    def sight(self, z: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Sight:
        """Moment coordinates of the closest atoms."""
        chosen = choose(self.model, self.rows(z), self.levels, self.space.scale, self.points.size)
        return Sight(z, multipliers, self.seen_in(chosen))

    def seen_in(self, frame: Merges) -> "MixtureView":
        """The view in the moment coordinates of these merges."""
        return MixtureView(problem=self, frame=frame)

    def tidied(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """For a softmax gate, weights of sum one and beta1 of mean zero."""
        if isinstance(self.model, GaussianGated):
            return z
        rows, last = self.rows(z), 1 + self.model.dimension
        rows = rows.at[:, 0].divide(jnp.sum(rows[:, 0]))
        rows = rows.at[:, 1:last].add(-jnp.mean(rows[:, 1:last], axis=0, keepdims=True))
        return rows.reshape(-1)


class MixtureKind(NamedTuple):
    """Makes problems of one model; equal ones share compiled code (``pool.programs``).

    Attributes:
        model: p_G.
        levels: merges in the coordinates of a step.
    """

    model: AbstractDensity
    levels: int

    def __call__(self, space: MixtureSpace, points: Points) -> MixtureProblem:
        """The problem of one lane."""
        return MixtureProblem(self.model, space, self.levels, points)


class MixtureView(AbstractView):
    """A problem in the moment coordinates of its closest atoms."""

    problem: MixtureProblem
    frame: Merges

    def enter(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Moment coordinates in their units."""
        moments = enter(self.problem.model, self.frame, self.problem.rows(z))
        return (moments / self.frame.unit).reshape(-1)

    def leave(self, y: Float[Array, " z"]) -> Float[Array, " z"]:
        """z of moment coordinates."""
        return self._rows(y).reshape(-1)

    def _rows(self, y: Float[Array, " z"]) -> Float[Array, "k q"]:
        moments = self.problem.rows(y) * self.frame.unit
        return leave(self.problem.model, self.frame, moments)

    @property
    def loose(self) -> int:
        """None: ``MixtureProblem.tidied`` fixes the shift, so that no bound holds it."""
        return 0

    def across(self, y: Float[Array, " z"]) -> GaugeSlice:
        """All coordinates; for a softmax gate all but the weight and beta1 of one merged atom, which fix the shift."""
        every = jnp.eye(y.shape[0])
        model, levels = self.problem.model, self.problem.levels
        if isinstance(model, GaussianGated):
            return GaugeSlice(every[:, :0], every, every[:, :0])
        row = self.frame.kept[-1] if levels else 0
        held = 1 + model.dimension
        place = jnp.arange(y.shape[0])
        first = row * model.row_size
        pinned = (place >= first) & (place < first + held)
        free, fixed = jnp.split(every[:, jnp.argsort(pinned, stable=True)], [y.shape[0] - held], axis=1)
        return GaugeSlice(fixed, free, every[:, :0])

    def slacks(self, y: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return slacks(self.problem.model, self.problem.space, self._rows(y))

    def value(self, y: Float[Array, " z"]) -> Float[Array, ""]:
        """F(y)."""
        return objective(self.problem.model, self._rows(y), self.problem.points)

    def slope(self, y: Float[Array, " z"]) -> tuple[Float[Array, ""], Float[Array, " z"]]:
        """F(y) and grad F(y)."""
        rows, pull = jax.vjp(self._rows, y)
        value, by_row = gradient(self.problem.model, rows, self.problem.points)
        return value, pull(by_row)[0]

    def derivatives(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """F, the slacks and the Hessian of F - lambda . s at y."""
        at = second_order(self.problem.model, self._rows(y), self.problem.points)
        jacobian = jax.jacfwd(lambda point: self._rows(point).reshape(-1))(y)
        pulled = at.gradient.reshape(-1)

        def bent(point: Float[Array, " z"]) -> Float[Array, ""]:
            rows = self._rows(point)
            inside = slacks(self.problem.model, self.problem.space, rows)
            return jnp.vdot(pulled, rows.reshape(-1)) - jnp.vdot(multipliers, inside)

        hessian = at.hessian(jacobian) + jax.hessian(bent)(y)
        slope = pulled @ jacobian
        return Lagrangian(at.value, slope, hessian, self.slacks(y), jax.jacfwd(self.slacks)(y))
