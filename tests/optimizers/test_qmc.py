"""QMC covers the space evenly, whatever is asked in between."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from dspex.errors import CoreError
from dspex.optimizers import Optimizer, create
from dspex.optimizers.snapshot import sealed
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Var


def values(opt: Optimizer, count: int) -> list[dict[str, Any]]:
    """Configurations after the default, all told."""
    opt.ask()
    found: list[dict[str, Any]] = []
    for _ in range(count):
        candidate = opt.ask()
        opt.tell(candidate, 0.5)
        found.append(candidate.config)
    return found


def test_every_variable_is_stratified_by_its_prior() -> None:
    mode = Choice("mode", ("a", "b", "c"), weights=(2, 1, 1))
    space = Space([Float("x", -1, 1), Float("rate", 1e-4, 1.0, log=True), Int("k", 1, 8), mode])
    found = values(create("qmc", space, seed=5), 64)
    assert Counter(int((config["x"] + 1) * 16) for config in found) == dict.fromkeys(range(32), 2)
    assert Counter(int(np.log10(config["rate"]) // 1) for config in found) == dict.fromkeys(range(-4, 0), 16)
    assert Counter(config["k"] for config in found) == dict.fromkeys(range(1, 9), 8)
    assert Counter(config["mode"] for config in found) == {"a": 32, "b": 16, "c": 16}


def test_a_coordinate_is_used_only_where_its_variable_is_active() -> None:
    on = Bool("on")
    space = Space([on, Float("x", 0, 1, when=on.is_(True))])
    opt = create("qmc", space, seed=2)
    found = values(opt, 40)
    assert sum(config["on"] for config in found) >= 38  # off is one configuration, and asked once
    assert len({config["x"] for config in found if config["on"]}) >= 38


def test_rules_hold_and_other_points_stay_where_they_are() -> None:
    a, b = Float("a", 0, 1), Float("b", 0, 1)
    free = values(create("qmc", Space([a, b]), seed=4), 64)
    ruled = values(create("qmc", Space([a, b], [a + b <= 1]), seed=4), 64)
    assert all(config["a"] + config["b"] <= 1 for config in ruled)
    kept = sum(config in ruled for config in free if config["a"] + config["b"] <= 1)
    assert kept == sum(config["a"] + config["b"] <= 1 for config in free)


def test_the_sequence_goes_on_where_it_stopped() -> None:
    space = Space([Float("x", 0, 1), Float("y", 0, 1)])
    plain, disturbed = create("qmc", space, seed=9), create("qmc", space, seed=9)
    wanted = values(plain, 20)
    found = values(disturbed, 7)
    disturbed.enqueue({"x": 0.25})
    disturbed.learn({"x": 0.75}, 1.0)
    disturbed.ask()
    assert found + [disturbed.ask().config for _ in range(13)] == wanted


def test_a_place_that_is_none_is_refused() -> None:
    opt = create("qmc", Space([Bool("b")]))
    bad: list[Any] = [{}, {"point": -1}, {"point": 2.0}, {"point": 1 << 40}, {"point": 1, "more": 2}]
    for search in bad:
        with pytest.raises(CoreError, match="DX3012"):
            create("qmc", Space([Bool("b")]), state=sealed({**opt.state(), "search": search}))


def test_a_thousand_variables_are_asked_within_their_domains() -> None:
    variables: list[Var[Any]] = [Float(f"x{index}", 0, 1) for index in range(1200)]
    found = values(create("qmc", Space(variables), seed=1), 16)
    for name in ("x0", "x600", "x1110"):
        assert Counter(int(config[name] * 16) for config in found) == dict.fromkeys(range(16), 1)
    assert 0.2 < np.mean([config["x1199"] for config in found]) < 0.8
