"""What every optimizer promises."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from dspex.errors import CoreError, ProgramError
from dspex.optimizers import Candidate, create, names
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Text
from tests.core.spaces import UNHURRIED, spaces

KINDS = pytest.mark.parametrize("kind", names())
FEW = settings(max_examples=15, deadline=None, suppress_health_check=UNHURRIED)
MANY = ("minimize", "maximize")


def mixed() -> Space:
    mode = Choice("mode", ("a", "b", "c"))
    k = Int("k", 1, 20, default=5)
    lr = Float("lr", 1e-4, 1.0, log=True, default=0.1, when=mode.is_not("a"))
    x = Float("x", -2, 2, default=1.5)
    return Space([mode, k, lr, x, Bool("b"), Text("t", ("one", "two"))], [mode.is_("c").implies(k <= 10)])


def score(config: dict[str, Any]) -> float:
    return -abs(config["x"]) - abs(config["k"] - 7) / 10 + (config["mode"] == "c") + 0.2 * config["b"]


def identity(space: Space, candidate: Candidate) -> str:
    return space.identity(candidate.config)


@KINDS
def test_the_default_is_asked_first_and_everything_obeys_the_rules(kind: str) -> None:
    space = mixed()
    opt = create(kind, space, seed=3)
    first = opt.ask()
    assert (first.id, first.config) == (0, space.default())
    opt.tell(first, 0.0)
    for expected in range(1, 40):
        candidate = opt.ask()
        assert candidate.id == expected
        assert space.validate(candidate.config) == candidate.config
        opt.tell(candidate, score(candidate.config))


@KINDS
@FEW
@given(lowered=spaces(least=1), seed=st.integers(-5, 2**70), data=st.data())
def test_any_state_continues_bit_for_bit(kind: str, lowered: Lowered, seed: int, data: st.DataObject) -> None:
    opt = create(kind, lowered, seed=seed, objectives=("minimize",), budget=12)
    stop = data.draw(st.integers(0, 20))

    def step(target: Any, turn: int) -> Any:
        candidate = target.ask()
        if turn % 3 != 1:
            target.tell(candidate, math.nan if turn % 7 == 0 else (turn * 37 % 11) / 10, noise=turn % 4 + 1)
        if turn % 5 == 4:
            target.tell(candidate.id - 1, 0.5, noise=0.01)
        return candidate

    for turn in range(stop):
        step(opt, turn)
    other = create(kind, lowered, state=json.loads(json.dumps(opt.state())))
    assert other.pending == opt.pending
    for turn in range(stop, stop + 6):
        assert step(opt, turn) == step(other, turn)
    assert opt.state() == other.state()


@KINDS
def test_pending_candidates_are_not_repeated_in_a_batch(kind: str) -> None:
    space = Space([Choice("c", tuple(range(6))), Bool("b")])
    opt = create(kind, space)
    batch = opt.ask(12)
    assert len({identity(space, candidate) for candidate in batch}) == 12
    assert opt.pending == tuple(range(12))


@KINDS
def test_a_small_space_is_covered_before_anything_repeats(kind: str) -> None:
    mode = Choice("mode", ("plain", "deep"))
    space = Space([mode, Int("depth", 1, 7, when=mode.is_("deep")), Bool("b")])
    opt = create(kind, space, seed=1)
    found: list[str] = []
    for _ in range(16):
        candidate = opt.ask()
        found.append(identity(space, candidate))
        opt.tell(candidate, float(candidate.config["b"]))
    assert len(set(found)) == 16
    again = opt.ask()
    assert identity(space, again) in found


@KINDS
def test_an_exhausted_space_repeats_what_is_not_being_evaluated(kind: str) -> None:
    space = Space([Bool("b")])
    opt = create(kind, space)
    first, second = opt.ask(2)
    opt.tell(first, 1.0)
    assert opt.ask().config == first.config
    assert second.config != first.config


@KINDS
def test_enqueued_configurations_come_next(kind: str) -> None:
    opt = create(kind, mixed())
    opt.enqueue({"mode": "c", "k": 3})
    opt.enqueue({"x": -1.0})
    asked = opt.ask(3)
    assert asked[0].config == mixed().default()
    assert (asked[1].config["mode"], asked[1].config["k"]) == ("c", 3)
    assert asked[2].config["x"] == -1.0
    with pytest.raises(ProgramError, match="DX1402"):
        opt.enqueue({"k": 99})


@KINDS
def test_growing_pools_keeps_what_was_learnt(kind: str) -> None:
    text = Text("t", ("one",))
    opt = create(kind, Space([text, Float("x", 0, 1)]), seed=2)
    for _ in range(14):
        candidate = opt.ask()
        opt.tell(candidate, candidate.config["x"])
    grown = Space([text.grown("two", "three"), Float("x", 0, 1)])
    best = opt.recommend()
    opt.grow(grown)
    assert opt.recommend() == best
    seen = {opt.ask().config["t"] for _ in range(30)}
    assert {"two", "three"} <= seen
    assert create(kind, grown, state=opt.state()).ask() == opt.ask()
    with pytest.raises(CoreError, match="DX3012"):
        opt.grow(Space([text, Float("x", 0, 1)]))  # shorter again
    with pytest.raises(CoreError, match="DX3012"):
        opt.grow(Space([text.grown("two", "three"), Float("x", 0, 2)]))


@KINDS
def test_values_and_ids_are_checked(kind: str) -> None:
    opt = create(kind, mixed())
    with pytest.raises(CoreError, match="DX3015"):
        opt.recommend()
    candidate = opt.ask()
    opt.fail(candidate, "the server is down")
    with pytest.raises(CoreError, match="DX3015"):
        opt.recommend()
    for bad in (math.inf, [1.0, 2.0], []):
        with pytest.raises(CoreError, match="DX3014"):
            opt.tell(candidate, bad)
    for noise in (0, -1, -0.5, math.nan):
        with pytest.raises(CoreError, match="DX3014"):
            opt.tell(candidate, 1.0, noise=noise)
    for unknown in (7, -1, Candidate(3, {})):
        with pytest.raises(CoreError, match="DX3013"):
            opt.tell(unknown, 1.0)
    opt.tell(candidate, [0.5])
    assert opt.recommend().id == 0


def test_settings_are_checked() -> None:
    with pytest.raises(CoreError, match="DX3011"):
        create("annealing", mixed())
    for objectives in ((), "maximize", ("up",), ("maximize",) * 17):
        with pytest.raises(CoreError, match="DX3011"):
            create("tpe", mixed(), objectives=objectives)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(CoreError, match="DX3011"):
        create("tpe", mixed(), budget=0)


@KINDS
@FEW
@given(data=st.data())
def test_a_corrupted_state_is_refused(kind: str, data: st.DataObject) -> None:
    opt = create(kind, mixed())
    for _ in range(5):
        candidate = opt.ask()
        opt.tell(candidate, score(candidate.config))
    opt.enqueue({})
    state = json.loads(json.dumps(opt.state()))
    target: dict[str, Any] = state["history"] if data.draw(st.booleans()) else state
    key = data.draw(st.sampled_from(sorted(target)))
    if key in ("seed", "budget", "objectives") and data.draw(st.booleans()):
        del target[key]
    else:
        junk: list[Any] = ["AAAA", -1, [["x"]], {}, "%%%", [1], "////////"]
        target[key] = data.draw(st.sampled_from([each for each in junk if each != target[key]]))
    if key in ("seed", "budget") and isinstance(target.get(key), int | None):
        return
    with pytest.raises(CoreError, match=r"DX3012|DX3007"):
        create(kind, mixed(), state=state)


def test_a_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(CoreError, match="DX3012"):
        create("tpe", mixed(), state=create("random", mixed()).state())


@KINDS
def test_threads_may_ask_and_tell_at_once(kind: str) -> None:
    opt = create(kind, mixed())
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                candidate = opt.ask()
                opt.tell(candidate, score(candidate.config))
        except CoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert opt.asked == 80
    assert opt.pending == ()


def several(config: dict[str, Any]) -> list[float]:
    """Two objectives with a front between x = -1 and x = 1: the first is minimised, the second maximised."""
    return [(config["x"] - 1) ** 2 + config["k"] / 100, -((config["x"] + 1) ** 2) - config["k"] / 100]


def dominates(one: list[float], other: list[float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@KINDS
def test_several_objectives_have_a_front_that_nothing_dominates(kind: str) -> None:
    opt = create(kind, mixed(), seed=2, objectives=MANY, budget=40)
    values: list[list[float]] = []
    for turn in range(40):
        candidate = opt.ask()
        if turn % 9 == 5:
            values.append([math.nan, math.nan])
            opt.fail(candidate)
        else:
            values.append(several(candidate.config))
            opt.tell(candidate, values[-1])
    front = [candidate.id for candidate in opt.front()]
    assert front == sorted(front)
    assert opt.recommend().id in front
    told = [value for value in values if not math.isnan(value[0])]
    for index, value in enumerate(values):
        assert (index in front) <= (not any(dominates(other, value) for other in told))
    assert {id for id, value in enumerate(values) if not math.isnan(value[0])} >= set(front)
    estimates = opt.estimates()
    assert estimates.shape == (40, 2)
    assert np.isnan(estimates[:, 0]).tolist() == [math.isnan(value[0]) for value in values]


@KINDS
@settings(FEW, max_examples=6)
@given(lowered=spaces(least=1), seed=st.integers(0, 99), data=st.data())
def test_any_state_of_a_search_for_several_objectives_continues(
    kind: str, lowered: Lowered, seed: int, data: st.DataObject
) -> None:
    opt = create(kind, lowered, seed=seed, objectives=MANY, budget=20)

    def step(target: Any, turn: int) -> Any:
        candidate = target.ask()
        if turn % 3 != 1:
            target.tell(candidate, [math.nan if turn % 7 == 0 else (turn * 37 % 11) / 10, turn % 5], noise=0.01)
        return candidate

    stop = data.draw(st.integers(0, 20))
    for turn in range(stop):
        step(opt, turn)
    other = create(kind, lowered, state=json.loads(json.dumps(opt.state())))
    for turn in range(stop, stop + 5):
        assert step(opt, turn) == step(other, turn)
    assert opt.state() == other.state()


@KINDS
def test_the_state_of_every_step_continues_the_same_search(kind: str) -> None:
    opt = create(kind, mixed(), seed=8, objectives=("maximize",), budget=18)
    states: list[str] = []
    asked: list[Candidate] = []
    for turn in range(18):
        states.append(json.dumps(opt.state()))
        asked.append(opt.ask())
        if turn % 4 == 3:  # some are told late, and in the other order
            for candidate in reversed(asked[-3:]):
                opt.tell(candidate, score(candidate.config), noise=0.01 * turn)
        elif turn % 4 == 0:
            opt.tell(asked[-1], score(asked[-1].config), noise=turn + 1)
    for turn, state in enumerate(states):
        assert create(kind, mixed(), state=json.loads(state)).ask() == asked[turn]


@KINDS
def test_equal_seeds_are_equal_searches_and_others_are_not(kind: str) -> None:
    def search(seed: int) -> list[dict[str, Any]]:
        opt = create(kind, mixed(), seed=seed)
        found: list[dict[str, Any]] = []
        for _ in range(14):
            candidate = opt.ask()
            opt.tell(candidate, score(candidate.config))
            found.append(candidate.config)
        return found

    assert search(1) == search(1)
    assert search(1) != search(2)


THREADS = """
    import json
    import dspex as dx
    from dspex.optimizers import create, names

    mode = dx.Choice("mode", ("a", "b", "c"))
    space = dx.Space([mode, dx.Int("k", 1, 20), dx.Float("lr", 1e-4, 1.0, log=True, when=mode.is_not("a"))]
                     + [dx.Float(f"x{index}", -2, 2) for index in range(8)])
    found = {}
    for kind in names():
        for objectives in (("minimize",), ("minimize", "maximize")):
            opt = create(kind, space, seed=5, objectives=objectives, budget=60)
            seen = found[f"{kind} {len(objectives)}"] = []
            for turn in range(24):
                candidate = opt.ask()
                x = sum((candidate.config[f"x{index}"] - 0.3) ** 2 for index in range(8)) + candidate.config["k"] / 7
                opt.tell(candidate, [x, x * turn % 3][: len(objectives)], noise=0.1)
                seen.append(candidate.config)
            seen.append([opt.estimates().tolist(), opt.recommend().id])
    print(json.dumps(found))
"""


def test_the_number_of_threads_changes_nothing() -> None:
    outputs: list[dict[str, Any]] = []
    for threads in ("1", "2"):
        names_of = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names_of, threads)}
        arguments = [sys.executable, "-c", textwrap.dedent(THREADS)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=110, env=environment)
        assert not done.returncode, done.stderr
        outputs.append(json.loads(done.stdout))
    assert len(outputs[0]) == 2 * len(names())
    assert [search for search in outputs[0] if outputs[0][search] != outputs[1].get(search)] == []


@KINDS
def test_what_an_earlier_search_found_is_built_upon(kind: str) -> None:
    space = Space([Float("x", 0, 1), Float("y", 0, 1)])
    earlier = create("qmc", space, seed=1)
    opt = create(kind, space, seed=2)
    for _ in range(40):
        candidate = earlier.ask()
        opt.learn(candidate.config, -abs(candidate.config["x"] - 0.7) - abs(candidate.config["y"] - 0.2), noise=0.001)
    config = opt.recommend().config
    assert abs(config["x"] - 0.7) + abs(config["y"] - 0.2) < 0.25
    assert opt.asked == 40
    assert opt.ask().id == 40


@KINDS
def test_noisy_search_recommends_near_the_true_best(kind: str) -> None:
    space = Space([Float("x", 0, 1), Choice("c", tuple("abc"))])
    regrets: list[float] = []
    for seed in range(3):
        opt = create(kind, space, seed=seed, budget=60)
        for turn in range(60):
            candidate = opt.ask()
            regret = abs(candidate.config["x"] - 0.3) / 2 + 0.2 * (candidate.config["c"] != "b")
            right = sum(streams.uniform(seed, turn, 0, example) < 0.8 - regret for example in range(20))
            opt.tell(candidate, right / 20, noise=20)
        config = opt.recommend().config
        regrets.append(abs(config["x"] - 0.3) / 2 + 0.2 * (config["c"] != "b"))
    assert np.mean(regrets) < 0.1


@KINDS
def test_a_lucky_value_over_few_examples_is_not_recommended(kind: str) -> None:
    opt = create(kind, Space([Int("k", 0, 30)]))
    lucky, solid, *others = opt.ask(10)
    opt.tell(lucky, 1.0, noise=2)
    opt.tell(solid, 0.8, noise=1000)
    for index, candidate in enumerate(others):
        opt.tell(candidate, 0.4 + index / 50, noise=1000)
    assert opt.recommend() == solid
    estimates = opt.estimates()
    assert 0.4 < estimates[lucky.id] < 0.8
    assert estimates[solid.id] == pytest.approx(0.8, abs=0.03)


@KINDS
def test_a_batch_is_as_good_as_its_parts(kind: str) -> None:
    together, apart = create(kind, mixed(), seed=4), create(kind, mixed(), seed=4)
    for _ in range(3):
        batch = together.ask(5)
        assert batch == [apart.ask() for _ in range(5)]
        for candidate in batch:
            together.tell(candidate, score(candidate.config))
            apart.tell(candidate, score(candidate.config))


@KINDS
def test_pools_may_grow_at_any_time(kind: str) -> None:
    text = Text("t", ("one",))
    opt = create(kind, Space([text, Float("x", 0, 1)]), seed=5)
    for turn in range(12):
        batch = opt.ask(2)
        opt.tell(batch[0], batch[0].config["x"])
        if turn % 3 == 1:
            text = text.grown(f"new {turn}")
            grown = Space([text, Float("x", 0, 1)])
            if turn % 2:
                opt.grow(grown)
            else:
                opt = create(kind, grown, state=opt.state())
        opt.tell(batch[1], batch[1].config["x"])
    assert opt.asked == 24
    assert opt.recommend().config["x"] == max(opt.candidate(id).config["x"] for id in range(24))
