"""A transport that answers with recorded responses, and keeps what it was sent."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from dspex.lm.types import Delta, ToolCall

SHAPES = Path(__file__).parent / "shapes"

_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/x-jsonl",
    ".ndjson": "application/x-ndjson",
    ".sse": "text/event-stream",
    ".frames": "application/vnd.amazon.eventstream",
}


def shape(name: str) -> bytes:
    """The recorded body ``PROVIDER/FILE``; a ``.frames`` file is framed as AWS's event stream."""
    body = (SHAPES / name).read_bytes()
    if not name.endswith(".frames"):
        return body
    frames: list[dict[str, Any]] = [json.loads(line) for line in body.splitlines()]
    return b"".join(frame(item["headers"], json.dumps(item["payload"]).encode()) for item in frames)


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of AWS's event stream."""
    head = b"".join(
        bytes([len(name.encode())]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


def plain(calls: Sequence[ToolCall]) -> list[tuple[str, str, Any]]:
    """Id, name and arguments of tool calls, however the arguments are spelled."""
    return [(call.id, call.name, json.loads(call.arguments)) for call in calls]


def called(deltas: Sequence[Delta]) -> list[tuple[str, str, Any]]:
    """The tool calls that the parts of a stream add up to, as `plain` gives them."""
    calls: list[ToolCall] = []
    for part in [part for delta in deltas for part in delta.calls]:
        if part.index == len(calls):
            assert part.name
            calls.append(ToolCall(part.id, part.name, part.arguments))
        else:
            assert (part.id, part.name) == ("", "")
            known = calls[part.index]
            calls[part.index] = ToolCall(known.id, known.name, known.arguments + part.arguments)
    return plain(calls)


class Recorded(httpx.AsyncBaseTransport):
    """Answers the n-th request with the n-th name, and all after the last with the last.

    Args:
        names: ``PROVIDER/FILE`` below ``shapes``.
        status: Of every answer.
        headers: Of every answer.
        piece: Bytes of the body that arrive at a time.
    """

    def __init__(
        self, *names: str, status: int = 200, headers: Mapping[str, str] | None = None, piece: int = 1 << 16
    ) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[dict[str, Any]] = []
        self.closed = 0
        self._names = names
        self._status = status
        self._headers = dict(headers or {})
        self._piece = piece

    @property
    def body(self) -> dict[str, Any]:
        """What the last request said."""
        return self.bodies[-1]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        name = self._names[min(len(self.requests), len(self._names) - 1)]
        self.requests.append(request)
        if content:
            self.bodies.append(json.loads(content))
        headers = {"content-type": _TYPES[Path(name).suffix], **self._headers}
        return httpx.Response(self._status, headers=headers, stream=_Pieces(self, shape(name), self._piece))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, transport: Recorded, body: bytes, piece: int) -> None:
        self._transport = transport
        self._body = body
        self._piece = piece

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        for start in range(0, len(self._body), self._piece):
            yield self._body[start : start + self._piece]

    async def aclose(self) -> None:
        self._transport.closed += 1
