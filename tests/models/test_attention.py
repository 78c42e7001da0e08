"""The papers' premise: a row of multi-head self-attention, written independently, is a hierarchical mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.models.adapters import Lora, Projections, RepLora
from moe_theory.models.attention import AttentionHead, Row, attention_row
from moe_theory.models.decomposed import dora, doran
from moe_theory.models.embedded import Embedded
from moe_theory.models.measure import MixingMeasure
from tests.models.systems import at, plain, reference_updates

pytestmark = pytest.mark.usefixtures("quick")

TOKENS, WIDTH, D_OUT, HEADS, ATOMS = 3, 4, 3, 2, 2


def softmax_rows(scores):
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def attention(tokens, heads, adapted):
    """All rows of multi-head attention.

    Every head attends to its N tokens with its pre-trained matrices and, in the same softmax, to one more key and
    value per adapted pair (c, W_Q, W_V): the pooled token, read with these.
    """
    pooled = tokens.sum(axis=0)
    out = np.zeros((len(tokens), D_OUT))
    for head, extra in zip(heads, adapted, strict=True):
        query, key, value, output = head
        keys, values = tokens @ key.T, tokens @ value.T
        scores = (tokens @ query) @ keys.T / np.sqrt(tokens.shape[1])
        for log_weight, own_query, own_value in extra:
            score = (tokens @ own_query) @ (key @ pooled) / np.sqrt(tokens.shape[1]) + log_weight
            scores = np.concatenate([scores, score[:, None]], axis=1)
            values = np.concatenate([values, (own_value @ pooled)[None]])
        out = out + softmax_rows(scores) @ values @ output.T
    return out


def embedded(inner, seed):
    rng = np.random.default_rng([3, seed])
    return Embedded(inner, jnp.asarray(rng.normal(size=(WIDTH, 3))), jnp.asarray(rng.normal(size=(3, WIDTH))))


SYSTEMS = {
    "lora": lambda head: Lora(2),
    "replora": lambda head: RepLora(2),
    "replora-tanh": lambda head: RepLora(2, "tanh"),
    "dora": lambda head: dora(2, "free", 0.0),
    "doran": lambda head: doran(2, "tanh", "fixed", 0.5),
    "doran-global": lambda head: doran(2, "tanh", "global", "free"),
    "hora": lambda head: embedded(RepLora(2), head),
    "hora-tanh": lambda head: embedded(RepLora(2, "tanh"), head),
    "hora-heads-only": lambda head: embedded(Lora(2, "tanh"), head),
}


def make_heads(rng):
    def draw(rows):
        return jnp.asarray(rng.normal(size=(rows, WIDTH)))

    return [AttentionHead(draw(WIDTH), draw(WIDTH), draw(WIDTH), draw(D_OUT)) for _ in range(HEADS)]


def draw_atoms(adapter, head, seed):
    """Token-level atoms (leading axis ATOMS) and common parameters."""
    matrices = Projections(head.query, head.value)
    keys = jax.random.split(jax.random.key(seed), ATOMS)
    drawn = [adapter.draw(key, matrices, 1.5) for key in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn), adapter.draw_common(keys[0], matrices)


def lifted_common(common):
    """Global gains are repeated for every token's columns; tau stays."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, TOKENS) if leaf.ndim else leaf, common)


def token_level(adapter, head, weights, atoms, common):
    """(c, W_Q, W_V) of every atom, in NumPy."""
    base = Projections(head.query, head.value)
    pairs = []
    for place, weight in enumerate(weights):
        query, value = reference_updates(adapter, plain(at(atoms, place)), plain(common), base)
        pairs.append((weight, np.asarray(head.query) + query, np.asarray(head.value) + value))
    return pairs


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_row_of_adapted_attention_is_the_mixture_that_the_toolkit_builds(system, index):
    rng = np.random.default_rng(0)
    heads, tokens = make_heads(rng), rng.normal(size=(TOKENS, WIDTH)) * 0.7
    adapters = [SYSTEMS[system](head) for head in range(HEADS)]
    row, shared = Row(index, TOKENS, WIDTH), system.startswith("hora")
    weights = np.asarray([0.2, -0.4])
    drawn = [
        draw_atoms(adapter, head, 0 if shared else seed)
        for seed, (adapter, head) in enumerate(zip(adapters, heads, strict=True))
    ]
    model = attention_row(row, heads, adapters, shared)
    if shared:
        measure = MixingMeasure(jnp.asarray(weights), drawn[0][0])
    else:
        lifted = [(row.atoms(atoms), lifted_common(common)) for atoms, common in drawn]
        atoms, common = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lifted)
        measure = MixingMeasure(jnp.asarray(np.stack([weights] * HEADS)), atoms, common)
    adapted = [
        token_level(adapter, head, weights, *own) for adapter, head, own in zip(adapters, heads, drawn, strict=True)
    ]
    expected = attention(tokens, [plain(head) for head in heads], adapted)[index]
    np.testing.assert_allclose(model.predict(measure, jnp.asarray(tokens.ravel())), expected, rtol=1e-12, atol=1e-12)


def test_frozen_atoms_are_the_pretrained_attention():
    rng = np.random.default_rng(1)
    heads, tokens = make_heads(rng), rng.normal(size=(TOKENS, WIDTH))
    model = attention_row(Row(1, TOKENS, WIDTH), heads, [Lora(1)] * HEADS)
    atom, _ = model.draw(jax.random.key(0))
    faint = MixingMeasure(jnp.full((HEADS, 1), -60.0), jax.tree.map(lambda leaf: leaf[:, None], atom))
    expected = attention(tokens, [plain(head) for head in heads], [[], []])[1]
    np.testing.assert_allclose(model.predict(faint, jnp.asarray(tokens.ravel())), expected, rtol=1e-12)


def test_a_row_beyond_the_tokens_is_refused():
    with pytest.raises(InputError, match="row 3 is none of 3 tokens"):
        Row(3, 3, WIDTH)
