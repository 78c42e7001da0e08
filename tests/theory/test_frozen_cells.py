"""The margin of a frozen atom's cell: against measures that have an atom there, and where there is none."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.study.certify_problem import problem_of, subject_of
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory.frozen_cells import frozen_margin
from moe_theory.theory.margins import first_order, off_span
from moe_theory.theory.registered_families import mixture_of

pytestmark = pytest.mark.usefixtures("quick")


def _found(**settings):
    setup = build(ProblemSpec(**{"support": 128, **settings}))
    mixture = mixture_of(setup.model, setup.truth, setup.design)
    first = first_order(mixture)
    return mixture, first, frozen_margin(mixture, first)


def test_no_atom_near_the_frozen_one_moves_f_less_than_the_margin_says():
    (own,), first, found = _found(adapter="replora")
    assert found is not None
    assert found.dimension == 16
    assert found.decision == "positive"
    assert 0.0 < found.lower <= found.upper
    left = np.concatenate([
        np.arange(place.start, place.stop)
        for name, place in zip(own.blocks.names, own.blocks.slices, strict=True) if name.startswith("B")
    ])  # fmt: skip
    rng, weight, size = np.random.default_rng(1), 0.3, 1e-5
    for _ in range(20):
        atom = rng.standard_normal(own.atoms.shape[1])
        held = atom.copy()
        held[left] = 0.0
        atom[left] *= size
        weights = jnp.append((1.0 + weight) * own.weights, weight)
        near, there = (jnp.vstack([own.atoms, each[None]]) for each in (atom, held))
        assert np.max(np.abs(own.moved(weights, there, own.common))) < 1e-13
        moved = np.asarray(own.moved(weights, near, own.common))
        both = [own.coordinates(jnp.asarray(each), own.common) for each in (atom, held)]
        apart = float(jnp.linalg.norm(both[0] - both[1]))
        share = weight / (1.0 + weight)
        assert np.linalg.norm(off_span(first, moved[:, None])) >= 0.999 * share * apart * found.lower


def test_a_query_of_its_own_is_undone_by_a_common_shift_of_all_queries():
    """B_1 A_2 lies in the tangents of both true atoms of rank one, so that all queries can shift by it."""
    (own,), first, found = _found(adapter="lora")
    assert found is not None
    assert found.dimension == 10 + 16  # the gate sees sym(W_Q M_K), and the value is a matrix of its own
    assert (found.decision, found.upper) == ("zero", 0.0)
    at = dict(zip(own.blocks.names, own.blocks.slices, strict=True))
    size = 1e-5
    atom = np.zeros(own.atoms.shape[1])
    atom[at["B_Q"]], atom[at["A_Q"]] = size * own.atoms[0, at["B_Q"]], own.atoms[1, at["A_Q"]]
    weights = jnp.append(1.3 * own.weights, 0.3)
    moved = np.asarray(own.moved(weights, jnp.vstack([own.atoms, atom[None]]), own.common))
    assert np.linalg.norm(moved) > 0.01 * size
    assert np.linalg.norm(off_span(first, moved[:, None])) < 10.0 * size**2


def test_a_model_without_an_anchor_or_out_of_reach_of_it_has_no_such_cell():
    """Global magnitudes away from the pre-trained norms keep every atom away from the frozen one."""
    assert _found(adapter="replora", anchored=False)[2] is None
    assert _found(adapter="dora", magnitudes="global")[2] is None


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "decision"), [("lora", "zero"), ("replora", "positive")])
def test_beside_a_frozen_density_centers_of_their_own_undo_an_atom(adapter, decision):
    """p(y | x): all of LoRA's centers shift by w d / (1 + w) for an atom of weight w, d away (docs/density.md)."""
    mixture = subject_of(problem_of(f"conditional-density-{adapter}-over", {})).mixture
    first = first_order(mixture)
    found = frozen_margin(mixture, first)
    assert found is not None
    assert found.decision == decision
    joint = subject_of(problem_of(f"gaussian-density-{adapter}-over", {})).mixture
    assert frozen_margin(joint, first_order(joint)) is None
