"""What every optimizer promises."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered
from dspex.errors import CoreError, ProgramError
from dspex.optimizers import Candidate, create, names
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Text
from tests.core.spaces import UNHURRIED, spaces

KINDS = pytest.mark.parametrize("kind", names())
FEW = settings(max_examples=15, deadline=None, suppress_health_check=UNHURRIED)


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
    for objectives in ((), ("maximize", "minimize"), ("up",)):
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
        target[key] = data.draw(st.sampled_from(junk))
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
