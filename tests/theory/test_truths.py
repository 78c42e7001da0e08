"""Margins on the way to a truth where a model breaks down: a law known in closed form, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.theory.families import Blocks, LinearSet
from moe_theory.theory.truths import Margins, Path, Spread, margins_of, path_towards

pytestmark = pytest.mark.usefixtures("quick")


def _powers(*places):
    """H(t) = (1, t, ..., t^5) at the given t."""

    def function(atom):
        return atom[0] ** jnp.arange(6.0)

    return (
        LinearSet(
            weights=jnp.ones(len(places)), atoms=jnp.array(places)[:, None], common=jnp.zeros(0),
            blocks=Blocks(("t",), ((1,),)), common_blocks=Blocks((), ()), function=function, scale=jnp.ones(6),
            example=jnp.zeros(1),
        ),
    )  # fmt: skip


def test_the_margin_of_two_atoms_that_meet_falls_as_the_third_divided_difference():
    """Values and slopes at 0.4 and 0.4 + s resolve a cubic with least singular value of order s^3."""
    path = path_towards(_powers(0.4, 0.6), "equal")
    assert path.sizes[0] == 1.0
    assert path.truths[0] == margins_of(_powers(0.4, 0.6))
    assert path.power("first") == pytest.approx(3.0, abs=0.1)


def test_a_second_order_margin_that_is_zero_on_the_path_has_no_power():
    zero = Margins(1.0, 0.0, 0.0, "zero")
    path = Path("zero", (1.0, 0.5, 0.25, 0.125), (zero,) * 4)
    assert path.power("any_atoms") is None
    assert path.power("first") == pytest.approx(0.0)


def test_a_spread_counts_what_was_decided():
    truths = (Margins(0.3, 0.1, 0.2, "positive"), Margins(0.0, 0.0, 0.1, "zero"), Margins(0.2, 1e-9, 0.1, "undecided"))
    spread = Spread(truths)
    assert spread.share("zero") == spread.share("positive") == spread.singular == pytest.approx(1.0 / 3.0)
    np.testing.assert_array_equal(spread.values("first"), [0.0, 0.2, 0.3])


def test_a_path_is_named_and_needs_two_atoms_to_meet():
    with pytest.raises(InputError, match="towards equal or zero"):
        path_towards(_powers(0.4), "infinity")
    with pytest.raises(InputError, match="more true atoms"):
        path_towards(_powers(0.4), "equal")
