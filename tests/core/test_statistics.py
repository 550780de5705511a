"""Intervals and permutation tests against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from dspex.core import streams
from dspex.core.statistics import (
    MeanInterval,
    mean_interval,
    paired_interval,
    paired_p_value,
    signed_rank_p_value,
)
from dspex.errors import CoreError


def test_an_interval_of_a_share_is_near_wilson() -> None:
    found = mean_interval([1.0] * 30 + [0.0] * 70)
    assert found.mean == pytest.approx(0.3)
    assert found.low == pytest.approx(0.219, abs=0.02)
    assert found.high == pytest.approx(0.396, abs=0.02)


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(120):
        values = [-np.log(1 - streams.uniform(7, trial, 0, i)) for i in range(40)]  # exponential: skewed, mean 1
        found = mean_interval(values, resamples=400, seed=trial)
        covered += found.low <= 1.0 <= found.high
    assert 105 <= covered <= 120


def test_equal_values_give_a_point_and_one_value_too() -> None:
    assert mean_interval([0.5, 0.5]) == MeanInterval(0.5, 0.5, 0.5)
    assert mean_interval([2.0]) == MeanInterval(2.0, 2.0, 2.0)


def test_intervals_repeat_with_the_seed_and_only_with_it() -> None:
    values = [streams.uniform(0, 0, 0, i) for i in range(30)]
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_a_paired_interval_is_narrower_than_the_spread_of_examples() -> None:
    before = [streams.uniform(0, 0, 0, i) for i in range(100)]
    after = [value + 0.1 + 0.01 * streams.uniform(1, 0, 0, i) for i, value in enumerate(before)]
    found = paired_interval(before, after)
    assert 0.1 < found.low < found.mean < found.high < 0.11
    assert paired_p_value(before, after) < 0.001


def test_the_exact_test_counts_every_sign_pattern() -> None:
    assert paired_p_value([0.0] * 5, [1.0] * 5) == 2 / 2**5
    assert paired_p_value([0.0, 1.0], [0.0, 1.0]) == 1.0
    assert paired_p_value([0.0, 0.0, 1.0], [1.0, 1.0, 0.0]) == 1.0


def test_the_random_test_agrees_with_the_binomial() -> None:
    before, after = [0.0] * 16 + [1.0] * 6, [1.0] * 16 + [0.0] * 6
    assert paired_p_value(before, after, resamples=20_000) == pytest.approx(0.0525, abs=0.006)  # sign test, 16 of 22


@pytest.mark.parametrize("bad", [[], [float("nan")], [1.0, float("inf")]])
def test_values_that_are_no_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(CoreError, match="DX3008"):
        mean_interval(bad)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(CoreError, match="DX3009"):
        mean_interval([1.0, 2.0], confidence=1.0)
    with pytest.raises(CoreError, match="DX3008"):
        paired_p_value([1.0], [1.0, 2.0])


def test_the_signed_rank_test_of_a_known_example() -> None:
    # Wilcoxon's own example of corn, as in Fisher (1935): W = 24 of 120 with 15 pairs.
    differences = [6.125, -8.375, 1.0, 2.0, 0.75, 2.875, 3.5, 5.125, 1.75, 3.625, 7.0, 3.0, 9.375, 7.5, -6.0]
    assert signed_rank_p_value([0.0] * 15, differences) == pytest.approx(0.0413, abs=1e-3)
    assert signed_rank_p_value([0.0] * 15, differences, alternative="greater") == pytest.approx(0.0206, abs=1e-3)
    assert signed_rank_p_value(differences, [0.0] * 15, alternative="greater") == pytest.approx(0.9807, abs=2e-3)


def test_five_equal_gains_have_the_smallest_p_value_of_five() -> None:
    assert signed_rank_p_value([0.1] * 5, [0.1 + 0.2] * 5, alternative="greater") == 1 / 32
    assert signed_rank_p_value([0.0] * 5, [1.0] * 5) == 2 / 32
    assert signed_rank_p_value([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert signed_rank_p_value([0.0, 1.0], [1.0, 0.0]) == 1.0


def test_zeros_lift_the_ranks_of_the_rest() -> None:
    # With three zeros below them, the negative ranks are 4 and 5 of 4 to 8: seven sets of these sum to at most 9.
    before, after = [0.0] * 8, [0.0, 0.0, 0.0, -1.0, -2.0, 3.0, 4.0, 5.0]
    assert signed_rank_p_value(before, after, alternative="greater") == 7 / 32


def test_the_normal_approximation_takes_over_smoothly() -> None:
    found: list[float] = []
    for n in (50, 51):
        values = [(-1) ** i * (1 + i % 7) + 1.2 for i in range(n)]
        found.append(signed_rank_p_value([0.0] * n, values))
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_the_signed_rank_test_is_right_as_often_as_it_says() -> None:
    rejected = 0
    for trial in range(200):
        before = [streams.uniform(3, trial, 0, i) for i in range(60)]
        after = [streams.uniform(3, trial, 1, i) for i in range(60)]
        rejected += signed_rank_p_value(before, after) < 0.1
    assert 8 <= rejected <= 34
