"""The transports that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx
import httpx2
import pytest

from dspex.providers.transport import DirectTransport, DirectWire, HttpxWire, Timeouts, Wire
from dspex.testing import MockServer

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
STREAMED = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hello"}]}'
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer canary"}

Make = Callable[[str, Timeouts], Wire]


def direct(url: str, timeouts: Timeouts) -> Wire:
    return DirectWire(headers=HEADERS, limit=600, timeouts=timeouts, base_url=url)


def _direct_transport(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(DirectTransport(limit=600), headers=HEADERS, timeouts=timeouts)  # type: ignore[arg-type]


def _httpx(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(httpx.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=timeouts)


def _httpx2(url: str, timeouts: Timeouts) -> Wire:
    return HttpxWire(httpx2.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=timeouts)


WIRES: dict[str, Make] = {"direct": direct, "direct-transport": _direct_transport, "httpx": _httpx, "httpx2": _httpx2}

every_wire = pytest.mark.parametrize("make", list(WIRES.values()), ids=list(WIRES))


@asynccontextmanager
async def opened(make: Make, url: str, timeouts: Timeouts | None = None) -> AsyncGenerator[Wire]:
    wire = make(url, timeouts or Timeouts(total=20))
    try:
        yield wire
    finally:
        await wire.aclose()


def chat(server: MockServer) -> str:
    return f"{server.url}/chat/completions"
