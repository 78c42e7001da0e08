"""First-order least squares, as deep-learning practice fits it: the method that theory section 4 warns of.

    L(G) = 1/(2 n) sum_i || y_i - f_G(x_i) ||^2 = (sigma^2 / n) F(G),        log-weights free, factors raw.

The data, the objective and the starts are those of the certified estimator; the parameter space is not: nothing keeps
a step inside Theta, and nothing says that its end is a minimiser. Its ends are shown beside certified fits, to measure
how much of a slope is the optimiser's; no verdict is ever based on them. Source: Kingma and Ba 2015 (Adam); Nocedal
and Wright 2006, ch. 7 (L-BFGS). One lane; vmapped and compiled by the caller.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.estimation.objective import HeadedDesign, gradient, objective
from moe_theory.models.hierarchy import HierarchicalModel
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import RegressionModel
from moe_theory.sampling.statistics import Statistics

LEARNING_RATE = 1e-2
"""Adam's first learning rate; with 0.1 and with 0.001 it ends about as low on the default problem."""


class Descent(NamedTuple):
    """Where a first-order method ended.

    Attributes:
        measure: G after the last step, anywhere in the space of measures with k atoms.
        value: F there, in units of sigma^2 / n.
        history: F before each step.
    """

    measure: MixingMeasure
    value: Float[Array, ""]
    history: Float[Array, " steps"]


def adam(steps: int, learning_rate: float = LEARNING_RATE) -> optax.GradientTransformationExtraArgs:
    """Adam whose learning rate falls to 0 along half a cosine, a_t = a/2 (1 + cos(pi t / steps)).

    A constant rate would leave an error of its own order; the schedule is the kinder choice.

    Args:
        steps: how many steps the schedule spans.
        learning_rate: a, step length per coordinate at first.

    Raises:
        InputError: if either is not positive.
    """
    if steps < 1 or not learning_rate > 0:
        raise InputError(f"steps and learning rate must be positive, got {steps} and {learning_rate}")
    return optax.with_extra_args_support(optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))


def lbfgs() -> optax.GradientTransformationExtraArgs:
    """Limited-memory BFGS with a memory of ten steps and a line search that satisfies the strong Wolfe conditions."""
    return optax.lbfgs()


def descend(
    model: RegressionModel | HierarchicalModel,
    design: HeadedDesign,
    data: Statistics,
    start: MixingMeasure,
    method: optax.GradientTransformationExtraArgs,
    steps: int,
) -> Descent:
    """Take a fixed number of steps down L(G) = (sigma^2 / n) F(G) in (log-weights, factors).

    Args:
        model: f_G.
        design: features of the support points.
        data: sufficient statistics of n draws; n / sigma^2 is the sum of their precisions.
        start: G_0, with k atoms.
        method: an optax method such as ``adam`` or ``lbfgs``.
        steps: how many; there is no other stop.
    """
    size = jnp.sum(jnp.asarray(data.precision))
    first, unravel = ravel_pytree(start)

    def loss(point: Float[Array, " p"]) -> Float[Array, ""]:
        return objective(model.coefficients(unravel(point)), design, data) / size

    def advance(
        carry: tuple[Float[Array, " p"], optax.OptState], _: None
    ) -> tuple[tuple[Float[Array, " p"], optax.OptState], Float[Array, ""]]:
        point, memory = carry
        coefficients, pull = jax.vjp(lambda at: model.coefficients(unravel(at)), point)
        value, by_coefficient = gradient(coefficients, design, data)
        slope = pull(by_coefficient)[0] / size
        change, memory = method.update(slope, memory, point, value=value / size, grad=slope, value_fn=loss)
        return (point + jnp.asarray(change), memory), value

    (last, _), history = jax.lax.scan(advance, (first, method.init(first)), length=steps)
    return Descent(unravel(last), loss(last) * size, history)
