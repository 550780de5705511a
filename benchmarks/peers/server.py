"""A chat-completions server of raw sockets: answers each request after a fixed delay, at next to no cost of its own.

    python -m benchmarks.peers.server --delay 0.05 --certificate FILE

prints its port on the first line and serves until its standard input is closed. A stream has a word an event, each
written in a turn of its own. A share of the requests, `--stragglers`, takes `--straggle` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import ssl
import sys
from functools import partial

PLAIN = "Paris"
LONG = "Paris, the capital of France, on the river Seine, in the north of the country."
"""The text of a stream: a word an event."""

MARKED = "[[ ## answer ## ]]\n{}\n\n[[ ## completed ## ]]"
"""The form that DSPy's chat adapter asks for."""

USAGE = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}


def reply(text: str) -> tuple[bytes, ...]:
    """The one write of a whole answer."""
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": USAGE,
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head.encode() + body,)


def stream(text: str) -> tuple[bytes, ...]:
    """The writes of a streamed answer: its words, its end, its usage."""
    deltas = [{"content": word} for word in re.findall(r"\s*\S+", text)]
    deltas[0]["role"] = "assistant"
    choices: list[dict[str, object]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    events: list[dict[str, object]] = [{**common, "choices": [choice]} for choice in choices]
    events.append({**common, "choices": [], "usage": USAGE})
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    return (head + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n")


ANSWERS = {
    (False, False): reply(PLAIN),
    (False, True): reply(MARKED.format(PLAIN)),
    (True, False): stream(LONG),
    (True, True): stream(MARKED.format(LONG)),
}
"""Writes by whether a stream is asked for, and whether in DSPy's form."""


class Answer(asyncio.Protocol):
    """One connection: requests one after the other, each answered after the delay."""

    def __init__(self, delay: float, share: float, straggle: float) -> None:
        self._delay = delay
        self._share = share
        self._straggle = straggle
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
            streamed = b'"stream":true' in body or b'"stream": true' in body
            pieces = ANSWERS[streamed, b"[[ ##" in body]
            delay = self._straggle if self._share and random.random() < self._share else self._delay
            if delay > 0:
                self._loop.call_later(delay, self._answer, pieces, 0)
            else:
                self._answer(pieces, 0)

    def _answer(self, pieces: tuple[bytes, ...], at: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pieces[at])
            if at + 1 < len(pieces):
                self._loop.call_soon(self._answer, pieces, at + 1)


async def serve(delay: float, certificate: str | None, share: float, straggle: float) -> None:
    loop = asyncio.get_running_loop()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    made = partial(Answer, delay, share, straggle)
    server = await loop.create_server(made, "127.0.0.1", 0, backlog=1024, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds from request to answer")
    parser.add_argument("--certificate", help="PEM file with key and certificate; the server then speaks TLS")
    parser.add_argument("--stragglers", type=float, default=0.0, help="share of the requests that take long")
    parser.add_argument("--straggle", type=float, default=2.0, help="seconds that these take")
    args = parser.parse_args()
    asyncio.run(serve(args.delay, args.certificate, args.stragglers, args.straggle))


if __name__ == "__main__":
    main()
