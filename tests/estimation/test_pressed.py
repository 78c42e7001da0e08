"""Bounds that a gauge motion moves: which motions these are, and when they are steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.estimation import trust_region
from moe_theory.estimation.pool import Lane, programs
from moe_theory.estimation.smooth import GaugeSlice
from moe_theory.estimation.space import Chart
from moe_theory.estimation.spectrum import REACH, decompose
from moe_theory.estimation.trust_region import CONVERGED, NEAR, UNRESOLVED_GAIN, pressed
from moe_theory.study.problem import build
from moe_theory.study.replicate import Replicator
from moe_theory.study.spec import ProblemSpec
from moe_theory.study.sweep import sweep_of
from moe_theory.theory.claims import claim_named


@pytest.mark.parametrize(
    ("settings", "loose"),
    [
        ({"adapter": "lora"}, 0),
        ({"adapter": "lora", "rank": 2}, 3 * 2),
        ({"adapter": "lora", "rank": 2, "gate": "gaussian"}, 0),
        ({"adapter": "lora", "gate": "density"}, 3 * 2),
        ({"adapter": "replora", "rank": 2}, 0),
        ({"adapter": "dora"}, 0),
        ({"adapter": "dora", "magnitudes": "free", "dimension": 4}, 3 * 1),
        ({"adapter": "lora", "rank": 2, "heads": 2}, 2 * 3 * 2),
    ],
)
def test_loose_motions_are_those_that_change_a_matrix(settings, loose):
    """O(r, r) less GL(r) under the attention gate, the rows of A across u under the density gate, none of GL(r)."""
    setup = build(ProblemSpec(**({"dimension": 3, "support": 160} | settings)))
    assert Chart(setup.model, setup.space, 3).loose == loose


EYE = jnp.eye(4)
ACROSS = GaugeSlice(EYE[:, :2], EYE[:, 2:], EYE[:, :2])
SLOPES = jnp.array([[0.6, 0.8, 0.0, 3.0], [0.0, 0.0, 1.0, 0.0]])


def test_an_active_bound_presses_along_the_gauge_motion_that_moves_it():
    along = np.asarray(pressed(ACROSS, jnp.asarray(1e-6), jnp.array([1e-5, 1e-5]), SLOPES, 1))[:, 0]
    np.testing.assert_allclose(np.abs(along), [0.6, 0.8, 0.0, 0.0], atol=1e-12)


def test_what_lies_in_the_slice_already_is_left_out():
    """The orbit (1, 0, 1, 0) / sqrt 2 crosses the slice at an angle: slice and column together hold it."""
    orbit = jnp.array([[1.0], [0.0], [1.0], [0.0]]) / jnp.sqrt(2.0)
    aslant = GaugeSlice(EYE[:, :1], EYE[:, 1:], orbit)
    along = np.asarray(pressed(aslant, jnp.asarray(1e-6), jnp.array([1e-5, 1.0]), SLOPES, 1))
    np.testing.assert_allclose(np.abs(along), np.asarray(EYE[:, :1]), atol=1e-12)


@pytest.mark.parametrize(
    ("barrier", "slack"),
    [
        pytest.param(1e-6, 0.9 * NEAR, id="near, but it presses with nothing"),
        pytest.param(1.0, 1.1 * NEAR, id="it presses, but from afar"),
    ],
)
def test_a_bound_that_is_not_active_makes_no_step(barrier, slack):
    assert barrier / slack * REACH < UNRESOLVED_GAIN or slack > NEAR
    assert not np.any(pressed(ACROSS, jnp.asarray(barrier), jnp.array([slack, 1e-5]), SLOPES, 1))


def test_columns_of_zeros_change_nothing():
    rng = np.random.default_rng(0)
    root, slope = rng.normal(size=(5, 5)), jnp.asarray(rng.normal(size=5))
    hessian, basis = jnp.asarray(root @ root.T), jnp.asarray(np.linalg.qr(rng.normal(size=(5, 3)))[0])
    plain = decompose(basis, slope, hessian)
    padded = decompose(jnp.concatenate([basis, jnp.zeros((5, 2))], axis=1), slope, hessian)
    own = np.any(np.asarray(padded.vectors) != 0.0, axis=0)
    np.testing.assert_allclose(np.asarray(padded.values)[own], plain.values, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(padded.slope)[own]), np.abs(plain.slope), rtol=1e-9)
    assert np.all(np.asarray(padded.slope)[~own] == 0.0)
    assert np.all(np.asarray(padded.values)[~own] > 0.0)


@pytest.mark.slow
def test_without_these_steps_lanes_end_where_f_can_still_fall(monkeypatch):
    """DoRA with free magnitudes at n = 10^5: the lowest end of 13 starts, by about 1.5 sigma^2 / n."""
    claim = claim_named("dora-free-tau-0")

    def lowest():
        programs.cache_clear()
        replicator = Replicator(sweep_of(claim), claim.identified_set)
        member = replicator.draw(10**5, 5)
        lanes = (Lane(0, member.data, start) for start in member.starts)
        ends = [end for end in replicator._pool.run(lanes) if end.state.status == CONVERGED]
        return min(float(end.state.value) for end in ends) - member.truth_value

    followed = lowest()
    monkeypatch.setattr(trust_region, "pressed", lambda across, *_: across.orbit[:, :0])
    held = lowest()
    programs.cache_clear()
    assert followed < held - 0.5
