"""Every adapter, gate and arrangement of heads, small; and f_G of each of them in plain NumPy.

The NumPy side takes complex factors too, so that derivatives by complex steps are exact to rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from moe_theory.models.adapters import Dial, Lora, Projections, RepLora
from moe_theory.models.decomposed import WeightDecomposed, dora, doran
from moe_theory.models.embedded import Embedded
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AttentionGate, GaussianGate
from moe_theory.models.hierarchy import HierarchicalModel, hierarchical
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import FrozenAtoms, RegressionModel

D, D_OUT, K, HEADS = 4, 3, 3, 2
GATES = ("attention", "gaussian")

ADAPTERS = {
    "lora": lambda rank: Lora(rank),
    "replora": lambda rank: RepLora(rank),
    "replora-sigmoid": lambda rank: RepLora(rank, "sigmoid"),
    "dial": lambda rank: Dial(rank, 0.6),
    "dora-fixed-0": lambda rank: dora(rank, "fixed", 0.0),
    "dora-free-0": lambda rank: dora(rank, "free", 0.0),
    "dora-global-free": lambda rank: dora(rank, "global", "free"),
    "doran-fixed-half": lambda rank: doran(rank, "tanh", "fixed", 0.5),
    "doran-global-free": lambda rank: doran(rank, "tanh", "global", "free"),
}
"""By name: rank -> adapter of D x D matrices."""

HORA = {
    "hora": lambda rank: RepLora(rank),
    "hora-tanh": lambda rank: RepLora(rank, "tanh"),
    "hora-heads-only": lambda rank: Lora(rank),
    "hora-heads-only-tanh": lambda rank: Lora(rank, "tanh"),
}
"""By name: rank -> what generates the factors of shared atoms."""


def make_head(gate, adapter, seed, frozen=1):
    """One head with random matrices, and frozen atoms away from them."""
    rng = np.random.default_rng([GATES.index(gate), seed])

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    gates = {"attention": AttentionGate(draw(D, D)), "gaussian": GaussianGate(draw(D))}
    updates = Projections(0.4 * draw(frozen, D, D), 0.4 * draw(frozen, D, D))
    pretrained = Projections(draw(D, D), draw(D, D))
    return RegressionModel(gates[gate], LinearExpert(), adapter, pretrained, FrozenAtoms(0.3 * draw(frozen), updates))


def embedded(inner, seed):
    rng = np.random.default_rng([7, seed])
    left, right = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    return Embedded(inner, jnp.asarray(left[:, : D - 1]), jnp.asarray(right[: D - 1]))


@functools.cache
def make_model(gate, adapter, heads, rank=1, own_weights=False):
    """heads: 'flat', 'separate' or 'shared'."""
    if heads == "flat":
        return make_head(gate, ADAPTERS[adapter](rank), 0)
    shared = heads == "shared"
    each = [
        make_head(gate, embedded(HORA[adapter](rank), seed) if shared else ADAPTERS[adapter](rank), seed)
        for seed in range(HEADS)
    ]
    outputs = jnp.asarray(np.random.default_rng(11).normal(size=(HEADS, D_OUT, D)))
    return hierarchical(each, outputs, shared, own_weights)


def make_measure(model, seed=5, k=K):
    """Random atoms of every kind, leading axes as the model wants them; weights e^-0.5 to e^0.7."""
    keys = jax.random.split(jax.random.key(seed), k)
    drawn = [model.draw(key, 1.0) for key in keys]
    separate = isinstance(model, HierarchicalModel) and not model.shared_atoms
    axis = 1 if separate else 0
    atoms = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *[atom for atom, _ in drawn])
    weights = np.linspace(-0.5, 0.7, k)
    if isinstance(model, HierarchicalModel) and (separate or model.own_weights):
        weights = weights + 0.1 * np.arange(model.count)[:, None]
    return MixingMeasure(jnp.asarray(weights), atoms, drawn[0][1])


def inputs(points=4, scale=0.8):
    return scale * np.random.default_rng(3).normal(size=(points, D))


def predictions(model, measure, x):
    return np.asarray(jax.vmap(model.predict, (None, 0))(measure, jnp.asarray(x)))


def at(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def plain(tree):
    return jax.tree.map(np.asarray, tree)


ACTS = {"identity": lambda z: z, "tanh": np.tanh, "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z))}


def reference_updates(adapter, atom, common, pretrained):
    """(Delta_Q, Delta_V), formula by formula."""
    if isinstance(adapter, Embedded):
        left, right = np.asarray(adapter.left), np.asarray(adapter.right)
        moved = [left @ leaf if leaf.shape[0] == D - 1 else leaf @ right for leaf in atom]
        return reference_updates(adapter.inner, moved, common, pretrained)
    if isinstance(adapter, WeightDecomposed):
        return reference_decomposed(adapter, atom, common, pretrained)
    act = ACTS["identity" if isinstance(adapter, Dial) else adapter.activation]
    products = [act(left) @ act(right) for left, right in zip(atom[::2], atom[1::2], strict=True)]
    if isinstance(adapter, Dial):
        return products[0], adapter.eta * products[0] + (1 - adapter.eta) * products[1]
    return products[0], products[-1]


def reference_decomposed(adapter, atom, common, pretrained):
    deltas = []
    for which, update in enumerate(reference_updates(adapter.inner, atom[0], (), pretrained)):
        base = np.asarray(pretrained[which])
        gains = {"fixed": np.zeros(D), "global": common[0], "free": atom[1]}[adapter.magnitudes]
        gain = gains[which] if adapter.magnitudes != "fixed" else gains
        tau = common[1][which] if adapter.tau_is_common else (0.5 if adapter.tau == "free" else adapter.tau)
        moved = base + update
        adapted = np.zeros(moved.shape, moved.dtype)
        for column in range(D):
            magnitude = np.sqrt(np.sum(base[:, column] ** 2)) * (1 + gain[column])
            adapted[:, column] = magnitude * moved[:, column] / (np.sqrt(np.sum(moved[:, column] ** 2)) + tau)
        deltas.append(adapted - base)
    return deltas


def reference_head(model, log_weights, atoms, common, x):
    """f at all points of one head; atoms as a list of atoms of NumPy arrays."""
    base_query, base_value = (np.asarray(matrix) for matrix in model.pretrained)
    entries = [
        (c, *reference_updates(model.adapter, atom, common, model.pretrained))
        for c, atom in zip(log_weights, atoms, strict=True)
    ]
    entries += [
        (np.asarray(model.frozen.log_weights)[i], *plain(at(model.frozen.updates, i)))
        for i in range(model.frozen.count)
    ]
    total, out = np.zeros(len(x)), np.zeros((len(x), len(base_value)))
    for c, query, value in entries:
        if isinstance(model.gate, AttentionGate):
            key = np.asarray(model.gate.key)
            score = np.array([point @ (base_query + query) @ key @ point for point in x]) / D**0.5
        else:
            apart = x @ (base_query + query).T - np.asarray(model.gate.center)
            score = -0.5 * np.sum(apart**2, axis=1)
        share = np.exp(c + score)
        total = total + share
        out = out + share[:, None] * (x @ (base_value + value).T)
    return out / total[:, None]


def reference(model, measure, x, atoms=None):
    """f_G at all points; ``atoms`` may replace the measure's by complex ones (a list per head)."""
    if not isinstance(model, HierarchicalModel):
        own = atoms[0] if atoms else [plain(at(measure.atoms, i)) for i in range(measure.k)]
        return reference_head(model, np.asarray(measure.log_weights), own, plain(measure.common), x)
    total = np.zeros((len(x), model.outputs.shape[1]))
    for h in range(model.count):
        held = measure if model.shared_atoms else at(measure, h)
        weights = np.asarray(measure.log_weights)
        own = atoms[h] if atoms else [plain(at(held.atoms, i)) for i in range(measure.k)]
        weights = weights[h] if weights.ndim == 2 else weights
        out = reference_head(at(model.heads, h), weights, own, plain(held.common), x)
        total = total + out @ np.asarray(model.outputs)[h].T
    return total


def jacobian(model, measure, x, head=0):
    """df / d(first atom of a head, or of all where they are shared), by complex steps; columns as ``ravel_pytree``."""
    count = model.count if isinstance(model, HierarchicalModel) else 1
    separate = isinstance(model, HierarchicalModel) and not model.shared_atoms
    lists = [
        [plain(at(at(measure.atoms, h) if separate else measure.atoms, i)) for i in range(measure.k)]
        for h in range(count)
    ]
    leaves, structure = jax.tree.flatten(lists[head][0])
    columns = []
    for which, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            moved = [np.array(other, complex) for other in leaves]
            moved[which][index] += 1e-100j
            atom = jax.tree.unflatten(structure, moved)
            per_head = [[atom, *own[1:]] if not separate or h == head else own for h, own in enumerate(lists)]
            columns.append(reference(model, measure, x, per_head).imag.ravel() / 1e-100)
    return np.stack(columns, axis=1)


def flat_tangents(tangents):
    return np.asarray(jax.vmap(lambda tangent: ravel_pytree(tangent)[0])(tangents))
