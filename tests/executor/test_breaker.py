"""The breaker against a model that forgets nothing, and under many threads at once."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dspex.errors import ServerError, UsageError
from dspex.executor.admission import Outcome
from dspex.executor.breaker import Breaker

OUTCOMES: tuple[Outcome, ...] = ("ok", "rejected", "limited", "overloaded", "failed", "unknown", "unsent")
WINDOW, CALLS, FAILURES, SLOW, SLOW_SHARE, PAUSE, LONGEST, PROBES = 10.0, 4, 0.5, 2.0, 0.75, 1.0, 6.0, 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock) -> Breaker:
    return Breaker(
        "test/model",
        window=WINDOW,
        calls=CALLS,
        failures=FAILURES,
        slow=SLOW,
        slow_share=SLOW_SHARE,
        pause=PAUSE,
        longest=LONGEST,
        probes=PROBES,
        clock=clock,
    )


class BreakerMachine(RuleBasedStateMachine):
    """Calls enter and leave in any order while time passes; the model keeps every call of every state."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock)
        self.out: list[tuple[int, int]] = []
        self.period = 0
        self.state = "closed"
        self.seen: list[tuple[float, bool, bool]] = []
        self.until = 0.0
        self.pause = PAUSE
        self.probing = self.good = 0

    def become(self, state: str, until: float = 0.0) -> None:
        self.period += 1
        self.state, self.until, self.seen, self.probing, self.good = state, until, [], 0, 0

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0, 7.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def enter(self) -> None:
        now = self.clock.now
        if self.state == "open" and now >= self.until:
            self.become("half-open", now + WINDOW)
        elif self.state == "half-open" and self.probing == PROBES and now >= self.until:
            self.until, self.probing = now + WINDOW, self.good
        allowed = self.state == "closed" or (self.state == "half-open" and self.probing < PROBES)
        if not allowed:
            with pytest.raises(ServerError, match="DX4731") as caught:
                self.breaker.enter()
            left = self.until - now
            assert (caught.value.sent, caught.value.retryable) == ("no", True)
            assert caught.value.retry_after == pytest.approx(left if self.state == "open" else min(left, PAUSE))
            return
        ticket = self.breaker.enter()
        if self.state == "half-open":
            self.probing += 1
        self.out.append((ticket, self.period))

    @precondition(lambda self: bool(cast(BreakerMachine, self).out))
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES), seconds=st.sampled_from([0.1, 2.0]))
    def leave(self, which: int, outcome: Outcome, seconds: float) -> None:
        ticket, period = self.out.pop(which % len(self.out))
        self.breaker.leave(ticket, outcome, seconds)
        if period != self.period:
            return
        failed, slow = outcome in ("failed", "overloaded"), outcome == "ok" and seconds >= SLOW
        silent = outcome in ("unknown", "unsent")
        now = self.clock.now
        if self.state == "half-open":
            if silent:
                self.probing = max(self.good, self.probing - 1)
            elif failed or slow:
                self.pause = min(2 * self.pause, LONGEST)
                self.become("open", now + self.pause)
            else:
                self.good += 1
                if self.good == PROBES:
                    self.pause = PAUSE
                    self.become("closed")
        elif not silent:
            self.seen.append((now, failed, slow))
            # The window moves on by tenths.
            recent = [call for call in self.seen if int(call[0]) > int(now) - 10]
            many = sum(call[1] for call in recent) >= FAILURES * len(recent)
            crawling = sum(call[2] for call in recent) >= SLOW_SHARE * len(recent)
            if (failed or slow) and len(recent) >= CALLS and (many or crawling):
                self.become("open", now + self.pause)

    @invariant()
    def states_agree(self) -> None:
        expected = "half-open" if self.state == "open" and self.clock.now >= self.until else self.state
        assert self.breaker.state == expected


TestBreakerMachine = cast(Any, BreakerMachine).TestCase


def opened(clock: Clock) -> Breaker:
    made = breaker(clock)
    for _ in range(CALLS):
        made.leave(made.enter(), "failed")
    assert made.state == "open"
    return made


def test_exactly_the_probes_pass_when_many_threads_enter_at_once() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += PAUSE
    begin = threading.Barrier(8)
    passed: list[int] = []

    def work() -> None:
        begin.wait()
        for _ in range(50):
            try:
                passed.append(made.enter())
            except ServerError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == PROBES
    assert made.refused == 8 * 50 - PROBES
    for ticket in passed:
        made.leave(ticket, "ok", 0.1)
    assert made.state == "closed"


def test_late_failures_of_an_earlier_time_do_not_open_a_mended_breaker() -> None:
    clock = Clock()
    made = breaker(clock)
    old = [made.enter() for _ in range(50)]
    for _ in range(CALLS):
        made.leave(made.enter(), "failed")
    clock.now += PAUSE
    for ticket in [made.enter() for _ in range(PROBES)]:
        made.leave(ticket, "ok", 0.1)
    for ticket in old:
        made.leave(ticket, "failed")
    assert (made.state, made.opened) == ("closed", 1)


def test_a_probe_that_never_comes_back_is_replaced() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += PAUSE
    lost = [made.enter() for _ in range(PROBES)]
    with pytest.raises(ServerError, match="DX4731"):
        made.enter()
    clock.now += WINDOW
    again = [made.enter() for _ in range(PROBES)]
    with pytest.raises(ServerError, match="DX4731"):
        made.enter()
    for ticket in lost:
        made.leave(ticket, "unknown")
    for ticket in again:
        made.leave(ticket, "ok", 0.1)
    for ticket in lost:
        made.leave(ticket, "failed")
    assert made.state == "closed"


def test_probes_that_take_longer_than_the_patience_count_all_the_same() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += PAUSE
    slow: list[tuple[float, int]] = []
    for _ in range(8):
        slow.extend((clock.now + 3 * WINDOW, made.enter()) for _ in range(PROBES))
        with pytest.raises(ServerError, match="DX4731"):
            made.enter()
        clock.now += WINDOW
        ended = [ticket for ends, ticket in slow if ends <= clock.now]
        slow = [call for call in slow if call[0] > clock.now]
        for ticket in ended:
            made.leave(ticket, "rejected")
        if ended:
            break
    assert made.state == "closed"


def test_the_error_names_the_model_and_the_reason() -> None:
    made = opened(Clock())
    with pytest.raises(ServerError, match=r"test/model is not called for now: 4 of the last 4 calls failed"):
        made.enter()


def test_failures_that_are_older_than_the_window_are_forgotten() -> None:
    clock = Clock()
    made = breaker(clock)
    for _ in range(50):
        made.leave(made.enter(), "failed")
        made.leave(made.enter(), "ok", 0.1)
        made.leave(made.enter(), "ok", 0.1)
        clock.now += WINDOW
    assert made.opened == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 0.0},
        {"slow": -1.0},
        {"pause": float("nan")},
        {"longest": float("inf")},
        {"failures": 0.0},
        {"slow_share": 1.1},
        {"calls": 0},
        {"probes": 0},
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="DX4734"):
        Breaker("test/model", **settings)
