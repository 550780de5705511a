"""Bytes over HTTP: the one place that opens connections to servers, and that knows httpx.

`DirectWire` is the default: requests over connections of our own, one pool per event loop. It follows no redirect,
keeps no cookie and sends nothing twice. `HttpxWire` sends through any `AsyncBaseTransport` of httpx or httpx2 that a
user brings, and `DirectTransport` is the default's engine as such a transport, with live bodies. All are held to
one conformance suite, `tests/providers/test_transport*.py`.

Every failure becomes an `LMError` that says what is known about the request: ``sent="no"`` (no byte of it left
this machine), ``"maybe"`` (it left, at least in part; no answer came back) or ``"yes"`` (the server began to answer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex.providers.transport.direct import DirectTransport, DirectWire
from dspex.providers.transport.given import HttpxWire
from dspex.providers.transport.network import proxy_for, tls_context
from dspex.providers.transport.wire import LiveReply, Reply, Timeouts, Wire, place

if TYPE_CHECKING:
    from dspex.providers.transport.given import AnyTransport as AnyTransport

__all__ = [
    "DirectTransport",
    "DirectWire",
    "HttpxWire",
    "LiveReply",
    "Reply",
    "Timeouts",
    "Wire",
    "place",
    "proxy_for",
    "tls_context",
]
