"""Rows of a sweep of low-rank densities, the claims on them, and what margins say of them before any draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.study.adapted_problem import build_adapted
from moe_theory.study.adapted_spec import AdaptedProblemSpec, AdaptedSweepSpec
from moe_theory.study.replicate_adapted import AdaptedReplicator
from moe_theory.study.spec import specify
from moe_theory.study.sweep import smoke_of, sweep_of
from moe_theory.theory.claims import CLAIMS, HALF, NO_POWER, QUARTER
from moe_theory.theory.comparisons import COMPARISONS
from moe_theory.theory.density_families import adapted_mixture
from moe_theory.theory.identifiability import identify

ADAPTED = {name: claim for name, claim in CLAIMS.items() if claim.kind == "adapted-density"}


@pytest.mark.parametrize("claim", ADAPTED.values(), ids=ADAPTED)
def test_every_claim_makes_the_sweep_that_its_name_says(claim):
    problem = sweep_of(claim).problem
    assert isinstance(problem, AdaptedProblemSpec)
    assert problem.adapter == claim.id.split("-")[2]
    assert (problem.density == "joint") == claim.id.startswith("gaussian-density")
    assert (problem.estimator == "least-squares") == claim.id.startswith("conditional-mean")
    assert problem.k_fit == problem.k_true + 1
    slow = claim.id.startswith("conditional-mean")
    shifts = claim.id == "conditional-density-lora-over"
    assert claim.main.prediction == (NO_POWER if slow else QUARTER if shifts else HALF)


def test_both_estimators_of_a_comparison_have_one_model():
    for pair in COMPARISONS["likelihood-vs-least-squares"].pairs:
        first, second = (dict(CLAIMS[name].problem) for name in (pair.first, pair.second))
        assert first.pop("estimator") == "least-squares"
        assert first == second
        assert CLAIMS[pair.first].sweep == CLAIMS[pair.second].sweep


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"gate": "attention"}, "gate"),
        ({"estimator": "least-squares"}, "conditional"),
        ({"density": "conditional"}, "anchored"),
    ],
)
def test_a_specification_that_is_no_density_is_told_so(wrong, told):
    with pytest.raises(InputError, match=told):
        specify(AdaptedProblemSpec, wrong)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("shift", "order"), [(True, 2), (False, 1)])
def test_beside_the_frozen_atom_an_extra_one_lets_all_centers_shift(shift, order):
    """The density moves by the square of the shift, and by the shift itself if only the extra atom moves."""
    setup = build_adapted(AdaptedProblemSpec(adapter="lora", density="conditional", anchored=True))
    rows, grid, weight = np.asarray(setup.density.rows(setup.regression.truth)), setup.grid, 0.5
    x, y = jnp.asarray(grid.x), jnp.asarray(grid.y)
    log_density = jax.jit(lambda rows: setup.density.base.log_densities(rows, x, y))
    true = np.asarray(log_density(jnp.asarray(rows)))
    distances = []
    for size in (1e-2, 1e-4):
        away = size * np.array([0.6, -0.8])
        others, frozen, extra = rows[:-1].copy(), rows[-1:], rows[-1:].copy()
        extra[0, 0] *= weight
        extra[0, 1:3] += away
        others[:, 0] *= 1.0 + weight
        others[:, 1:3] += away * weight / (1.0 + weight) * shift
        gap = np.asarray(log_density(jnp.asarray(np.vstack([others, extra, frozen])))) - true
        distances.append(np.sqrt(grid.probability @ gap**2))
    assert np.log10(distances[0] / distances[1]) / 2 == pytest.approx(order, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "replora"])
def test_margins_of_the_density_are_positive_where_the_mean_has_none(adapter):
    setup = build_adapted(AdaptedProblemSpec(adapter=adapter))
    found = identify(adapted_mixture(setup.density, setup.regression.truth, setup.grid))
    assert found.worst.reason == "the density's second derivatives along them are the nearest to first derivatives"
    law = found.law(2)
    assert law is not None
    assert law.exponent == -0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian-density-lora-over", "conditional-mean-lora-over"])
def test_rows_of_a_smoke_sweep_are_certified_and_have_every_column(name):
    claim = CLAIMS[name]
    sweep = sweep_of(claim, **smoke_of(claim))
    assert isinstance(sweep, AdaptedSweepSpec)
    ((_, frame),) = AdaptedReplicator(sweep, claim.identified_set).cells([(10**8, 0, 4)])
    assert list(frame["replication"]) == [0, 1, 2, 3]
    assert np.mean(frame["certified"].to_numpy(dtype=float)) == 1.0
    for measure in (claim.main, *claim.others):
        assert measure.column in frame


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_over_fitted_atoms_of_a_line_are_nearer_at_a_larger_size():
    """d = 1, one true atom (of rank one and given size there are two): 10^4 times the data, n^-1/4 shrinks tenfold.

    In about half of the replications the noise asks for no split, and both atoms are at n^-1/2; the largest error is
    that of a split. Its spread over six replications is far below the factor of three that is allowed.
    """
    problem = AdaptedProblemSpec(adapter="replora", dimension=1, k_true=1, k_fit=2)
    spec = AdaptedSweepSpec(problem=problem, starts="smoke", block=8)
    frames = dict(AdaptedReplicator(spec).cells([(10**10, 0, 6), (10**14, 0, 6)]))
    largest = [float(np.max(frames[n, 0, 6]["overfitted_error"])) for n in (10**10, 10**14)]
    assert all(frame["certified"].all() for frame in frames.values())
    assert 3.0 < largest[0] / largest[1] < 33.0
