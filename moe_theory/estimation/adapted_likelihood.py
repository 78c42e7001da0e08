"""Maximum likelihood with adapted experts, as a problem for the trust-region method.

F is that of ``likelihood``, of the moment rows that ``AdaptedDensity`` makes of the atoms; charts, moment coordinates,
gauge and constraints are those of least squares.
"""

from jaxtyping import Array, Float

from moe_theory.estimation.charted import AbstractChartProblem, Curved
from moe_theory.estimation.likelihood import Points, gradient, objective, second_order
from moe_theory.estimation.space import Chart
from moe_theory.models.adapted_density import AdaptedDensity


class AdaptedProblem(AbstractChartProblem):
    """F over a chart of the parameter space, in units of log-likelihood.

    Attributes:
        density: p_G.
        points: the data.
    """

    chart: Chart
    density: AdaptedDensity
    points: Points

    @property
    def information(self) -> Float[Array, ""]:
        """n."""
        return self.points.size

    @property
    def scale_is_seen(self) -> bool:
        """A joint density pays for its mass; a gate does not see it."""
        return self.density.joint

    def image(self, z: Float[Array, " z"]) -> Float[Array, "k q"]:
        """Moment rows."""
        return self.density.rows(self.chart.measure(z))

    def flat(self, image: Float[Array, "k q"]) -> Float[Array, " u"]:
        """One row after the other."""
        return image.reshape(-1)

    def value_at(self, image: Float[Array, "k q"]) -> Float[Array, ""]:
        """F."""
        return objective(self.density.base, image, self.points)

    def slope_at(self, image: Float[Array, "k q"]) -> tuple[Float[Array, ""], Float[Array, "k q"]]:
        """F and dF."""
        return gradient(self.density.base, image, self.points)

    def curved_at(self, image: Float[Array, "k q"]) -> Curved:
        """F, dF and the Hessian, formed point by point in the coordinates of the step."""
        at = second_order(self.density.base, image, self.points)
        return Curved(at.value, at.gradient.reshape(-1), at.hessian)
