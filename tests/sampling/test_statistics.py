"""Counts and cell means are the n draws, as far as least squares can tell, at any n."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moe_theory.errors import InputError
from moe_theory.sampling.inputs import LAWS, finite_support, to_law
from moe_theory.sampling.statistics import (
    LARGEST_N,
    draw_raw,
    draw_statistics,
    replication_generator,
    summarise_raw,
)

SIGNIFICANCE = 1e-4
"""Seeds are fixed, so a correct sampler passes for ever; a wrong one does not get this far into the tail."""


def some_function(points=8, d_out=3, seed=0):
    return np.random.default_rng(seed).normal(size=(d_out, points))


def summarised_objective(statistics, f):
    return 0.5 * np.sum(statistics.precision * np.sum((f - statistics.mean) ** 2, axis=0))


def raw_objective(index, y, f, sigma):
    """Sum over samples, one by one."""
    return 0.5 * sum(np.sum((row - f[:, i]) ** 2) for i, row in zip(index, y, strict=True)) / sigma**2


@given(
    n=st.integers(1, 60),
    points=st.integers(1, 12),
    d_out=st.integers(1, 3),
    sigma=st.floats(0.1, 10),
    seed=st.integers(0, 10**6),
)
def test_summaries_of_raw_draws_give_the_objective_differences_of_the_draws(n, points, d_out, sigma, seed):
    truth, other = some_function(points, d_out, seed), some_function(points, d_out, seed + 1)
    index, y = draw_raw(truth, sigma, n, np.random.default_rng(seed))
    statistics = summarise_raw(index, y, truth, sigma)
    raw = [raw_objective(index, y, f, sigma) for f in (other, truth)]
    summarised = [summarised_objective(statistics, f) for f in (other, truth)]
    np.testing.assert_allclose(np.subtract(*summarised), np.subtract(*raw), rtol=1e-12, atol=1e-12 * max(raw))
    assert statistics.precision.sum() * sigma**2 == pytest.approx(n, rel=1e-13)
    empty = statistics.precision == 0
    assert np.array_equal(statistics.mean[:, empty], truth[:, empty])


def many(n, reps, sigma=2.0, points=8):
    truth = some_function(points)
    drawn = [draw_statistics(truth, sigma, n, 11, replication) for replication in range(reps)]
    counts = np.stack([one.precision for one in drawn]) * sigma**2
    return truth, counts, np.stack([one.mean for one in drawn])


def within_own_error(sample, expected, errors=4.5):
    """Means over the first axis differ from what is expected by at most that many of their standard errors."""
    sample = np.asarray(sample)
    standard = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    np.testing.assert_array_less(np.abs(sample.mean(axis=0) - expected), errors * standard + 1e-12)


def test_counts_are_multinomial():
    n, reps, points = 200, 3000, 8
    _, counts, _ = many(n, reps)
    assert np.array_equal(counts, np.round(counts))
    assert np.all(counts.sum(axis=1) == n)
    deviations = counts - n / points
    within_own_error(counts, n / points)
    covariance = n * (np.eye(points) / points - 1 / points**2)
    within_own_error(deviations[:, :, None] * deviations[:, None], covariance)


def test_means_are_gaussian_with_variance_over_count_and_independent():
    n, reps, sigma = 40, 1500, 2.0
    truth, counts, means = many(n, reps, sigma)
    noise = (means - truth) * np.sqrt(counts)[:, None] / sigma
    drawn = np.broadcast_to((counts > 0)[:, None], noise.shape)
    assert np.all(noise[~drawn] == 0)
    assert stats.kstest(noise[drawn], "norm").pvalue > SIGNIFICANCE
    flat = noise.reshape(reps, -1)
    expected = np.eye(flat.shape[1]) * np.mean(drawn)
    products = flat[:, :, None] * flat[:, None]
    off = ~np.eye(flat.shape[1], dtype=bool)
    within_own_error(products[:, off], expected[off])
    # The noise of a cell, once scaled, knows nothing of how often the cell was drawn.
    within_own_error(noise**2 * (counts - n / 8)[:, None], 0.0)


@pytest.mark.parametrize("n", [5, 300])
def test_direct_and_raw_draws_have_one_distribution(n):
    """What a fit responds to: the objective's gain of a fixed alternative, and the number of empty cells."""
    truth, sigma, reps = some_function(), 1.5, 1200
    other = truth + 0.2 * some_function(seed=1)

    def features(statistics):
        gain = summarised_objective(statistics, other) - summarised_objective(statistics, truth)
        return gain, np.sum(statistics.precision == 0), statistics.mean[0, 0]

    direct = np.array([features(draw_statistics(truth, sigma, n, 0, rep)) for rep in range(reps)])
    rng = np.random.default_rng(5)
    raw = np.array([features(summarise_raw(*draw_raw(truth, sigma, n, rng), truth, sigma)) for _ in range(reps)])
    for column in range(3):
        compared: Any = stats.ks_2samp(direct[:, column], raw[:, column])
        assert compared.pvalue > SIGNIFICANCE


@pytest.mark.parametrize("points", [8, 512])
@pytest.mark.parametrize("n", [1, 10**12, LARGEST_N])
def test_any_sample_size_is_exact(n, points):
    truth = some_function(points)
    statistics = draw_statistics(truth, 1.0, n, 0, 0)
    assert int(statistics.precision.sum()) == n
    assert sum(int(count) for count in statistics.precision) == n
    noise = (statistics.mean - truth) * np.sqrt(statistics.precision)
    if n > 1:
        spread = 4.5 * np.sqrt(n / points)
        assert np.all(np.abs(statistics.precision - n / points) < spread)
        assert np.all(np.abs(noise) < 6)
        assert stats.kstest(noise.ravel(), "norm").pvalue > SIGNIFICANCE


def test_data_key_is_seed_size_and_replication_and_nothing_else():
    truth = some_function()
    alone = draw_statistics(truth, 1.0, 10**6, 3, 7)
    for n, replication in itertools.product((10, 10**6, 10**15), range(3)):
        draw_statistics(truth, 1.0, n, 3, replication)
        np.random.default_rng(0).normal(size=10)
    again = draw_statistics(truth, 1.0, 10**6, 3, 7)
    np.testing.assert_array_equal(again.precision, alone.precision)
    np.testing.assert_array_equal(again.mean, alone.mean)
    # The noise does not depend on f or sigma either: the same data whatever the model.
    scaled = draw_statistics(np.zeros_like(truth), 2.0, 10**6, 3, 7)
    np.testing.assert_array_equal(scaled.precision * 4.0, alone.precision)
    np.testing.assert_allclose(scaled.mean, 2.0 * (alone.mean - truth), atol=1e-15)


def test_data_is_the_same_on_every_machine():
    """Frozen numbers: stored results can only be extended while these stay."""
    assert replication_generator(0, 1000, 0).integers(2**32, size=3).tolist() == FROZEN_WORDS


FROZEN_WORDS = [1957652785, 3956767112, 3565538860]

KEYS = st.tuples(st.integers(0, 2**40), st.integers(1, LARGEST_N), st.integers(0, 2**31))


@given(one=KEYS, other=KEYS)
def test_different_keys_give_different_streams(one, other):
    words = [tuple(replication_generator(*key).integers(2**63, size=3)) for key in (one, other)]
    assert (words[0] == words[1]) == (one == other)


def test_large_sizes_do_not_run_into_the_replication():
    """n above 2^32 is two words of the key: (n = 5 + 7 2^32, 0) must not be (5, 7)."""
    keys = [(0, 5 + 7 * 2**32, 0), (0, 5, 7), (0, 7, 5), (7, 5, 0), (5 + 7 * 2**32, 1, 0), (5, 7, 1)]
    words = {tuple(replication_generator(*key).integers(2**63, size=3)) for key in keys}
    assert len(words) == len(keys)


@pytest.mark.parametrize("n", [0, -5, LARGEST_N + 1, 10**18])
def test_size_out_of_range_is_refused(n):
    with pytest.raises(InputError, match="n must be between 1 and"):
        draw_statistics(some_function(), 1.0, n, 0, 0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_sigma_must_be_positive_and_finite(sigma):
    with pytest.raises(InputError, match="sigma must be positive"):
        draw_statistics(some_function(), sigma, 100, 0, 0)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dimension", [1, 4])
def test_support_represents_a_centred_law_of_unit_covariance(law, dimension):
    """Low-discrepancy points beat the error of independent ones."""
    points = 1024
    support = finite_support(law, points, dimension, 3)
    assert support.shape == (points, dimension)
    assert np.all(np.isfinite(support))
    assert len(np.unique(support, axis=0)) == points
    assert np.all(np.abs(support.mean(axis=0)) < 1 / np.sqrt(points))
    covariance = support.T @ support / points
    assert np.max(np.abs(covariance - np.eye(dimension))) < 2 / np.sqrt(points)
    fourth = {"uniform": 9 / 5, "gaussian": 3.0}[law]
    np.testing.assert_allclose(np.mean(support**4, axis=0), fourth, rtol=0.1)


def test_support_is_a_function_of_its_seed_and_a_prefix_of_larger_ones():
    one = finite_support("uniform", 100, 3, 1)
    np.testing.assert_array_equal(one, finite_support("uniform", 100, 3, 1))
    np.testing.assert_array_equal(one, finite_support("uniform", 128, 3, 1)[:100])
    assert not np.array_equal(one, finite_support("uniform", 100, 3, 2))


def test_laws_are_quantile_maps():
    unit = np.array([[0.0, 0.5], [0.25, 0.975]])
    np.testing.assert_allclose(to_law(unit, "uniform"), [[-np.sqrt(3), 0.0], [-np.sqrt(3) / 2, 0.95 * np.sqrt(3)]])
    np.testing.assert_allclose(to_law(unit[1:], "gaussian"), stats.norm.ppf(unit[1:]))


def test_bad_support_is_refused():
    with pytest.raises(InputError, match="uniform, gaussian"):
        finite_support("cauchy", 8, 2, 0)
    for points, dimension in ((0, 2), (8, 0)):
        with pytest.raises(InputError, match="positive"):
            finite_support("uniform", points, dimension, 0)
