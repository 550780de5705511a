"""Intervals, paired gains and what failures count as."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import DataError
from dspex.evaluation.statistics import FailurePolicy, counted, interval, paired


def near(a: float, b: float, within: float = 1e-9) -> bool:
    return abs(a - b) <= within


SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=20)


@settings(max_examples=8, deadline=None)
@given(SCORES, st.integers(0, 3))
def test_an_interval_holds_its_mean_and_repeats_for_a_seed(scores: list[float], seed: int) -> None:
    found = interval(scores, seed=seed)
    assert found == interval(scores, seed=seed)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    assert near(found.mean, sum(scores) / len(scores))
    assert found.n == len(scores)


def test_an_interval_is_of_the_known_width() -> None:
    found = interval([1.0] * 60 + [0.0] * 40)
    # Wilson's interval for 60 of 100 is [0.502, 0.691].
    assert near(found.low, 0.50, 0.02)
    assert near(found.high, 0.69, 0.02)


def test_a_gain_tells_difference_from_chance() -> None:
    before = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0] * 15
    after = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 15
    found = paired(before, after)
    assert near(found.mean, 1 / 3)
    assert 0.2 < found.low < 1 / 3 < found.high < 0.45
    assert found.p_value < 0.001
    assert near(paired(after, before).mean, -1 / 3)
    same = paired(before, before)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    chance = paired([1.0, 0.0] * 20, [0.0, 1.0] * 20)
    assert chance.low < 0 < chance.high
    assert chance.p_value > 0.5


def test_no_scores_or_other_examples_are_refused() -> None:
    with pytest.raises(DataError, match="DX5321"):
        interval([])
    with pytest.raises(DataError, match="DX5321"):
        paired([], [])
    with pytest.raises(DataError, match="DX5322"):
        paired([1.0], [1.0, 0.0])


def test_a_failure_counts_as_the_policy_says() -> None:
    scores = [1.0, None, 0.5]
    assert counted(scores, "worst") == [1.0, 0.0, 0.5]
    assert counted(scores, "worst", worst=-2.0) == [1.0, -2.0, 0.5]
    assert counted(scores, "exclude") == [1.0, 0.5]
    assert counted([1.0], "stop") == [1.0]
    with pytest.raises(DataError, match=r"DX5324[\s\S]*1 of 3"):
        counted(scores, "stop")
    wrong: FailurePolicy = "zero"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with pytest.raises(DataError, match="DX5323"):
        counted(scores, wrong)
