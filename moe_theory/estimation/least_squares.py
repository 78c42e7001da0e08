"""Least squares with a regression model, as a problem for the trust-region method."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe_theory.estimation.charted import AbstractChartProblem, Curved
from moe_theory.estimation.objective import HeadedDesign, flatten, gradient, objective, second_order
from moe_theory.estimation.space import Chart
from moe_theory.models.regression import Coefficients
from moe_theory.sampling.statistics import Statistics


class Problem(AbstractChartProblem):
    """F(G) = (n / sigma^2) L(G) over a chart of the parameter space, in units of sigma^2 / n; see ``objective``."""

    chart: Chart
    design: HeadedDesign
    data: Statistics

    @property
    def information(self) -> Float[Array, ""]:
        """n / sigma^2."""
        return jnp.sum(self.data.precision)

    @property
    def scale_is_seen(self) -> bool:
        """A softmax does not see it."""
        return False

    @property
    def image_is_small(self) -> bool:
        """Not for functions of a user's own, which have a coefficient for every point of the support."""
        return self.design.has_products

    def image(self, z: Float[Array, " z"]) -> Coefficients:
        """The atoms as the softmax sees them."""
        return self.chart.coefficients(z)

    def flat(self, image: Coefficients) -> Float[Array, " u"]:
        """Head by head, see ``flatten``."""
        return flatten(image)

    def value_at(self, image: Coefficients) -> Float[Array, ""]:
        """F."""
        return objective(image, self.design, self.data)

    def slope_at(self, image: Coefficients) -> tuple[Float[Array, ""], Coefficients]:
        """F and dF."""
        return gradient(image, self.design, self.data)

    @property
    def owners(self) -> Int[np.ndarray, " u"]:
        """The atom, or where heads have atoms of their own the head's atom."""
        heads, k = self.design.outputs.shape[0], self.chart.k
        seen = jax.eval_shape(lambda z: flatten(self.image(z)), jnp.zeros(self.chart.size))
        of_head = np.repeat(np.arange(k), seen.shape[0] // (heads * k))
        return np.concatenate([of_head + (k * head if self.chart.sets > 1 else 0) for head in range(heads)])

    def curved_at(self, image: Coefficients) -> Curved:
        """F, dF and J' H J."""
        at = second_order(image, self.design, self.data)
        return Curved(at.value, at.gradient, lambda along: along.congruence(at.hessian))
