"""What the mock server answers and how it fails, as pure functions of the request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Literal, cast

from pydantic_core import from_json, to_json

FaultKind = Literal[
    "status",
    "hang",
    "hang_body",
    "truncate",
    "reset",
    "reset_body",
    "not_json",
    "shape",
    "redirect",
    "drip",
    "not_http",
]


@dataclass(frozen=True, slots=True)
class MockRequest:
    """One request as it arrived.

    Attributes:
        number: Position in the order of arrival, from 0.
        attempt: How many requests with the same digest came before.
        digest: SHA-256 of path and body.
        path: Without query.
        headers: Lower-case names.
        body: The JSON body; empty when it was none.
    """

    number: int
    attempt: int
    digest: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Prompt, or the contents of all messages."""
        prompt = self.body.get("prompt")
        if isinstance(prompt, str):
            return prompt
        messages = cast("Sequence[Mapping[str, Any]]", self.body.get("messages") or ())
        return "\n".join(str(message.get("content")) for message in messages)


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour and the requests that it meets. Without a condition it meets all of them.

    Attributes:
        kind: ``status`` (an error status) · ``hang`` (no answer) · ``hang_body`` (half a body, then nothing) ·
            ``truncate`` (half a body, then the end) · ``reset`` and ``reset_body`` (TCP reset before, in the middle
            of the answer) · ``not_json`` · ``shape`` (JSON of another shape) · ``redirect`` · ``drip`` (the body a
            byte at a time, ``delay`` apart) · ``not_http``.
        status: For ``status`` and ``redirect``.
        retry_after: Seconds to ask for; with ``date=True`` as an HTTP date.
        date: See ``retry_after``.
        message: Text of the error body.
        location: Target of ``redirect``.
        delay: Seconds before the fault, besides the server's latency.
        at: Meets only the request of this number.
        every: Meets only each n-th request.
        attempts: Meets only the first n requests of the same content, so that retries come through.
    """

    kind: FaultKind
    status: int = 500
    retry_after: float | None = None
    date: bool = False
    message: str = "mock failure"
    location: str = "/elsewhere"
    delay: float = 0.0
    at: int | None = None
    every: int | None = None
    attempts: int | None = None

    def meets(self, request: MockRequest) -> bool:
        if self.at is not None and request.number != self.at:
            return False
        if self.every is not None and (request.number + 1) % self.every:
            return False
        return self.attempts is None or request.attempt < self.attempts


Answer = Callable[[MockRequest], "str | Mapping[str, object]"]
"""A pure function of the request: the text of the completion, or a mapping that becomes a JSON object."""


def _pick(digest: str, salt: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{digest}:{salt}".encode()).digest()[:8], "big") % size


def choose_fields(fields: Mapping[str, Sequence[object]]) -> Answer:
    """An answer that gives each field one of its values, chosen by a hash of the request."""

    def answer(request: MockRequest) -> Mapping[str, object]:
        return {name: values[_pick(request.digest, name, len(values))] for name, values in fields.items()}

    return answer


def default_answer(request: MockRequest) -> str | Mapping[str, object]:
    """Fits the request's JSON Schema when there is one, else is a short text; chosen by a hash of the request."""
    wanted: object = request.body.get("response_format")
    if isinstance(wanted, dict):
        schema: object = cast("dict[str, Any]", wanted).get("json_schema", {}).get("schema")
        if isinstance(schema, dict):
            made = _instance(cast("dict[str, Any]", schema), cast("dict[str, Any]", schema), request.digest, "$")
            return cast("Mapping[str, object]", made) if isinstance(made, dict) else to_json(made).decode()
    return f"answer {request.digest[:12]}"


def _instance(schema: Mapping[str, Any], root: Mapping[str, Any], digest: str, path: str) -> object:
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return _instance(target, root, digest, path)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][_pick(digest, path, len(schema["enum"]))]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _instance(schema[key][0], root, digest, path)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = cast("Mapping[str, Any]", schema.get("properties", {}))
        return {name: _instance(inner, root, digest, f"{path}.{name}") for name, inner in properties.items()}
    if kind == "array":
        count = max(1, int(schema.get("minItems", 1)))
        return [_instance(schema.get("items", {}), root, digest, f"{path}[{i}]") for i in range(count)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
        share = _pick(digest, path, 1001) / 1000
        if kind == "number":
            return low + (high - low) * (0.001 + 0.998 * share)
        return min(int(high), int(low) + 1) if "exclusiveMinimum" in schema else round(low + (int(high) - low) * share)
    if kind == "boolean":
        return bool(_pick(digest, path, 2))
    return None if kind == "null" else f"text {digest[:8]}"


# ----------------------------------------------------------------- wire


def words(text: str) -> int:
    """The mock's tokens: runs of text between white space."""
    return len(text.split())


def completion(request: MockRequest, answer: str | Mapping[str, object]) -> tuple[bytes, int, int]:
    """(body, input tokens, output tokens) of a successful answer."""
    text = answer if isinstance(answer, str) else to_json(answer).decode()
    asked, said = words(request.text), words(text)
    chat = request.path.endswith("/chat/completions")
    choice: dict[str, object] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    body = {
        "id": f"mock-{request.digest[:16]}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": request.body.get("model", "mock"),
        "choices": [choice],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    return to_json(body), asked, said


_REASONS = {200: b"OK", 307: b"Temporary Redirect", 400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests"}


def reply(status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), kind: str = "application/json") -> bytes:
    """An HTTP/1.1 response with a length."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
        % (status, _REASONS.get(status, b"Status"), kind.encode(), len(body), extra)
    ) + body


def error_reply(status: int, message: str, headers: Sequence[tuple[str, str]] = (), kind: str = "mock_error") -> bytes:
    """An error in OpenAI's shape."""
    error = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return reply(status, to_json(error), headers)


def fault_reply(fault: Fault, now: float) -> bytes:
    """The response of the faults that answer with a whole one."""
    if fault.kind == "status":
        headers: list[tuple[str, str]] = []
        if fault.retry_after is not None:
            value = formatdate(now + fault.retry_after, usegmt=True) if fault.date else f"{fault.retry_after:g}"
            headers.append(("Retry-After", value))
        return error_reply(fault.status, fault.message, headers)
    if fault.kind == "redirect":
        status = fault.status if 300 <= fault.status < 400 else 307
        return reply(status, b"", [("Location", fault.location)])
    if fault.kind == "not_json":
        return reply(200, b"<html>mock failure</html>", kind="text/html")
    if fault.kind == "not_http":
        return b"220 mail.example ESMTP\r\n\r\n"
    return reply(200, to_json({"unexpected": True}))


def read_plan(text: str) -> tuple[Fault, ...]:
    """Faults from a JSON list of objects with `Fault`'s attributes."""
    return tuple(Fault(**entry) for entry in cast("list[dict[str, Any]]", from_json(text)))
