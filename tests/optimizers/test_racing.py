"""Paired racing: budgets, ties, failures, and no effect of arrival order."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.core import streams
from dspex.errors import CoreError
from dspex.optimizers import PairedRace


def finish(
    race: PairedRace, score: Callable[[int, int], float | None], shuffle: int | None = None
) -> list[tuple[int, int]]:
    """Run a race to its end, reporting each batch in order or shuffled; all pairs evaluated."""
    spent: list[tuple[int, int]] = []
    while not race.done:
        pairs = race.next()
        assert pairs
        assert race.next() == []
        spent += pairs
        for candidate, example in pairs if shuffle is None else streams.shuffled(pairs, shuffle, len(spent)):
            race.report(candidate, example, score(candidate, example))
    return spent


def test_half_of_a_rung_goes_on_to_twice_the_examples() -> None:
    race = PairedRace(range(8), 32)
    spent = finish(race, lambda candidate, example: candidate / 10)
    assert [(rung.examples, len(rung.candidates)) for rung in race.rungs] == [(4, 8), (8, 4), (16, 2), (32, 1)]
    assert race.survivors() == (7,)
    assert len(spent) == len(set(spent)) == 8 * 4 + 4 * 4 + 2 * 8 + 16
    assert race.counts()[7] == 32
    assert race.means()[0] == 0.0


def test_candidates_share_the_first_examples_of_the_given_order() -> None:
    race = PairedRace([5, 2, 9, 4], [30, 10, 20, 0], first=2)
    assert race.next() == [(c, e) for c in (5, 2, 9, 4) for e in (30, 10)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(2, 4), st.integers(1, 3), st.integers(0, 99))
def test_arrival_order_changes_nothing_and_races_end(n: int, m: int, eta: int, keep: int, seed: int) -> None:
    def score(candidate: int, example: int) -> float | None:
        value = streams.below(4, seed, candidate, 0, example)
        return None if value == 0 else value / 3

    one, other = (PairedRace(range(n), m, eta=eta, keep=keep) for _ in range(2))
    spent = finish(one, score)
    assert sorted(finish(other, score, shuffle=seed)) == sorted(spent)
    assert one.rungs == other.rungs
    assert len(one.survivors()) == min(keep, n)
    assert one.rungs[-1].examples == m
    assert one.state() == other.state()
    for rung in one.rungs:
        totals = {
            c: math.fsum(score(c, e) or 0.0 for e in range(rung.examples)) / rung.examples for c in rung.candidates
        }
        ranked = sorted(rung.candidates, key=lambda c: (-round(totals[c], 9), c))
        assert list(rung.promoted) == ranked[: len(rung.promoted)]


def test_results_known_before_are_not_asked_for_again() -> None:
    race = PairedRace([0, 1], 4, first=2)
    race.report(1, 0, 0.5)
    race.report(1, 3, 0.5)
    assert race.next() == [(0, 0), (0, 1), (1, 1)]
    again = PairedRace([0, 1], 4, first=2)
    for candidate, example, score in race.state()["scores"]:
        again.report(candidate, example, score)
    assert again.next() == [(0, 0), (0, 1), (1, 1)]


def test_everything_known_before_decides_at_once() -> None:
    race = PairedRace([3], 2)
    race.report(3, 0, 1.0)
    assert not race.done
    race.report(3, 1, None)
    assert race.done
    assert race.next() == []
    assert race.means() == {3: 0.5}
    assert race.scores(3) == [(0, 1.0), (1, None)]


def test_failures_count_as_worst_or_are_left_out() -> None:
    def score(candidate: int, example: int) -> float | None:
        return 0.6 if candidate == 0 else None if example == 0 else 0.9

    worst, left_out = PairedRace([0, 1], 2, first=2), PairedRace([0, 1], 2, first=2, failures="exclude")
    finish(worst, score)
    finish(left_out, score)
    assert worst.survivors() == (0,)
    assert left_out.survivors() == (1,)


def test_a_race_in_which_everything_fails_has_no_survivor_when_failures_are_left_out() -> None:
    race = PairedRace([0, 1], 4, failures="exclude")
    finish(race, lambda candidate, example: None)
    assert race.survivors() == ()
    assert race.means() == {}


def test_ties_go_to_the_lower_id() -> None:
    race = PairedRace([4, 1, 3], 4, first=4)
    finish(race, lambda candidate, example: 0.5)
    assert race.survivors() == (1,)


def test_misuse_is_refused() -> None:
    for candidates, examples in (([], 3), ([1, 1], 3), ([1], 0), ([1], [2, 2])):
        with pytest.raises(CoreError, match="DX3016"):
            PairedRace(candidates, examples)
    with pytest.raises(CoreError, match="DX3016"):
        PairedRace([1], 3, eta=1)
    race = PairedRace([0, 1], 3)
    race.report(0, 0, 0.5)
    race.report(0, 0, 0.5)
    for candidate, example, score in ((0, 0, 0.6), (2, 0, 1.0), (0, 9, 1.0), (1, 0, math.nan)):
        with pytest.raises(CoreError, match="DX3017"):
            race.report(candidate, example, score)
