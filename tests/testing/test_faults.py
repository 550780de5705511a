"""How the server misbehaves, byte by byte, and how the ledger counts it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import UsageError
from dspex.testing import Fault, MockRequest, MockServer
from dspex.testing.faults import FaultKind, read_plan
from dspex.testing.routes import route

from .talk import CHAT, WIRES, Answer, ask, connect, events, http, read, text_of

SAID = "Paris is the capital of France, and has been for long."


def misbehaving(fault: Fault, name: str = "openai", stream: bool = False) -> tuple[Answer, MockServer]:
    """What one request gets, and the server that has ended since."""
    with MockServer(lambda request: SAID, faults=[fault]) as server, connect(server) as connection:
        connection.sendall(WIRES[name].request(stream))
        if fault.kind.startswith("hang") or fault.kind == "long_length":
            # Nothing more will come: what came before the server ended is all.
            assert server.wait_until(lambda s: s.totals().cut == 1)
            server.stop()
        return read(connection), server


def lost(server: MockServer) -> bool:
    """Whether the ledger holds one answer that was generated and never came whole."""
    totals = server.totals()
    return (totals.requests, totals.cut, totals.lost.output_tokens) == (1, 1, len(SAID.split()))


@pytest.mark.parametrize("kind", get_args(FaultKind))
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WIRES)
def test_every_fault_of_every_protocol_is_counted_once(kind: FaultKind, stream: bool, name: str) -> None:
    def settled(server: MockServer) -> bool:
        totals = server.totals()
        return totals.completed + totals.refused + totals.cut == 1

    with MockServer(faults=[Fault(kind, size=200_000)]) as server, connect(server) as connection:
        connection.sendall(WIRES[name].request(stream))
        if kind.startswith("hold"):
            assert server.wait_until(lambda s: s.held == 1)
            server.release()
        if not (kind.startswith("hang") or kind == "long_length"):
            with contextlib.suppress(ConnectionResetError):
                read(connection)
        assert server.wait_until(settled)
    totals = server.totals()
    assert totals.requests == totals.completed + totals.refused + totals.cut == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WIRES)
def test_broken_bodies(name: str, stream: bool) -> None:
    answer, server = misbehaving(Fault("truncate"), name, stream)
    assert not answer.complete
    assert len(answer.body) > 0
    assert lost(server)
    answer, server = misbehaving(Fault("hang_body"), name, stream)
    assert not answer.complete
    assert len(answer.body) > 0
    assert lost(server)
    answer, server = misbehaving(Fault("hang_head"), name, stream)
    assert (answer.status, answer.body, answer.complete) == (200, b"", False)
    assert lost(server)
    answer, server = misbehaving(Fault("not_utf8"), name, stream)
    assert answer.complete
    assert b"\xff\xfe" in answer.body
    assert lost(server)
    answer, server = misbehaving(Fault("no_end"), name, stream)
    assert answer.complete == stream
    assert lost(server)
    if stream and name != "responses":
        assert SAID.startswith(text_of(name, answer.body, True))


@pytest.mark.parametrize("name", WIRES.keys() - {"bedrock"})
def test_error_events(name: str) -> None:
    answer, server = misbehaving(Fault("error_event", status=500, message="lost it"), name, True)
    assert answer.complete
    assert "lost it" in str(events(answer.body)[-1])
    assert lost(server)
    assert not misbehaving(Fault("error_event"), name, False)[0].complete


def test_wrong_lengths() -> None:
    answer, server = misbehaving(Fault("short_length"))
    assert len(answer.raw) > answer.raw.index(b"\r\n\r\n") + 4 + int(answer.headers["content-length"])
    assert lost(server)
    answer, server = misbehaving(Fault("long_length"))
    assert answer.json["choices"]
    assert not answer.complete
    assert lost(server)


def test_broken_connections() -> None:
    answer, server = misbehaving(Fault("close"))
    assert answer.raw == b""
    assert server.totals().cut == 1
    assert server.totals().lost.total_tokens == 0
    with pytest.raises(ConnectionResetError):
        misbehaving(Fault("reset"))
    with pytest.raises(ConnectionResetError):
        misbehaving(Fault("reset_body"))
    with MockServer(faults=[Fault("half_close")]) as server, connect(server) as connection:
        connection.sendall(CHAT.request(False))
        assert read(connection).complete
        assert connection.recv(1) == b""
        connection.sendall(CHAT.request(False))
        assert server.wait_until(lambda s: s.totals().requests == 2)
        connection.close()
        assert server.wait_until(lambda s: s.totals().cut == 1)
        assert server.totals().completed == 1


@pytest.mark.parametrize("stream", [False, True])
def test_slow_bodies_are_right(stream: bool) -> None:
    with MockServer(lambda request: SAID) as server:
        right = ask(server, CHAT.request(stream)).raw
    for fault in (Fault("drip"), Fault("slow", delay=0.001)):
        answer, server = misbehaving(fault, stream=stream)
        assert answer.raw == right
        assert server.totals().completed == 1


@pytest.mark.parametrize("stream", [False, True])
def test_held_answers_go_on_when_they_are_released(stream: bool) -> None:
    for kind in ("hold", "hold_body"):
        with MockServer(lambda request: SAID, faults=[Fault(kind)]) as server, connect(server) as connection:
            connection.sendall(CHAT.request(stream))
            assert server.wait_until(lambda s: s.held == 1)
            if kind == "hold_body":
                assert connection.recv(1) == b"H"
            assert server.totals().completed == 0
            server.release()
            body = (b"H" if kind == "hold_body" else b"") + connection.recv(65536)
            assert body.startswith(b"HTTP/1.1 200")
            assert server.wait_until(lambda s: s.totals().completed == 1)
            assert server.held == 0


def test_a_client_that_leaves_is_counted_as_cut() -> None:
    with MockServer(lambda request: SAID, faults=[Fault("hold")]) as server:
        with connect(server) as connection:
            connection.sendall(CHAT.request(False))
            assert server.wait_until(lambda s: s.held == 1)
        assert server.wait_until(lambda s: s.totals().cut == 1)
        assert lost(server)
        assert server.held == 0
    with MockServer(latency=3600) as server:
        with connect(server) as connection:
            connection.sendall(CHAT.request(False))
            assert server.wait_until(lambda s: s.totals().requests == 1)
        assert server.wait_until(lambda s: s.totals().cut == 1)
        assert server.totals().lost.total_tokens == 0


def test_a_large_answer_ends_and_the_connection_goes_on() -> None:
    large = "x" * 4_000_000
    with MockServer(lambda request: large) as server, connect(server) as connection:
        for _ in range(2):
            connection.sendall(CHAT.request(False))
            assert read(connection).json["choices"][0]["message"]["content"] == large


def test_huge_bodies_have_the_size_that_was_asked_for() -> None:
    answer, server = misbehaving(Fault("huge", size=300_001))
    assert (len(answer.body), answer.complete) == (300_001, True)
    assert server.totals().refused == 1
    with MockServer(faults=[Fault("huge")]) as server:
        with connect(server) as connection:
            connection.sendall(CHAT.request(False))
            assert connection.recv(1) == b"H"
        assert server.wait_until(lambda s: s.totals().cut == 1)


def test_redirects_and_their_loops() -> None:
    answer, _ = misbehaving(Fault("redirect", status=308, location="/v1/chat/completions"))
    assert (answer.status, answer.headers["location"]) == (308, "/v1/chat/completions")
    assert misbehaving(Fault("redirect"))[0].status == 307


def test_answers_of_another_kind() -> None:
    assert misbehaving(Fault("not_http"))[0].raw.startswith(b"220 ")
    assert misbehaving(Fault("not_json"))[0].body.startswith(b"<html>")
    assert misbehaving(Fault("shape"))[0].json == {"unexpected": True}


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 529])
def test_statuses_come_with_the_protocol_s_own_error(name: str, status: int) -> None:
    answer, server = misbehaving(Fault("status", status=status, message="said so", retry_after=7), name)
    assert answer.status == status
    assert "said so" in answer.body.decode()
    assert answer.headers["retry-after"] == "7"
    assert server.totals().refused == 1
    kinds: dict[str, Callable[[dict[str, Any]], object]] = {
        "anthropic": lambda body: body["error"]["type"],
        "gemini": lambda body: body["error"]["status"],
        "bedrock": lambda body: answer.headers["x-amzn-errortype"],
    }
    wanted = {
        ("anthropic", 529): "overloaded_error",
        ("anthropic", 429): "rate_limit_error",
        ("gemini", 429): "RESOURCE_EXHAUSTED",
        ("gemini", 503): "UNAVAILABLE",
        ("bedrock", 429): "ThrottlingException",
    }
    if (name, status) in wanted:
        assert kinds[name](answer.json) == wanted[name, status]


# ----------------------------------------------------------------- which requests


def asked(number: int, attempt: int, digest: str, key: str = "") -> MockRequest:
    path = "/v1/chat/completions"
    return MockRequest(number, attempt, digest, path, {}, {}, route("POST", path), key)


@given(st.integers(0, 50), st.integers(0, 5), st.integers(0, 50), st.integers(1, 7), st.integers(0, 5))
def test_conditions_hold_together(number: int, attempt: int, until: int, every: int, attempts: int) -> None:
    request = asked(number, attempt, "d", "k")
    each = [
        Fault("hang", at=number - number % 2),
        Fault("hang", until=until),
        Fault("hang", every=every),
        Fault("hang", attempts=attempts),
        Fault("hang", key="k"),
    ]
    wanted = [number % 2 == 0, number < until, (number + 1) % every == 0, attempt < attempts, True]
    assert [fault.meets(request) for fault in each] == wanted
    together = Fault("hang", at=number, until=until, every=every, attempts=attempts, key="k")
    assert together.meets(request) == all(wanted[1:])
    assert not Fault("hang", key="other").meets(request)


def test_shares_are_met_whatever_the_order() -> None:
    fault = Fault("hang", share=0.2)
    digests = [f"{n:064x}" for n in range(3000)]
    met = {digest for digest in digests if fault.meets(asked(0, 0, digest))}
    assert met == {digest for digest in reversed(digests) if fault.meets(asked(9, 0, digest))}
    assert 0.17 < len(met) / 3000 < 0.23
    again = {digest for digest in met if fault.meets(asked(0, 1, digest))}
    assert len(again) < len(met) / 2


def test_one_key_of_two_is_met() -> None:
    with MockServer(faults=[Fault("status", status=429, key="bad")]) as server:
        statuses = [ask(server, CHAT.request(False, "x", key)).status for key in ("good", "bad")]
        assert statuses == [200, 429]
        assert server.totals(key="good").completed == server.totals(key="bad").refused == 1


@pytest.mark.parametrize(
    "plan",
    [
        "{",
        "{}",
        "[1]",
        '[{"kind": "explode"}]',
        '[{"kind": "hang", "when": 3}]',
        '[{"kind": "hang", "at": "soon"}]',
        "[{}]",
    ],
)
def test_plans_that_are_none_are_refused(plan: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(plan)
    assert caught.value.code == "DX8140"


def test_kinds_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Fault(cast(Any, "explode"))
    assert caught.value.code == "DX8140"


def test_a_request_that_is_no_json_is_seen_as_it_came() -> None:
    with MockServer() as server:
        assert ask(server, http("/v1/chat/completions", b"\xff{")).status == 400
        assert server.requests[0].raw == b"\xff{"
        assert json.dumps(dict(server.requests[0].body)) == "{}"
