"""Paired bootstrap over seeds and problems, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from o1coder_jax.significance import Difference, difference, holm, interval, two_level_interval, two_level_means


def test_holm_by_hand():
    """Smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 (raised to what stands before it)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_and_keeps_the_order():
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2, 0.2]) == pytest.approx([0.4, 0.4])


def test_one_seed_of_two_problems_by_hand():
    """Resamples have the means 0, 1/2, 1/2 and 1, equally likely."""
    means = two_level_means([np.array([0.0, 1.0])], seed=0, resamples=40_000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_two_seeds_without_variance_within_by_hand():
    """Both seeds are drawn from two: means 0, 1/2 (twice) and 1, whatever the number of problems of each."""
    means = two_level_means([np.zeros(3), np.ones(7)], seed=1, resamples=40_000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_variance_of_the_two_levels_is_that_of_the_formula():
    """(S - 1)/S of the variance of the seeds' means over S, and the mean variance within a seed over n S."""
    rng = np.random.default_rng(5)
    values = [rng.normal(shift, 1.0, size=40) for shift in (0.0, 0.5, 1.0, 0.2)]
    means = two_level_means(values, seed=2, resamples=60_000)
    between = np.var([one.mean() for one in values])
    within = np.mean([one.var() for one in values])
    assert means.var() == pytest.approx(between / 4 + within / (40 * 4), rel=0.03)


def test_difference_by_hand():
    found = difference([np.array([1.0, 1.0]), np.array([0.5, 0.5])], seed=0, resamples=999)
    p = 1 - 2 / math.pi * math.atan(3)  # Student's t with one degree of freedom is Cauchy's; t is 0.75 / 0.25
    assert found == Difference(0.75, (1.0, 0.5), (0.5, 1.0), 2 / 1000, pytest.approx(p))
    assert difference([np.array([0.0, 0.0])], seed=0, resamples=99).p == 1.0
    assert difference([np.array([1.0, 0.0])], seed=0, resamples=99).seeds_p is None
    assert difference([np.zeros(2)] * 2, seed=0, resamples=99).seeds_p == 1.0


def test_difference_has_the_same_sign_both_ways():
    values = [np.array([1.0, 0.0, 0.0, 1.0, -1.0]), np.array([0.0, 1.0, 0.0, 0.0])]
    one = difference(values, seed=3, resamples=2000)
    other = difference([-v for v in values], seed=3, resamples=2000)
    assert one.mean == -other.mean and one.p == other.p
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_p_of_many_problems_is_about_that_of_the_normal_distribution():
    values = np.array([1.0] * 60 + [-1.0] * 40 + [0.0] * 300)
    z = values.mean() / (values.std() / math.sqrt(len(values)))
    normal = math.erfc(z / math.sqrt(2))
    assert difference([values], seed=0, resamples=20_000).p == pytest.approx(normal, abs=0.01)


def test_interval_of_one_seed_is_that_over_problems():
    values = np.random.default_rng(0).normal(size=200)
    one = interval(values, seed=0, resamples=5000)
    assert two_level_interval([values], seed=1, resamples=5000) == pytest.approx(one, abs=0.02)


def coverage(between: float, within: float, *, seeds: int, problems: int, worlds: int = 400) -> float:
    """How often the interval holds the true difference, 0, in simulated worlds."""
    rng, hits = np.random.default_rng(11), 0
    for world in range(worlds):
        shifts = rng.normal(0, between, size=seeds)
        values = [rng.normal(shift, within, size=problems) for shift in shifts]
        low, high = two_level_interval(values, seed=world, resamples=300)
        hits += low <= 0 <= high
    return hits / worlds


def test_coverage_is_as_the_module_says():
    assert coverage(0.0, 1.0, seeds=5, problems=30) > 0.95  # too wide where seeds do not vary
    assert 0.78 < coverage(1.0, 0.1, seeds=5, problems=10) < 0.92  # few seeds, and only they vary
    assert 0.90 < coverage(1.0, 0.1, seeds=20, problems=10) < 0.97


@pytest.mark.parametrize("values", [[], [np.zeros(0)], [np.zeros(2), np.zeros(0)]])
def test_nothing_to_resample_is_an_error(values):
    with pytest.raises(ValueError, match="nothing to resample"):
        two_level_means(values, seed=0, resamples=10)
