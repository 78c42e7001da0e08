"""Rows of a density sweep, and the compact form of its data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.estimation.likelihood import objective
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensityProblemSpec, DensitySweepSpec
from moe_theory.study.replicate_density import DensityReplicator
from moe_theory.study.sweep import smoke_of, sweep_of
from moe_theory.theory.claims import claim_named

value = jax.jit(objective, static_argnums=0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("setting", ["type-1", pytest.param("published", marks=pytest.mark.slow)])
def test_the_compact_form_has_the_same_likelihood(setting):
    """Differences of F between two measures, from all cells and from those that were drawn."""
    soft = setting == "published"
    spec: dict[str, Any] = {
        "family": "softmax-gated" if soft else "gaussian-gated",
        "setting": setting,
        "k_true": 2 if soft else 3,
    }
    setup = build_density(DensityProblemSpec(**spec, k_fit=spec["k_true"]))
    rows = [jnp.asarray(setup.rows), jnp.asarray(setup.rows * np.linspace(0.98, 1.01, setup.rows.shape[1]))]
    gaps = []
    for compact in (None, setup.compact_cells(10**4)):
        points = setup.draw(10**4, 0, 0, compact)
        assert float(np.sum(points.weight)) == 10**4
        gaps.append(float(value(setup.model, rows[1], points) - value(setup.model, rows[0], points)))
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-9)


def test_a_sample_that_needs_more_cells_has_no_compact_form():
    setup = build_density(DensityProblemSpec())
    with pytest.raises(InputError, match="more than the 640 of the compact form"):
        setup.draw(10**12, 0, 0, compact=640)


def test_the_compact_form_has_room_for_what_is_drawn():
    """The mean and the variance of how many cells are filled, against draws; and room for all of them."""
    setup = build_density(DensityProblemSpec())
    n = 1000
    counts = np.random.default_rng(0).multinomial(n, setup.grid.probability, size=400)
    filled = np.sum(counts > 0, axis=1)
    room = setup.compact_cells(n)
    share = 1.0 - (1.0 - setup.grid.probability) ** n
    assert filled.mean() == pytest.approx(share.sum(), abs=4 * filled.std() / 20)
    assert filled.var() <= 1.3 * np.sum(share * (1.0 - share))
    assert filled.max() < room < share.sum() + 10 * np.sqrt(share.sum()) + 64
    assert setup.compact_cells(10**15) <= len(setup.grid.probability)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian-gated-type1-k4", "softmax-gated-k3"])
def test_rows_of_a_smoke_sweep_are_certified_and_have_every_column(name):
    claim = claim_named(name)
    sweep = sweep_of(claim, **smoke_of(claim))
    assert isinstance(sweep, DensitySweepSpec)
    ((_, frame),) = DensityReplicator(sweep).cells([(10**8, 0, 4)])
    assert list(frame["replication"]) == [0, 1, 2, 3]
    assert np.mean(frame["certified"].to_numpy(dtype=float)) >= 0.75
    for measure in (claim.main, *claim.others):
        assert measure.column in frame
    assert np.all(frame["D"].to_numpy(dtype=float) > 0.0)


@pytest.mark.slow
def test_the_published_sizes_can_be_compiled_and_run():
    """In the compact form, which the sample that compiles must fit into as well."""
    claim = claim_named("gaussian-gated-type1-k4")
    sweep = sweep_of(claim, sizes="1e2:1e5:2", replications=2, starts="smoke", block=8)
    assert isinstance(sweep, DensitySweepSpec)
    replicator = DensityReplicator(sweep)
    replicator.compile()
    ((_, frame),) = replicator.cells([(10**5, 0, 2)])
    assert list(frame["replication"]) == [0, 1]
    assert bool(np.all(frame["certified"]))
