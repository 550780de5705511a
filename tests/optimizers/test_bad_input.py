"""Bad input meets a clear error, or the right behaviour, in every kind of optimizer."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from dspex.core import streams
from dspex.errors import CompileError, CoreError, DspexError, ProgramError
from dspex.optimizers import Optimizer, create, names
from dspex.optimizers.snapshot import sealed
from tests.core.spaces import UNHURRIED
from tests.optimizers.test_conformance import mixed, score

KINDS = pytest.mark.parametrize("kind", names())
HUGE = 2**63 - 1


def small() -> dx.Space:
    return dx.Space([dx.Float("x", 0, 1), dx.Int("k", 1, 8), dx.Choice("c", tuple("abc"))])


def run(opt: Optimizer, value: Callable[[dict[str, Any]], Any], trials: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(trials):
        candidate = opt.ask()
        opt.tell(candidate, value(candidate.config))
        found.append(candidate.config)
    return found


# --- Variables and spaces -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda: dx.Float("x", 2, 1), "DX1207"),
        (lambda: dx.Int("k", 5, 1), "DX1207"),
        (lambda: dx.Float("x", math.nan, 1), "DX1207"),
        (lambda: dx.Float("x", 0, math.nan), "DX1207"),
        (lambda: dx.Int("k", 0, math.nan), "DX1207"),  # type: ignore[arg-type]  # pyright: ignore
        (lambda: dx.Float("x", 0, math.inf), "DX1207"),
        (lambda: dx.Float("x", -math.inf, 0), "DX1207"),
        (lambda: dx.Float("x", 0, 1, log=True), "DX1207"),
        (lambda: dx.Float("x", -1, 1, log=True), "DX1207"),
        (lambda: dx.Int("k", 0, 8, log=True), "DX1207"),
        (lambda: dx.Choice("c", ()), "DX1208"),
        (lambda: dx.Choice("c", ("a", "a")), "DX1208"),
        (lambda: dx.Int("k", 0, HUGE), "DX1207"),
        (lambda: dx.Int("k", -HUGE, 0), "DX1207"),
        (lambda: create("tpe", dx.Space([dx.Int("k", -(2**53), 2**53)])), "DX2107"),
        (lambda: create("tpe", dx.Space([dx.Float("x", -1e308, 1e308)])), "DX2107"),
    ],
)
def test_a_domain_that_is_none_is_refused(build: Callable[[], object], code: str) -> None:
    with pytest.raises(DspexError, match=code) as caught:
        build()
    assert "bounds" in str(caught.value) or "lo" in str(caught.value) or "value" in str(caught.value)


@KINDS
def test_a_single_configuration_is_asked_again(kind: str) -> None:
    opt = create(kind, dx.Space([dx.Choice("c", ("only",)), dx.Int("k", 3, 3), dx.Float("x", 0.5, 0.5)]))
    found = run(opt, lambda config: 1.0, 15)
    assert found == [{"c": "only", "k": 3, "x": 0.5}] * 15
    assert opt.recommend().config == found[0]


@KINDS
def test_a_space_of_nothing_is_searched(kind: str) -> None:
    opt = create(kind, dx.Space([]))
    assert run(opt, lambda config: 1.0, 15) == [{}] * 15
    assert create(kind, dx.Space([]), state=opt.state()).ask() == opt.ask()
    assert opt.importance() == {}


@KINDS
def test_the_widest_ranges_stay_inside_their_bounds(kind: str) -> None:
    space = dx.Space(
        [
            dx.Int("k", 0, 2**53),
            dx.Int("m", 1, 2**53, log=True),
            dx.Float("x", -1e300, 1e300),
            dx.Float("y", 1e-300, 1e300, log=True),
            dx.Float("z", 0, 5e-324),
        ]
    )
    opt = create(kind, space, seed=1)
    for config in run(opt, lambda config: math.log(config["y"]), 30):
        assert space.validate(config) == config


@KINDS
def test_a_thousand_variables_are_searched(kind: str) -> None:
    floats = [dx.Float(f"x{index}", 0, 1) for index in range(500)]
    space = dx.Space([*floats, *(dx.Choice(f"c{index}", tuple("abcd")) for index in range(500))])
    opt = create(kind, space, seed=0, budget=40)
    found = run(opt, lambda config: config["x0"], 14)
    assert len({space.identity(config) for config in found}) == 14
    assert opt.recommend().config["x0"] == max(config["x0"] for config in found)


@pytest.mark.parametrize("space", [[dx.Float("x", 0, 1)], {"x": (0, 1)}, None])
def test_only_a_space_is_searched(space: Any) -> None:
    with pytest.raises(CoreError, match="DX3011"):
        create("tpe", space)


def test_settings_that_are_none_are_refused() -> None:
    bad: list[dict[str, Any]] = [{"seed": "1"}, {"seed": 1.5}, {"budget": 2.5}, {"budget": -1}, {"seed": True}]
    for given_settings in bad:
        with pytest.raises(CoreError, match="DX3011"):
            create("tpe", small(), **given_settings)
    with pytest.raises(CoreError, match="DX3011"):
        create("tpe", small(), evaluation_seconds=1.0)  # type: ignore[call-overload]  # pyright: ignore
    for seconds in (-1.0, math.nan, math.inf):
        with pytest.raises(CoreError, match="DX3011"):
            create("auto", small(), evaluation_seconds=seconds)
    assert create("tpe", small(), seed=np.int64(3), budget=np.int32(9)).state()["budget"] == 9  # type: ignore[arg-type]  # pyright: ignore


# --- rules --------------------------------------------------------------------------------------


def test_rules_that_cannot_hold_are_refused_by_name() -> None:
    a, b = dx.Int("a", 0, 100), dx.Int("b", 0, 100)
    with pytest.raises(CompileError, match=r"DX2104 rule can never hold: .*a \+ b"):
        create("tpe", dx.Space([a, b], [a + b <= -1]))
    with pytest.raises(CompileError, match=r"DX2105 .*a <= .*b"):
        create("tpe", dx.Space([a, b], [a <= b - 1, b <= a - 1]))


@KINDS
def test_rules_that_hardly_ever_hold_are_obeyed(kind: str) -> None:
    a, b, c = (dx.Int(name, 0, 10**6, default=0) for name in "abc")
    space = dx.Space([a, b, c], [a + b + c <= 40])
    opt = create(kind, space, seed=2)
    for config in run(opt, lambda config: float(config["a"]), 16):
        assert config["a"] + config["b"] + config["c"] <= 40


@KINDS
def test_an_equation_leaves_what_obeys_it(kind: str) -> None:
    a, b = dx.Int("a", 0, 50, default=0), dx.Int("b", 0, 50, default=0)
    opt = create(kind, dx.Space([a, b], [a <= b, b <= a]), seed=1)
    assert all(config["a"] == config["b"] for config in run(opt, lambda config: float(config["a"]), 20))


@KINDS
def test_configurations_that_break_a_rule_are_not_taken(kind: str) -> None:
    a, b = dx.Int("a", 0, 9, default=0), dx.Int("b", 0, 9)
    opt = create(kind, dx.Space([a, b], [a <= b]))
    for call in (lambda: opt.enqueue({"a": 5, "b": 1}), lambda: opt.learn({"a": 5, "b": 1}, 1.0)):
        with pytest.raises(ProgramError, match=r"DX1403.*a <= b"):
            call()
    assert opt.asked == 0
    assert opt.ask(2)[1].config["a"] <= 9


# --- values -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("value", [0.0, 0.5, -1e12, 1e-12, math.nan])
def test_equal_values_and_failures_alone_keep_the_search_going(kind: str, value: float) -> None:
    opt = create(kind, small(), seed=3)
    found = run(opt, lambda config: value, 25)
    assert len({small().identity(config) for config in found}) == 25
    if math.isnan(value):
        for call in (opt.recommend, opt.front):
            with pytest.raises(CoreError, match="DX3015"):
                call()
        assert np.isnan(opt.estimates()).all()
    else:
        assert opt.recommend().id in range(25)
        assert opt.estimates() == pytest.approx(value)


@KINDS
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_values_of_any_scale_are_searched(kind: str, scale: float) -> None:
    opt = create(kind, small(), seed=4)
    found = run(opt, lambda config: scale * (config["x"] + (config["c"] == "b")), 30)
    best = max(config["x"] + (config["c"] == "b") for config in found)
    config = opt.recommend().config
    assert config["x"] + (config["c"] == "b") == pytest.approx(best, abs=0.05)
    assert np.nanmax(np.abs(opt.estimates())) < 3 * scale


@KINDS
def test_one_outlier_of_any_size_is_survived(kind: str) -> None:
    opt = create(kind, small(), seed=4, objectives=("minimize",))
    run(opt, lambda config: 1e100 if config["x"] > 0.9 else config["x"], 25)
    assert opt.recommend().config["x"] < 0.5


@KINDS
@pytest.mark.parametrize(
    "value", ["0.5", None, [], [1.0, 2.0], ["a"], 10**400, math.inf, -math.inf, {"score": 1.0}, 1j, object()]
)
def test_values_that_are_no_number_are_refused(kind: str, value: Any) -> None:
    opt = create(kind, small())
    candidate = opt.ask()
    for call in (lambda: opt.tell(candidate, value), lambda: opt.learn({}, value)):
        with pytest.raises(CoreError, match="DX3014"):
            call()
    assert opt.pending == (0,)


def test_numbers_of_other_libraries_are_numbers() -> None:
    opt = create("random", small())
    for value in (np.float32(0.25), np.float64(0.25), np.array([0.25]), True, np.int64(1)):
        opt.tell(opt.ask(), value)  # type: ignore[arg-type]  # pyright: ignore
    opt.tell(0, 0.5, noise=np.int64(4))  # type: ignore[arg-type]  # pyright: ignore
    opt.tell(np.int64(0), 0.5, noise=np.float32(0.1))  # type: ignore[arg-type]  # pyright: ignore
    assert opt.estimates()[1:].tolist() == pytest.approx([0.25, 0.25, 1.0, 1.0], abs=0.3)
    for noise in ("4", math.inf, True, [4]):
        with pytest.raises(CoreError, match="DX3014"):
            opt.tell(0, 0.5, noise=noise)  # type: ignore[arg-type]  # pyright: ignore


@KINDS
def test_wrong_counts_of_objectives_are_refused(kind: str) -> None:
    opt = create(kind, small(), objectives=("minimize", "maximize"))
    candidate = opt.ask()
    for value in (0.5, [0.5], [0.5, 0.5, 0.5], [0.5, math.inf]):
        with pytest.raises(CoreError, match="DX3014"):
            opt.tell(candidate, value)
    opt.tell(candidate, [0.5, math.nan])  # one of them failed, so the trial did
    with pytest.raises(CoreError, match="DX3015"):
        opt.front()
    opt.fail(candidate)
    opt.tell(candidate, [0.5, 0.5])
    assert [each.id for each in opt.front()] == [0]


@KINDS
def test_objectives_that_say_nothing_and_scales_that_differ_are_survived(kind: str) -> None:
    opt = create(kind, small(), objectives=("minimize", "maximize", "minimize"), seed=1)
    found = run(opt, lambda config: [1e-12 * config["x"], 1e12 * config["x"], 7.0], 25)
    assert len({small().identity(config) for config in found}) == 25
    assert opt.front()
    assert opt.estimates().shape == (25, 3)


# --- ids and order ------------------------------------------------------------------------------


@KINDS
def test_unknown_ids_are_refused(kind: str) -> None:
    opt = create(kind, small())
    opt.ask(2)
    for unknown in (2, -1, 10**30, "0", 0.0, None, True, dx.Space([])):
        with pytest.raises(CoreError, match="DX3013"):
            opt.tell(unknown, 1.0)  # type: ignore[arg-type]  # pyright: ignore
    for count in (-1, 1.5, "2", True):
        with pytest.raises(CoreError, match="DX3040"):
            opt.ask(count)  # type: ignore[call-overload]  # pyright: ignore
    assert opt.ask(0) == []


@KINDS
def test_told_twice_the_last_value_counts(kind: str) -> None:
    opt = create(kind, small(), seed=1)
    batch = opt.ask(8)
    for candidate in batch:
        opt.tell(candidate, 0.5)
        opt.tell(candidate, 0.5)
    opt.fail(batch[3])
    opt.tell(batch[3], 9.0)
    opt.tell(batch[5], 99.0)
    opt.fail(batch[5])
    assert opt.recommend() == batch[3]
    assert opt.asked == 8
    assert len({small().identity(candidate.config) for candidate in [*batch, *opt.ask(4)]}) == 12


@KINDS
def test_tells_in_any_order_give_the_same_recommendation(kind: str) -> None:
    found: list[Any] = []
    for order in (range(12), reversed(range(12)), (5, 0, 11, 3, 8, 1, 10, 2, 9, 4, 7, 6)):
        opt = create(kind, small(), seed=6)
        batch = opt.ask(12)
        for index in order:
            opt.tell(batch[index], -abs(batch[index].config["x"] - 0.4))
        found.append((opt.recommend(), opt.estimates().tolist()))
    assert found[0] == found[1] == found[2]


# --- states -------------------------------------------------------------------------------------


@KINDS
@settings(max_examples=12, deadline=None, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_a_state_with_a_changed_character_is_refused(kind: str, data: st.DataObject) -> None:
    opt = create(kind, mixed(), seed=1)
    run(opt, score, 12)
    text = json.dumps(opt.state())
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from("A/9z+=0 ")) + text[place + 1 :]
    try:
        state = json.loads(changed)
    except json.JSONDecodeError:
        return
    if state == opt.state():
        return
    with pytest.raises(CoreError, match="DX3012"):
        create(kind, mixed(), state=state)


@settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_a_history_that_cannot_be_is_refused(data: st.DataObject) -> None:
    opt = create("random", mixed(), seed=1)
    run(opt, score, 6)
    state = opt.state()
    history = state["history"]
    key = data.draw(st.sampled_from(sorted(history)))
    junk: list[Any] = ["AAAA", -1, [["x"]], {}, "%%%", None, "////////"]
    history[key] = data.draw(st.sampled_from(junk))
    with pytest.raises(CoreError, match=r"DX3012|DX3007"):
        create("random", mixed(), state=sealed(state))


@KINDS
@pytest.mark.parametrize("junk", [{"junk": 1}, {"": None}, {"kind": "tpe"}])
def test_a_search_that_is_not_this_kinds_is_refused(kind: str, junk: dict[str, Any]) -> None:
    opt = create(kind, small())
    run(opt, lambda config: config["x"], 3)
    with pytest.raises(CoreError, match="DX3012"):
        create(kind, small(), state=sealed({**opt.state(), "search": junk}))


@pytest.mark.parametrize("state", [[], "state", 7, b"", {}])
def test_a_state_that_is_none_is_refused(state: Any) -> None:
    with pytest.raises(CoreError, match="DX3012"):
        create("tpe", small(), state=state)


# --- threads and processes ----------------------------------------------------------------------


@KINDS
def test_threads_may_tell_at_once(kind: str) -> None:
    opt = create(kind, small(), seed=1)
    batch = opt.ask(40)
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    def work(part: int) -> None:
        try:
            gate.wait()
            for candidate in batch[part::4]:
                opt.tell(candidate, candidate.config["x"])
                opt.recommend()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert opt.pending == ()
    assert opt.recommend().config["x"] == max(candidate.config["x"] for candidate in batch)


FORKED = """
    import json, os, sys
    import dspex as dx
    from dspex.optimizers import create

    space = dx.Space([dx.Float("x", 0, 1), dx.Int("k", 1, 8), dx.Choice("c", tuple("abc"))])

    def go(opt, trials):
        found = []
        for _ in range(trials):
            candidate = opt.ask()
            opt.tell(candidate, candidate.config["x"])
            found.append(candidate.config)
        return [found, opt.recommend().config]

    kinds, before = json.loads(sys.argv[1]), int(sys.argv[2])
    # Threads compile or load kernels while the process forks.
    opts = {kind: create(kind, space, seed=1) for kind in kinds}
    for opt in opts.values() if before else ():
        go(opt, before)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        with os.fdopen(send, "w") as pipe:
            json.dump({kind: go(opt, 4) for kind, opt in opts.items()}, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        theirs = json.load(pipe)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ours = {kind: go(opt, 4) for kind, opt in opts.items()}
    assert theirs == json.loads(json.dumps(ours)), (theirs, ours)
    print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("before", [0, 10])
def test_a_forked_process_goes_on_like_its_parent(before: int) -> None:
    code = textwrap.dedent(FORKED)
    arguments = [sys.executable, "-W", "ignore", "-c", code, json.dumps(names()), str(before)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=110)
    assert done.stdout.strip() == "equal", done.stderr


# --- what is known before -----------------------------------------------------------------------


@KINDS
def test_what_was_learnt_counts_as_asked_and_told(kind: str) -> None:
    opt = create(kind, small(), seed=1)
    for index in range(12):
        u = streams.uniform(1, 0, 0, index)
        assert opt.learn({"x": u, "c": "b"}, u, noise=index + 1) == index
    with pytest.raises(CoreError, match="DX3014"):
        opt.learn({"x": 0.5}, math.inf)
    with pytest.raises(ProgramError, match="DX1402"):
        opt.learn({"x": 2.0}, 0.5)
    with pytest.raises(CompileError, match="DX2111"):
        opt.learn({"y": 2.0}, 0.5)
    assert opt.learn({"x": 0.123}, math.nan) == 12
    assert opt.pending == ()
    known = {small().identity(opt.candidate(id).config) for id in range(13)}
    asked = opt.ask(5)
    assert [candidate.id for candidate in asked] == [13, 14, 15, 16, 17]
    assert known.isdisjoint(small().identity(candidate.config) for candidate in asked)
    assert create(kind, small(), state=opt.state()).ask() == opt.ask()
