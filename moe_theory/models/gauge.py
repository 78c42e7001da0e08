"""What the model cannot see of an atom: its tangents in closed form, or where there is no closed form, by counting.

f_G sees of an atom c, the gate's coefficients of W_Q, and W_V. The kernel of the derivative of these has one dimension
at almost every atom; where the adapter's closed form has as many tangents, those are the kernel. Otherwise (column
normalisation in few dimensions, high ranks) the kernel is computed, as many vectors as the *count* at a generic model
of these shapes says: no threshold is ever applied to the model at hand.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moe_theory.jitting import at_once
from moe_theory.precision import require_x64

RESOLVED = 1e-9
"""Relative size from which a singular value at the generic model counts: the others there are rounding, 1e-15."""


def kernel(seen: Callable[[Any], Float[Array, " s"]], atom: Any, count: int) -> Any:
    """Orthonormal tangents of ``count`` motions of an atom that ``seen`` does not react to.

    They are orthogonal to all rows of the Jacobian. With its rank known, so many random combinations of rows span them
    all, and a QR decomposition of these completes the basis, at a third of a singular value decomposition's cost.
    """
    flat, unravel = ravel_pytree(atom)
    jacobian = jax.jacfwd(lambda moved: seen(unravel(moved)))(flat)
    rank = flat.shape[0] - count
    combinations = np.random.default_rng(0).standard_normal((jacobian.shape[0], rank))
    basis = jnp.linalg.qr(jacobian.T @ combinations, mode="complete")[0]
    return jax.vmap(unravel)(basis[:, rank:].T)


def generic_dimension(model: Any) -> int:
    """Dimension of the kernel at almost every model and atom of these shapes.

    Args:
        model: has ``draw(key)``, a random (atom, common), and ``seen(atom, common)``; only its structure and shapes
            are used, so it may be traced.
    """
    leaves, structure = jax.tree.flatten(model)
    return _generic_dimension(structure, tuple(leaf.shape for leaf in leaves))


@functools.lru_cache
def _generic_dimension(structure: Any, shapes: tuple[tuple[int, ...], ...]) -> int:
    require_x64()
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        model = jax.tree.unflatten(structure, [jnp.asarray(rng.standard_normal(shape)) for shape in shapes])
        jacobian = np.asarray(at_once(_generic_jacobian, model, jax.random.key(0)))
    sizes = np.linalg.svd(jacobian, compute_uv=False)
    return jacobian.shape[1] - int(np.sum(sizes > RESOLVED * sizes[0]))


def _generic_jacobian(model: Any, key: Array) -> Float[Array, "seen atom"]:
    atom, common = model.draw(key)
    flat, unravel = ravel_pytree(atom)
    return jax.jacfwd(lambda moved: model.seen(unravel(moved), common))(flat)


def gauge_tangents(model: Any, known: Any, is_complete: bool, atom: Any, common: Any) -> Any:
    """The tangents known in closed form where they are all there are, otherwise the whole kernel.

    Args:
        model: see ``generic_dimension``.
        known: tangents in closed form, leading axis how many.
        is_complete: whether they are known to be all; saves the count.
        atom, common: where.
    """
    if is_complete:
        return known
    count = generic_dimension(model)
    if jax.tree.leaves(known)[0].shape[0] == count:
        return known
    return kernel(lambda moved: model.seen(moved, common), atom, count)
