"""Maximum likelihood with adapted experts, as a problem for the trust-region method.

F is that of ``likelihood``, of the moment rows that ``AdaptedDensity`` makes of the atoms; charts, moment coordinates,
gauge and constraints are those of least squares.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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

    @property
    def owners(self) -> Int[np.ndarray, " u"]:
        """Rows are listed group by group; a frozen one depends on no atom, so any may stand for it."""
        rows, entries = jax.eval_shape(self.image, jnp.zeros(self.chart.size)).shape
        return np.repeat(np.arange(rows) % self.chart.k, entries)

    def value_at(self, image: Float[Array, "k q"]) -> Float[Array, ""]:
        """F."""
        return objective(self.density.base, image, self.points)

    def slope_at(self, image: Float[Array, "k q"]) -> tuple[Float[Array, ""], Float[Array, "k q"]]:
        """F and dF."""
        return gradient(self.density.base, image, self.points)

    def curved_at(self, image: Float[Array, "k q"]) -> Curved:
        """F, dF and the Hessian, formed point by point in the coordinates of the step."""
        at = second_order(self.density.base, image, self.points)
        return Curved(at.value, at.gradient.reshape(-1), lambda along: at.hessian(along.matrix))
