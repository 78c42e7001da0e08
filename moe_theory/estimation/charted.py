"""A problem over a chart of mixing measures: what least squares and the likelihood of adapted experts have in common.

F depends on z through an *image* of the measure in which it and its derivatives are cheap: coefficients of known
features for least squares, moment rows for a likelihood. Steps are taken in moment coordinates of the closest pair of
atoms, inside the gauge slice (``frames``).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe_theory.estimation.atomwise import Along, differentiate, gathered, turn
from moe_theory.estimation.frames import Frame, enter, gauge_slice, leave, see, unfold, unfolding_bend
from moe_theory.estimation.smooth import AbstractProblem, AbstractView, GaugeSlice, Lagrangian, Sight
from moe_theory.estimation.space import Chart


class Curved(NamedTuple):
    """F at an image, with its gradient in the flat image and its Hessian ``hessian(along)`` in a step's coordinates."""

    value: Float[Array, ""]
    gradient: Float[Array, " u"]
    hessian: Callable[[Along], Float[Array, "y y"]]


class AbstractChartProblem(AbstractProblem):
    """F of an image of the measure at z.

    Attributes:
        chart: Theta and its coordinates.
    """

    chart: eqx.AbstractVar[Chart]

    @property
    @abstractmethod
    def information(self) -> Float[Array, ""]:
        """n over the noise's variance, in whose units F is: the size of a split that is just seen."""

    @property
    @abstractmethod
    def scale_is_seen(self) -> bool:
        """Whether F sees the common scale of the weights of a model without frozen atoms."""

    @property
    def image_is_small(self) -> bool:
        """Whether F's Hessian in the image is cheaper than in z."""
        return True

    @abstractmethod
    def image(self, z: Float[Array, " z"]) -> Any:
        """What F sees of z."""

    @abstractmethod
    def flat(self, image: Any) -> Float[Array, " u"]:
        """An image as a vector."""

    @property
    @abstractmethod
    def owners(self) -> Int[np.ndarray, " u"]:
        """Which atom each entry of a flat image belongs to, counted set by set."""

    @abstractmethod
    def value_at(self, image: Any) -> Float[Array, ""]:
        """F."""

    @abstractmethod
    def slope_at(self, image: Any) -> tuple[Float[Array, ""], Any]:
        """F and dF, in the image's own structure."""

    @abstractmethod
    def curved_at(self, image: Any) -> Curved:
        """F with exact first and second derivatives."""

    def value(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """F(z)."""
        return self.value_at(self.image(z))

    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return self.chart.slacks(z)

    def sight(self, z: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Sight:
        """Moment coordinates of the closest pair of atoms, which is sorted to the front."""
        seen = see(self.chart, z, self.information)
        return Sight(seen.z, self.chart.reordered_slacks(multipliers, seen.order), self.seen_in(seen.frame))

    def seen_in(self, frame: Frame) -> "ChartView":
        """The view in a frame's moment coordinates."""
        return ChartView(problem=self, frame=frame)

    def tidied(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Balanced factors."""
        return self.chart.balanced(z)


class ChartView(AbstractView):
    """A problem seen in the moment coordinates y of one frame."""

    problem: AbstractChartProblem
    frame: Frame

    def enter(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Moment coordinates of z."""
        return enter(self.problem.chart, self.frame, z)

    def leave(self, y: Float[Array, " z"]) -> Float[Array, " z"]:
        """z of moment coordinates."""
        return leave(self.problem.chart, self.frame, y)

    @property
    def loose(self) -> int:
        """Motions of the atoms beyond the adapter's own orbit."""
        return self.problem.chart.loose

    def across(self, y: Float[Array, " z"]) -> GaugeSlice:
        """The gauge slice."""
        return gauge_slice(self.problem.chart, self.frame, y, self.problem.scale_is_seen)

    def image(self, y: Float[Array, " z"]) -> Any:
        """What F sees."""
        return self.problem.image(self.leave(y))

    def slacks(self, y: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return self.problem.chart.slacks(self.leave(y))

    def value(self, y: Float[Array, " z"]) -> Float[Array, ""]:
        """F(y)."""
        return self.problem.value_at(self.image(y))

    def slope(self, y: Float[Array, " z"]) -> tuple[Float[Array, ""], Float[Array, " z"]]:
        """F(y) and grad F(y)."""
        image, pull = jax.vjp(self.image, y)
        level, by_image = self.problem.slope_at(image)
        return level, pull(by_image)[0]

    def derivatives(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """F, the slacks and the Hessian of F - lambda . s at y, exact: that in the image plus the chart's curvature.

        An image larger than what it is seen at has no Hessian worth forming: there F itself is differentiated.
        """
        problem, chart = self.problem, self.problem.chart
        if not problem.image_is_small:
            return self._differentiated(y, multipliers)

        def opened(zeta: Float[Array, " z"]) -> Float[Array, " u"]:
            return problem.flat(problem.image(chart.closed(zeta)))

        zeta = unfold(chart, self.frame, y)
        z = chart.closed(zeta)
        at = problem.curved_at(problem.image(z))
        pieces = differentiate(chart, opened, zeta, at.gradient, multipliers)
        along = Along(pieces, problem.owners, turn(chart, self.frame, y))
        steep = along.by_atoms(at.gradient)
        held = multipliers.reshape(chart.sets, -1)
        force = gathered(chart, steep - jnp.einsum("sn,snka->ska", held, pieces.slacks))
        bend = along.bent() + unfolding_bend(chart, self.frame, y, force)
        hessian = at.hessian(along) + bend
        return Lagrangian(at.value, along.slope(steep), hessian, problem.slacks(z), along.slack_slopes)

    def _differentiated(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """The same by automatic differentiation of F and the slacks."""

        def lagrangian(point: Float[Array, " z"]) -> Float[Array, ""]:
            return self.value(point) - jnp.vdot(multipliers, self.slacks(point))

        value, slope = self.slope(y)
        return Lagrangian(value, slope, jax.hessian(lagrangian)(y), self.slacks(y), jax.jacfwd(self.slacks)(y))
