"""Racing, by rungs and without a barrier: budgets, ties, failures, and no effect of arrival order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.core import streams
from dspex.errors import CoreError
from dspex.optimizers import PairedRace, Race, create
from dspex.optimizers.racing import Policy
from dspex.program.space import Space
from dspex.program.variables import Choice, Float


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


# --- Race: no barrier --------------------------------------------------------------------------------------------

POLICIES: tuple[Policy, ...] = ("auto", "halving", "hyperband", "top-two")


def scored(seed: int, candidate: int, example: int, failing: bool = True) -> float | None:
    """Right or wrong, better for higher ids, the same for the same arguments; one in twelve fails."""
    if failing and streams.below(12, seed, 1, candidate, example) == 0:
        return None
    return float(streams.uniform(seed, 0, candidate, example) < 0.2 + 0.07 * candidate)


def run(race: Race, seed: int, flight: int = 1, shuffle: int | None = None) -> list[tuple[int, int]]:
    """Run a race to its end with up to `flight` pairs in flight; the next to arrive is the oldest, or any."""
    spent: list[tuple[int, int]] = []
    flying: list[tuple[int, int]] = list(race.pending)
    while not race.done:
        new = race.next(flight - len(flying))
        spent += new
        flying += new
        assert flying
        place = 0 if shuffle is None else streams.below(len(flying), shuffle, len(spent), -1, len(flying))
        candidate, example = flying.pop(place)
        race.report(candidate, example, scored(seed, candidate, example))
    assert race.next(5) == []
    return spent


@st.composite
def races(draw: st.DrawFn, lagging: bool = False) -> dict[str, Any]:
    n, m = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    return {
        "candidates": range(n),
        "examples": m,
        "budget": draw(st.none() | st.integers(0, n * m + 3)),
        "policy": draw(st.sampled_from(POLICIES)),
        "eta": draw(st.integers(2, 3)),
        "lag": draw(st.integers(1, 5) if lagging else st.none() | st.integers(1, 5)),
        "gate": draw(st.sampled_from([None, 0.2])),
        "seed": draw(st.integers(0, 2**64)),
        "failures": draw(st.sampled_from(["worst", "exclude"])),
    }


@settings(max_examples=60, deadline=None)
@given(races(), st.integers(0, 99), st.integers(1, 6))
def test_a_race_spends_its_budget_and_no_pair_twice(arguments: dict[str, Any], seed: int, flight: int) -> None:
    race = Race(**arguments)
    spent = run(race, seed, flight, shuffle=seed)
    everything = len(race.candidates) * len(race.order)
    assert len(spent) == len(set(spent)) == min(everything, race.budget) == race.asked
    assert race.pending == ()
    for candidate in race.candidates:
        used = [example for owner, example in spent if owner == candidate]
        assert sorted(used) == list(range(len(used)))  # its own first examples of the one order: paired
    standings = race.posterior(draws=200)
    assert [each.candidate for each in standings] == list(race.candidates)
    assert sum(each.best for each in standings) == pytest.approx(1.0)
    assert sum(each.examples for each in standings) == len(spent)
    if any(scored(seed, *pair) is not None or arguments["failures"] == "worst" for pair in spent):
        assert race.winner() in race.candidates
    else:
        with pytest.raises(CoreError, match="DX3015"):
            race.winner()


@settings(max_examples=40, deadline=None)
@given(races(lagging=True), st.integers(0, 99), st.integers(0, 99), st.integers(1, 9))
def test_with_a_lag_neither_arrival_nor_batches_change_a_pair(
    arguments: dict[str, Any], seed: int, shuffle: int, flight: int
) -> None:
    one, other = Race(**arguments), Race(**arguments)
    assert run(one, seed) == run(other, seed, flight, shuffle)
    assert one.posterior(draws=100) == other.posterior(draws=100)
    assert {**one.state(), "reports": []} == {**other.state(), "reports": []}


@settings(max_examples=40, deadline=None)
@given(races(), st.integers(0, 99), st.integers(0, 40))
def test_a_race_resumes_bit_for_bit(arguments: dict[str, Any], seed: int, stop: int) -> None:
    race = Race(**arguments)
    flying: list[tuple[int, int]] = []
    for turn in range(stop):
        if turn == 7:
            race.add(50)
        flying += race.next(1 + turn % 2)
        if flying and turn % 3:
            pair = flying.pop(turn % len(flying))
            race.report(*pair, scored(seed, *pair))
    other = Race.resume(json.loads(json.dumps(race.state())))
    assert other.state() == race.state()
    assert other.pending == race.pending
    assert run(other, seed, 3, seed) == run(race, seed, 3, seed)
    assert other.posterior(draws=50) == race.posterior(draws=50)
    assert other.state() == race.state()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lag", [None, 8])
def test_work_never_waits_for_a_straggler_while_the_lag_allows_it(policy: Policy, lag: int | None) -> None:
    race = Race(range(6), 20, policy=policy, lag=lag)
    (straggler,) = race.next()
    done = 0
    while pairs := race.next():
        for pair in pairs:
            race.report(*pair, scored(1, *pair))
            done += 1
    assert done == (119 if lag is None else 7)
    race.report(*straggler, 1.0)
    assert race.done == (lag is None)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_best_of_many_is_found_with_few_evaluations(policy: Policy) -> None:
    wins = 0
    for seed in range(12):
        race = Race(range(11), 200, budget=500, policy=policy, seed=seed)
        run(race, seed, flight=8, shuffle=seed)
        wins += race.winner() >= 9
    assert wins >= 10


def test_auto_halves_when_there_is_little_and_draws_when_there_is_more() -> None:
    assert Race(range(20), 300, budget=199).policy == "halving"
    race = Race(range(20), 300, budget=200)
    assert race.policy == "top-two"
    race.add(20)
    assert race.policy == "halving"


def test_halving_gives_every_rung_an_equal_part() -> None:
    race = Race(range(8), 64, budget=96, policy="halving", lag=1)
    spent: list[tuple[int, int]] = []
    while not race.done:
        for candidate, example in race.next():
            spent.append((candidate, example))
            race.report(candidate, example, float(candidate))
    assert spent[:32] == [(candidate, example) for example in range(4) for candidate in range(8)]
    assert spent[32:64] == [(candidate, example) for example in range(4, 12) for candidate in range(4, 8)]
    assert spent[64:] == [(candidate, example) for example in range(12, 28) for candidate in (6, 7)]


def test_hyperband_begins_some_candidates_with_more_examples() -> None:
    race = Race(range(10), 60, budget=180, policy="hyperband", lag=1)
    first: dict[int, int] = {}
    while not race.done:
        for candidate, example in race.next():
            race.report(candidate, example, float(candidate))
            first[candidate] = example + 1
    counts = [first[candidate] for candidate in range(10)]
    assert counts[0] < counts[4] < counts[7]  # the worst of each bracket: 4, 3 and 3 candidates


def test_candidates_seen_on_harder_examples_are_not_at_a_disadvantage() -> None:
    race = Race([0, 1, 2, 3], 40)
    for example in range(40):
        hard = -0.6 if example >= 20 else 0.0
        wiggle = 0.02 * (example % 3)
        for candidate, effect in ((0, 0.0), (1, 0.1), (2, -0.1), (3, 0.05)):
            seen = example < 20 if candidate == 0 else example >= 20 if candidate == 1 else True
            if seen:
                race.report(candidate, example, 0.8 + effect + hard + wiggle * (candidate % 2))
    standings = race.posterior()
    assert standings[1].mean > standings[3].mean > standings[0].mean > standings[2].mean
    assert race.winner() == 1


def test_a_newcomer_catches_up_and_wins() -> None:
    race = Race(range(4), 50, budget=150)
    for _ in range(60):
        for candidate, example in race.next():
            race.report(candidate, example, scored(3, candidate, example, failing=False))
    race.add(9)
    with pytest.raises(CoreError, match="DX3016"):
        race.add(9)
    while not race.done:
        for candidate, example in race.next(3):
            race.report(candidate, example, 1.0 if candidate == 9 else scored(3, candidate, example, failing=False))
    assert race.winner() == 9
    best = {each.candidate: each.best for each in race.posterior()}
    assert best[9] > 0.95


def test_two_lucky_examples_do_not_win() -> None:
    race = Race(range(6), 100)
    for candidate in range(6):
        for example in range(100 if candidate else 2):
            race.report(candidate, example, 1.0 if candidate == 0 else float((example * 7 + candidate) % 10 < 7))
    lucky = race.posterior()[0]
    assert lucky.mean < 1.0
    assert lucky.deviation > 2 * race.posterior()[1].deviation


def test_the_gate_keeps_the_incumbent_until_there_is_evidence() -> None:
    def outcome(gate: float | None, lead: int) -> int:
        race = Race([7, 8], 40, gate=gate)
        for example in range(40):
            race.report(7, example, float(example % 2))
            race.report(8, example, float(example % 2 or example < lead))
        return race.winner()

    assert (outcome(None, 3), outcome(0.05, 3)) == (8, 7)
    assert outcome(0.05, 20) == 8


def test_with_a_gate_the_incumbent_sees_every_example_first() -> None:
    race = Race(range(5), 40, budget=120, gate=0.1, lag=1)
    spent = run(race, 5)
    for candidate, example in spent:
        assert spent.index((0, example)) <= spent.index((candidate, example))


@pytest.mark.parametrize("policy", POLICIES)
def test_all_equal_all_failed_one_candidate_and_one_example(policy: Policy) -> None:
    for value in (0.0, 1.0, 7.5, None):
        for n, m in ((4, 6), (1, 6), (4, 1), (1, 1)):
            race = Race(range(10, 10 + n), m, policy=policy, worst=-2.0)
            while not race.done:
                for pair in race.next(3):
                    race.report(*pair, value)
            assert race.asked == n * m
            assert race.winner() == 10
            for each in race.posterior(draws=2000):
                assert each.mean == pytest.approx(-2.0 if value is None else value, abs=0.01)
                assert each.best == pytest.approx(1 / n, abs=0.05)
    race = Race([1, 2], 3, policy=policy, failures="exclude")
    assert [each.best for each in race.posterior()] == [0.5, 0.5]
    while not race.done:
        for pair in race.next():
            race.report(*pair, None)
    assert math.isnan(race.posterior()[0].mean)
    with pytest.raises(CoreError, match="DX3015"):
        race.winner()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_scores_changes_nothing(scale: float) -> None:
    one, other = (Race(range(5), 30, budget=90, lag=1, worst=-9.0 * unit) for unit in (1.0, scale))
    while not one.done:
        for (candidate, example), same in zip(one.next(), other.next(), strict=True):
            assert same == (candidate, example)
            value = streams.below(7, 3, candidate, 0, example) + 0.25 * candidate - 9.0
            one.report(candidate, example, value)
            other.report(candidate, example, value * scale)
    assert one.winner() == other.winner()
    assert [each.best for each in one.posterior()] == [each.best for each in other.posterior()]


def test_results_known_before_cost_nothing() -> None:
    race = Race([0, 1], 4, budget=3)
    race.report(1, 0, 0.5)
    race.report(1, 0, 0.5)
    assert (1, 0) not in run(race, 0)
    assert race.asked == 3
    assert race.scores(1)[0] == (0, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"eta": 1},
        {"budget": -1},
        {"lag": 0},
        {"gate": 0.0},
        {"gate": 1.0},
        {"worst": math.nan},
        {"policy": "best"},
        {"failures": "x"},
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CoreError, match="DX3016"):
        Race([1, 2], 3, **change)


def test_results_that_do_not_belong_are_refused() -> None:
    for candidates, examples in (([], 3), ([1, 1], 3), ([1], 0), ([1], [2, 2])):
        with pytest.raises(CoreError, match="DX3016"):
            Race(candidates, examples)
    race = Race([0, 1], 3)
    race.report(0, 0, 0.5)
    for candidate, example, score in ((0, 0, 0.6), (2, 0, 1.0), (0, 9, 1.0), (1, 0, math.nan)):
        with pytest.raises(CoreError, match="DX3017"):
            race.report(candidate, example, score)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_corrupted_state_is_refused(data: st.DataObject) -> None:
    race = Race(range(3), 4, lag=2)
    for pair in race.next(2):
        race.report(*pair, 1.0)
    state = json.loads(json.dumps(race.state()))
    key = data.draw(st.sampled_from(sorted(state)))
    if data.draw(st.booleans()):
        del state[key]
    else:
        junk: list[Any] = ["AAAA", -1, [["x"]], [[9, 9, 1.0]], {}, [1, 1], [[0, 0, math.inf]], None]
        state[key] = data.draw(st.sampled_from(junk))
    with pytest.raises(CoreError, match=r"DX3035|DX3016"):
        Race.resume(state)


def test_racing_under_an_optimizer_finds_a_good_configuration() -> None:
    """TPE proposes, the race evaluates: each generation's best races on against the next proposals."""
    space = Space([Float("x", 0, 1), Choice("c", tuple("abc"))])
    regrets: list[float] = []
    for seed in range(3):
        opt = create("tpe", space, seed=seed)
        race = Race([opt.ask().id], 120, budget=600, seed=seed)
        while not race.done:
            if race.asked < 450 and race.asked % 30 == 0:
                for standing in race.posterior(draws=1):
                    if standing.examples:
                        opt.tell(standing.candidate, standing.mean, noise=standing.deviation**2)
                race.add(opt.ask().id)
            for candidate, example in race.next(10):
                config = opt.candidate(candidate).config
                chance = 0.9 - abs(config["x"] - 0.3) - 0.3 * (config["c"] != "b")
                hardness = 0.1 * math.sin(example)
                race.report(candidate, example, float(streams.uniform(seed, 1, candidate, example) < chance + hardness))
        config = opt.candidate(race.winner()).config
        regrets.append(abs(config["x"] - 0.3) + 0.3 * (config["c"] != "b"))
    assert sum(regrets) / 3 < 0.15
