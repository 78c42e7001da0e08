"""Splits followed from where they are small: curves of invisible ones, none where a split shows at a finite order."""

import numpy as np
import pytest

from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
from moe_theory.theory import following
from moe_theory.theory.following import FIRST_AMPLITUDE, continued, looked
from moe_theory.theory.margins import Mixture, cells_of, first_order
from moe_theory.theory.registered_families import mixture_of
from moe_theory.theory.second_order import second_order
from moe_theory.theory.visibility import MOST, Split, descend, looks, split_of
from tests.theory.test_visibility import location_and_scale

pytestmark = pytest.mark.usefixtures("quick")


def _mixture(**settings) -> Mixture:
    setup = build(ProblemSpec(support=128, **settings))
    return mixture_of(setup.model, setup.truth, setup.design)


def _split(mixture: Mixture, place: int = 0) -> Split:
    cells, first = cells_of(mixture), first_order(mixture)
    second = second_order(first, [cells[place]])
    assert second.decision == "zero"
    return split_of([cells[place]], second.limited[second.fewest or 2].factors)


def test_the_split_of_loras_value_is_a_curve_of_invisible_ones():
    mixture = _mixture(adapter="lora")
    seen = continued(mixture, _split(mixture), (2,))
    assert seen.is_invisible
    assert seen.amplitudes[0] > 0.5
    assert np.all(np.diff(seen.amplitudes) < 0)
    assert seen.amplitudes[-1] <= FIRST_AMPLITUDE * MOST
    assert np.all(seen.distances < 1e-12)


def test_a_split_that_shows_at_order_four_has_no_such_curve():
    """Location and variance of a Gaussian: the search finds the order, and no curve takes its place."""
    mixture = location_and_scale()
    split = _split(mixture)
    assert not continued(mixture, split, (2,)).is_invisible
    assert looked(mixture, split).even_order == 4


@pytest.mark.parametrize(("identified", "curves"), [(True, 0), (False, 1)])
def test_where_a_theorem_says_that_splits_show_no_invisible_one_is_looked_for(identified, curves, monkeypatch):
    begun = []

    def counted(*arguments):
        begun.append(arguments)
        return continued(*arguments)

    mixture = location_and_scale()
    monkeypatch.setattr(type(mixture[0]), "is_identified", property(lambda own: identified))
    monkeypatch.setattr(following, "continued", counted)
    assert looked(mixture, _split(mixture)).even_order == 4
    assert len(begun) == curves


def test_parts_that_meet_end_a_search_and_a_curve(monkeypatch):
    """The amplitude has no derivative where all parts are in one place: there is nothing to step along."""
    mixture = location_and_scale()
    split = _split(mixture)
    together = [np.zeros((2, mixture[0].atoms.shape[1]))]
    free, distance = descend(mixture, split.where, together, 0.1)
    assert distance == 0.0
    np.testing.assert_array_equal(free.apart[0], together[0])

    def without_derivative(*arguments):
        seen = looks(*arguments)
        return seen._replace(jacobian=lambda point: np.nan * seen.jacobian(point))

    monkeypatch.setattr(following, "looks", without_derivative)
    assert continued(mixture, split, (2,)).amplitudes.size == 0


@pytest.mark.slow
def test_hora_of_rank_three_without_an_anchor_hides_an_atom():
    """48 conditions in 48 numbers (docs/theory.md): isolated curves, which descents at one amplitude miss."""
    mixture = _mixture(adapter="hora", activation="tanh", heads=2, rank=3, anchored=False, dimension=4, problem_seed=1)
    seen = [continued(mixture, _split(mixture, place), (2,)) for place in range(2)]
    assert any(each.is_invisible for each in seen)
