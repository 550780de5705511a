"""The transport conformance suite, edges: what only a server of raw sockets does."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import traceback
from collections.abc import Callable

import pytest

from dspex.errors import CallTimeout, ConnectError, LMError, ResponseError, ServerError
from dspex.providers.transport import DirectWire, Reply, Timeouts, Wire

from .raw_server import ANSWER, CERTIFICATES, RawConnection, RawServer, answering, full_listener, server_tls
from .wires import BODY, HEADERS, WIRES, Make, direct, every_wire, opened

Work = Callable[[Wire, RawServer], object]

LARGE = b"x" * 30_000_000
"""More than any socket's buffers hold."""


async def settled() -> None:
    """What asyncio itself does behind generators that were left takes some turns; httpx has many inside each other."""
    for _ in range(30):
        await asyncio.sleep(0)


def run(make: Make, server: RawServer, work: Work, timeouts: Timeouts | None = None) -> None:
    async def scenario() -> None:
        async with opened(make, server.url, timeouts) as wire:
            await work(wire, server)  # type: ignore[misc]
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def failure(make: Make, server: RawServer, timeouts: Timeouts | None = None, body: bytes = BODY) -> LMError:
    found: list[LMError] = []

    async def work(wire: Wire, server: RawServer) -> None:
        with pytest.raises(LMError) as caught:
            await wire.send(server.url, body)
        found.append(caught.value)

    run(make, server, work, timeouts)
    return found[0]


def once(answer: bytes) -> Callable[[RawServer, RawConnection], None]:
    """Answer the first request of a connection with these bytes, and close it."""

    def play(server: RawServer, connection: RawConnection) -> None:
        if request := connection.request():
            server.requests.append(request)
            connection.send(answer)

    return play


# ----------------------------------------------------------------- requests


@every_wire
def test_a_get_has_no_body_and_headers_of_a_call_come_on_top(make: Make) -> None:
    async def work(wire: Wire, server: RawServer) -> None:
        await wire.send(f"{server.url}/models?after=a%2Fb", None, {"X-More": "1"}, "GET")
        await wire.send(f"{server.url}/models/m", None, None, "DELETE")
        await wire.send(server.url, b"--part", {"Content-Type": "multipart/form-data; boundary=part"})

    with RawServer(answering) as server:
        run(make, server, work)
    get, delete, post = (request.decode() for request in server.requests)
    assert get.startswith("GET /v1/models?after=a%2Fb HTTP/1.1\r\n")
    assert "content-length" not in get.lower()
    assert "authorization: bearer canary" in get.lower()
    assert "x-more: 1" in get.lower()
    assert delete.startswith("DELETE /v1/models/m HTTP/1.1\r\n")
    assert "x-more" not in delete.lower()
    assert post.lower().count("content-type:") == 1
    assert "multipart/form-data; boundary=part" in post
    assert post.endswith("\r\n\r\n--part")


@every_wire
def test_cancelling_while_the_server_takes_nothing_gives_the_request_up(make: Make) -> None:
    taken: list[int] = []

    def play(server: RawServer, connection: RawConnection) -> None:
        server.arrived.set()
        server.go.wait()
        taken.append(connection.drain())

    async def work(wire: Wire, server: RawServer) -> None:
        task = asyncio.create_task(wire.send(server.url, LARGE))
        assert await asyncio.to_thread(server.arrived.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settled()

    with RawServer(play) as server:
        run(make, server, work)
        server.go.set()
    # A connection that was closed in order would still have delivered all of it.
    assert taken[0] < len(LARGE)


@every_wire
def test_a_server_that_takes_nothing_is_a_write_timeout(make: Make) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        server.go.wait()

    with RawServer(play) as server:
        error = failure(make, server, Timeouts(connect=5, read=20, total=20, write=0.2), LARGE)
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent, error.retryable) == ("DX4111", "maybe", True)
    assert "0.2 s" in error.message


@every_wire
def test_a_slow_taker_is_no_write_timeout(make: Make) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        while len(connection.request()) > len(LARGE):
            connection.send(ANSWER)

    async def work(wire: Wire, server: RawServer) -> None:
        assert (await wire.send(server.url, LARGE)).body == b"{}"

    with RawServer(play) as server:
        run(make, server, work, Timeouts(total=60, write=10))


# ----------------------------------------------------------------- nothing is sent twice


@every_wire
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_is_not_repeated_when_its_connection_breaks(make: Make, method: str) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        while request := connection.request():
            server.requests.append(request)
            if len(server.requests) == 2:
                return
            connection.send(ANSWER)

    async def work(wire: Wire, server: RawServer) -> None:
        body = BODY if method == "POST" else None
        await wire.send(server.url, body, None, method)
        with pytest.raises(ServerError) as caught:
            await wire.send(server.url, body, None, method)
        assert (caught.value.code, caught.value.sent) == ("DX4106", "maybe")

    with RawServer(play) as server:
        run(make, server, work)
        assert len(server.requests) == 2


@every_wire
def test_a_connection_that_the_server_closed_is_not_used_again(make: Make) -> None:
    async def work(wire: Wire, server: RawServer) -> None:
        for _ in range(3):
            assert (await wire.send(server.url, BODY)).body == b"{}"

    def play(server: RawServer, connection: RawConnection) -> None:
        server.requests.append(connection.request())
        connection.send(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    with RawServer(play) as server:
        run(make, server, work)
        assert len(server.requests) == server.connections == 3


@every_wire
def test_a_connection_that_was_closed_during_a_stall_is_not_used_again(make: Make) -> None:
    closed = threading.Event()

    def play(server: RawServer, connection: RawConnection) -> None:
        server.requests.append(connection.request())
        connection.send(ANSWER)
        if server.connections == 1:
            server.go.wait()
            connection.socket.shutdown(socket.SHUT_RDWR)
            closed.set()
        else:
            connection.drain()

    async def work(wire: Wire, server: RawServer) -> None:
        await wire.send(server.url, BODY)
        server.go.set()
        # The whole event loop stands still meanwhile, so that it has not seen the end.
        assert closed.wait(10)
        assert (await wire.send(server.url, BODY)).body == b"{}"

    with RawServer(play) as server:
        run(make, server, work)
        assert server.connections == len(server.requests) == 2


@every_wire
def test_a_half_closed_connection_is_not_used_again(make: Make) -> None:
    said = threading.Event()

    def play(server: RawServer, connection: RawConnection) -> None:
        server.requests.append(connection.request())
        connection.send(ANSWER)
        # The answer and the end arrive together, and the server would read on for ever.
        connection.socket.shutdown(socket.SHUT_WR)
        said.set()
        if connection.drain():
            server.requests.append(b"on a dead connection")

    async def work(wire: Wire, server: RawServer) -> None:
        for _ in range(3):
            assert (await wire.send(server.url, BODY)).body == b"{}"
            assert await asyncio.to_thread(said.wait, 10)
            said.clear()

    with RawServer(play) as server:
        run(make, server, work)
        assert b"on a dead connection" not in server.requests
        assert server.connections == 3


EXTRA = b'HTTP/1.1 408 Request Timeout\r\nContent-Length: 9\r\n\r\n{"bad":1}'


@pytest.mark.parametrize("name", ["direct", "direct-transport"])
def test_bytes_right_behind_an_answer_are_not_the_next_answer(name: str) -> None:
    # The pools of httpx and httpx2 hand them out as the answer to whatever is asked next.
    def play(server: RawServer, connection: RawConnection) -> None:
        while connection.request():
            connection.send(ANSWER + (EXTRA if server.connections == 1 else b""))

    async def work(wire: Wire, server: RawServer) -> None:
        for _ in range(3):
            reply = await wire.send(server.url, BODY)
            assert (reply.status, reply.body) == (200, b"{}")

    with RawServer(play) as server:
        run(WIRES[name], server, work)


@every_wire
def test_bytes_on_an_idle_connection_are_not_the_next_answer(make: Make) -> None:
    said = threading.Event()

    def play(server: RawServer, connection: RawConnection) -> None:
        while connection.request():
            connection.send(ANSWER)
            if server.connections == 1:
                server.go.wait()
                # What some servers say before they close a connection that was idle.
                connection.send(EXTRA)
                said.set()

    async def work(wire: Wire, server: RawServer) -> None:
        await wire.send(server.url, BODY)
        server.go.set()
        assert await asyncio.to_thread(said.wait, 10)
        for _ in range(3):
            reply = await wire.send(server.url, BODY)
            assert (reply.status, reply.body) == (200, b"{}")

    with RawServer(play) as server:
        run(make, server, work)


# ----------------------------------------------------------------- answers


@every_wire
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(gzip.compress(b"{}")), gzip.compress(b"{}")),
    ],
    ids=["chunked", "chunked-extras", "until-the-end", "http-1.0", "informational", "gzip"],
)
def test_every_framing_of_a_body_is_read(make: Make, answer: bytes) -> None:
    found: list[Reply] = []

    async def work(wire: Wire, server: RawServer) -> None:
        found.append(await wire.send(server.url, BODY))

    with RawServer(once(answer)) as server:
        run(make, server, work)
    assert (found[0].status, found[0].body) == (200, b"{}")


@every_wire
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["length", "no-last-chunk", "within-a-chunk", "no-chunk-size", "not-gzip"],
)
def test_a_body_that_is_not_whole_is_no_answer(make: Make, answer: bytes) -> None:
    with RawServer(once(answer)) as server:
        error = failure(make, server)
    assert isinstance(error, ResponseError)
    # A chunk without a size may be seen before the head of its answer is handed over.
    assert error.code in ("DX4107", "DX4108")
    assert error.sent == "yes"


@every_wire
def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.providers.transport.wire.MAX_BODY", 1_000_000)
    packed = gzip.compress(bytes(50_000_000), 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    with RawServer(once(head + packed)) as server:
        error = failure(make, server)
    assert (error.code, error.sent) == ("DX4109", "yes")


@every_wire
@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP Bearer canary\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBearer canary\r\n\r\n{}",
        b"HTTP/1.1 OK Bearer canary\r\n\r\n{}",
    ],
    ids=["other-protocol", "header", "status"],
)
def test_an_answer_that_is_not_http_is_named_without_its_words(make: Make, answer: bytes) -> None:
    with RawServer(once(answer)) as server:
        error = failure(make, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent) == ("DX4108", "yes")
    assert "canary" not in "".join(traceback.format_exception(error))


@every_wire
def test_a_body_that_is_malformed_is_named_without_its_words(make: Make) -> None:
    errors: list[LMError] = []

    def play(server: RawServer, connection: RawConnection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        server.go.wait()
        connection.send(b"Bearer canary\r\n{}\r\n0\r\n\r\n")

    async def work(wire: Wire, server: RawServer) -> None:
        async with wire.stream(server.url, BODY) as reply:
            assert await reply.read() == b"{}"
            server.go.set()
            with pytest.raises(LMError) as caught:
                await reply.read()
            errors.append(caught.value)

    with RawServer(play) as server:
        run(make, server, work)
    assert (errors[0].code, errors[0].sent) == ("DX4107", "yes")
    assert "canary" not in "".join(traceback.format_exception(errors[0]))


@every_wire
def test_an_answer_before_the_request_is_whole_is_an_answer(make: Make) -> None:
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    def play(server: RawServer, connection: RawConnection) -> None:
        connection.socket.recv(1000)
        connection.send(refused)
        # Read on, as a careful server does, so that the answer is not lost with the connection.
        connection.drain()

    async def work(wire: Wire, server: RawServer) -> None:
        assert (await wire.send(server.url, b"x" * 3_000_000)).status == 413

    with RawServer(play) as server:
        run(make, server, work)


# ----------------------------------------------------------------- TLS


@pytest.mark.parametrize("name", ["direct", "direct-transport"])
@pytest.mark.parametrize("streamed", [False, True])
def test_cancelling_over_tls_does_not_wait_for_the_servers_farewell(
    name: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))
    gone = threading.Event()

    def play(server: RawServer, connection: RawConnection) -> None:
        connection.request()
        if streamed:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
        server.arrived.set()
        server.go.wait()
        # Below TLS: it says nothing and only looks for the end of the connection, which must be there.
        raw = socket.socket(fileno=connection.socket.detach())
        raw.settimeout(5)
        while raw.recv(1 << 16):
            pass
        gone.set()
        raw.close()

    async def work(wire: Wire, server: RawServer) -> None:
        async def ask() -> None:
            async with wire.stream(server.url, BODY) as reply:
                while await reply.read():
                    pass

        task = asyncio.create_task(ask())
        assert await asyncio.to_thread(server.arrived.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.go.set()
        assert await asyncio.to_thread(gone.wait, 10)

    with RawServer(play, tls=server_tls()) as server:
        run(WIRES[name], server, work)


@every_wire
def test_a_handshake_that_never_ends_is_a_connect_timeout(make: Make) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        server.go.wait()

    with RawServer(play) as server:
        server.url = server.url.replace("http:", "https:")
        error = failure(make, server, Timeouts(connect=0.3, read=20, total=20))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4103", "no")


@every_wire
def test_a_handshake_with_a_server_that_speaks_no_tls_fails(make: Make) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        connection.socket.recv(1000)
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(play) as server:
        server.url = server.url.replace("http:", "https:")
        error = failure(make, server)
    assert isinstance(error, ConnectError)
    assert (error.code, error.sent) == ("DX4102", "no")


@every_wire
def test_a_handshake_that_is_cut_is_no_connection(make: Make) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        connection.socket.recv(10)

    with RawServer(play) as server:
        server.url = server.url.replace("http:", "https:")
        error = failure(make, server)
    assert isinstance(error, ConnectError)
    assert error.sent == "no"


# ----------------------------------------------------------------- what was sent


def test_the_total_timeout_within_a_handshake_says_that_nothing_was_sent() -> None:
    # The pools of httpx and httpx2 lose the socket of a handshake that is cancelled.
    def play(server: RawServer, connection: RawConnection) -> None:
        server.go.wait()

    with RawServer(play) as server:
        server.url = server.url.replace("http:", "https:")
        error = failure(direct, server, Timeouts(connect=20, read=20, total=0.3))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4103", "no")


@pytest.mark.parametrize("name", ["direct", "httpx", "httpx2"])
def test_the_total_timeout_before_a_connection_says_that_nothing_was_sent(name: str) -> None:
    async def work(url: str) -> None:
        async with opened(WIRES[name], url, Timeouts(connect=20, read=20, total=0.3)) as wire:
            with pytest.raises(CallTimeout) as caught:
                await wire.send(url, BODY)
        assert (caught.value.code, caught.value.sent) == ("DX4103", "no")
        assert "0.3 s" in caught.value.message

    with full_listener() as url:
        asyncio.run(work(url))


@every_wire
def test_an_unknown_host_is_a_connect_error(make: Make) -> None:
    # A reserved name (RFC 6761); a label of more than 63 characters fails without asking anybody.
    for host in ("models.invalid", f"{'x' * 64}.invalid"):

        async def work(wire: Wire, host: str = host) -> LMError:
            with pytest.raises(LMError) as caught:
                await wire.send(f"http://{host}/v1", BODY)
            return caught.value

        async def scenario() -> LMError:
            async with opened(make, "http://models.invalid/v1", Timeouts(connect=30, total=60)) as wire:
                return await work(wire)

        error = asyncio.run(scenario())
        assert isinstance(error, ConnectError)
        assert (error.code, error.sent) == ("DX4101", "no")


def test_addresses_of_many_requests_are_not_kept() -> None:
    from dspex.providers.transport import direct as module

    async def work(wire: Wire, server: RawServer) -> None:
        for number in range(20):
            await wire.send(f"{server.url}/batches/{number}", None, None, "GET")

    with RawServer(answering) as server:
        run(direct, server, work)
    cache = module._target.cache_info()  # pyright: ignore[reportPrivateUsage]
    assert cache.maxsize is not None
    assert cache.currsize <= cache.maxsize


def test_a_wire_does_not_print_its_headers() -> None:
    wire = DirectWire(headers=HEADERS, limit=1, timeouts=Timeouts(), base_url="http://127.0.0.1:1")
    assert "canary" not in repr(wire)
