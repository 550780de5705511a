"""Grid search: complete, without repetition, and spread from its first steps on."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.factorial import size, values
from dspex.errors import CoreError
from dspex.optimizers import Optimizer, create
from dspex.optimizers.snapshot import sealed
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Text
from tests.core.spaces import UNHURRIED, spaces


def ask(opt: Optimizer, count: int) -> list[dict[str, Any]]:
    return [candidate.config for candidate in opt.ask(count)]


def distinct(lowered: Lowered) -> int:
    """Configurations of a finite space that differ in an active value, by going through all of them."""
    domains = [range(each.lo, each.hi + 1) if isinstance(each, Int) else each.options for each in lowered.variables]
    seen: set[tuple[Any, ...]] = set()
    for point in product(*domains):
        config = dict(zip(lowered.names, point, strict=True))
        active = lowered.active(config)
        seen.add(tuple(config[name] if name in active else None for name in lowered.names))
    return len(seen)


def test_every_combination_is_asked_once() -> None:
    space = Space([Int("k", 1, 5), Choice("m", tuple("abc")), Bool("b"), Float("s", 0, 1, step=0.25)])
    found = ask(create("grid", space), 150)
    assert len({space.identity(config) for config in found}) == 5 * 3 * 2 * 5


def test_conditions_make_no_duplicates() -> None:
    mode = Choice("mode", ("plain", "deep"))
    deep = mode.is_("deep")
    space = Space([mode, Int("depth", 1, 9, when=deep), Int("width", 1, 9, when=deep), Bool("b")])
    opt = create("grid", space)
    found = ask(opt, 2 * (81 + 1))
    assert len({space.identity(config) for config in found}) == 164


@settings(max_examples=30, deadline=None, suppress_health_check=UNHURRIED)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_the_size_counts_what_differs(a: int, b: int, c: int, nested: bool) -> None:
    first = Choice("first", tuple(range(a)))
    second = Choice("second", tuple(range(b)), when=first.is_(0))
    third = Int("third", 1, c, when=second.is_(b - 1) if nested else first.is_(a - 1))
    lowered = lower([first, second, third, Bool("flag")])
    counts = values(lowered.table)
    assert size(lowered.table, [count or 0 for count in counts]) == distinct(lowered)


@settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
@given(spaces())
def test_counts_of_values_are_those_of_the_variables(lowered: Lowered) -> None:
    for variable, count in zip(lowered.variables, values(lowered.table), strict=True):
        if variable.options:
            assert count == len(variable.options)
        elif isinstance(variable, Float) and variable.step is None and variable.lo < variable.hi:
            assert count is None
        else:
            assert isinstance(variable, Float | Int)
            step = variable.step or 1
            assert count == math.floor((variable.hi - variable.lo) / step + 1e-9) + 1


def test_a_budget_sets_the_levels() -> None:
    space = Space([Float("x", 0, 1), Float("rate", 1e-4, 1.0, log=True, default=0.1), Bool("b")])
    found = ask(create("grid", space, budget=51), 50)
    assert {config["x"] for config in found} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert sorted({config["rate"] for config in found}) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert len({space.identity(config) for config in found}) == 50


def test_a_finished_grid_is_refined() -> None:
    space = Space([Float("x", 0, 8, default=4)])
    opt = create("grid", space)
    found = [config["x"] for config in ask(opt, 17)]
    assert sorted(found[:3]) == [0.0, 4.0, 8.0]
    assert sorted(found[:5]) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert sorted(found[:9]) == list(range(9))
    assert len(set(found)) == 17


def test_whole_numbers_of_a_wide_range_are_levels_until_all_are_there() -> None:
    space = Space([Int("k", 1, 100)])
    opt = create("grid", space)
    found = [config["k"] for config in ask(opt, 100)]
    assert {1, 100} <= set(found[:4])
    assert sorted(found) == list(range(1, 101))


def test_an_early_stop_has_seen_every_level_of_every_variable() -> None:
    for seed in range(5):
        space = Space([Choice(f"c{index}", tuple(range(5))) for index in range(8)])
        found = ask(create("grid", space, seed=seed), 41)[1:]
        for index in range(8):
            counts = np.bincount([config[f"c{index}"] for config in found], minlength=5)
            assert counts.min() >= 3
        pairs = [len({(config["c0"], config[f"c{index}"]) for config in found}) for index in range(1, 8)]
        assert min(pairs) >= 10


def test_rule_breaking_points_are_passed_over() -> None:
    a, b, c = (Int(name, 0, 9, default=0) for name in "abc")
    space = Space([a, b, c], [a + b + c <= 4])
    opt = create("grid", space)
    found = ask(opt, 35)
    assert len({space.identity(config) for config in found}) == 35  # 4 + 3 choose 3
    assert all(config["a"] + config["b"] + config["c"] <= 4 for config in found)


def test_a_product_of_a_thousand_variables_is_not_enumerated() -> None:
    xs = [Float(f"x{index}", 0, 1) for index in range(500)]
    cs = [Choice(f"c{index}", tuple("abcd")) for index in range(500)]
    rules = [one + other <= 1.5 for one, other in pairwise(xs[:9])]
    space = Space([*xs, *cs], rules)
    opt = create("grid", space, budget=1000)
    found = ask(opt, 12)
    assert len({space.identity(config) for config in found}) == 12
    assert all(space.validate(config) == config for config in found)
    assert {config["x77"] for config in found} <= {0.0, 0.5, 1.0}


def test_where_rules_leave_almost_nothing_points_are_repaired() -> None:
    xs = [Int(f"x{index}", 0, 30, default=0) for index in range(6)]
    space = Space(xs, [one <= 0 for one in xs[:5]])
    found = ask(create("grid", space), 31)
    assert {config["x5"] for config in found} == set(range(31))


def test_a_grid_goes_on_over_grown_pools() -> None:
    text = Text("t", ("one", "two"))
    space = Space([text, Int("k", 1, 3)])
    opt = create("grid", space)
    ask(opt, 4)
    grown = Space([text.grown("three"), Int("k", 1, 3)])
    again = create("grid", grown, state=opt.state())
    opt.grow(grown)
    assert ask(again, 5) == ask(opt, 5)
    assert len({grown.identity(opt.candidate(id).config) for id in range(9)}) == 9


def test_a_place_that_is_none_is_refused() -> None:
    opt = create("grid", Space([Bool("b")]))
    good = opt.state()["search"]
    bad: list[Any] = [{}, {**good, "levels": 0}, {**good, "place": -1}, {**good, "place": "0"}, {**good, "more": 1}]
    for search in bad:
        with pytest.raises(CoreError, match="DX3012"):
            create("grid", Space([Bool("b")]), state=sealed({**opt.state(), "search": search}))
