"""A chat-completions server of raw sockets: answers each request after a fixed delay, at next to no cost of its own.

    python -m benchmarks.peers.server --delay 0.05

prints its port on the first line and serves until its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys

PLAIN = "Paris"
MARKED = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
"""The form that DSPy's chat adapter asks for."""


def reply(text: str) -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


PLAIN_REPLY, MARKED_REPLY = reply(PLAIN), reply(MARKED)


class Answer(asyncio.Protocol):
    """One connection: requests one after the other, each answered after the delay."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while (end := received.find(b"\r\n\r\n")) != -1:
            head = bytes(received[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at != -1 else 0
            if len(received) < end + 4 + length:
                return
            body = bytes(received[end + 4 : end + 4 + length])
            del received[: end + 4 + length]
            self._loop.call_later(self._delay, self._answer, MARKED_REPLY if b"[[ ##" in body else PLAIN_REPLY)

    def _answer(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def serve(delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answer(delay), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds from request to answer")
    asyncio.run(serve(parser.parse_args().delay))


if __name__ == "__main__":
    main()
