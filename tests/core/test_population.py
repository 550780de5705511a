"""Sampling under rules: always sound, always ending, the error naming the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.population import Sampler
from dspex.errors import CoreError
from dspex.program.variables import Bool, Choice, Float, Int
from tests.core import naive
from tests.core.spaces import SEEDS, UNHURRIED, spaces

MANY = settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)


@MANY
@given(spaces(), SEEDS)
def test_candidates_obey_rules_and_conditions(lowered: Lowered, seed: int) -> None:
    population = lowered.sampler.sample(12, seed)
    assert naive.holds(lowered, population).all()
    for column in population.T:
        for d in range(column.size):
            assert np.isnan(column[d]) != naive.active(lowered, column, d)


@MANY
@given(spaces(), SEEDS, st.integers(1, 9))
def test_candidates_depend_on_the_seed_alone(lowered: Lowered, seed: int, step: int) -> None:
    one = lowered.sampler.sample(5, seed, step)
    two = Sampler(lowered.table, start=lowered.default).sample(5, seed, step)
    assert one.tobytes() == two.tobytes()


def test_priors_show_in_the_draws() -> None:
    space = lower(
        [
            Choice("c", ("a", "b", "c"), weights=(1, 2, 1)),
            Float("log", 1e-4, 1.0, log=True),
            Int("k", 1, 8),
            Float("grid", 0.0, 1.0, step=0.25),
        ]
    )
    population = space.sampler.sample(1000, 0)
    shares = [np.count_nonzero(population[space.rows["c"]] == index) / 1000 for index in range(3)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.06)
    assert np.mean(np.exp(population[space.rows["log"]]) < 1e-2) == pytest.approx(0.5, abs=0.06)
    counts = np.bincount(population[space.rows["k"]].astype(int), minlength=9)[1:]
    assert counts.min() > 80
    values, counts = np.unique(population[space.rows["grid"]], return_counts=True)
    assert values.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert counts.min() > 140  # the ends are drawn as often as the middle


def test_a_rule_that_one_draw_in_a_million_obeys_is_met() -> None:
    rows = [Int(f"k{index}", 0, 99, default=50) for index in range(4)]
    rules = [row.is_(50) for row in rows]
    population = lower(rows, rules).sampler.sample(20, 3)
    assert (population == 50).all()


def test_the_descent_finds_a_narrow_region_without_a_sound_start() -> None:
    rows = [Int("a", 0, 1000, default=500), Int("b", 0, 1000, default=500), Bool("c", default=True)]
    space = lower(rows, [(rows[0] + rows[1]).is_(1000), (rows[0] - rows[1]) <= 10, (rows[0] - rows[1]) >= -10])
    population = Sampler(space.table, [str(rule) for rule in space.rules]).sample(6, 0)
    assert naive.holds(space, population).all()


def test_rules_that_cannot_hold_are_named_and_the_search_ends() -> None:
    x, y = Float("x", 0, 1), Float("y", 0, 1)
    space = lower([x, y], [x >= y, x <= 0.9])
    table = space.table
    table.const[:] = np.where(table.const == 0.9, -1.0, table.const)  # now x <= -1, which no x obeys
    with pytest.raises(CoreError, match=r"DX3010.*still breaks: x <= 0\.9"):
        Sampler(table, [str(rule) for rule in space.rules]).sample(50, 0)


def test_an_inactive_variable_frees_its_rules() -> None:
    mode = Choice("mode", ("plain", "deep"))
    depth = Int("depth", 5, 9, when=mode.is_("deep"))
    flag = Bool("flag")
    space = lower([depth, mode, flag], [~(mode.is_("deep") & flag.is_(True)), depth >= 7])
    population = space.sampler.sample(200, 0)
    deep = population[space.rows["mode"]] == 1
    assert 20 < deep.sum() < 180
    assert (population[space.rows["depth"]][deep] >= 7).all()
    assert np.isnan(population[space.rows["depth"]][~deep]).all()
