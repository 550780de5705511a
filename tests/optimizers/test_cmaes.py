"""CatCMA with margin: converges on every kind of row, and takes results as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.core import streams
from dspex.errors import CoreError
from dspex.optimizers import Candidate, Optimizer, create
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Text, Var
from tests.core.spaces import UNHURRIED
from tests.optimizers.test_conformance import mixed, score
from tests.optimizers.test_tpe import search

Loss = Callable[[dict[str, Any]], float]


def floats(n: int, lo: float = -5.0, hi: float = 5.0) -> list[Var[Any]]:
    return [Float(f"x{i}", lo, hi) for i in range(n)]


def ints(n: int, lo: int = -10, hi: int = 10) -> list[Var[Any]]:
    return [Int(f"k{i}", lo, hi) for i in range(n)]


def choices(n: int) -> list[Var[Any]]:
    return [Choice(f"c{i}", tuple("abcd")) for i in range(n)]


def sphere(config: dict[str, Any], at: float = 1.3, k: int = 3) -> float:
    """0 at x = `at`, k = 3 and every category c."""
    total = 0.0
    for name, value in config.items():
        total += (value - at) ** 2 if name[0] == "x" else (value - k) ** 2 if name[0] == "k" else value != "c"
    return total


def ellipsoid(config: dict[str, Any]) -> float:
    n = len(config)
    steep = enumerate((value - (1.3 if name[0] == "x" else 3.0)) ** 2 for name, value in config.items())
    return sum(1e3 ** (i / (n - 1)) * square for i, square in steep)


def steps_to(target: float, opt: Optimizer, loss: Loss, most: int) -> int:
    """Evaluations until a loss is below `target`."""
    for step in range(1, most + 1):
        candidate = opt.ask()
        value = loss(candidate.config)
        opt.tell(candidate, value)
        if value < target:
            return step
    return most + 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("variables", "loss", "most"),
    [
        pytest.param(floats(10), sphere, 2200, id="sphere"),
        pytest.param(floats(6), ellipsoid, 2500, id="ellipsoid"),
        pytest.param(floats(5, 1.3, 6.0), sphere, 1500, id="optimum in a corner"),
        pytest.param(floats(5) + ints(5), ellipsoid, 3500, id="integers matter most"),
        pytest.param(ints(5) + floats(5), ellipsoid, 3500, id="integers matter least"),
        pytest.param(floats(3) + ints(3, 3, 12), sphere, 1500, id="integers at an end"),
        pytest.param(floats(3) + choices(4), sphere, 1500, id="categories"),
        pytest.param(floats(3) + ints(3) + choices(3), sphere, 1600, id="all kinds"),
        pytest.param([Float("x0", -5, 5)], sphere, 400, id="one row"),
    ],
)
def test_it_converges(variables: list[Var[Any]], loss: Loss, most: int, seed: int) -> None:
    opt = create("cmaes", Space(variables), seed=seed, objectives=("minimize",))
    assert steps_to(1e-8, opt, loss, most) <= most


def test_discrete_spaces_are_solved_without_asking_anything_twice() -> None:
    space = Space([*ints(4, 0, 8), *choices(4), Bool("c4"), Int("k4", 2, 3), Float("x0", 1.0, 1.6, step=0.3)])
    for seed in range(3):
        opt = create("cmaes", space, seed=seed, objectives=("minimize",))
        asked: set[str] = set()
        best = math.inf
        for _ in range(500):
            candidate = opt.ask()
            assert space.identity(candidate.config) not in asked
            asked.add(space.identity(candidate.config))
            value = sphere(candidate.config | {"c4": "c" if candidate.config["c4"] else "a"})
            best = min(best, value)
            opt.tell(candidate, value)
        assert best < 0.1


def test_it_beats_random_search_under_conditions_and_rules() -> None:
    found = [[search(kind, mixed(), score, 100, seed) for seed in range(6)] for kind in ("cmaes", "random")]
    assert np.mean(found[0]) > np.mean(found[1]) + 0.1


def test_rows_that_are_seldom_active_are_found_too() -> None:
    branch = Choice("branch", ("a", "b", "c"))
    inner: list[Var[Any]] = [Float(f"x{i}", -5, 5, when=branch.is_("c")) for i in range(3)]
    outer: list[Var[Any]] = [Float(f"y{i}", -5, 5, when=branch.is_not("c")) for i in range(3)]
    space = Space([branch, *inner, *outer])

    def loss(config: dict[str, Any]) -> float:
        names = "x" if config["branch"] == "c" else "y"
        return sum((config[f"{names}{i}"] - 2.0) ** 2 for i in range(3)) + (names == "y")

    for seed in range(3):
        opt = create("cmaes", space, seed=seed, objectives=("minimize",))
        assert steps_to(1e-6, opt, loss, 3000) <= 3000


def test_a_rule_across_the_optimum_does_not_stop_it() -> None:
    x, y = Float("x", -5, 5, default=-4.0), Float("y", -5, 5, default=-4.0)
    space = Space([x, y], [x + y <= 0])
    for seed in range(3):
        opt = create("cmaes", space, seed=seed, objectives=("minimize",))
        # The best sound point is (0.5, -0.5), at a loss of 4.5.
        steps_to(0.0, opt, lambda config: (config["x"] - 2) ** 2 + (config["y"] - 1) ** 2, 600)
        assert opt.recommend().config["x"] == pytest.approx(0.5, abs=0.15)


def test_restarts_leave_a_local_optimum() -> None:
    def loss(config: dict[str, Any]) -> float:
        return sum(1.0 - math.cos(2 * math.pi * (v - 1.3)) + 0.1 * (v - 1.3) ** 2 for v in config.values())

    for seed in range(3):
        opt = create("cmaes", Space(floats(2)), seed=seed, objectives=("minimize",))
        assert steps_to(1e-8, opt, loss, 6000) <= 6000


def test_a_drawn_distribution_stays_sound_when_nothing_tells_good_from_bad() -> None:
    for value in (0.5, math.nan):
        opt = create("cmaes", mixed(), seed=1)
        for _ in range(400):
            opt.tell(opt.ask(), value)
        assert create("cmaes", mixed(), state=opt.state()).ask() == opt.ask()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_objective_changes_nothing(scale: float) -> None:
    opt, scaled = create("cmaes", mixed(), seed=1), create("cmaes", mixed(), seed=1)
    for _ in range(40):
        one, other = opt.ask(), scaled.ask()
        assert one == other
        opt.tell(one, score(one.config))
        scaled.tell(other, score(other.config) * scale)


def test_directions_mirror_each_other() -> None:
    one = search("cmaes", mixed(), score, 60, 5)
    other = search("cmaes", mixed(), lambda config: -score(config), 60, 5, "minimize")
    assert one == -other


def test_failures_are_left() -> None:
    space = Space([Choice("c", tuple("abcd")), Float("x", 0, 1)])
    opt = create("cmaes", space, seed=0)
    failed = 0
    for turn in range(120):
        candidate = opt.ask()
        if candidate.config["c"] == "b" or candidate.config["x"] > 0.9:
            opt.fail(candidate, "does not parse")
            failed += turn >= 60
        else:
            opt.tell(candidate, candidate.config["x"])
    assert failed < 25


def test_a_batch_is_one_distribution_and_results_may_come_in_any_order() -> None:
    space = Space(floats(4) + ints(2) + choices(2))
    one, other = (create("cmaes", space, seed=4, objectives=("minimize",)) for _ in range(2))
    batch = one.ask(25)
    assert batch == [other.ask() for _ in range(25)]
    # Late results, in a fixed random order, never fewer than ten pending.
    pending, best = list(batch), math.inf
    for step in range(1500):
        candidate = pending.pop(streams.below(len(pending), 0, step, 0, 0))
        value = sphere(candidate.config)
        best = min(best, value)
        one.tell(candidate, value)
        pending.append(one.ask())
    assert best < 1e-4


def test_a_generation_within_one_batch_does_not_depend_on_the_order_of_its_results() -> None:
    space = Space(floats(4))
    opts = [create("cmaes", space, seed=4, objectives=("minimize",)) for _ in range(2)]
    for opt, reverse in zip(opts, (False, True), strict=True):
        # Seven coordinates and fewer: five results make a generation.
        for candidate in sorted(opt.ask(5), key=lambda each: each.id, reverse=reverse):
            opt.tell(candidate, sphere(candidate.config))
    one, other = (opt.ask() for opt in opts)
    for name, value in one.config.items():
        assert value == pytest.approx(other.config[name], abs=1e-12)


def test_earlier_trials_move_the_distribution() -> None:
    space = Space(floats(3))
    opt = create("cmaes", space, seed=3, objectives=("minimize",))
    for index in range(60):
        config = {f"x{i}": 4.0 + 0.8 * streams.uniform(9, index, 0, i) for i in range(3)}
        opt.learn(config, sphere(config, at=4.5))
    opt.ask()
    found = [opt.ask().config for _ in range(10)]
    assert np.mean([[config[f"x{i}"] for i in range(3)] for config in found]) > 3.0


def test_new_texts_of_a_grown_pool_can_win() -> None:
    text = Text("t", ("one", "two"))
    opt = create("cmaes", Space([text, Float("x", 0, 1)]), seed=2)

    def run(trials: int) -> list[Candidate]:
        asked: list[Candidate] = []
        for _ in range(trials):
            candidate = opt.ask()
            asked.append(candidate)
            opt.tell(candidate, {"one": 0.0, "two": 0.2, "three": 1.0}[candidate.config["t"]] - candidate.config["x"])
        return asked

    run(60)
    opt.grow(Space([text.grown("three"), Float("x", 0, 1)]))
    last = run(80)[-20:]
    assert sum(candidate.config["t"] == "three" for candidate in last) > 10


def test_several_objectives_approach_the_front() -> None:
    opt = create("cmaes", Space(floats(3)), seed=1, objectives=("minimize", "maximize"))
    for _ in range(300):
        candidate = opt.ask()
        x = list(candidate.config.values())
        opt.tell(candidate, [sum((v - 1.0) ** 2 for v in x), -sum((v + 1.0) ** 2 for v in x)])
    # The front lies between (-1, -1, -1) and (1, 1, 1).
    for candidate in opt.front():
        x = np.array(list(candidate.config.values()))
        assert np.abs(x - np.clip(x.mean(), -1.0, 1.0)).max() < 1.5


def test_telling_again_before_the_generation_is_whole_replaces_the_value() -> None:
    opts = [create("cmaes", Space(floats(4)), seed=4, objectives=("minimize",)) for _ in range(2)]
    for opt, mistaken in zip(opts, (False, True), strict=True):
        batch = opt.ask(5)
        if mistaken:
            opt.tell(batch[0], -1.0)
        for candidate in batch:
            opt.tell(candidate, sphere(candidate.config))
    assert opts[0].ask() == opts[1].ask()


@settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_a_corrupted_search_is_refused(data: st.DataObject) -> None:
    opt = create("cmaes", mixed())
    for _ in range(23):
        candidate = opt.ask()
        opt.tell(candidate, score(candidate.config))
    state = json.loads(json.dumps(opt.state()))
    key = data.draw(st.sampled_from(sorted(set(state["search"]) - {"fresh"})))
    junk: list[Any] = ["AAAA", -1, [["x"]], {}, "%%%", [10**9], None, 0.5, "////////"]
    state["search"][key] = data.draw(st.sampled_from(junk))
    with pytest.raises(CoreError, match="DX3012"):
        create("cmaes", mixed(), state=state)


@pytest.mark.parametrize("name", ["mean", "factor", "probabilities", "trust", "scalars", "counters", "sizes"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_an_impossible_distribution_is_refused(name: str, value: float) -> None:
    import base64

    opt = create("cmaes", mixed())
    state = json.loads(json.dumps(opt.state()))
    array = np.frombuffer(base64.b64decode(state["search"][name]), dtype="<f8").copy()
    array[:] = value
    if (name, value) in {("mean", -1.0), ("mean", 0.0)}:
        return
    state["search"][name] = base64.b64encode(array.tobytes()).decode()
    with pytest.raises(CoreError, match="DX3012"):
        create("cmaes", mixed(), state=state)
