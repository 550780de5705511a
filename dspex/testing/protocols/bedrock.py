"""Bedrock's errors, Converse and ConverseStream."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from pydantic_core import from_json, to_json

from dspex.lm.types import LMResponse, Usage
from dspex.testing.protocols.openai import entries_of, fields_of
from dspex.testing.request import Body, Endpoint, Generating, Made, MockRequest, Trouble, TroubleKind, pieces

_ERRORS: dict[TroubleKind, tuple[int, str, str]] = {
    "request": (400, "ValidationException", "The provided request is not valid"),
    "key": (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
    "permission": (403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
    "route": (404, "ResourceNotFoundException", "Could not resolve the foundation model from the model identifier."),
    "context_length": (400, "ValidationException", "Input is too long for requested model."),
    "content_filter": (400, "ValidationException", "The content was blocked by our content filters."),
    "quota": (402, "ServiceQuotaExceededException", "You have exceeded your service quota."),
    "rate_limit": (429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "server": (500, "InternalServerException", "The system encountered an unexpected error during processing."),
    "overloaded": (503, "ServiceUnavailableException", "Too many connections, please wait before trying again."),
}

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "content_filtered",
    "tool_calls": "tool_use",
    "unknown": "malformed_model_output",
}


class Bedrock(Endpoint):
    """Bedrock's errors."""

    protocol = "bedrock"

    def model(self, request: MockRequest) -> str:
        return unquote(request.path.rpartition("/model/")[2].partition("/")[0])

    def trouble(self, trouble: Trouble) -> Made:
        status, name, message = _ERRORS[trouble.kind]
        body = to_json({"message": trouble.message or message})
        return Made(trouble.status or status, body, headers=(("x-amzn-ErrorType", name),))

    def trouble_part(self, trouble: Trouble) -> bytes:
        _, name, message = _ERRORS[trouble.kind]
        kind = name[0].lower() + name[1:]
        headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
        return _message(headers, to_json({"message": trouble.message or message}))


class Converse(Bedrock, Generating):
    """``/model/MODEL/converse`` and ``/model/MODEL/converse-stream``."""

    stream_type = "application/vnd.amazon.eventstream"

    def wrong(self, request: MockRequest) -> str:
        return "" if entries_of(request.body.get("messages")) else "A conversation must start with a user message."

    def streams(self, request: MockRequest) -> bool:
        return request.path.endswith("/converse-stream")

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        wanted = fields_of(fields_of(body.get("outputConfig")).get("textFormat"))
        schema: object = fields_of(fields_of(wanted.get("structure")).get("jsonSchema")).get("schema")
        return cast("Mapping[str, Any]", from_json(schema)) if isinstance(schema, str) else None

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        declared = [
            fields_of(tool.get("toolSpec")) for tool in entries_of(fields_of(body.get("toolConfig")).get("tools"))
        ]
        return {spec["name"]: fields_of(fields_of(spec.get("inputSchema")).get("json")) for spec in declared if spec}

    def forced_tool(self, body: Body) -> str | None:
        choice = fields_of(fields_of(body.get("toolConfig")).get("toolChoice"))
        return next(iter(self.tools(body)), None) if "any" in choice else fields_of(choice.get("tool")).get("name")

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        return {
            "output": {"message": {"role": "assistant", "content": _blocks(request, said)}},
            "stopReason": _stop(said),
            "usage": _usage(usage),
            "metrics": {"latencyMs": 1},
        }

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        made = [_event("messageStart", role="assistant")]
        for index, block in enumerate(_blocks(request, said)):
            deltas: list[dict[str, object]]
            if "reasoningContent" in block:
                shown = block["reasoningContent"]["reasoningText"]
                deltas = [{"reasoningContent": {"text": piece}} for piece in pieces(shown["text"])]
                deltas.append({"reasoningContent": {"signature": shown["signature"]}})
            elif "text" in block:
                deltas = [{"text": piece} for piece in pieces(block["text"])]
            else:
                call = block["toolUse"]
                start = {"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}}
                made.append(_event("contentBlockStart", start=start, contentBlockIndex=index))
                deltas = [{"toolUse": {"input": piece}} for piece in pieces(to_json(call["input"]).decode())]
            made += [_event("contentBlockDelta", delta=delta, contentBlockIndex=index) for delta in deltas]
            made.append(_event("contentBlockStop", contentBlockIndex=index))
        made.append(_event("messageStop", stopReason=_stop(said)))
        return [*made, _event("metadata", usage=_usage(usage), metrics={"latencyMs": 1})]


def _blocks(request: MockRequest, said: LMResponse) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.reasoning:
        shown = {"text": said.reasoning, "signature": f"signature {request.digest[:16]}"}
        blocks.append({"reasoningContent": {"reasoningText": shown}})
    if said.text or not said.tool_calls:
        blocks.append({"text": said.text})
    for call in said.tool_calls:
        use = {"toolUseId": call.id, "name": call.name, "input": from_json(call.arguments)}
        blocks.append({"toolUse": use})
    return blocks


def _stop(said: LMResponse) -> str:
    return "tool_use" if said.tool_calls and said.stop == "stop" else _STOPS[said.stop]


def _usage(usage: Usage) -> object:
    return {
        "inputTokens": usage.input_tokens - usage.cached_tokens - usage.written_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.written_tokens,
    }


def _event(kind: str, **fields: object) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return _message(headers, to_json(fields))


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of the event stream encoding, all of whose headers are strings.

    Source: Amazon Transcribe developer guide, "Event stream encoding".
    """
    said = b"".join(
        b"%c%b\x07%b%b" % (len(name), name.encode(), len(value).to_bytes(2, "big"), value.encode())
        for name, value in headers.items()
    )
    prelude = (len(said) + len(payload) + 16).to_bytes(4, "big") + len(said).to_bytes(4, "big")
    message = prelude + zlib.crc32(prelude).to_bytes(4, "big") + said + payload
    return message + zlib.crc32(message).to_bytes(4, "big")
