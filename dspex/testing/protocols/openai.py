"""OpenAI's errors, chat completions and raw completions, as most compatible servers have them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic_core import to_json

from dspex.lm.types import LMResponse, RateLimits, TokenLogprob, Usage
from dspex.testing.request import (
    Body,
    Endpoint,
    Generating,
    Made,
    MockRequest,
    Trouble,
    TroubleKind,
    event,
    pieces,
)

_ERRORS: dict[TroubleKind, tuple[int, str, str | None, str]] = {
    "request": (400, "invalid_request_error", None, "The request is malformed."),
    "key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "permission": (403, "invalid_request_error", "unsupported_country_region_territory", "No access."),
    "route": (404, "invalid_request_error", "model_not_found", "The model does not exist or you have no access to it."),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    ),
    "content_filter": (
        400,
        "invalid_request_error",
        "content_filter",
        "The response was filtered due to the prompt triggering a content management policy.",
    ),
    "quota": (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "server": (500, "server_error", None, "The server had an error while processing your request."),
    "overloaded": (503, "server_error", None, "The engine is currently overloaded, please try again later."),
}

_STREAM_ENDS = b"data: [DONE]\n\n"


def fields_of(node: object) -> Mapping[str, Any]:
    """`node` when it is an object, else an empty one."""
    return cast("Mapping[str, Any]", node) if isinstance(node, dict) else {}


def entries_of(node: object) -> list[Mapping[str, Any]]:
    """The objects in `node` when it is a list, else none."""
    return [fields_of(entry) for entry in cast("list[object]", node)] if isinstance(node, list) else []


class OpenAI(Endpoint):
    """OpenAI's errors."""

    protocol = "openai"

    def trouble(self, trouble: Trouble) -> Made:
        status, kind, code, message = _ERRORS[trouble.kind]
        error = {"message": trouble.message or message, "type": kind, "param": None, "code": code}
        return Made(trouble.status or status, to_json({"error": error}))

    def trouble_part(self, trouble: Trouble) -> bytes:
        return b"data: %b\n\n" % self.trouble(trouble).body

    def limit_headers(self, limits: RateLimits, now: float) -> tuple[tuple[str, str], ...]:
        told: list[tuple[str, str]] = []
        for name, size, left, reset in (
            ("requests", limits.requests, limits.requests_left, limits.requests_reset),
            ("tokens", limits.tokens, limits.tokens_left, limits.tokens_reset),
        ):
            if reset is not None:
                told += [
                    (f"x-ratelimit-limit-{name}", str(size)),
                    (f"x-ratelimit-remaining-{name}", str(left)),
                    (f"x-ratelimit-reset-{name}", _duration(reset)),
                ]
        return tuple(told)


class Chat(OpenAI, Generating):
    """``/chat/completions``."""

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        wanted = fields_of(body.get("response_format"))
        if wanted.get("type") == "json_object":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        return fields_of(wanted.get("json_schema")).get("schema")

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        functions = [fields_of(tool.get("function")) for tool in entries_of(body.get("tools"))]
        return {function["name"]: fields_of(function.get("parameters")) for function in functions if function}

    def forced_tool(self, body: Body) -> str | None:
        choice = body.get("tool_choice")
        if choice == "required":
            return next(iter(self.tools(body)), None)
        return fields_of(fields_of(choice).get("function")).get("name")

    def top_logprobs(self, body: Body) -> int | None:
        return int(body.get("top_logprobs") or 0) if body.get("logprobs") is True else None

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        message: dict[str, object] = {"role": "assistant", "content": said.text, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.tool_calls:
            message["content"] = said.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in said.tool_calls
            ]
        choice = {"index": 0, "message": message, "logprobs": _logprobs(said.logprobs), "finish_reason": _stop(said)}
        return {**_frame(request, said, "chat.completion"), "choices": [choice], "usage": _usage(usage)}

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        frame = _frame(request, said, "chat.completion.chunk")
        wants_usage = fields_of(request.body.get("stream_options")).get("include_usage") is True
        if wants_usage:
            frame["usage"] = None

        def chunk(delta: Mapping[str, object], stop: str | None = None, logprobs: object = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": stop}
            return event({**frame, "choices": [choice]})

        made = [chunk({"role": "assistant", "content": "", "refusal": None})]
        made += [chunk({"reasoning_content": piece}) for piece in pieces(said.reasoning)]
        if said.logprobs is None:
            made += [chunk({"content": piece}) for piece in pieces(said.text)]
        else:
            made += [chunk({"content": token.token}, None, _logprobs((token,))) for token in said.logprobs]
        for index, call in enumerate(said.tool_calls):
            function = {"name": call.name, "arguments": ""}
            made.append(
                chunk({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]})
            )
            for piece in pieces(call.arguments):
                made.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
        made.append(chunk({}, _stop(said)))
        if wants_usage:
            made.append(event({**frame, "choices": [], "usage": _usage(usage)}))
        return [*made, _STREAM_ENDS]


class Completions(OpenAI, Generating):
    """``/completions``."""

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        return fields_of(fields_of(body.get("response_format")).get("json_schema")).get("schema")

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        choice = {"index": 0, "text": said.text, "logprobs": None, "finish_reason": _stop(said)}
        return {**_frame(request, said, "text_completion"), "choices": [choice], "usage": _usage(usage)}

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        frame = _frame(request, said, "text_completion")

        def chunk(text: str, stop: str | None = None) -> bytes:
            return event({**frame, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": stop}]})

        made = [*map(chunk, pieces(said.text)), chunk("", _stop(said))]
        if fields_of(request.body.get("stream_options")).get("include_usage") is True:
            made.append(event({**frame, "choices": [], "usage": _usage(usage)}))
        return [*made, _STREAM_ENDS]


def _duration(seconds: float) -> str:
    """For example ``6m0s``, ``1.5s`` or ``120ms``."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _frame(request: MockRequest, said: LMResponse, kind: str) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{request.digest[:16]}",
        "object": kind,
        "created": 0,
        "model": said.model or request.model,
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def _stop(said: LMResponse) -> str:
    return "tool_calls" if said.tool_calls and said.stop == "stop" else said.stop


def _usage(usage: Usage) -> object:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.written_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def logprobs_of(tokens: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """Log-probabilities as OpenAI's answers have them."""
    return [{**_token(t.token, t.logprob), "top_logprobs": [_token(*other) for other in t.top]} for t in tokens]


def _token(token: str, logprob: float) -> dict[str, object]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _logprobs(tokens: tuple[TokenLogprob, ...] | None) -> object:
    if tokens is None:
        return None
    return {"content": logprobs_of(tokens), "refusal": None}
