"""Least squares with a regression model, as a problem for the trust-region method."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_theory.estimation.frames import Frame, enter, gauge_slice, leave, see
from moe_theory.estimation.objective import HeadedDesign, flatten, gradient, objective, second_order
from moe_theory.estimation.smooth import AbstractProblem, AbstractView, Lagrangian, Sight
from moe_theory.estimation.space import Chart
from moe_theory.models.regression import Coefficients
from moe_theory.sampling.statistics import Statistics


class Problem(AbstractProblem):
    """F(G) = (n / sigma^2) L(G) over a chart of the parameter space; see ``objective``."""

    chart: Chart
    design: HeadedDesign
    data: Statistics

    def value(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """F(z) in units of sigma^2 / n."""
        return objective(self.chart.coefficients(z), self.design, self.data)

    def slacks(self, z: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return self.chart.slacks(z)

    def sight(self, z: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Sight:
        """Moment coordinates of the closest pair of atoms, which is sorted to the front."""
        seen = see(self.chart, z, jnp.sum(self.data.precision))
        return Sight(seen.z, self.chart.reordered_slacks(multipliers, seen.order), View(self, seen.frame))

    def tidied(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Balanced factors."""
        return self.chart.balanced(z)


class View(AbstractView):
    """A problem seen in the moment coordinates y of one frame."""

    problem: Problem
    frame: Frame

    def enter(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Moment coordinates of z."""
        return enter(self.problem.chart, self.frame, z)

    def leave(self, y: Float[Array, " z"]) -> Float[Array, " z"]:
        """z of moment coordinates."""
        return leave(self.problem.chart, self.frame, y)

    def inside(self, y: Float[Array, " z"]) -> Float[Array, "z s"]:
        """Orthonormal basis of the gauge slice."""
        return gauge_slice(self.problem.chart, self.frame, y).basis

    def coefficients(self, y: Float[Array, " z"]) -> Coefficients:
        """The atoms as the softmax sees them."""
        return self.problem.chart.coefficients(self.leave(y))

    def slacks(self, y: Float[Array, " z"]) -> Float[Array, " c"]:
        """Slacks of the constraints."""
        return self.problem.chart.slacks(self.leave(y))

    def value(self, y: Float[Array, " z"]) -> Float[Array, ""]:
        """F(y)."""
        return objective(self.coefficients(y), self.problem.design, self.problem.data)

    def slope(self, y: Float[Array, " z"]) -> tuple[Float[Array, ""], Float[Array, " z"]]:
        """F(y) and grad F(y)."""
        coefficients, pull = jax.vjp(self.coefficients, y)
        level, by_coefficient = gradient(coefficients, self.problem.design, self.problem.data)
        return level, pull(by_coefficient)[0]

    def derivatives(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """F, the slacks and the Hessian of F - lambda . s at y, exact: J' H J plus the curvature of the chart.

        Coefficients and slacks are differentiated together, so that the chart is traversed once. Where there are more
        coefficients than the points that they are seen at, F itself is differentiated.
        """
        if not self.problem.design.has_products:
            return self._differentiated(y, multipliers)
        chart = self.problem.chart

        def of_chart(point: Float[Array, " z"]) -> Float[Array, " u_c"]:
            z = self.leave(point)
            return jnp.concatenate([flatten(chart.coefficients(z)), chart.slacks(z)])

        flat = second_order(self.coefficients(y), self.problem.design, self.problem.data)
        size = flat.gradient.shape[0]
        jacobian = jax.jacfwd(of_chart)(y)
        pull = jnp.concatenate([flat.gradient, -multipliers])
        bend = jax.hessian(lambda point: jnp.vdot(pull, of_chart(point)))(y)
        along = jacobian[:size]
        hessian = along.T @ flat.hessian @ along + bend
        return Lagrangian(flat.value, flat.gradient @ along, hessian, self.slacks(y), jacobian[size:])

    def _differentiated(self, y: Float[Array, " z"], multipliers: Float[Array, " c"]) -> Lagrangian:
        """The same by automatic differentiation of F and the slacks."""

        def lagrangian(point: Float[Array, " z"]) -> Float[Array, ""]:
            return self.value(point) - jnp.vdot(multipliers, self.slacks(point))

        value, slope = self.slope(y)
        return Lagrangian(value, slope, jax.hessian(lagrangian)(y), self.slacks(y), jax.jacfwd(self.slacks)(y))
