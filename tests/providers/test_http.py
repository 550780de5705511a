"""What providers over HTTP share: streams of events and of lines, and the errors of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from dspex.errors import RateLimited, RequestRejected, ResponseError
from dspex.lm.model import LM
from dspex.providers import http
from dspex.providers.http import Client, Event

from .raw_server import RawConnection, RawServer

T = TypeVar("T")


def playing(*pieces: bytes, status: bytes = b"200 OK", kind: bytes = b"text/event-stream", headers: bytes = b"") -> Any:
    """Answer with a body in these pieces, each sent when the one before has been read."""

    def play(server: RawServer, connection: RawConnection) -> None:
        server.requests.append(connection.request())
        head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\n" + headers
        connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        connection.drain()

    return play


def collect(server: RawServer, read: Callable[[Client], AsyncGenerator[T]]) -> list[T]:
    async def work() -> list[T]:
        client = Client(LM("openai/m", server.url), server.url, headers={}, secrets=("canary",))
        try:
            async with aclosing(read(client)) as parts:
                return [part async for part in parts]
        finally:
            await client.aclose()

    return asyncio.run(work())


def events(client: Client, url: str) -> AsyncGenerator[Event]:
    return client.events(url, b"{}")


def test_events_come_with_their_names_and_the_responses_headers() -> None:
    with RawServer(playing(b"event: a\r\nda", b"ta: 1\r", b"\n\r\ndata: [DONE]\n", headers=b"X-Id: 7\r\n")) as server:
        found = collect(server, lambda client: events(client, server.url))
        assert b"accept: text/event-stream" in server.requests[0].lower()
    assert found == [Event("a", "1", {}), Event("message", "[DONE]", {})]
    assert found[0].headers["x-id"] == "7"


def test_lines_come_without_blank_ones() -> None:
    with RawServer(playing(b'{"a":1}\n\n{"b"', b":2}\n", b'{"c":3}', kind=b"application/x-ndjson")) as server:
        found = collect(server, lambda client: client.lines(server.url, None, method="GET"))
        assert server.requests[0].startswith(b"GET ")
    assert [line.data for line in found] == ['{"a":1}', '{"b":2}', '{"c":3}']


def test_lines_may_be_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.providers.transport.wire.MAX_BODY", 100)
    with RawServer(playing(*[b'{"a":1}\n'] * 50, kind=b"application/x-ndjson")) as server:
        assert len(collect(server, lambda client: client.lines(server.url, None, method="GET"))) == 50


def test_a_refusal_of_any_length_is_read_as_far_as_it_may_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LONGEST_REFUSAL", 100)
    play = playing(*[b"no " * 100] * 3, status=b"400 Bad", kind=b"text/plain")
    with RawServer(play) as server, pytest.raises(RequestRejected, match="no no") as caught:
        collect(server, lambda client: client.lines(server.url, None, method="GET"))
    assert caught.value.code == "DX4205"


def test_bytes_come_as_they_are() -> None:
    with RawServer(playing(b"\x00\xff", b"\r\n", kind=b"application/octet-stream")) as server:
        found = collect(server, lambda client: client.chunks(server.url, b"{}"))
    assert b"".join(piece for _, piece in found) == b"\x00\xff\r\n"
    assert found[0][0].status == 200


def test_a_refused_stream_is_the_refusals_error() -> None:
    body = b'{"error": {"message": "slow down, Bearer canary"}}'
    play = playing(body, status=b"429 Slow", kind=b"application/json", headers=b"Retry-After: 3\r\n")
    with RawServer(play) as server, pytest.raises(RateLimited, match="slow down") as caught:
        collect(server, lambda client: events(client, server.url))
    assert caught.value.retry_after == 3
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (b"application/json; charset=utf-8", b'{"error": {"message": "no streams here"}}', "no streams here"),
        (b"text/html", b"<html>please log in</html>", "please log in"),
    ],
)
def test_a_document_instead_of_a_stream_is_named(kind: bytes, body: bytes, words: str) -> None:
    with RawServer(playing(body, kind=kind)) as server, pytest.raises(ResponseError, match=words) as caught:
        collect(server, lambda client: events(client, server.url))
    assert (caught.value.code, caught.value.sent) == ("DX4302", "yes")


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 100, b"data: xxxxxxxxxx\n" * 10])
def test_an_event_without_an_end_is_given_up(stream: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LONGEST_EVENT", 50)
    with RawServer(playing(stream)) as server, pytest.raises(ResponseError, match="longer than 50 bytes") as caught:
        collect(server, lambda client: events(client, server.url))
    assert caught.value.code == "DX4107"
