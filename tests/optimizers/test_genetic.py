"""The genetic optimizer: batches, several objectives, noise, growth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dspex.core import pareto
from dspex.optimizers import Optimizer, create
from dspex.optimizers.genetic import Genetic
from dspex.program.space import Space
from dspex.program.variables import Choice, Float, Int, Text
from tests.optimizers.test_conformance import mixed, score
from tests.optimizers.test_tpe import search

Function = Callable[[dict[str, Any]], Sequence[float]]


def bent(config: dict[str, Any]) -> list[float]:
    """Two losses in opposition, front at 0 of every number but the first and the right choice."""
    rest = 1 + sum(config[f"x{d}"] for d in range(1, 6)) + config["k"] / 4 + (config["c"] != "b")
    first = config["x0"]
    return [first, rest * (1 - math.sqrt(first / rest) - 0.3 * (first / rest) * math.sin(9 * first))]


def sphere(config: dict[str, Any]) -> list[float]:
    """Three losses whose front is an eighth of a sphere."""
    size = 1 + sum((config[f"x{d}"] - 0.5) ** 2 for d in range(2, 6)) + config["k"] / 8 + (config["c"] != "b") / 2
    a, b = config["x0"] * math.pi / 2, config["x1"] * math.pi / 2
    return [size * math.cos(a) * math.cos(b), size * math.cos(a) * math.sin(b), size * math.sin(a)]


def space() -> Space:
    numbers = [Float(f"x{d}", 0, 1) for d in range(6)]
    k, c = Int("k", 0, 8), Choice("c", tuple("abc"))
    return Space([*numbers, k, c], [c.is_("a").implies(k >= 2), numbers[4] + numbers[5] <= 1.5])


def told(kind: str, function: Function, objectives: int, trials: int, seed: int, batch: int = 1) -> Optimizer:
    opt = create(kind, space(), seed=seed, objectives=("minimize",) * objectives, budget=trials)
    for _ in range(trials // batch):
        for candidate in reversed(opt.ask(batch)):
            assert space().validate(candidate.config) == candidate.config
            opt.tell(candidate, function(candidate.config))
    return opt


def reached(opt: Optimizer, reference: float) -> float:
    losses = opt.estimates().T
    return pareto.hypervolume(losses, np.full(losses.shape[0], reference))


@pytest.mark.parametrize(("function", "objectives"), [(bent, 2), (sphere, 3)])
@pytest.mark.parametrize("batch", [1, 8])
def test_several_objectives_cover_more_than_random_search(function: Function, objectives: int, batch: int) -> None:
    found = [
        [reached(told(kind, function, objectives, 240, seed, batch), 3.0) for seed in range(3)]
        for kind in ("genetic", "random")
    ]
    assert min(found[0]) > max(found[1])


def test_the_front_holds_what_nothing_dominates() -> None:
    opt = told("genetic", bent, 2, 120, 0)
    front = [bent(candidate.config) for candidate in opt.front()]
    assert len(front) > 4
    values = opt.estimates()
    for losses in front:
        assert not any((other <= losses).all() and (other < losses).any() for other in values)
    assert opt.recommend().id in {candidate.id for candidate in opt.front()}


def test_directions_may_differ() -> None:
    one = create("genetic", space(), seed=2, objectives=("minimize", "minimize"))
    other = create("genetic", space(), seed=2, objectives=("minimize", "maximize"))
    for _ in range(80):
        left, right = one.ask(), other.ask()
        assert left == right
        first, second = bent(left.config)
        one.tell(left, [first, second])
        other.tell(right, [first, -second])


def test_one_objective_beats_random_search_on_a_mixed_conditional_space() -> None:
    found = [[search(kind, mixed(), score, 80, seed) for seed in range(6)] for kind in ("genetic", "random")]
    assert np.mean(found[0]) > np.mean(found[1])
    assert min(found[0]) > 0.6


def test_short_searches_breed_from_fewer() -> None:
    sizes = [Genetic(space(), budget=budget)._size for budget in (None, 20, 300, 5000)]  # pyright: ignore[reportPrivateUsage]
    assert sizes == [50, 8, 20, 50]
    assert Genetic(space(), budget=100, objectives=("minimize",) * 2)._size == 20  # pyright: ignore[reportPrivateUsage]


def test_failures_are_no_parents() -> None:
    where = Space([Choice("c", tuple("abcd"), default="b"), *[Float(f"x{d}", 0, 1) for d in range(5)]])
    opt = create("genetic", where, seed=0, budget=80)
    failed = 0
    for turn in range(80):
        candidate = opt.ask()
        if candidate.config["c"] == "b":
            opt.fail(candidate, "does not parse")
            failed += turn >= 20
        else:
            opt.tell(candidate, candidate.config["x0"])
    assert failed < 8


def test_equal_values_and_failures_alone_are_survived() -> None:
    for value in ([0.5, 0.5], [math.nan, math.nan]):
        opt = create("genetic", mixed(), seed=1, objectives=("minimize", "maximize"), budget=20)
        found: list[str] = []
        for _ in range(40):
            candidate = opt.ask()
            found.append(mixed().identity(candidate.config))
            opt.tell(candidate, value)
        assert len(set(found)) == 40


def test_new_texts_enter_a_population_that_lacks_them() -> None:
    text, numbers = Text("t", ("one",)), [Float(f"x{d}", 0, 1) for d in range(7)]

    def losses(config: dict[str, Any]) -> list[float]:
        return [config["x0"] + (config["t"] == "three"), config["x0"] ** 2]

    opt = create("genetic", Space([text, *numbers]), seed=2, objectives=("maximize", "minimize"), budget=60)
    for _ in range(30):
        candidate = opt.ask()
        opt.tell(candidate, losses(candidate.config))
    opt.grow(Space([text.grown("two", "three"), *numbers]))
    seen: list[str] = []
    for _ in range(80):
        candidate = opt.ask()
        seen.append(candidate.config["t"])
        opt.tell(candidate, losses(candidate.config))
    assert {"two", "three"} <= set(seen)
    assert seen[-30:].count("three") > 20
