"""The transport conformance suite: real servers on loopback that really misbehave.

Streams are in `test_transport_streams.py`, what only raw sockets do in `test_transport_edges.py`, certificates and
proxies in `test_transport_network.py`, the ends of processes in `test_transport_process.py`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import httpx2
import pytest

from dspex.errors import CallTimeout, ConnectError, LMError, ResponseError, ServerError
from dspex.providers.transport import DirectTransport, DirectWire, Timeouts, place
from dspex.testing import Fault, MockServer

from .raw_server import full_listener
from .wires import BODY, HEADERS, WIRES, Make, chat, direct, every_wire, opened


def failure(make: Make, server: MockServer, timeouts: Timeouts | None = None) -> LMError:
    async def work() -> LMError:
        async with opened(make, server.url, timeouts) as wire:
            with pytest.raises(LMError) as caught:
                await wire.send(chat(server), BODY)
            # A broken connection must not go back into the pool.
            assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)
            return caught.value

    return asyncio.run(work())


@every_wire
def test_a_post_gives_status_headers_and_body(make: Make) -> None:
    async def work() -> None:
        with MockServer(headers={"X-Request-Id": "r1"}) as server:
            async with opened(make, server.url) as wire:
                reply = await wire.send(chat(server), BODY)
        assert reply.status == 200
        assert reply.headers["x-request-id"] == "r1"
        assert b'"choices"' in reply.body
        (request,) = server.requests
        assert request.headers["authorization"] == "Bearer canary"
        assert request.body["messages"][0]["content"] == "hello"

    asyncio.run(work())


@every_wire
def test_connections_are_reused(make: Make) -> None:
    async def work() -> None:
        with MockServer() as server:
            async with opened(make, server.url) as wire:
                for _ in range(20):
                    await wire.send(chat(server), BODY)
            assert server.connections == 1
            assert server.wait_until(lambda s: s.open == 0)

    asyncio.run(work())


@every_wire
@pytest.mark.parametrize("kind", ["hang", "hang_body"])
def test_cancelling_closes_the_socket(make: Make, kind: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault(kind)]) as server:
            async with opened(make, server.url) as wire:
                tasks = [asyncio.create_task(wire.send(chat(server), BODY)) for _ in range(20)]
                assert await asyncio.to_thread(server.wait_until, lambda s: len(s.requests) == 20)
                assert server.open == 20
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)

    asyncio.run(work())


@pytest.mark.parametrize("name", ["direct", "direct-transport"])
def test_512_calls_in_flight_have_512_connections(name: str) -> None:
    async def work() -> None:
        # A hair of latency, so that none is answered before the last is sent.
        with MockServer(latency=0.5) as server:
            async with opened(WIRES[name], server.url) as wire:
                replies = await asyncio.gather(*(wire.send(chat(server), BODY) for _ in range(512)))
            assert {reply.status for reply in replies} == {200}
            assert server.most_open == 512

    asyncio.run(work())


def test_the_pool_is_no_larger_than_its_limit() -> None:
    async def work() -> None:
        with MockServer(latency=0.01) as server:
            wire = DirectWire(headers=HEADERS, limit=8, timeouts=Timeouts(), base_url=server.url)
            await asyncio.gather(*(wire.send(chat(server), BODY) for _ in range(64)))
            await wire.aclose()
            assert server.most_open == 8

    asyncio.run(work())


def test_calls_that_wait_for_a_connection_may_be_cancelled() -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hold")]) as server:
            wire = DirectWire(headers=HEADERS, limit=2, timeouts=Timeouts(), base_url=server.url)
            tasks = [asyncio.create_task(wire.send(chat(server), BODY)) for _ in range(10)]
            assert await asyncio.to_thread(server.wait_until, lambda s: s.held == 2)
            # One that is served and some that wait, so that a turn comes and goes to nobody at the same moment.
            for number in (0, 2, 3, 5, 9):
                tasks[number].cancel()
            server.faults = ()
            server.release()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in done] == [
                number in (0, 2, 3, 5, 9) for number in range(10)
            ]
            assert server.most_open <= 3
            await wire.aclose()
            assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)

    asyncio.run(work())


@every_wire
def test_redirects_are_not_followed(make: Make) -> None:
    async def work() -> None:
        with MockServer() as other:
            away = Fault("redirect", status=307, location=f"{other.url}/chat/completions")
            with MockServer(faults=[away]) as server:
                async with opened(make, server.url) as wire:
                    reply = await wire.send(chat(server), BODY)
            assert reply.status == 307
            assert len(server.requests) == 1
            assert other.connections == 0

    asyncio.run(work())


@every_wire
def test_cookies_are_not_kept(make: Make) -> None:
    async def work() -> None:
        with MockServer(headers={"Set-Cookie": "session=1; Path=/"}) as server:
            async with opened(make, server.url) as wire:
                await wire.send(chat(server), BODY)
                await wire.send(chat(server), BODY)
        assert len(server.requests) == 2
        assert not any("cookie" in request.headers for request in server.requests)

    asyncio.run(work())


@every_wire
def test_a_refused_connection_says_that_nothing_was_sent(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    async def work() -> None:
        async with opened(make, url) as wire:
            with pytest.raises(ConnectError) as caught:
                await wire.send(f"{url}/chat/completions", BODY)
        error = caught.value
        assert (error.code, error.sent, error.retryable) == ("DX4101", "no", True)
        assert error.where == f"{url}/chat/completions"

    asyncio.run(work())


@every_wire
def test_a_reset_after_sending_is_ambiguous_and_not_resent(make: Make) -> None:
    with MockServer(faults=[Fault("reset")]) as server:
        error = failure(make, server)
        assert isinstance(error, ServerError)
        assert (error.code, error.sent, error.retryable) == ("DX4106", "maybe", True)
        assert len(server.requests) == 1


@every_wire
def test_a_reset_on_a_reused_connection_is_not_resent(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("reset", at=1)]) as server:
            async with opened(make, server.url) as wire:
                await wire.send(chat(server), BODY)
                with pytest.raises(ServerError) as caught:
                    await wire.send(chat(server), BODY)
            assert caught.value.sent == "maybe"
            assert len(server.requests) == 2

    asyncio.run(work())


@every_wire
@pytest.mark.parametrize("kind", ["truncate", "reset_body"])
def test_a_body_that_breaks_off_says_that_the_server_answered(make: Make, kind: Any) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent, error.retryable) == ("DX4107", "yes", True)


def test_an_answer_that_is_not_http_is_a_response_error() -> None:
    with MockServer(faults=[Fault("not_http")]) as server:
        error = failure(direct, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent) == ("DX4108", "yes")


@every_wire
@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("hang_body", "yes")])
def test_silence_is_a_read_timeout(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=0.2, total=20))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent, error.retryable) == ("DX4104", sent, True)
    assert "0.2 s" in error.message


@every_wire
@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("drip", "yes")])
def test_the_total_timeout_ends_even_a_server_that_keeps_sending(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind, delay=0.02 if kind == "drip" else 0.0)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=10, total=0.4))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4105", sent)


@every_wire
def test_a_connection_that_never_comes_is_a_connect_timeout(make: Make) -> None:
    async def work(url: str) -> None:
        async with opened(make, url, Timeouts(connect=0.3, read=20, total=20)) as wire:
            with pytest.raises(CallTimeout) as caught:
                await wire.send(f"{url}/chat/completions", BODY)
        assert (caught.value.code, caught.value.sent) == ("DX4103", "no")
        assert "0.3 s" in caught.value.message

    with full_listener() as url:
        asyncio.run(work(url))


@every_wire
def test_a_huge_body_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.providers.transport.wire.MAX_BODY", 100)
    with MockServer(faults=[Fault("hang_body")]) as server:
        error = failure(make, server)
    assert (error.code, error.sent, error.retryable) == ("DX4109", "yes", False)


@every_wire
def test_large_requests_arrive_whole(make: Make) -> None:
    content = b"x" * 3_000_000

    async def work() -> None:
        with MockServer() as server:
            async with opened(make, server.url) as wire:
                reply = await wire.send(chat(server), BODY.replace(b"hello", content))
            assert reply.status == 200
            assert len(server.requests[0].text) == len(content)

    asyncio.run(work())


# ----------------------------------------------------------------- as a transport of httpx clients


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_bodies_are_live_for_clients(library: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hang_body")]) as server:
            async with library.AsyncClient(transport=DirectTransport()) as client:
                async with client.stream("POST", chat(server), content=BODY, headers=HEADERS) as response:
                    assert response.status_code == 200
                    async for chunk in response.aiter_raw():
                        # The server never sends the rest, so a buffering transport would not come here.
                        assert chunk.startswith(b"{")
                        break
                assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)

    asyncio.run(work())


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_clients_get_their_own_exceptions_with_ours_as_the_cause(library: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hang")]) as server:
            limits = library.Timeout(5, read=0.2)
            async with library.AsyncClient(transport=DirectTransport(), timeout=limits) as client:
                with pytest.raises(library.ReadTimeout) as caught:
                    await client.post(chat(server), content=BODY)
        cause = caught.value.__cause__
        assert isinstance(cause, CallTimeout)
        assert cause.sent == "maybe"

    asyncio.run(work())


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_clients_decode_and_follow_as_they_are_told(library: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("redirect", location="/v1/models", at=0)]) as server:
            async with library.AsyncClient(transport=DirectTransport()) as client:
                assert (await client.get(f"{server.url}/models")).status_code == 307
                assert (await client.get(f"{server.url}/models")).json()["object"] == "list"

    asyncio.run(work())


def test_places_hold_no_secret() -> None:
    assert place("https://user:secret@host:8/v1/x?key=secret") == "https://host:8/v1/x"
    assert place("http://[::1]:80/v1") == "http://[::1]:80/v1"
    assert place("http://[broken") == "(no readable URL)"
