"""The five protocols as bytes: requests that ask them something, and readers of what they answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dspex.testing import MockServer

PROMPT = "What is the capital of France?"


@dataclass(frozen=True)
class Wire:
    """How one protocol is asked for an answer, whole and streamed, and where its text stands."""

    path: str
    body: Mapping[str, Any]
    streamed_path: str = ""
    whole: Mapping[str, Any] | None = None
    streamed: Mapping[str, Any] | None = None

    def request(self, stream: bool, text: str = PROMPT, key: str = "k", /, **more: Any) -> bytes:
        """The bytes of a request."""
        path = (self.streamed_path or self.path) if stream else self.path
        said = json.loads(json.dumps({**self.body, **((self.streamed if stream else self.whole) or {}), **more}))
        return http(path, json.dumps(said).replace("PROMPT", text).encode(), key)


CHAT = Wire("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "PROMPT"}]},
            streamed={"stream": True, "stream_options": {"include_usage": True}})  # fmt: skip
WIRES: dict[str, Wire] = {
    "openai": CHAT,
    "completions": Wire("/v1/completions", {"model": "m", "prompt": "PROMPT"},
                        streamed={"stream": True, "stream_options": {"include_usage": True}}),
    "responses": Wire("/v1/responses", {"model": "m", "input": "PROMPT"}, streamed={"stream": True}),
    "anthropic": Wire("/v1/messages", {"model": "m", "max_tokens": 9, "messages": CHAT.body["messages"]},
                      streamed={"stream": True}),
    "gemini": Wire("/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "PROMPT"}]}]},
                   "/v1beta/models/m:streamGenerateContent?alt=sse"),
    "ollama": Wire("/api/chat", CHAT.body, whole={"stream": False}),
    "bedrock": Wire("/model/m/converse", {"messages": [{"role": "user", "content": [{"text": "PROMPT"}]}]},
                    "/model/m/converse-stream"),
}  # fmt: skip


def http(path: str, body: bytes, key: str = "k", method: str = "POST") -> bytes:
    """A request that every protocol takes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nAnthropic-Version: 1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Answer:
    """What came back over one connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes
    complete: bool

    @property
    def json(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.body))


def connect(server: MockServer) -> socket.socket:
    """A connection that gives up rather than block a suite."""
    made = socket.create_connection(("127.0.0.1", int(server.root.rpartition(":")[2])))
    made.settimeout(20)
    return made


def read(connection: socket.socket) -> Answer:
    """One response, or as much of it as came before the connection ended.

    Raises:
        ConnectionResetError: the server reset the connection.
    """
    raw = b""
    while True:
        answer = parse(raw)
        if answer.complete:
            return answer
        more = connection.recv(65536)
        if not more:
            return answer
        raw += more


def parse(raw: bytes) -> Answer:
    """What the bytes of a response say so far."""
    head, found, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not found or not lines[0].startswith("HTTP/"):
        return Answer(0, {}, b"", raw, False)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    status = int(lines[0].split()[1])
    if headers.get("transfer-encoding") != "chunked":
        length = int(headers.get("content-length", 0))
        return Answer(status, headers, rest[:length], raw, len(rest) >= length)
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return Answer(status, headers, body, raw, False)
        if int(size, 16) == 0:
            return Answer(status, headers, body, raw, rest == b"\r\n")
        body += rest[: int(size, 16)]
        if len(rest) < int(size, 16) + 2:
            return Answer(status, headers, body, raw, False)
        rest = rest[int(size, 16) + 2 :]


def ask(server: MockServer, request: bytes) -> Answer:
    """The answer to one request over a connection of its own."""
    with connect(server) as connection:
        connection.sendall(request)
        return read(connection)


def events(body: bytes) -> list[dict[str, Any]]:
    """The JSON of every event of a stream that is not its end mark."""
    if body.startswith(b"{"):
        return [json.loads(line) for line in body.split(b"\n") if line]
    if body.startswith((b"data:", b"event:")):
        lines = [line for line in body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
    found: list[dict[str, Any]] = []
    while body:
        size, names = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        found.append(json.loads(body[12 + names : size - 4]))
        body = body[size:]
    return found


def text_of(name: str, body: bytes, stream: bool) -> str:
    """What an answer says: an independent reading of each protocol, without tool calls and reasoning."""
    found = events(body) if stream else [json.loads(body)]
    return "".join(_text(name, fields, stream) for fields in found)


def _text(name: str, fields: dict[str, Any], stream: bool) -> str:
    match name:
        case "openai":
            return "".join(
                choice["delta" if stream else "message"].get("content") or "" for choice in fields["choices"]
            )
        case "completions":
            return "".join(choice["text"] for choice in fields["choices"])
        case "responses" if stream:
            return fields["delta"] if fields["type"] == "response.output_text.delta" else ""
        case "responses":
            return "".join(item["content"][0]["text"] for item in fields["output"] if item["type"] == "message")
        case "anthropic" if stream:
            return fields.get("delta", {}).get("text", "")
        case "anthropic":
            return "".join(block.get("text", "") for block in fields["content"])
        case "gemini":
            parts = fields["candidates"][0]["content"]["parts"]
            return "".join(part.get("text", "") for part in parts if not part.get("thought"))
        case "ollama":
            return fields["message"]["content"]
        case _ if stream:
            return fields.get("delta", {}).get("text", "")
        case _:
            return "".join(block.get("text", "") for block in fields["output"]["message"]["content"])


def tokens_of(name: str, body: bytes, stream: bool) -> tuple[int, int]:
    """(input, output) tokens as an answer reports them.

    Raises:
        KeyError: it reports none, or has no end.
    """
    unmarked = name in ("openai", "completions") and not body.endswith(b"data: [DONE]\n\n")
    if stream and (unmarked or not body):
        raise KeyError(name)
    found = events(body)[-1] if stream else json.loads(body)
    if name == "anthropic" and stream:
        found = events(body)[-2]
    if name == "responses" and stream:
        found = found["response"]
    if name == "gemini":
        used = found["usageMetadata"]
        return used["promptTokenCount"], used["candidatesTokenCount"] + used.get("thoughtsTokenCount", 0)
    if name == "ollama":
        return found["prompt_eval_count"], found["eval_count"]
    used = cast("dict[str, int]", found["usage"] or {})
    if name == "anthropic":
        cached = used["cache_read_input_tokens"] + used["cache_creation_input_tokens"]
        return used["input_tokens"] + cached, used["output_tokens"]
    if name == "bedrock":
        cached = used["cacheReadInputTokens"] + used["cacheWriteInputTokens"]
        return used["inputTokens"] + cached, used["outputTokens"]
    if name == "responses":
        return used["input_tokens"], used["output_tokens"]
    return used["prompt_tokens"], used["completion_tokens"]
