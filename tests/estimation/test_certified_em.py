"""EM's stopping rule: it ends where the certificate holds, and says that it crawls where the rest takes too long."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_theory.errors import InputError
from moe_theory.estimation.certificate import LARGEST_DECREMENT
from moe_theory.estimation.certified_em import LEAST_GAIN, PATIENCE, crawls
from moe_theory.estimation.fit import fit_gaussian_gated

pytestmark = pytest.mark.usefixtures("quick")


def values_of(ratio, first, blocks):
    """F after each block, with gains first, first ratio, first ratio^2, ..."""
    return list(100.0 - np.cumsum(first * ratio ** np.arange(blocks)))


@pytest.mark.parametrize("ratio", [0.3, 0.9, 0.999])
def test_em_crawls_exactly_where_its_ratio_leaves_more_than_patience(ratio):
    """The blocks that are still needed, counted one by one, against the rule."""
    for first in (1e-6, 1e-2, 10.0):
        values = values_of(ratio, first, 4)
        gain, needed = first * ratio**4, 0
        while gain / (1.0 - ratio) > LARGEST_DECREMENT:
            gain, needed = gain * ratio, needed + 1
        assert crawls(values) == (needed > PATIENCE)


def test_em_does_not_crawl_while_its_gains_grow_and_does_when_nothing_is_left():
    assert not crawls([10.0, 9.0])
    assert not crawls([10.0, 9.0, 7.0])
    assert crawls([10.0, 9.0, 9.0 - 0.5 * LEAST_GAIN])


def lines(n=150, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.4
    x = np.where(which, rng.normal(-3.0, 0.4, n), rng.normal(2.0, 0.6, n))
    return x, np.where(which, 2.0 * x + 9.0, 1.0 - x) + rng.normal(0.0, 0.3, n)


@pytest.mark.slow
def test_em_and_the_trust_region_method_find_the_same_certified_minimum():
    x, y = lines()
    one, other = (fit_gaussian_gated(x, y, 2, starts=2, method=method) for method in ("trust-region", "em"))
    assert (one.certified, other.certified) == (True, True)
    assert (one.method, other.method) == ("trust-region", "em")
    assert other.sweeps > 0
    assert abs(one.log_likelihood - other.log_likelihood) < 2 * LARGEST_DECREMENT


@pytest.mark.slow
def test_where_em_crawls_the_trust_region_method_takes_over():
    """Two atoms for data of one: EM's gains fall slowly, and the end is certified all the same."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    found = fit_gaussian_gated(x, 0.5 * x + 0.3 * rng.normal(size=400), 2, starts=2, method="em")
    assert found.certified, found.reason
    assert (found.method, found.sweeps > 0) == ("trust-region", True)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="trust-region, em"):
        fit_gaussian_gated(*lines(), 2, method="newton")


def test_equal_points_and_their_weights_are_one_thing():
    """What is fitted to repeated rows in another order is bitwise what is fitted to weights."""
    from moe_theory.estimation.user_data import padded, points_of

    x, y = lines(30)
    order = np.random.default_rng(1).permutation(60)
    again = points_of(np.tile(x, 2)[order], np.tile(y, 2)[order], None, 2)
    weighted = points_of(np.append(x, 7.0), np.append(y, 7.0), np.append(np.full(30, 2.0), 0.0), 2)
    for one, other in zip(again, weighted, strict=True):
        np.testing.assert_array_equal(one, other)
    filled = padded(weighted)
    assert filled.x.shape == (64, 1)
    assert float(jnp.sum(filled.weight)) == 60.0
