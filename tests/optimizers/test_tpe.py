"""TPE learns, and is not fooled by noise, failures or scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dspex.optimizers import create
from dspex.optimizers.optimizer import Direction
from dspex.program.space import Space
from dspex.program.variables import Choice, Float
from tests.optimizers.test_conformance import mixed, score


def search(
    kind: str,
    space: Space,
    objective: Callable[[dict[str, Any]], float],
    trials: int,
    seed: int,
    direction: Direction = "maximize",
) -> float:
    opt = create(kind, space, seed=seed, objectives=(direction,))
    for _ in range(trials):
        candidate = opt.ask()
        opt.tell(candidate, objective(candidate.config))
    return objective(opt.recommend().config)


def test_tpe_beats_random_search_on_a_mixed_conditional_space() -> None:
    found = [[search(kind, mixed(), score, 60, seed) for seed in range(6)] for kind in ("tpe", "random")]
    assert np.mean(found[0]) > np.mean(found[1]) + 0.1
    assert min(found[0]) > 0.6


def test_directions_mirror_each_other() -> None:
    one = search("tpe", mixed(), score, 30, 5)
    other = search("tpe", mixed(), lambda config: -score(config), 30, 5, "minimize")
    assert one == -other


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_objective_changes_nothing(scale: float) -> None:
    opt, scaled = create("tpe", mixed(), seed=1), create("tpe", mixed(), seed=1)
    for _ in range(25):
        one, other = opt.ask(), scaled.ask()
        assert one == other
        opt.tell(one, score(one.config))
        scaled.tell(other, score(other.config) * scale)


def test_equal_values_and_failures_alone_are_survived() -> None:
    for value in (0.5, math.nan):
        opt = create("tpe", mixed(), seed=1)
        found: list[str] = []
        for _ in range(40):
            candidate = opt.ask()
            found.append(mixed().identity(candidate.config))
            opt.tell(candidate, value)
        assert len(set(found)) == 40


def test_failures_are_avoided() -> None:
    space = Space([Choice("c", tuple("abcd")), Float("x", 0, 1)])
    opt = create("tpe", space, seed=0)
    failed = 0
    for turn in range(60):
        candidate = opt.ask()
        if candidate.config["c"] == "b":
            opt.fail(candidate, "does not parse")
            failed += turn >= 20
        else:
            opt.tell(candidate, candidate.config["x"])
    assert failed < 6


def test_telling_again_replaces_the_value() -> None:
    opt = create("tpe", mixed())
    one, other = opt.ask(2)
    opt.tell(one, 0.9, noise=4)
    opt.tell(other, 0.5, noise=64)
    opt.tell(one, 0.1, noise=64)
    assert opt.recommend() == other


def test_variances_are_taken_as_given() -> None:
    opt = create("tpe", mixed(), objectives=("minimize",))
    for candidate, (value, variance) in zip(
        opt.ask(4), [(-9.0, 800.0), (1.0, 0.01), (2.0, 0.01), (4.0, 0.0)], strict=True
    ):
        opt.tell(candidate, value, noise=variance)
    assert opt.recommend().id == 1
