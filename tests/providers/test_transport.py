"""The transport conformance suite: real servers on loopback that really misbehave."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from dspex.errors import CallTimeout, ConnectError, LMError, ResponseError, ServerError, UsageError
from dspex.providers import transport
from dspex.providers.transport import AioTransport, AioWire, HttpxWire, Timeouts, Wire, place, proxy_for
from dspex.testing import Fault, MockServer

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer canary"}
CERTIFICATE = Path(__file__).with_name("loopback.pem")

Make = Callable[[str, Timeouts], Wire]


def _aio(url: str, timeouts: Timeouts) -> Wire:
    return AioWire(headers=HEADERS, limit=600, timeouts=timeouts, base_url=url)


def _aio_transport(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(AioTransport(limit=600), headers=HEADERS, timeouts=timeouts)  # type: ignore[arg-type]


def _httpx(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(httpx.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=timeouts)


def _httpx2(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(httpx2.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=timeouts)


WIRES: dict[str, Make] = {"aio": _aio, "aio-transport": _aio_transport, "httpx": _httpx, "httpx2": _httpx2}


@pytest.fixture(params=list(WIRES))
def make(request: pytest.FixtureRequest) -> Make:
    return WIRES[request.param]


@asynccontextmanager
async def opened(make: Make, url: str, timeouts: Timeouts | None = None) -> AsyncGenerator[Wire]:
    wire = make(url, timeouts or Timeouts(total=20))
    try:
        yield wire
    finally:
        await wire.aclose()


def chat(server: MockServer) -> str:
    return f"{server.url}/chat/completions"


def failure(make: Make, server: MockServer, timeouts: Timeouts | None = None) -> LMError:
    async def work() -> LMError:
        async with opened(make, server.url, timeouts) as wire:
            with pytest.raises(LMError) as caught:
                await wire.post(chat(server), BODY)
            # A broken connection must not go back into the pool.
            assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)
            return caught.value

    return asyncio.run(work())


def test_a_post_gives_status_headers_and_body(make: Make) -> None:
    async def work() -> None:
        with MockServer(headers={"X-Request-Id": "r1"}) as server:
            async with opened(make, server.url) as wire:
                reply = await wire.post(chat(server), BODY)
        assert reply.status == 200
        assert reply.headers["x-request-id"] == "r1"
        assert b'"choices"' in reply.body
        (request,) = server.requests
        assert request.headers["authorization"] == "Bearer canary"
        assert request.body["messages"][0]["content"] == "hello"

    asyncio.run(work())


def test_connections_are_reused(make: Make) -> None:
    async def work() -> None:
        with MockServer() as server:
            async with opened(make, server.url) as wire:
                for _ in range(20):
                    await wire.post(chat(server), BODY)
            assert server.connections == 1
            assert server.wait_until(lambda s: s.open == 0)

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["hang", "hang_body"])
def test_cancelling_closes_the_socket(make: Make, kind: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault(kind)]) as server:
            async with opened(make, server.url) as wire:
                tasks = [asyncio.create_task(wire.post(chat(server), BODY)) for _ in range(20)]
                assert await asyncio.to_thread(server.wait_until, lambda s: len(s.requests) == 20)
                assert server.open == 20
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)

    asyncio.run(work())


@pytest.mark.parametrize("name", ["aio", "aio-transport"])
def test_512_calls_in_flight_have_512_connections(name: str) -> None:
    async def work() -> None:
        # A hair of latency, so that none is answered before the last is sent.
        with MockServer(latency=0.5) as server:
            async with opened(WIRES[name], server.url) as wire:
                replies = await asyncio.gather(*(wire.post(chat(server), BODY) for _ in range(512)))
            assert {reply.status for reply in replies} == {200}
            assert server.most_open == 512

    asyncio.run(work())


def test_the_pool_is_no_larger_than_its_limit() -> None:
    async def work() -> None:
        with MockServer(latency=0.01) as server:
            wire = AioWire(headers=HEADERS, limit=8, timeouts=Timeouts(), base_url=server.url)
            await asyncio.gather(*(wire.post(chat(server), BODY) for _ in range(64)))
            await wire.aclose()
            assert server.most_open == 8

    asyncio.run(work())


def test_redirects_are_not_followed(make: Make) -> None:
    async def work() -> None:
        with MockServer() as other:
            away = Fault("redirect", status=307, location=f"{other.url}/chat/completions")
            with MockServer(faults=[away]) as server:
                async with opened(make, server.url) as wire:
                    reply = await wire.post(chat(server), BODY)
            assert reply.status == 307
            assert len(server.requests) == 1
            assert other.connections == 0

    asyncio.run(work())


def test_cookies_are_not_kept(make: Make) -> None:
    async def work() -> None:
        with MockServer(headers={"Set-Cookie": "session=1; Path=/"}) as server:
            async with opened(make, server.url) as wire:
                await wire.post(chat(server), BODY)
                await wire.post(chat(server), BODY)
        assert len(server.requests) == 2
        assert not any("cookie" in request.headers for request in server.requests)

    asyncio.run(work())


def test_a_refused_connection_says_that_nothing_was_sent(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    async def work() -> None:
        async with opened(make, url) as wire:
            with pytest.raises(ConnectError) as caught:
                await wire.post(f"{url}/chat/completions", BODY)
        error = caught.value
        assert (error.code, error.sent, error.retryable) == ("DX4101", "no", True)
        assert error.where == f"{url}/chat/completions"

    asyncio.run(work())


def test_a_reset_after_sending_is_ambiguous_and_not_resent(make: Make) -> None:
    with MockServer(faults=[Fault("reset")]) as server:
        error = failure(make, server)
        assert isinstance(error, ServerError)
        assert (error.code, error.sent, error.retryable) == ("DX4106", "maybe", True)
        assert len(server.requests) == 1


def test_a_reset_on_a_reused_connection_is_not_resent(make: Make) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("reset", at=1)]) as server:
            async with opened(make, server.url) as wire:
                await wire.post(chat(server), BODY)
                with pytest.raises(ServerError) as caught:
                    await wire.post(chat(server), BODY)
            assert caught.value.sent == "maybe"
            assert len(server.requests) == 2

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["truncate", "reset_body"])
def test_a_body_that_breaks_off_says_that_the_server_answered(make: Make, kind: Any) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent, error.retryable) == ("DX4107", "yes", True)


def test_an_answer_that_is_not_http_is_a_response_error() -> None:
    with MockServer(faults=[Fault("not_http")]) as server:
        error = failure(_aio, server)
    assert isinstance(error, ResponseError)
    assert (error.code, error.sent) == ("DX4108", "yes")


@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("hang_body", "yes")])
def test_silence_is_a_read_timeout(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=0.2, total=20))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent, error.retryable) == ("DX4104", sent, True)
    assert "0.2 s" in error.message


@pytest.mark.parametrize(("kind", "sent"), [("hang", "maybe"), ("drip", "yes")])
def test_the_total_timeout_ends_even_a_server_that_keeps_sending(make: Make, kind: Any, sent: str) -> None:
    with MockServer(faults=[Fault(kind, delay=0.02 if kind == "drip" else 0.0)]) as server:
        error = failure(make, server, Timeouts(connect=5, read=10, total=0.4))
    assert isinstance(error, CallTimeout)
    assert (error.code, error.sent) == ("DX4105", sent)


@contextmanager
def full_listener() -> Generator[str]:
    """A listening socket whose queue is full: a further connection is neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers: list[socket.socket] = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()


def test_a_connection_that_never_comes_is_a_connect_timeout(make: Make) -> None:
    async def work(url: str) -> None:
        async with opened(make, url, Timeouts(connect=0.3, read=20, total=20)) as wire:
            with pytest.raises(CallTimeout) as caught:
                await wire.post(f"{url}/chat/completions", BODY)
        assert (caught.value.code, caught.value.sent) == ("DX4103", "no")
        assert "0.3 s" in caught.value.message

    with full_listener() as url:
        asyncio.run(work(url))


def test_a_huge_body_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY", 100)
    with MockServer(faults=[Fault("hang_body")]) as server:
        error = failure(make, server)
    assert (error.code, error.sent, error.retryable) == ("DX4109", "yes", False)


def test_large_requests_arrive_whole(make: Make) -> None:
    content = b"x" * 3_000_000

    async def work() -> None:
        with MockServer() as server:
            async with opened(make, server.url) as wire:
                reply = await wire.post(chat(server), BODY.replace(b"hello", content))
            assert reply.status == 200
            assert len(server.requests[0].text) == len(content)

    asyncio.run(work())


# ----------------------------------------------------------------- as a transport of httpx clients


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_bodies_are_live_for_clients(library: Any) -> None:
    async def work() -> None:
        with MockServer(faults=[Fault("hang_body")]) as server:
            async with library.AsyncClient(transport=AioTransport()) as client:
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
            async with library.AsyncClient(transport=AioTransport(), timeout=limits) as client:
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
            async with library.AsyncClient(transport=AioTransport()) as client:
                assert (await client.get(f"{server.url}/models")).status_code == 307
                assert (await client.get(f"{server.url}/models")).json()["object"] == "list"

    asyncio.run(work())


# ----------------------------------------------------------------- TLS


class TlsServer:
    """Answers every request with 200 after the handshake, or never; counts its connections."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()

    async def __aenter__(self) -> TlsServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            self.arrived.set()
            if self.answer is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.answer), self.answer))
            while await reader.read(65536):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.gone.set()
            writer.close()


def test_an_untrusted_certificate_is_refused_before_anything_is_sent(make: Make) -> None:
    async def work() -> None:
        async with TlsServer(b"{}") as server, opened(make, server.url) as wire:
            with pytest.raises(ConnectError) as caught:
                await wire.post(f"{server.url}/chat/completions", BODY)
            assert caught.value.sent == "no"
            assert server.requests == 0

    asyncio.run(work())


@pytest.mark.parametrize("name", ["aio", "aio-transport"])
def test_tls_works_with_the_environments_certificates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setattr(transport, "_context", None)

    async def work() -> None:
        async with TlsServer(b"{}") as server, opened(WIRES[name], server.url) as wire:
            assert (await wire.post(f"{server.url}/chat/completions", BODY)).body == b"{}"
        async with TlsServer(None) as server, opened(WIRES[name], server.url) as wire:
            task = asyncio.create_task(wire.post(f"{server.url}/chat/completions", BODY))
            await server.arrived.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(server.gone.wait(), 5)

    asyncio.run(work())


# ----------------------------------------------------------------- proxies


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        with MockServer() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
            async with opened(_aio, "http://models.example/v1") as wire:
                await wire.post("http://models.example/v1/chat/completions", BODY)
            assert proxy.requests[0].path == "http://models.example/v1/chat/completions"

    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asyncio.run(work())


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


def test_proxy_rules(no_proxies: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://models.example/v1") is None
    no_proxies.setenv("https_proxy", "http://proxy.example:3128")
    assert proxy_for("https://models.example/v1") == "http://proxy.example:3128"
    assert proxy_for("http://models.example/v1") is None
    for loopback in ("https://127.0.0.1:9000/v1", "https://localhost/v1", "https://[::1]:8/v1"):
        assert proxy_for(loopback) is None
    no_proxies.setenv("no_proxy", "models.example")
    assert proxy_for("https://models.example/v1") is None
    assert proxy_for("https://other.example/v1") == "http://proxy.example:3128"


def test_a_socks_proxy_is_refused(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("all_proxy", "socks5://proxy.example:1080")
    with pytest.raises(UsageError) as caught:
        proxy_for("https://models.example/v1")
    assert caught.value.code == "DX8112"


def test_places_hold_no_secret() -> None:
    assert place("https://user:secret@host:8/v1/x?key=secret") == "https://host:8/v1/x"
    assert place("http://[::1]:80/v1") == "http://[::1]:80/v1"
