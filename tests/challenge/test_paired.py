"""Paired comparisons, against scipy's and against cases that one can count."""

import math

import numpy as np
import pytest
from scipy import stats

from qsmdl.challenge.paired import compare_paired
from qsmdl.errors import InputError


def mapping(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("shift", [-0.8, 0.0, 0.8])
def test_agrees_with_scipy(shift):
    generator = np.random.default_rng(3)
    second = generator.normal(30, 5, 20)
    first = second + shift + generator.normal(0, 1, 20)
    found = compare_paired(mapping(first), mapping(second))
    t = stats.ttest_rel(first, second, alternative="less")
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.p_t == pytest.approx(t.pvalue, rel=1e-9)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(first, second, alternative="less").pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert (found.n, found.first, found.second) == (20, pytest.approx(first.mean()), pytest.approx(second.mean()))
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.wins == int((first < second).sum())
    assert found.p == max(found.p_t, found.p_wilcoxon)


def test_exact_ranks():
    """All five lower: one of the 32 ways to give signs. Then the largest the wrong way: ranks 5 against 1 + 2 + 3 + 4, 10 of 32 ways or more."""
    assert compare_paired(mapping([1, 2, 3, 4, 5]), mapping([2, 4, 6, 8, 10])).p_wilcoxon == pytest.approx(1 / 32)
    mixed = compare_paired(mapping([1, 2, 3, 4, 15]), mapping([2, 4, 6, 8, 10]))
    assert mixed.p_wilcoxon == pytest.approx(10 / 32)
    assert mixed.wins == 4


def test_only_shared_phantoms_count():
    found = compare_paired({0: 1.0, 1: 2.0, 2: 50.0}, {1: 3.0, 0: 4.0, 7: 0.0})
    assert (found.n, found.first, found.second, found.difference) == (2, 1.5, 3.5, -2.0)


def test_a_single_phantom_tells_nothing():
    found = compare_paired({4: 1.0}, {4: 2.0})
    assert (found.low, found.high, found.p_t) == (-math.inf, math.inf, 1.0)
    assert found.p_wilcoxon == 0.5


def test_equal_differences():
    alike = compare_paired(mapping([1.0] * 6), mapping([1.0] * 6))
    assert (alike.difference, alike.wins, alike.p_t, alike.p_wilcoxon) == (0.0, 0, 1.0, 1.0)
    lower = compare_paired(mapping([1.0] * 6), mapping([3.0] * 6))
    assert (lower.p_t, lower.low, lower.high) == (0.0, -2.0, -2.0)
    assert compare_paired(mapping([3.0] * 6), mapping([1.0] * 6)).p_t == 1.0


def test_phantoms_that_are_equal_are_left_out_of_the_ranks():
    some = compare_paired(mapping([1, 1, 1, 1, 5, 6]), mapping([2, 3, 4, 5, 5, 6]))
    assert some.p_wilcoxon == pytest.approx(1 / 16)
    assert some.wins == 4


def test_nothing_in_common():
    with pytest.raises(InputError, match="1 and 2 phantoms, but of none in common"):
        compare_paired({0: 1.0}, {1: 1.0, 2: 2.0})
