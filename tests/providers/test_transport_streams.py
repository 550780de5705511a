"""The transport conformance suite, streams: bodies that are used while they arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dspex.errors import CallTimeout, LMError, ResponseError, ServerError
from dspex.providers.transport import LiveReply, Timeouts
from dspex.testing import Fault, MockServer

from .wires import BODY, STREAMED, Make, chat, every_wire, opened


async def drained(reply: LiveReply) -> bytes:
    pieces: list[bytes] = []
    while piece := await reply.read():
        pieces.append(piece)
    assert await reply.read() == b""
    return b"".join(pieces)


async def closed(server: MockServer) -> bool:
    return await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)


@every_wire
def test_a_stream_has_a_status_headers_and_the_whole_body(make: Make) -> None:
    async def work() -> None:
        with MockServer(headers={"X-Request-Id": "r1"}) as server:
            async with opened(make, server.url) as wire:
                for _ in range(3):
                    async with wire.stream(chat(server), STREAMED, {"Accept": "text/event-stream"}) as reply:
                        assert (reply.status, reply.headers["x-request-id"]) == (200, "r1")
                        assert (await drained(reply)).endswith(b"data: [DONE]\n\n")
            assert server.requests[0].headers["accept"] == "text/event-stream"
            assert server.requests[0].headers["authorization"] == "Bearer canary"
            # A stream that was read to its end leaves its connection to the next.
            assert server.connections == 1

    asyncio.run(work())


@every_wire
def test_what_was_sent_is_there_while_the_rest_is_not(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hold_body")]) as server:
            async with opened(make, server.url) as wire, wire.stream(chat(server), STREAMED) as reply:
                first = await reply.read()
                # The server holds the second half until it is released, so that nothing else can have come.
                assert first.startswith(b"data: ")
                assert await asyncio.to_thread(server.wait_until, lambda s: s.held == 1)
                server.release()
                assert (first + await drained(reply)).endswith(b"data: [DONE]\n\n")

    asyncio.run(work())


@every_wire
def test_the_headers_are_there_while_the_body_is_not(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hang_head")]) as server:
            async with opened(make, server.url) as wire, wire.stream(chat(server), STREAMED) as reply:
                assert reply.status == 200
            assert await closed(server)

    asyncio.run(work())


@every_wire
def test_leaving_a_stream_closes_its_connection(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hang_body")]) as server:
            async with opened(make, server.url) as wire:
                async with wire.stream(chat(server), STREAMED) as reply:
                    assert await reply.read()
                assert await closed(server)

                async def fail() -> None:
                    async with wire.stream(chat(server), STREAMED) as reply:
                        assert await reply.read()
                        raise RuntimeError("of the user")

                with pytest.raises(RuntimeError, match="of the user"):
                    await fail()
                assert await closed(server)
            for _ in range(30):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


@every_wire
@pytest.mark.parametrize("kind", ["hang", "hang_head", "hang_body"])
def test_cancelling_a_stream_closes_its_connection(make: Make, kind: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault(kind)]) as server:
            async with opened(make, server.url) as wire:

                async def read() -> None:
                    async with wire.stream(chat(server), STREAMED) as reply:
                        await drained(reply)

                tasks = [asyncio.create_task(read()) for _ in range(20)]
                assert await asyncio.to_thread(server.wait_until, lambda s: len(s.requests) == 20)
                for task in tasks:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(one) for one in done} == {asyncio.CancelledError}
                assert await closed(server)
            for _ in range(30):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


def failure(make: Make, server: MockServer, timeouts: Timeouts | None = None) -> LMError:
    async def work() -> LMError:
        async with opened(make, server.url, timeouts) as wire:
            with pytest.raises(LMError) as caught:
                async with wire.stream(chat(server), STREAMED) as reply:
                    await drained(reply)
            assert await closed(server)
            return caught.value

    return asyncio.run(work())


@every_wire
@pytest.mark.parametrize("kind", ["truncate", "reset_body"])
def test_a_stream_that_breaks_off_says_so(make: Make, kind: Any) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent, error.retryable) == ("DX4107", "yes", True)


@every_wire
@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_stream_that_never_begins_is_ambiguous(make: Make, kind: Any) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server)
        assert len(server.requests) == 1
    assert isinstance(error, ServerError)
    assert (error.code, error.sent) == ("DX4106", "maybe")


@every_wire
@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("hang_head", "yes"), ("hang_body", "yes")])
def test_silence_in_a_stream_is_a_read_timeout(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=0.2, total=20))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4104", sent)


@every_wire
@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("hang_body", "yes"), ("drip", "yes")])
def test_the_total_timeout_ends_a_stream(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind, delay=0.02 if kind == "drip" else 0.0)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=10, total=0.4))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4105", sent)
    assert "0.4 s" in error.message


@every_wire
def test_the_time_that_a_streams_user_takes_does_not_count(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hold_body")]) as server:
            async with (
                opened(make, server.url, Timeouts(total=20)) as wire,
                wire.stream(chat(server), STREAMED) as reply,
            ):
                first = await reply.read()
                # While the user is busy with the first piece, much time passes.
                loop = asyncio.get_running_loop()
                now = loop.time
                monkeypatch.setattr(loop, "time", lambda: now() + 100)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert await asyncio.to_thread(server.wait_until, lambda s: s.held == 1)
                server.release()
                assert (first + await drained(reply)).endswith(b"data: [DONE]\n\n")

    asyncio.run(work())


@every_wire
def test_a_stream_may_be_read_in_another_task_than_it_was_opened_in(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hold_body")]) as server:
            async with opened(make, server.url, Timeouts(total=5)) as wire:
                stream = wire.stream(chat(server), STREAMED)
                reply = await asyncio.create_task(stream.__aenter__())
                first = await asyncio.create_task(reply.read())
                assert await asyncio.to_thread(server.wait_until, lambda s: s.held == 1)
                server.release()
                assert (first + await drained(reply)).endswith(b"data: [DONE]\n\n")
                await asyncio.create_task(stream.__aexit__(None, None, None))  # type: ignore[arg-type]

    asyncio.run(work())


@every_wire
def test_a_stream_that_is_too_large_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.providers.transport.wire.MAX_BODY", 100)
    with MockServer(faults=[Fault("huge", size=1 << 30)]) as server:
        error = failure(make, server)
    assert (error.code, error.sent, error.retryable) == ("DX4109", "yes", False)


@every_wire
def test_an_error_status_is_a_reply_like_any_other(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("status", status=429, retry_after=7)]) as server:
            async with opened(make, server.url) as wire, wire.stream(chat(server), BODY) as reply:
                assert (reply.status, reply.headers["retry-after"]) == (429, "7")
                assert b"mock failure" in await drained(reply)

    asyncio.run(work())
