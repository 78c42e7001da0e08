"""The pool of lanes: everyone comes back once, and block size, order and neighbours change nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation.certificate import SPREAD, certify, judge
from moe_theory.estimation.least_squares import Problem
from moe_theory.estimation.pool import DOMINATED, DOMINATED_MARGIN, Lane, Pool
from moe_theory.estimation.space import Chart
from moe_theory.estimation.starts import StartMaker, plan_named
from moe_theory.estimation.trust_region import CONVERGED, DECREMENT, ITERATION_LIMIT, initial_state
from moe_theory.sampling.statistics import draw_statistics
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.voronoi import effective_losses

N = 10**6
BLOCK = 8
TRUTH_VALUE = jnp.asarray(100.0)
SPEC = ProblemSpec(dimension=2, support=64, adapter="replora")


@pytest.fixture(scope="module")
def chart():
    setup = build(SPEC)
    return Chart(setup.model, setup.space, setup.k_fit)


@pytest.fixture(scope="module")
def lanes(chart):
    """18 lanes of three replications; each its own owner, so that none is stopped for another's sake."""
    setup = build(SPEC)
    maker = StartMaker(chart, setup.truth, plan_named("smoke"))
    made = []
    for replication in range(3):
        data = draw_statistics(setup.values, setup.sigma, N, 0, replication)
        made += [Lane(len(made) + i, data, z) for i, z in enumerate(maker.make(N, 0, replication).z)]
    return made


@pytest.fixture(scope="module")
def pool(quick, pool_of):
    return pool_of(SPEC, BLOCK)


@pytest.fixture(scope="module")
def ends(pool, lanes):
    return run(pool, lanes)


def run(pool, lanes):
    """State by owner, each exactly once."""
    found = list(pool.run(iter(lanes)))
    assert sorted(end.order for end in found) == list(range(len(lanes)))
    assert all(end.owner == lanes[end.order].owner for end in found)
    return {end.owner: end.state for end in found}


def identical(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def close(chart, one, other):
    """The same minima. A lane ends within sqrt(2 DECREMENT) = 0.0045 standard deviations of one, and where rounding has
    one more step taken, or one fewer, its ends differ by as much; nine of ten take the same steps."""
    setup = build(SPEC)
    loss = jax.jit(lambda z: effective_losses(setup.model, chart.measure(z), setup.truth).d_12)
    assert all(int(state.status) == int(other[owner].status) for owner, state in one.items())
    values = np.array([(float(state.value), float(other[owner].value)) for owner, state in one.items()])
    losses = np.array([(float(loss(state.z)), float(loss(other[owner].z))) for owner, state in one.items()])
    apart, ratio = np.abs(values[:, 0] - values[:, 1]), np.abs(losses[:, 0] / losses[:, 1] - 1.0)
    assert np.max(apart) < DECREMENT
    assert np.max(ratio) < 0.01
    assert np.mean((apart < 1e-6) & (ratio < 1e-5)) > 0.9


def test_every_lane_comes_back_once_and_nearly_all_converge(ends, lanes):
    assert len(ends) == len(lanes)
    assert sum(int(state.status) == CONVERGED for state in ends.values()) >= len(lanes) - 1


def test_no_lanes_no_ends(pool):
    assert list(pool.run(iter(()))) == []


def test_order_and_neighbours_change_no_bit(pool, lanes, ends):
    order = np.random.default_rng(0).permutation(len(lanes))
    shuffled = run(pool, [lanes[i] for i in order])
    assert all(identical(shuffled[owner], state) for owner, state in ends.items())
    for chosen in (lanes[5:6], lanes[2:13:3]):
        alone = run(pool, chosen)
        assert all(identical(state, ends[owner]) for owner, state in alone.items())


def test_lanes_are_taken_only_when_a_place_is_free(pool, lanes):
    """A block holds no more lanes than it has places, so that a sweep's data need not exist all at once."""
    taken, left = 0, 0

    def feed():
        nonlocal taken
        for lane in lanes:
            taken += 1
            assert taken - left <= BLOCK + 1
            yield lane

    for _ in pool.run(feed()):
        left += 1
    assert taken == left == len(lanes)


def test_a_lane_is_stopped_only_where_another_of_its_owner_is_lower(pool, lanes, ends):
    """Lanes of one owner compete: the lowest is the same, bit by bit; what was stopped was above it."""
    together = [lane._replace(owner=index // 6) for index, lane in enumerate(lanes)]
    found = list(pool.run(iter(together)))
    assert sorted(end.order for end in found) == list(range(len(lanes)))
    for owner in range(3):
        own = [end for end in found if end.owner == owner]
        assert len(own) == 6
        best = min((end for end in own if int(end.state.status) == CONVERGED), key=lambda end: float(end.state.value))
        alone = [ends[index] for index in range(6 * owner, 6 * owner + 6) if int(ends[index].status) == CONVERGED]
        assert float(best.state.value) == min(float(state.value) for state in alone)
        for end in own:
            if int(end.state.status) == DOMINATED:
                assert float(end.state.value) > float(best.state.value) + DOMINATED_MARGIN
            else:
                assert identical(end.state, ends[end.order])


def test_a_pool_judges_as_certify_does(quick, chart, pool, lanes, ends):
    """Certificates by the code that takes steps against those formed lane by lane."""
    chosen = range(BLOCK)
    data, states = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        for parts in ([lanes[index].data for index in chosen], [ends[index] for index in chosen])
    )
    made = jax.vmap(judge, (0, None))(pool.stand(data, states), TRUTH_VALUE)
    design = build(SPEC).design
    alone = jax.jit(lambda own, state: certify(Problem(chart, design, own), state, TRUTH_VALUE))
    for place in chosen:
        one = alone(lanes[place].data, ends[place])
        np.testing.assert_allclose(made.excess[place], one.excess, rtol=1e-9)
        np.testing.assert_allclose(made.gap[place], one.gap, rtol=1e-9)
        np.testing.assert_allclose(made.decrement[place], one.decrement, rtol=1e-3, atol=1e-9)
        assert bool(made.passed[place]) == bool(one.passed)


def test_a_lane_begins_with_the_types_it_goes_on_with(chart, lanes):
    """A weakly typed number among them would have every step traced and compiled twice."""
    design = build(SPEC).design
    begun = jax.eval_shape(lambda data, z: initial_state(Problem(chart, design, data), z), lanes[0].data, lanes[0].z)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(begun))


def test_lanes_that_were_given_up_are_taken_up_again(pool, lanes, ends):
    """From where they were, no higher than there, and iterations add up."""
    early = {end.owner: end.state for end in pool.run(iter(lanes), longest=1)}
    chosen = [owner for owner, end in ends.items() if end.status == CONVERGED and early[owner].status != CONVERGED]
    assert len(chosen) > BLOCK
    data, states = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        for parts in ([lanes[owner].data for owner in chosen], [early[owner] for owner in chosen])
    )
    ended = pool.resume(data, states)
    assert np.mean(ended.status == CONVERGED) > 0.9
    assert (ended.iterations > states.iterations).all()
    assert (ended.value <= states.value + SPREAD).all()
    briefly = pool.resume(data, states, longest=2)
    assert (briefly.iterations <= states.iterations + 2).all()
    assert (briefly.status == ITERATION_LIMIT).any()


@pytest.mark.parametrize(
    "size", [7, pytest.param(1, marks=pytest.mark.slow),
             pytest.param(16, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow)]
)  # fmt: skip
def test_block_size_changes_rounding_only(quick, chart, lanes, ends, size):
    close(chart, ends, run(Pool(Problem, (chart, build(SPEC).design), size), lanes))


@pytest.mark.slow
def test_two_devices_and_all_optimisations_change_rounding_only(chart, lanes, ends, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", jax.devices)
    assert len(jax.local_devices()) == 2
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        found = run(Pool(Problem, (chart, build(SPEC).design), BLOCK), lanes)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    close(chart, ends, found)
