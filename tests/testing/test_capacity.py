"""What limits a server: capacity, queue, rate limits; how settings change while it runs; the ledger's sums."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import UsageError
from dspex.testing import Fault, MockRequest, MockServer, RateLimit, Totals
from dspex.testing.limits import Buckets

from .talk import CHAT, WIRES, ask, connect, http, read, tokens_of


def sent(server: MockServer, stack: ExitStack, text: str = "x") -> socket.socket:
    """A connection with a request on its way."""
    connection = stack.enter_context(connect(server))
    connection.sendall(CHAT.request(False, text))
    return connection


# ----------------------------------------------------------------- capacity


def test_no_more_are_served_than_the_capacity_and_the_queue_is_served_in_order() -> None:
    with MockServer(faults=[Fault("hold")], capacity=2) as server, ExitStack() as stack:
        clients: list[socket.socket] = []
        for number in range(5):
            clients.append(sent(server, stack, str(number)))
            assert server.wait_until(lambda s, n=number: len(s.requests) == n + 1)
        for done in (2, 4, 5):
            assert server.wait_until(lambda s, d=done: s.held == min(2, 5 - d + 2 if d < 5 else 1))
            server.release()
            assert server.wait_until(lambda s, d=done: s.totals().completed == d)
        assert server.answered[-1] == 4
        assert server.most_served == 2
        assert [read(client).status for client in clients] == [200] * 5


@pytest.mark.parametrize(("status", "name"), [(429, "anthropic"), (503, "openai"), (529, "anthropic")])
def test_those_that_may_not_even_wait_are_refused(status: int, name: str) -> None:
    faults = [Fault("hold", until=2)]
    with MockServer(faults=faults, capacity=1, queue=1, overload=status) as server, ExitStack() as stack:
        first, second = sent(server, stack, "0"), sent(server, stack, "1")
        assert server.wait_until(lambda s: len(s.requests) == 2)
        refused = ask(server, WIRES[name].request(False))
        assert refused.status == status
        if name == "anthropic":
            kind = "rate_limit_error" if status == 429 else "overloaded_error"
            assert refused.json["error"]["type"] == kind
        for _ in range(2):
            assert server.wait_until(lambda s: s.held == 1)
            server.release()
        assert read(first).status == read(second).status == 200
        assert (server.totals().completed, server.totals().refused) == (2, 1)


def test_capacity_may_change_while_requests_wait() -> None:
    with MockServer(faults=[Fault("hold")], capacity=1) as server, ExitStack() as stack:
        for number in range(6):
            sent(server, stack, str(number))
        assert server.wait_until(lambda s: len(s.requests) == 6 and s.held == 1)
        server.capacity = 4
        assert server.wait_until(lambda s: s.held == 4)
        server.capacity = None
        assert server.wait_until(lambda s: s.held == 6)
        server.release()
        assert server.wait_until(lambda s: s.totals().completed == 6)


def test_a_place_is_free_again_when_its_client_has_left() -> None:
    with MockServer(faults=[Fault("hang", until=1)], capacity=1) as server, ExitStack() as stack:
        hanging = sent(server, stack, "0")
        assert server.wait_until(lambda s: s.totals().cut == 1)
        gone = sent(server, stack, "1")
        assert server.wait_until(lambda s: len(s.requests) == 2)
        waiting = sent(server, stack, "2")
        assert server.wait_until(lambda s: len(s.requests) == 3)
        gone.close()
        assert server.wait_until(lambda s: s.open == 2)
        hanging.close()
        assert read(waiting).status == 200
        assert (server.totals().completed, server.totals().cut) == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity": 0},
        {"queue": -1},
        {"latency": -1.0},
        {"pace": float("nan")},
        {"overload": 200},
        {"latency": "1"},
        {"port": 3},
        {"faults": ["hang"]},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    server = MockServer()
    with pytest.raises(UsageError) as caught:
        server.change(**wrong)
    assert caught.value.code == "DX8141"
    if next(iter(wrong)) not in ("port", "faults"):
        with pytest.raises(UsageError):
            MockServer(**wrong)


# ----------------------------------------------------------------- rate limits


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_requests_of_a_key_are_limited_and_come_back_with_time() -> None:
    clock = Clock()
    with MockServer(limit=RateLimit(requests=2, window=10), clock=clock) as server:
        statuses = [ask(server, CHAT.request(False, str(n), "a")).status for n in range(3)]
        assert statuses == [200, 200, 429]
        assert ask(server, CHAT.request(False, "x", "b")).status == 200
        refused = ask(server, CHAT.request(False, "y", "a"))
        assert refused.headers["retry-after"] == "5"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.json["error"]["code"] == "rate_limit_exceeded"
        clock.now += 5
        assert ask(server, CHAT.request(False, "z", "a")).status == 200
        assert ask(server, CHAT.request(False, "z", "a")).status == 429
        assert server.totals(key="a") == Totals(6, 3, 3, 0, server.totals(key="a").usage)


def test_tokens_are_limited_and_told() -> None:
    clock = Clock()
    with MockServer(lambda request: "one two", limit=RateLimit(tokens=600), clock=clock) as server:
        answer = ask(server, CHAT.request(False, "word " * 98))
        told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
        assert told == {
            "x-ratelimit-limit-tokens": "600",
            "x-ratelimit-remaining-tokens": "500",
            "x-ratelimit-reset-tokens": "10s",
        }
        assert ask(server, CHAT.request(False, "word " * 598)).status == 429
        clock.now += 10
        assert ask(server, CHAT.request(False, "word " * 598)).status == 200
        assert ask(server, CHAT.request(False, "word " * 9999)).headers["x-ratelimit-reset-tokens"] == "1m0s"


def test_each_protocol_tells_limits_in_its_own_way() -> None:
    clock = Clock()
    limit = RateLimit(requests=1, tokens=1000, date=True)
    with MockServer(limit=limit, clock=clock) as server:
        headers = ask(server, WIRES["anthropic"].request(False, "x", "a")).headers
        assert headers["anthropic-ratelimit-requests-limit"] == "1"
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert headers["anthropic-ratelimit-requests-reset"] == "2023-11-14T22:14:20Z"
        assert headers["anthropic-ratelimit-tokens-limit"] == "1000"
        refused = ask(server, WIRES["anthropic"].request(False, "x", "a"))
        assert parsedate_to_datetime(refused.headers["retry-after"]).timestamp() == clock.now + 60
        ask(server, WIRES["gemini"].request(False, "x", "g"))
        details = ask(server, WIRES["gemini"].request(False, "x", "g")).json["error"]["details"]
        assert [detail["retryDelay"] for detail in details if "retryDelay" in detail] == ["60s"]


@given(
    st.integers(1, 50),
    st.integers(1, 500),
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 800)), max_size=60),
)
def test_buckets_let_no_more_through_than_they_hold_and_get(
    requests: int, tokens: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    start = clock.now
    buckets = Buckets(RateLimit(requests, tokens, 60.0), clock)
    passed = used = 0
    for pause, amount in steps:
        clock.now += pause
        limits, wait = buckets.take("k", amount)
        if wait == 0:
            passed += 1
            used += min(amount, tokens)
        share = 1 + (clock.now - start) / 60
        assert passed <= requests * share + 1e-6
        assert used <= tokens * share + 1e-3
        assert 0 <= (limits.requests_left or 0) <= requests
        assert 0 <= (limits.tokens_left or 0) <= tokens
        if wait > 0:
            # After the wait that it names, the same request passes.
            clock.now += wait + 1e-6
            assert buckets.take("k", amount)[1] == 0
            passed += 1
            used += min(amount, tokens)


# ----------------------------------------------------------------- paths of its own


def test_settings_and_totals_over_http() -> None:
    with MockServer(lambda request: "two words") as server:
        assert ask(server, CHAT.request(False, "one", "a")).status == 200
        assert ask(server, WIRES["ollama"].request(False, "one", "b")).status == 200
        totals = ask(server, http("/mock/totals?protocol=ollama&key=b", b"", method="GET")).json
        assert (totals["completed"], totals["usage"]["output_tokens"]) == (1, 2)
        plan = {"latency": 0, "faults": [{"kind": "status", "status": 503}], "capacity": 7}
        assert ask(server, http("/mock/settings", json.dumps(plan).encode())).status == 200
        assert ask(server, CHAT.request(False)).status == 503
        assert server.capacity == 7
        for body in (b"[", b"[]", b'{"capacity": 0}', b'{"faults": [{"kind": "?"}]}', b'{"port": 1}'):
            assert ask(server, http("/mock/settings", body)).status == 400
        assert ask(server, http("/mock/elsewhere", b"")).status == 404
        assert ask(server, http("/mock/release", b"")).status == 200
        assert len(server.requests) == server.totals().requests == 3


# ----------------------------------------------------------------- the ledger

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from([*WIRES, "leave"]),
        st.booleans(),
        st.sampled_from(["a", "b"]),
        st.integers(0, 6),
    ),
    max_size=25,
)
FAULTS = [
    Fault("status", status=429, share=0.15),
    Fault("truncate", share=0.1),
    Fault("no_end", share=0.1),
    Fault("close", share=0.1),
    Fault("context_length", share=0.1),
]


@settings(deadline=None, max_examples=30)
@given(ACTIONS)
def test_the_ledger_is_what_clients_saw(actions: list[tuple[str, bool, str, int]]) -> None:
    def answer(request: MockRequest) -> str:
        return "word " * (len(request.text) % 5)

    seen: dict[tuple[str, str], list[int]] = {}
    left = 0
    with MockServer(answer, faults=[Fault("hold", key="gone"), *FAULTS]) as server:
        for wire, stream, key, number in actions:
            if wire == "leave":
                left += 1
                with connect(server) as connection:
                    connection.sendall(CHAT.request(stream, str(number), "gone"))
                    assert server.wait_until(lambda s: s.held == 1)
                assert server.wait_until(lambda s: s.held == 0)
                continue
            got = ask(server, WIRES[wire].request(stream, "x" * number, key))
            protocol = "openai" if wire in ("completions", "responses") else wire
            sums = seen.setdefault((protocol, key), [0, 0, 0, 0])
            sums[0] += 1
            if got.complete and got.status == 200 and b"blockReason" not in got.body:
                try:
                    spent = tokens_of(wire, got.body, stream)
                except KeyError:
                    continue  # A stream without its end tells nothing.
                sums[1] += 1
                sums[2] += spent[0]
                sums[3] += spent[1]
        for (protocol, key), sums in seen.items():
            totals = server.totals(protocol=protocol, key=key)
            used = totals.usage
            assert [totals.requests, totals.completed, used.input_tokens, used.output_tokens] == sums
        assert server.totals(key="gone").cut == left
        whole = server.totals()
        assert whole.requests == whole.completed + whole.refused + whole.cut == len(actions)
