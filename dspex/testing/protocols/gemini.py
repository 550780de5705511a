"""Gemini's errors and generateContent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json, to_json

from dspex.lm.types import LMResponse, Usage
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
    pieces,
    words,
)

_ERRORS: dict[TroubleKind, tuple[int, str, str]] = {
    "request": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "key": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "permission": (403, "PERMISSION_DENIED", "The caller does not have permission"),
    "route": (404, "NOT_FOUND", "The model is not found for API version v1beta."),
    "context_length": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "quota": (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "rate_limit": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "server": (500, "INTERNAL", "An internal error has occurred."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}

_STOPS = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "tool_calls": "STOP",
    "unknown": "OTHER",
}


class Gemini(Endpoint):
    """Gemini's errors."""

    protocol = "gemini"

    def model(self, request: MockRequest) -> str:
        return request.path.rpartition("models/")[2].partition(":")[0]

    def trouble(self, trouble: Trouble) -> Made:
        if trouble.kind == "content_filter":
            # A blocked prompt is a success without candidates.
            feedback: dict[str, object] = {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": []}
            return Made(200, to_json({"promptFeedback": feedback, "usageMetadata": {}, "modelVersion": "mock"}))
        status, name, message = _ERRORS[trouble.kind]
        details: list[dict[str, object]] = []
        if trouble.kind == "key":
            details = [_detail("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")]
        elif trouble.kind == "quota":
            violation = {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
                "quotaId": "GenerateRequestsPerDayPerProjectPerModel",
            }
            details = [_detail("QuotaFailure", violations=[violation])]
        if trouble.retry_after is not None:
            details.append(_detail("RetryInfo", retryDelay=f"{trouble.retry_after:g}s"))
        status = trouble.status or status
        error = {"code": status, "message": trouble.message or message, "status": name, "details": details}
        return Made(status, to_json({"error": error}))

    def trouble_part(self, trouble: Trouble) -> bytes:
        return b"data: %b\r\n\r\n" % self.trouble(trouble).body


class GenerateContent(Gemini, Generating):
    """``/v1beta/models/MODEL:generateContent`` and ``:streamGenerateContent``."""

    def wrong(self, request: MockRequest) -> str:
        return "" if entries_of(request.body.get("contents")) else "contents is not specified"

    def streams(self, request: MockRequest) -> bool:
        return request.path.endswith(":streamGenerateContent")

    def refusal(self, request: MockRequest, trouble: Trouble) -> Made:
        made = self.trouble(trouble)
        if made.status == 200 and self.streams(request) and (request.query or {}).get("alt") == "sse":
            return Made(200, parts=(self.trouble_part(trouble),), media_type=self.stream_type)
        return made

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        config = fields_of(body.get("generationConfig"))
        wanted = config.get("responseJsonSchema") or config.get("responseSchema")
        if isinstance(wanted, dict):
            return cast("Mapping[str, Any]", _plain(cast("dict[str, object]", wanted)))
        if config.get("responseMimeType") == "application/json":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        return None

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        declared = [
            function
            for tool in entries_of(body.get("tools"))
            for function in entries_of(tool.get("functionDeclarations"))
        ]
        return {
            function["name"]: cast(
                "Mapping[str, Any]", _plain(function.get("parametersJsonSchema") or function.get("parameters") or {})
            )
            for function in declared
        }

    def forced_tool(self, body: Body) -> str | None:
        config = fields_of(fields_of(body.get("toolConfig")).get("functionCallingConfig"))
        if config.get("mode") != "ANY":
            return None
        allowed = cast("list[str]", config.get("allowedFunctionNames") or list(self.tools(body)))
        return allowed[0] if allowed else None

    def top_logprobs(self, body: Body) -> int | None:
        config = fields_of(body.get("generationConfig"))
        return int(config.get("logprobs") or 0) if config.get("responseLogprobs") is True else None

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        parts: list[dict[str, object]] = []
        if said.reasoning:
            parts.append({"text": said.reasoning, "thought": True})
        if said.text or not said.tool_calls:
            parts.append({"text": said.text})
        return _chunk(request, said, [*parts, *_calls(said)], usage, ended=True)

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        texts: list[dict[str, object]] = [{"text": piece, "thought": True} for piece in pieces(said.reasoning)]
        texts.extend({"text": piece} for piece in pieces(said.text))
        chunks = [_chunk(request, said, [part], usage, ended=False) for part in texts]
        last = _calls(said)
        if not last:
            last.append({"text": ""})
        chunks.append(_chunk(request, said, last, usage, ended=True))
        if (request.query or {}).get("alt") == "sse":
            return [b"data: %b\r\n\r\n" % to_json(chunk) for chunk in chunks]
        # Without alt=sse the stream is one JSON array.
        bodies = list(map(to_json, chunks))
        return [b"%b%b" % (b"[" if index == 0 else b",\r\n", body) for index, body in enumerate(bodies)] + [b"]"]


class CountContent(Gemini):
    """``/v1beta/models/MODEL:countTokens``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        return Made(200, to_json({"totalTokens": words(request.text)}))


def _detail(kind: str, **fields: object) -> dict[str, object]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def _plain(node: object) -> object:
    """A schema of Gemini's dialect, whose names of types are upper case, as a JSON Schema."""
    if isinstance(node, list):
        return [_plain(item) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, object]", node)
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _plain(value)
        for name, value in fields.items()
    }


def _calls(said: LMResponse) -> list[dict[str, object]]:
    return [
        {"functionCall": {"id": call.id, "name": call.name, "args": from_json(call.arguments)}}
        for call in said.tool_calls
    ]


def _chunk(
    request: MockRequest, said: LMResponse, parts: list[dict[str, object]], usage: Usage, *, ended: bool
) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if ended:
        candidate["finishReason"] = _STOPS[said.stop]
        if said.logprobs is not None:
            candidate["avgLogprobs"] = sum(token.logprob for token in said.logprobs) / max(1, len(said.logprobs))
            candidate["logprobsResult"] = {
                "chosenCandidates": [_candidate(token.token, token.logprob) for token in said.logprobs],
                "topCandidates": [
                    {"candidates": [_candidate(*other) for other in token.top]} for token in said.logprobs
                ],
            }
    counts: dict[str, object] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.total_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input_tokens}],
    }
    if usage.cached_tokens:
        counts["cachedContentTokenCount"] = usage.cached_tokens
    if usage.reasoning_tokens:
        counts["thoughtsTokenCount"] = usage.reasoning_tokens
    return {
        "candidates": [candidate],
        "usageMetadata": counts if ended else {"promptTokenCount": usage.input_tokens},
        "modelVersion": said.model or request.model,
        "responseId": request.digest[:20],
    }


def _candidate(token: str, logprob: float) -> dict[str, object]:
    return {"token": token, "tokenId": 0, "logProbability": logprob}
