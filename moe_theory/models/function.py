"""A user's own model F(x, atom) -> (score, output), as the regression model that the toolkit simulates.

On a support of M points every function is linear in the points' indicators. So a score and an output, whatever they
are, have coefficients on known features, as gates and experts need them (``gates``, ``experts``):

    s(x_m) = < Delta_Q, phi(x_m) >,  Delta_Q = s(x_1 ... x_M) / sqrt(M),  phi(x_m) = sqrt(M) e_m,

and the same for the output with Delta_V. The "adapted matrices" are the functions themselves, and their Frobenius norms
are norms of L2(mu), mu uniform on the support. Nothing else is special: sampling, starts, trust region, certificate and
Voronoi losses see a ``RegressionModel`` without pre-trained matrices. Source: our derivation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractPlainAdapter, Projections
from moe_theory.models.experts import AbstractExpert
from moe_theory.models.gates import AbstractGate, general_linear_tangents
from moe_theory.models.regression import FrozenAtoms, RegressionModel

Function = Callable[[Any, Any], tuple[Any, Any]]
"""F of one input and one atom (any pytree of float64 arrays): a scalar score, and a scalar or a vector of outputs."""


def indicator(support: Float[Array, "M d"], x: Float[Array, " d"]) -> Float[Array, " M"]:
    """sqrt(M) e_m where x is the support's m-th point (the first of equal ones)."""
    place = jnp.argmin(jnp.sum((support - x[None]) ** 2, axis=1))
    points = support.shape[0]
    return jnp.sqrt(1.0 * points) * jax.nn.one_hot(place, points, dtype=jnp.float64)


class PointGate(AbstractGate):
    """A score that is known at the points of a support.

    Attributes:
        support: the points.
    """

    support: Float[Array, "M d"]

    def score(self, query: Float[Array, "q M"], x: Float[Array, " d"]) -> Float[Array, ""]:
        """The score at a point of the support."""
        return query[0] @ self.features(x)

    def coefficients(self, query: Float[Array, "q M"]) -> Float[Array, " M"]:
        """The score at all points, over sqrt(M)."""
        return query.reshape(-1)

    def features(self, x: Float[Array, " d"]) -> Float[Array, " M"]:
        """The indicators, times sqrt(M)."""
        return indicator(self.support, x)

    def product_symmetries(
        self, left: Float[Array, "q r"], right: Float[Array, "r d"]
    ) -> tuple[Float[Array, "g q r"], Float[Array, "g r d"]]:
        """GL(r): the gate sees every entry."""
        return general_linear_tangents(left, right)


class PointExpert(AbstractExpert):
    """An output that is known at the points of a support.

    Attributes:
        support: the points.
    """

    support: Float[Array, "M d"]

    def output(self, value: Float[Array, "d_out M"], x: Float[Array, " d"]) -> Float[Array, " d_out"]:
        """The output at a point of the support."""
        return value @ self.features(x)

    def coefficients(self, value: Float[Array, "d_out M"]) -> Float[Array, "d_out M"]:
        """The output at all points, over sqrt(M)."""
        return value

    def features(self, x: Float[Array, " d"]) -> Float[Array, " M"]:
        """The indicators, times sqrt(M)."""
        return indicator(self.support, x)


class FunctionAdapter(AbstractPlainAdapter):
    """Free parameters of any kind, whose "update" is the function F itself on the support.

    Attributes:
        function: F.
        support: the points.
        sizes: an atom's pytree, every entry the size that its block has in the truth.
    """

    function: Function = eqx.field(static=True)
    support: Float[Array, "M d"]
    sizes: Any

    @property
    def value_tells_query(self) -> bool:
        """Nothing is known of the user's function."""
        return False

    def update(self, atom: Any, common: Any, pretrained: Projections) -> Projections:
        """(s, h) at all points over sqrt(M), shapes (1, M) and (d_out, M)."""
        score, output = jax.vmap(lambda x: self.function(x, atom))(self.support)
        points = self.support.shape[0]
        root = jnp.sqrt(1.0 * points)
        return Projections(score.reshape(1, points) / root, output.reshape(points, -1).T / root)

    def orbit(self, atom: Any) -> Any:
        """None is known in closed form."""
        return jax.tree.map(lambda leaf: jnp.zeros((0, *jnp.shape(leaf)), jnp.float64), atom)

    def gauge(self, atom: Any, gate: AbstractGate) -> Any:
        """None is known in closed form: it is counted and found (``gauge``)."""
        return self.orbit(atom)

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """Never."""
        return False

    def balance(self, atom: Any) -> Any:
        """The atom itself."""
        return atom

    def aligned(self, atom: Any, reference: Any) -> Any:
        """The atom itself."""
        return atom

    def interior(
        self, atom: Any, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """One ball for every block: its root mean square at most R times its size in the truth."""
        slacks = [
            1.0 - jnp.mean((leaf / size) ** 2) / radius**2
            for leaf, size in zip(jax.tree.leaves(atom), jax.tree.leaves(self.sizes), strict=True)
        ]
        return jnp.stack(slacks)

    def draw(self, key: Array, pretrained: Projections, scale: float) -> Any:
        """Normal entries of the blocks' sizes."""
        leaves, structure = jax.tree.flatten(self.sizes)
        keys = jax.random.split(key, len(leaves))
        drawn = [scale * size * jax.random.normal(own, size.shape, jnp.float64)
                 for own, size in zip(keys, leaves, strict=True)]  # fmt: skip
        return jax.tree.unflatten(structure, drawn)

    def check(self, pretrained: Projections) -> None:
        """Any function will do."""


def function_model(
    function: Function, atoms: Sequence[Any], support: Float[np.ndarray, "M d"], frozen: Sequence[Any] = ()
) -> RegressionModel:
    """A user's model on its support.

    Args:
        function: F.
        atoms: true atoms, whose blocks tell the sizes that the parameter space is measured in.
        support: points that mu is uniform on.
        frozen: known atoms of weight 1 that anchor the softmax.

    Raises:
        InputError: without atoms, for atoms of different structure, or where F has another shape or is not finite.
    """
    if not atoms:
        raise InputError("a model needs at least one true atom: give them as a sequence of pytrees")
    every = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), atom) for atom in (*atoms, *frozen)]
    kinds = {(jax.tree.structure(atom), tuple(leaf.shape for leaf in jax.tree.leaves(atom))) for atom in every}
    if len(kinds) != 1:
        raise InputError("all atoms, frozen ones too, need the same blocks of the same shapes")
    points = jnp.asarray(support)
    true, held = every[: len(atoms)], every[len(atoms) :]
    adapter = FunctionAdapter(function, points, jax.tree.map(_size, *true))
    _check(function, every, points)
    score, output = adapter.update(true[0], (), Projections(points, points))
    nothing = Projections(jnp.zeros_like(score), jnp.zeros_like(output))
    updates = [adapter.update(atom, (), nothing) for atom in held]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), nothing, *updates)
    anchors = FrozenAtoms(jnp.zeros(len(held), jnp.float64), jax.tree.map(lambda leaf: leaf[1:], stacked))
    return RegressionModel(PointGate(points), PointExpert(points), adapter, nothing, anchors)


def _size(*leaves: Array) -> Array:
    """The root mean square of a block over all atoms in every entry; 1 for a block of zeros."""
    size = jnp.sqrt(jnp.mean(jnp.stack(leaves) ** 2))
    return jnp.full(leaves[0].shape, jnp.where(size > 0.0, size, 1.0))


def _check(function: Function, atoms: Sequence[Any], points: Float[Array, "M d"]) -> None:
    for place, atom in enumerate(atoms):
        made = jax.vmap(lambda x, own=atom: function(x, own))(points)
        if not (isinstance(made, tuple) and len(made) == 2):
            raise InputError("F(x, atom) must return two things, a score and an output")
        score, output = made
        if score.shape != points.shape[:1] or output.ndim > 2:
            raise InputError(
                f"F(x, atom) must return a scalar score and a scalar or a vector of outputs, got shapes "
                f"{score.shape[1:]} and {output.shape[1:]}"
            )
        if not bool(jnp.all(jnp.isfinite(score)) & jnp.all(jnp.isfinite(output))):
            raise InputError(f"F(x, atom) is not finite at the support for atom {place + 1}: change the atom or F")
