"""Anthropic's errors and messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from dspex.lm.types import LMResponse, RateLimits, Usage
from dspex.testing.protocols.openai import entries_of, fields_of
from dspex.testing.request import (
    Body,
    Endpoint,
    Generating,
    Host,
    Made,
    MockRequest,
    Trouble,
    TroubleKind,
    event,
    pieces,
    words,
)

_ERRORS: dict[TroubleKind, tuple[int, str, str]] = {
    "request": (400, "invalid_request_error", "The request is malformed."),
    "key": (401, "authentication_error", "invalid x-api-key"),
    "permission": (403, "permission_error", "Your API key may not use this resource."),
    "route": (404, "not_found_error", "model: not found"),
    "context_length": (400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
    "content_filter": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "quota": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    ),
    "rate_limit": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "server": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
    "unknown": "pause_turn",
}


class Anthropic(Endpoint):
    """Anthropic's errors."""

    protocol = "anthropic"

    def trouble(self, trouble: Trouble) -> Made:
        status, kind, message = _ERRORS[trouble.kind]
        error = {"type": kind, "message": trouble.message or message}
        return Made(trouble.status or status, to_json({"type": "error", "error": error, "request_id": "req_mock"}))

    def trouble_part(self, trouble: Trouble) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.trouble(trouble).body

    def limit_headers(self, limits: RateLimits, now: float) -> tuple[tuple[str, str], ...]:
        told: list[tuple[str, str]] = []
        for name, size, left, reset in (
            ("requests", limits.requests, limits.requests_left, limits.requests_reset),
            ("tokens", limits.tokens, limits.tokens_left, limits.tokens_reset),
        ):
            if reset is not None:
                when = datetime.fromtimestamp(math.ceil(now + reset), UTC)
                told += [
                    (f"anthropic-ratelimit-{name}-limit", str(size)),
                    (f"anthropic-ratelimit-{name}-remaining", str(left)),
                    (f"anthropic-ratelimit-{name}-reset", f"{when:%Y-%m-%dT%H:%M:%SZ}"),
                ]
        return tuple(told)


class Messages(Anthropic, Generating):
    """``/v1/messages``."""

    def wrong(self, request: MockRequest) -> str:
        body = request.body
        if "anthropic-version" not in request.headers:
            return "anthropic-version: header is required"
        if not isinstance(body.get("model"), str):
            return "model: Field required"
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        if not body.get("messages"):
            return "messages: at least one message is required"
        return ""

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        wanted = fields_of(fields_of(body.get("output_config")).get("format")) or fields_of(body.get("output_format"))
        return wanted.get("schema")

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        return {tool["name"]: fields_of(tool.get("input_schema")) for tool in entries_of(body.get("tools"))}

    def forced_tool(self, body: Body) -> str | None:
        choice = fields_of(body.get("tool_choice"))
        return next(iter(self.tools(body)), None) if choice.get("type") == "any" else choice.get("name")

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        return {
            **_frame(request, said),
            "content": _blocks(request, said),
            "stop_reason": _stop(said),
            "stop_sequence": None,
            "usage": _usage(usage, usage.output_tokens),
        }

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        begun: dict[str, object] = {**_frame(request, said), "content": [], "stop_reason": None, "stop_sequence": None}
        made = [_event("message_start", message={**begun, "usage": _usage(usage, 1)})]
        for index, block in enumerate(_blocks(request, said)):
            kind = block["type"]
            empty: dict[str, object]
            deltas: list[dict[str, object]]
            if kind == "thinking":
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
                empty = {**block, "thinking": "", "signature": ""}
            elif kind == "text":
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
                empty = {**block, "text": ""}
            else:
                deltas = [
                    {"type": "input_json_delta", "partial_json": piece}
                    for piece in ("", *pieces(to_json(block["input"]).decode()))
                ]
                empty = {**block, "input": {}}
            made.append(_event("content_block_start", index=index, content_block=empty))
            if index == 0:
                made.append(_event("ping"))
            made += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
            made.append(_event("content_block_stop", index=index))
        ended = {"stop_reason": _stop(said), "stop_sequence": None}
        made.append(_event("message_delta", delta=ended, usage=_usage(usage, usage.output_tokens)))
        return [*made, _event("message_stop")]


class CountTokens(Anthropic):
    """``/v1/messages/count_tokens``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        return Made(200, to_json({"input_tokens": words(request.text)}))


def _event(kind: str, **fields: object) -> bytes:
    return event({"type": kind, **fields}, kind)


def _frame(request: MockRequest, said: LMResponse) -> dict[str, object]:
    return {
        "id": f"msg_{request.digest[:20]}",
        "type": "message",
        "role": "assistant",
        "model": said.model or request.model,
    }


def _blocks(request: MockRequest, said: LMResponse) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.reasoning:
        signature = f"signature {request.digest[:16]}"
        blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": signature})
    if said.text or not said.tool_calls:
        blocks.append({"type": "text", "text": said.text, "citations": None})
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": from_json(call.arguments)}
        for call in said.tool_calls
    ]
    return blocks + calls


def _stop(said: LMResponse) -> str:
    return "tool_use" if said.tool_calls and said.stop == "stop" else _STOPS[said.stop]


def _usage(usage: Usage, output_tokens: int) -> object:
    return {
        # What the prompt cache read and wrote is counted apart here.
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.written_tokens,
        "cache_creation_input_tokens": usage.written_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.written_tokens, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": min(output_tokens, usage.reasoning_tokens)},
        "service_tier": "standard",
    }


MESSAGES = Messages()
