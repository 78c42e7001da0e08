"""What the trust-region method and the certificate need of a problem: a smooth objective on a compact space.

A *problem* is one lane's objective F, in statistical units (a difference of 1 is one unit of log-likelihood), and the
slacks s > 0 of its parameter space, as functions of coordinates z. A *view* is the problem in coordinates y made for
one step, in which its valley is straight; which coordinates these are depends on where z is. Least squares
(``least_squares``) and likelihood (``mixture``, ``adapted_likelihood``) are the problems there are.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float


class Lagrangian(NamedTuple):
    """F with its gradient, the Hessian of F - lambda . s, the slacks s and their slopes."""

    value: Float[Array, ""]
    slope: Float[Array, " z"]
    hessian: Float[Array, "z z"]
    slacks: Float[Array, " c"]
    slack_slopes: Float[Array, "c z"]


class GaugeSlice(NamedTuple):
    """A slice across the gauge orbits, all three with orthonormal columns.

    Attributes:
        normals: C.
        basis: of the steps with C' p = 0.
        orbit: of the atoms' motions that F is blind to; the normals' span where the slice is at right angles to it.
    """

    normals: Float[Array, "z g"]
    basis: Float[Array, "z s"]
    orbit: Float[Array, "z o"]


class AbstractView(eqx.Module):
    """A problem in the coordinates y of one step.

    Attributes:
        frame: which coordinates; ``AbstractProblem.seen_in`` makes the same view of it.
    """

    frame: eqx.AbstractVar[Any]

    @abstractmethod
    def enter(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """y of z."""

    @abstractmethod
    def leave(self, y: Float[Array, " z"]) -> Float[Array, " z"]:
        """z of y."""

    @property
    @abstractmethod
    def loose(self) -> int:
        """How many of the atoms' motions that F is blind to (``GaugeSlice.orbit``) may move a slack."""

    @abstractmethod
    def across(self, y: Float[Array, " z"]) -> GaugeSlice:
        """The slice across what F is blind to; steps leave it only where a bound presses (``trust_region.pressed``)."""

    @abstractmethod
    def slacks(self, y: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""

    @abstractmethod
    def value(self, y: Float[Array, " z"]) -> Float[Array, ""]:
        """F(y)."""

    @abstractmethod
    def slope(self, y: Float[Array, " z"]) -> tuple[Float[Array, ""], Float[Array, " z"]]:
        """F(y) and grad F(y)."""

    @abstractmethod
    def derivatives(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """F, the slacks and the exact Hessian of F - lambda . s at y."""


class Sight(NamedTuple):
    """A point made ready for a step: z and the multipliers, perhaps with atoms reordered, and the view to step in."""

    z: Float[Array, " z"]
    multipliers: Float[Array, " c"]
    view: AbstractView


class AbstractProblem(eqx.Module):
    """One lane: what is minimised, and where."""

    @abstractmethod
    def value(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """F(z)."""

    @abstractmethod
    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints, positive inside the parameter space, of order one in its middle."""

    @abstractmethod
    def sight(self, z: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Sight:
        """Choose the view of a step from z."""

    @abstractmethod
    def seen_in(self, frame: Any) -> AbstractView:
        """The view in the coordinates of a frame that was chosen before."""

    @abstractmethod
    def tidied(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """The same model by the member of its gauge orbit that the next step should start from."""
