"""f_G against loops in NumPy, its invariances, and the gauge: all of it and nothing else.

Nothing is compiled as a whole here: with so many small shapes single operations are far cheaper.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from moe_theory.errors import InputError
from moe_theory.estimation.objective import design_of, mix
from moe_theory.models.adapters import Lora, LoraAtom, Projections, RepLora, SharedAtom
from moe_theory.models.experts import LinearExpert
from moe_theory.models.gates import AttentionGate, GaussianGate
from moe_theory.models.measure import MixingMeasure
from moe_theory.models.regression import FrozenAtoms, RegressionModel, frozen_pretrained

D = 4
K = 3
RADIUS = 3.0

GATES = ("attention", "gaussian")
ADAPTERS = ("lora", "identity", "tanh", "sigmoid")
RANKS = (1, 2)
CASES = list(itertools.product(GATES, ADAPTERS, RANKS))

UNEQUAL = 3
"""LoRA's value matrix has three rows and (in the Gaussian gate) its query matrix five: shapes must not matter."""


def make_model(gate, adapter, rank, frozen=1, square=False, q=None):
    rng = np.random.default_rng([GATES.index(gate), ADAPTERS.index(adapter), rank])
    lora = adapter == "lora"
    d_out = UNEQUAL if lora and not square else D
    q = q or (D + 1 if lora and gate == "gaussian" and not square else D)
    pretrained = Projections(jnp.asarray(rng.normal(size=(q, D))), jnp.asarray(rng.normal(size=(d_out, D))))
    gates = {"attention": AttentionGate(jnp.asarray(rng.normal(size=(D, D)))), "gaussian": GaussianGate(jnp.ones(q))}
    updates = Projections(
        jnp.asarray(0.4 * rng.normal(size=(frozen, q, D))), jnp.asarray(0.4 * rng.normal(size=(frozen, d_out, D)))
    )
    return RegressionModel(
        gates[gate],
        LinearExpert(),
        Lora(rank) if lora else RepLora(rank, adapter),
        pretrained,
        FrozenAtoms(jnp.asarray(0.3 * rng.normal(size=frozen)), updates),
    )


def random_atoms(model, seed, k=None, scale=0.7):
    """Gaussian raw factors, one atom or k of them."""
    rng = np.random.default_rng(seed)
    (q, d), (d_out, _), r = model.pretrained.query.shape, model.pretrained.value.shape, model.adapter.rank
    lora = isinstance(model.adapter, Lora)
    shapes = [(q, r), (r, d), (d_out, r), (r, d)] if lora else [(d, r), (r, d)]
    leading = () if k is None else (k,)
    return (LoraAtom if lora else SharedAtom)(*(jnp.asarray(scale * rng.normal(size=leading + s)) for s in shapes))


def random_measure(model, seed=5):
    return MixingMeasure(jnp.asarray(np.linspace(-0.5, 0.7, K)), random_atoms(model, seed, K))


def inputs(points=5):
    return np.random.default_rng(3).normal(size=(points, D))


def predictions(model, measure, x):
    return jax.vmap(model.predict, (None, 0))(measure, x)


def effective(model, atom):
    return jnp.concatenate(model.effective(model.update(atom)))


SLOW_ACTIVATIONS = {
    "identity": lambda value: value,
    "tanh": lambda value: (np.exp(value) - np.exp(-value)) / (np.exp(value) + np.exp(-value)),
    "sigmoid": lambda value: 1.0 / (1.0 + np.exp(-value)),
}


def slow_product(left, right):
    out = np.zeros((left.shape[0], right.shape[1]))
    for i, j, a in itertools.product(range(left.shape[0]), range(right.shape[1]), range(left.shape[1])):
        out[i, j] += left[i, a] * right[a, j]
    return out


def slow_updates(model, measure, index):
    """(Delta_Q, Delta_V) of one atom, from its raw factors."""
    atom = jax.tree.map(lambda leaf: np.asarray(leaf)[index], measure.atoms)
    if isinstance(model.adapter, Lora):
        query = slow_product(atom.query_left, atom.query_right)
        return query, slow_product(atom.value_left, atom.value_right)
    act = SLOW_ACTIVATIONS[model.adapter.activation]
    delta = slow_product(act(atom.left), act(atom.right))
    return delta, delta


def slow_score(gate, query, x):
    if isinstance(gate, AttentionGate):
        key, total = np.asarray(gate.key), 0.0
        for a, b, c in itertools.product(range(D), repeat=3):
            total += x[a] * query[a, b] * key[b, c] * x[c]
        return total / D**0.5
    total = 0.0
    for row, center in zip(query, np.asarray(gate.center), strict=True):
        total -= 0.5 * (sum(row[j] * x[j] for j in range(D)) - center) ** 2
    return total


def slow_predict(model, measure, x):
    """f_G(x) with explicit loops, the softmax by hand."""
    base_query, base_value = np.asarray(model.pretrained.query), np.asarray(model.pretrained.value)
    updates = [slow_updates(model, measure, i) for i in range(measure.k)]
    log_weights = list(np.asarray(measure.log_weights))
    for i in range(model.frozen.count):
        updates.append((np.asarray(model.frozen.updates.query)[i], np.asarray(model.frozen.updates.value)[i]))
        log_weights.append(float(model.frozen.log_weights[i]))
    scores = [c + slow_score(model.gate, base_query + u[0], x) for c, u in zip(log_weights, updates, strict=True)]
    shares = [np.exp(score - max(scores)) for score in scores]
    out = np.zeros(base_value.shape[0])
    for share, (_, value) in zip(shares, updates, strict=True):
        for o, j in itertools.product(range(base_value.shape[0]), range(D)):
            out[o] += share / sum(shares) * (base_value + value)[o, j] * x[j]
    return out


@pytest.mark.parametrize(("gate", "adapter", "rank"), CASES)
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_predict_and_design_equal_slow_loops(gate, adapter, rank, frozen):
    model = make_model(gate, adapter, rank, frozen)
    measure, x = random_measure(model), inputs()
    fast = predictions(model, measure, jnp.asarray(x))
    mixture = mix(model.coefficients(measure), design_of(model, jnp.asarray(x)))
    slow = np.stack([slow_predict(model, measure, point) for point in x])
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mixture.prediction.T, slow, rtol=1e-12, atol=1e-12)
    total = np.sum(np.asarray(mixture.gates), axis=(0, 1))  # one head
    assert np.any(total < 1.0 - 1e-3) == (frozen > 0)


def test_square_lora_equals_slow_loops():
    model = make_model("gaussian", "lora", 2, square=True)
    measure, x = random_measure(model), inputs()
    slow = np.stack([slow_predict(model, measure, point) for point in x])
    np.testing.assert_allclose(predictions(model, measure, jnp.asarray(x)), slow, rtol=1e-12, atol=1e-12)


def test_scores_survive_the_coefficients_up_to_a_common_constant():
    rng = np.random.default_rng(0)
    x, query = rng.normal(size=(6, D)), rng.normal(size=(2, D, D))
    for gate in (AttentionGate(jnp.asarray(rng.normal(size=(D, D)))), GaussianGate(jnp.asarray(rng.normal(size=D)))):
        direct = np.array([[slow_score(gate, matrix, point) for point in x] for matrix in query])
        features = np.stack([np.asarray(gate.features(jnp.asarray(point))) for point in x])
        linear = np.stack([np.asarray(gate.coefficients(jnp.asarray(matrix))) for matrix in query]) @ features.T
        np.testing.assert_allclose(np.ptp(direct - linear), 0.0, atol=1e-12)
        assert np.ptp(direct) > 1.0


def test_atoms_may_be_listed_in_any_order():
    for gate, adapter in itertools.product(GATES, ADAPTERS):
        model = make_model(gate, adapter, 1)
        measure, x = random_measure(model), jnp.asarray(inputs())
        order = np.array([2, 0, 1])
        listed = MixingMeasure(measure.log_weights[order], jax.tree.map(lambda leaf: leaf[order], measure.atoms))  # noqa: B023
        np.testing.assert_allclose(predictions(model, listed, x), predictions(model, measure, x), atol=1e-13)


def shifted_by(model, shift):
    measure, x = random_measure(model), jnp.asarray(inputs())
    moved = MixingMeasure(measure.log_weights + shift, measure.atoms)
    return np.max(np.abs(np.asarray(predictions(model, moved, x)) - np.asarray(predictions(model, measure, x))))


@pytest.mark.parametrize("gate", GATES)
def test_common_shift_of_weights_is_invisible_only_without_an_anchor(gate):
    assert shifted_by(make_model(gate, "identity", 1, frozen=0), 3.7) < 1e-13
    assert shifted_by(make_model(gate, "identity", 1, frozen=1), 3.7) > 1e-3


def test_pretrained_anchor_is_the_unadapted_model():
    model = make_model("attention", "lora", 1)
    anchored = RegressionModel(
        model.gate, model.expert, model.adapter, model.pretrained, frozen_pretrained(model.pretrained)
    )
    measure, x = random_measure(model), inputs()
    faint = MixingMeasure(measure.log_weights - 60.0, measure.atoms)
    np.testing.assert_allclose(
        predictions(anchored, faint, jnp.asarray(x)), x @ np.asarray(model.pretrained.value).T, rtol=1e-12
    )


INVERSES = {"identity": lambda value: value, "tanh": np.arctanh, "sigmoid": lambda value: -np.log(1.0 / value - 1.0)}


def turned(adapter, atom, turn):
    """(B S, S^-1 A) of every product, on the activated factors; S and S^-1 change places in LoRA's value product."""
    inverse = np.linalg.inv(turn)
    factors = [np.asarray(leaf) for leaf in atom]
    if isinstance(adapter, Lora):
        moved = [factors[0] @ turn, inverse @ factors[1], factors[2] @ inverse, turn @ factors[3]]
        return LoraAtom(*(jnp.asarray(factor) for factor in moved))
    act, back = SLOW_ACTIVATIONS[adapter.activation], INVERSES[adapter.activation]
    return SharedAtom(jnp.asarray(back(act(factors[0]) @ turn)), jnp.asarray(back(inverse @ act(factors[1]))))


def flat(atom):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in atom])


def each_of(atoms):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], atoms) for i in range(len(atoms[0]))]


def stacked(atoms):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *atoms)


@pytest.mark.parametrize(("gate", "adapter", "rank"), CASES)
def test_general_linear_gauge_changes_neither_f_nor_effective_coordinates(gate, adapter, rank):
    model = make_model(gate, adapter, rank)
    measure, x = random_measure(model), jnp.asarray(inputs())
    # Close to the identity: a bounded activation cannot follow every turn.
    turn = np.array([[1.03]]) if rank == 1 else np.array([[1.02, 0.01], [-0.01, 0.98]])
    atoms = stacked([turned(model.adapter, atom, turn) for atom in each_of(measure.atoms)])
    assert np.max(np.abs(flat(atoms) - flat(measure.atoms))) > 0.01
    np.testing.assert_allclose(
        predictions(model, MixingMeasure(measure.log_weights, atoms), x), predictions(model, measure, x), atol=1e-12
    )
    before, after = (jax.vmap(lambda atom: effective(model, atom))(which) for which in (measure.atoms, atoms))
    np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_attention_sees_only_the_symmetric_part_of_a_lora_query(rank):
    """b a' and (M_K' a)(M_K^-T b)' give one score, and so do all turns of [B C'] that keep [B C'] J [B C']'."""
    model = make_model("attention", "lora", rank)
    atom = random_atoms(model, 1)
    assert isinstance(atom, LoraAtom)
    assert isinstance(model.gate, AttentionGate)
    left, right, key = (np.asarray(leaf) for leaf in (atom.query_left, atom.query_right, model.gate.key))
    swapped = atom._replace(
        query_left=jnp.asarray((right @ key).T), query_right=jnp.asarray(left.T) @ np.linalg.inv(key)
    )
    np.testing.assert_allclose(effective(model, swapped), effective(model, atom), atol=1e-12)

    rng = np.random.default_rng(2)
    e, s, t = (0.3 * rng.normal(size=(rank, rank)) for _ in range(3))
    turn = expm(np.block([[e, s - s.T], [t - t.T, -e.T]]))
    stacked = np.hstack([left, (right @ key).T]) @ turn
    moved = atom._replace(
        query_left=jnp.asarray(stacked[:, :rank]), query_right=jnp.asarray(stacked[:, rank:].T @ np.linalg.inv(key))
    )
    np.testing.assert_allclose(effective(model, moved), effective(model, atom), atol=1e-12)
    if rank > 1:
        assert np.linalg.norm(model.update(moved).query - model.update(atom).query) > 0.1


def gauge_dimension(gate, adapter, rank):
    if adapter != "lora":
        return rank**2
    return rank**2 + (rank * (2 * rank - 1) if gate == "attention" else rank**2)


def smooth_predict(model, factors, others, x):
    """f at many points for complex factors of the first atom, in NumPy; the shared factor of the gates cancels."""
    pretrained, gate = model.pretrained, model.gate

    def update(atom):
        if isinstance(model.adapter, Lora):
            return atom[0] @ atom[1], atom[2] @ atom[3]
        left, right = (SLOW_ACTIVATIONS[model.adapter.activation](leaf) for leaf in atom)
        return left @ right, left @ right

    total, out = np.zeros(len(x)), np.zeros((len(x), len(pretrained.value)))
    for query, value in [*(update(atom) for atom in (factors, *others)), (0.0, 0.0)]:
        adapted = np.asarray(pretrained.query) + query
        if isinstance(gate, AttentionGate):
            score = np.einsum("ma,ab,mb->m", x, adapted @ np.asarray(gate.key), x) / D**0.5
        else:
            score = -0.5 * np.sum((x @ adapted.T - np.asarray(gate.center)) ** 2, axis=1)
        total = total + np.exp(0.2 * score)
        out = out + np.exp(0.2 * score)[:, None] * (x @ (np.asarray(pretrained.value) + value).T)
    return out / total[:, None]


def jacobian_of_f(model, atom, others, x):
    """By complex steps, exact to rounding. The scores count a fifth, which keeps every atom alive at every point."""
    columns = []
    for which, leaf in enumerate(atom):
        for index in np.ndindex(leaf.shape):
            moved = [np.asarray(factor, complex) for factor in atom]
            moved[which][index] += 1e-100j
            columns.append(smooth_predict(model, moved, others, x).imag.ravel() / 1e-100)
    return np.stack(columns, axis=1)


def check_gauge(model, dimension):
    """The nullity of the Jacobian is as it should be, and the package's tangents span the null space."""
    atom, *others = ([np.asarray(leaf) for leaf in random_atoms(model, seed)] for seed in range(3))
    jacobian = jacobian_of_f(model, atom, others, inputs(40))
    sizes = np.linalg.svd(jacobian, compute_uv=False)
    assert jacobian.shape[1] - np.sum(sizes > 1e-10 * sizes[0]) == dimension
    tangents = np.stack([flat(tangent) for tangent in each_of(model.gauge(random_atoms(model, 0)))])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    assert np.max(np.abs(jacobian @ tangents.T)) < 1e-13 * sizes[0]
    assert len(tangents) == dimension
    assert np.linalg.svd(tangents, compute_uv=False)[-1] > 1e-3


@pytest.mark.parametrize(("gate", "adapter", "rank"), CASES)
def test_gauge_tangents_are_exactly_what_the_model_cannot_see(gate, adapter, rank):
    check_gauge(make_model(gate, adapter, rank, q=D), gauge_dimension(gate, adapter, rank))


def test_attention_gauge_at_high_rank():
    """2 r - d >= 2: O(r, r) no longer acts freely, its tangents are dependent."""
    check_gauge(make_model("attention", "lora", 3), 24 - D * (D + 1) // 2 + 9)


@pytest.mark.parametrize(("q", "rank", "extra"), [(5, 2, 1), (4, 3, 2), (6, 1, 1)])
def test_gaussian_gauge_at_high_rank_or_tall_queries(q, rank, extra):
    """q - d + r >= 3: rotations about kappa keep the rank to first order."""
    check_gauge(make_model("gaussian", "lora", rank, q=q), 2 * rank**2 + extra)


def distance(one, other):
    return np.linalg.norm(flat(one) - flat(other))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_balance_and_alignment_stay_in_the_orbit(adapter, rank):
    """Delta itself is kept (so f is), balanced factors are of equal size, aligned ones are not farther away."""
    model = make_model("attention", adapter, rank)
    tools, atom = model.adapter, random_atoms(model, 1, scale=0.6)
    lopsided = turned(tools, atom, 1.1 * np.eye(rank))
    before = model.update(lopsided)
    nudged = jax.tree.map(lambda leaf: leaf + 0.01, atom)
    references = {"near": nudged, "far": random_atoms(model, 9), "turned": lopsided}
    members = {"balanced": tools.balance(lopsided)} | {
        name: tools.aligned(lopsided, reference) for name, reference in references.items()
    }
    for name, member in members.items():
        after = model.update(member)
        np.testing.assert_allclose(after.query, before.query, rtol=1e-11, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(after.value, before.value, rtol=1e-11, atol=1e-13, err_msg=name)
    assert distance(members["turned"], lopsided) < 1e-10
    again = tools.balance(members["balanced"])
    np.testing.assert_allclose(flat(again), flat(members["balanced"]), rtol=1e-11)

    activate = SLOW_ACTIVATIONS["identity" if adapter == "lora" else adapter]
    factors = [np.abs(activate(np.asarray(leaf))) for leaf in members["balanced"]]
    for left, right in zip(factors[::2], factors[1::2], strict=True):
        np.testing.assert_allclose(left.max(axis=0), right.max(axis=1), rtol=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_lora_alignment_undoes_a_turn(rank):
    """A nearby atom in another gauge comes back to the reference's gauge, close to it."""
    model = make_model("attention", "lora", rank)
    atom = random_atoms(model, 4)
    nearby = jax.tree.map(lambda leaf: leaf + 1e-4 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), atom)
    turn = np.array([[-2.0]]) if rank == 1 else np.array([[-1.3, 0.8], [0.4, 0.9]])
    away = turned(model.adapter, nearby, turn)
    assert distance(away, atom) > 0.3
    assert distance(model.adapter.aligned(away, atom), atom) < 1e-2


def interior(model, atom, radius=RADIUS):
    return model.interior(atom, (), radius)


def scaled_update(model, atom, norm):
    """The atom of the same direction with || Delta_V ||_F (and || Delta_Q ||_F) = norm; identity activation."""
    if isinstance(model.adapter, Lora):
        sizes = [np.sqrt(norm / np.linalg.norm(delta)) for delta in model.update(atom)]
        return LoraAtom(*(leaf * sizes[i // 2] for i, leaf in enumerate(atom)))
    size = np.sqrt(norm / np.linalg.norm(model.update(atom).value))
    return SharedAtom(*(leaf * size for leaf in atom))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("adapter", ["lora", "identity"])
def test_ball_slacks_change_sign_at_the_radius(adapter, rank):
    model = make_model("attention", adapter, rank)
    for seed in range(3):
        atom = random_atoms(model, seed)
        for factor, sign in ((0.999, 1), (1.001, -1)):
            slacks = interior(model, scaled_update(model, atom, factor * RADIUS))
            assert slacks.shape == ((2,) if adapter == "lora" else (1,))
            assert np.all(sign * slacks > 0)
    query_out = scaled_update(model, random_atoms(model, 2), 0.5 * RADIUS)
    if isinstance(query_out, LoraAtom):
        query_out = query_out._replace(query_left=4.0 * query_out.query_left)
        assert (interior(model, query_out) < 0).tolist() == [True, False]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("activation", "low", "high"), [("tanh", -0.9, 0.9), ("sigmoid", 0.02, 0.9)])
def test_bounded_activation_keeps_every_entry_off_its_unreachable_bounds(activation, low, high, rank):
    model = make_model("attention", activation, rank)
    adapter = model.adapter
    assert isinstance(adapter, RepLora)
    high, low = high * rank, low if activation == "sigmoid" else low * rank

    def slacks(entry):
        """All factors activated to the size that makes Delta's last column equal to the entry, others half-way."""
        left = np.full((D, rank), np.sqrt(abs(entry) / rank))
        right = np.full((rank, D), np.sqrt(0.3))
        right[:, -1] = np.sign(entry) * np.sqrt(abs(entry) / rank)
        atom = SharedAtom(*(adapter.act.inverse(jnp.asarray(factor)) for factor in (left, right)))
        np.testing.assert_allclose(model.update(atom).value[:, -1], entry, rtol=1e-12)
        return np.asarray(interior(model, atom, 100.0))

    assert slacks(0.5 * (low + high) + 0.1).shape == (1 + D * D,)
    for bound, inwards in ((low, 1.0), (high, -1.0)):
        assert np.all(slacks(bound + 1e-3 * inwards) > 0)
        assert np.sum(slacks(bound - 1e-3 * inwards) < 0) == D


@pytest.mark.parametrize("adapter", ["lora", "sigmoid"])
def test_drawn_atoms_lie_inside_and_have_the_size_asked_for(adapter):
    model = make_model("attention", adapter, 2)
    keys = jax.random.split(jax.random.key(0), 256)

    @jax.jit
    def drawn(keys):
        atoms = jax.vmap(lambda key: model.adapter.draw(key, model.pretrained, 0.8))(keys)
        return jax.vmap(model.update)(atoms), jax.vmap(lambda a: interior(model, a))(atoms)

    deltas, slacks = drawn(keys)
    assert np.mean(np.all(np.asarray(slacks) > 0, axis=1)) > 0.95
    if adapter == "lora":
        for delta in deltas:
            square = np.sum(np.asarray(delta) ** 2, axis=(1, 2))
            assert abs(square.mean() - 0.8**2) < 4 * square.std() / 16


@pytest.mark.parametrize("rank", [0, -1, UNEQUAL + 1])
def test_rank_beyond_the_matrices_is_refused(rank):
    model = make_model("attention", "lora", 1)
    with pytest.raises(InputError, match=f"between 1 and {UNEQUAL}"):
        RegressionModel(model.gate, model.expert, Lora(rank), model.pretrained, model.frozen)


def test_sharing_needs_equal_shapes():
    model = make_model("gaussian", "lora", 1)
    with pytest.raises(InputError, match="one shape"):
        RegressionModel(model.gate, model.expert, RepLora(1), model.pretrained, model.frozen)


def test_unknown_activation_is_refused_and_the_known_are_named():
    with pytest.raises(InputError, match="identity, tanh, sigmoid"):
        RepLora(1, "relu")
