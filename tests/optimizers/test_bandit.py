"""The bandit learns which arms are good, from shares and from values, and pools what it is told again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered
from dspex.core import abi, streams
from dspex.core.arms import Arms, enumerated
from dspex.optimizers import create
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int
from tests.core.spaces import SEEDS, UNHURRIED, spaces
from tests.optimizers.test_conformance import mixed, score

FEW = settings(max_examples=30, deadline=None, suppress_health_check=UNHURRIED)


def wide() -> Space:
    """Too many configurations for an arm each; a good one has most of its rows right."""
    choices = [Choice(f"c{index}", tuple("abcdef")) for index in range(8)]
    return Space([*choices, Float("x", 0, 1), Float("deep", 1e-4, 1, log=True, when=choices[0].is_("b"))])


def worth(config: dict[str, Any]) -> float:
    right = sum(config[f"c{index}"] == "abcdef"[index % 6] for index in range(8))
    return 0.1 + 0.08 * right + 0.2 * (1 - abs(config["x"] - 0.7))


@pytest.mark.parametrize("told", ["values", "shares", "variances"])
def test_rows_learn_their_best_arms(told: str) -> None:
    reached: list[float] = []
    for seed in range(3):
        opt = create("bandit", wide(), seed=seed)
        for turn in range(130):
            candidate = opt.ask()
            truth = worth(candidate.config)
            if told == "values":
                opt.tell(candidate, 1e6 * truth)
            elif told == "variances":
                noise = streams.uniform(seed, turn, 0, 0) - 0.5
                opt.tell(candidate, truth + 0.2 * noise, noise=0.04 / 12)
            else:
                right = sum(streams.uniform(seed, turn, 0, example) < truth for example in range(30))
                opt.tell(candidate, right / 30, noise=30)
        reached.append(worth(opt.recommend().config))
    assert np.mean(reached) > 0.68  # a draw from the prior has 0.35, the best of 130 about 0.6


def test_shares_of_a_minimised_objective_are_failures() -> None:
    opt = create("bandit", wide(), objectives=("minimize",))
    for _ in range(120):
        candidate = opt.ask()
        opt.tell(candidate, round(30 * (1 - worth(candidate.config))) / 30, noise=30)
    assert worth(opt.recommend().config) > 0.7


def test_places_near_to_good_ones_are_preferred() -> None:
    space = Space([Float("x", 0, 1), Float("y", 1e-6, 1, log=True)])
    opt = create("bandit", space, seed=1, objectives=("minimize",))
    for _ in range(120):
        candidate = opt.ask()
        opt.tell(candidate, abs(candidate.config["x"] - 0.313) + abs(math.log10(candidate.config["y"]) + 2.2) / 6)
    config = opt.recommend().config
    assert abs(config["x"] - 0.313) < 0.03
    assert abs(math.log10(config["y"]) + 2.2) < 0.2


def test_a_small_space_goes_on_with_the_top_two() -> None:
    space = Space([Choice("c", tuple("abcde")), Bool("b")])

    def chance(config: dict[str, Any]) -> float:
        return 0.3 + 0.1 * "abcde".index(config["c"]) + 0.05 * config["b"] - 0.3 * (config["c"] == "e")

    opt = create("bandit", space, seed=4)
    late: list[str] = []
    for turn in range(240):
        candidate = opt.ask()
        right = sum(streams.uniform(7, turn, 0, example) < chance(candidate.config) for example in range(10))
        opt.tell(candidate, right / 10, noise=10)
        if turn >= 120:
            late.append(candidate.config["c"])
    assert opt.recommend().config["c"] == "d"
    assert late.count("d") > 50
    assert late.count("a") < 12


def test_values_of_one_configuration_are_pooled() -> None:
    opt = create("bandit", Space([Bool("b")]))
    one, other = opt.ask(2)
    opt.tell(one, 0.9, noise=10)
    opt.tell(other, 0.6, noise=10)
    for value in (0.2, 0.3, 0.4):
        again = opt.ask()
        opt.tell(again, value if again.config == one.config else 0.6, noise=10)
    for _ in range(6):
        again = opt.ask()
        opt.tell(again, 0.2 if again.config == one.config else 0.6, noise=10)
    assert opt.recommend().config == other.config
    estimates = opt.estimates()
    same = [id for id in range(opt.asked) if opt.candidate(id).config == one.config]
    assert len({estimates[id] for id in same}) == 1


@pytest.mark.parametrize("noise", [None, 0.01])
def test_repeats_are_pooled_however_they_were_told(noise: float | None) -> None:
    opt = create("bandit", Space([Bool("b")]))
    for value in (1.0, 0.0, 0.8, 0.2, 0.9, 0.1):
        opt.tell(opt.ask(), value, noise=noise)
    assert not np.isnan(opt.estimates()).any()


def test_a_failing_arm_is_avoided() -> None:
    opt = create("bandit", wide(), seed=0)
    failed = 0
    for turn in range(120):
        candidate = opt.ask()
        if candidate.config["c3"] == "e":
            opt.fail(candidate)
            failed += turn >= 60
        else:
            opt.tell(candidate, worth(candidate.config))
    assert failed < 8


def test_several_objectives_spread_along_the_front() -> None:
    opt = create("bandit", wide(), objectives=("maximize", "minimize"), seed=2)
    for _ in range(150):
        candidate = opt.ask()
        opt.tell(candidate, [worth(candidate.config), candidate.config["x"] + 0.2 * (candidate.config["c1"] == "b")])
    front = opt.front()
    assert len(front) >= 3
    assert max(worth(each.config) for each in front) > 0.6
    assert min(each.config["x"] for each in front) < 0.1


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_equal_values_and_failures_alone_are_survived(value: float) -> None:
    for space in (wide(), mixed(), Space([Int("k", 0, 40)])):
        opt = create("bandit", space, seed=1)
        found: list[str] = []
        for _ in range(40):
            candidate = opt.ask()
            found.append(space.identity(candidate.config))
            opt.tell(candidate, value)
        assert len(set(found)) == 40


def test_it_beats_random_search_on_a_mixed_space() -> None:
    found: dict[str, list[float]] = {"bandit": [], "random": []}
    for kind, reached in found.items():
        for seed in range(6):
            opt = create(kind, mixed(), seed=seed)
            for _ in range(60):
                candidate = opt.ask()
                opt.tell(candidate, score(candidate.config))
            reached.append(score(opt.recommend().config))
    assert np.mean(found["bandit"]) > np.mean(found["random"])


@FEW
@given(lowered=spaces(), seed=SEEDS, data=st.data())
def test_arms_are_what_columns_are_made_from(lowered: Lowered, seed: int, data: st.DataObject) -> None:
    sampler = lowered.sampler
    arms = Arms(sampler)
    chosen = np.array([[data.draw(st.integers(0, count - 1)) for _ in range(3)] for count in arms.counts.tolist()])
    total = int(arms.ends[-1])
    near = np.full(total, np.nan) if data.draw(st.booleans()) else np.full(total, 0.5)
    columns = arms.columns(chosen, near, np.full(total, 0.05), seed, 0)
    assert sampler.holds(columns).all()
    found = arms.of(columns)
    assert ((found == -1) == np.isnan(columns)).all()
    first = (arms.ends - arms.counts)[:, np.newaxis]
    assert ((found == -1) | ((found >= first) & (found < arms.ends[:, np.newaxis]))).all()
    if not lowered.rules:
        exact = (arms.counts < 8)[:, np.newaxis] & (found >= 0)
        assert (found - first == chosen)[exact].all()


@FEW
@given(lowered=spaces(most=4), seed=SEEDS)
def test_a_small_space_is_enumerated_completely(lowered: Lowered, seed: int) -> None:
    whole = enumerated(lowered.sampler, 60)
    drawn = lowered.sampler.sample(200, seed)
    if whole is None:
        return
    known = {column.tobytes() for column in (whole + 0.0).T}
    assert len(known) == whole.shape[1] <= 60
    assert lowered.sampler.holds(whole).all()
    assert {column.tobytes() for column in (drawn + 0.0).T} <= known
    assert abi.dimension_count(lowered.table) == whole.shape[0]
