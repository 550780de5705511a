"""OpenAI's responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspex.lm.types import LMResponse, Usage
from dspex.testing.protocols.openai import OpenAI, entries_of, fields_of, logprobs_of
from dspex.testing.request import Body, Generating, MockRequest, Trouble, event, pieces

_EMPTY: dict[str, object] = {"content": [], "summary": [], "arguments": "", "status": "in_progress"}
"""What the fields of an item are when it begins."""


class Responses(OpenAI, Generating):
    """``/responses``."""

    def wrong(self, request: MockRequest) -> str:
        return "" if request.body.get("model") else "Missing required parameter: 'model'."

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        wanted = fields_of(fields_of(body.get("text")).get("format"))
        if wanted.get("type") == "json_object":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        return wanted.get("schema")

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        tools = [tool for tool in entries_of(body.get("tools")) if tool.get("type") == "function"]
        return {tool["name"]: fields_of(tool.get("parameters")) for tool in tools}

    def forced_tool(self, body: Body) -> str | None:
        choice = body.get("tool_choice")
        return next(iter(self.tools(body)), None) if choice == "required" else fields_of(choice).get("name")

    def top_logprobs(self, body: Body) -> int | None:
        included: object = body.get("include")
        wanted = isinstance(included, list) and "message.output_text.logprobs" in included
        return int(body.get("top_logprobs") or 0) if wanted else None

    def trouble_part(self, trouble: Trouble) -> bytes:
        message = trouble.message or "The server had an error while processing your request."
        error = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 0}
        return event(error, "error")

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> dict[str, object]:
        ended = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(said.stop)
        return {
            **_frame(request, said),
            "status": "incomplete" if ended else "completed",
            "completed_at": 0,
            "incomplete_details": {"reason": ended} if ended else None,
            "output": _items(request, said),
            "usage": _usage(usage),
        }

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        whole = self.whole(request, said, usage)
        begun: dict[str, object] = {**_frame(request, said), "status": "in_progress", "output": [], "usage": None}
        events: list[dict[str, object]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for index, item in enumerate(_items(request, said)):
            at = {"output_index": index}
            opened = {name: _EMPTY.get(name, value) for name, value in item.items()}
            events.append({"type": "response.output_item.added", **at, "item": opened})
            events += _inner(item, {"item_id": item["id"], **at})
            events.append({"type": "response.output_item.done", **at, "item": item})
        events.append({"type": f"response.{whole['status']}", "response": whole})
        return [
            event({**fields, "sequence_number": number}, str(fields["type"])) for number, fields in enumerate(events)
        ]


def _inner(item: dict[str, Any], at: dict[str, object]) -> list[dict[str, object]]:
    """The events between the beginning and the end of one item."""
    if item["type"] == "function_call":
        name = "response.function_call_arguments"
        deltas = [{"type": f"{name}.delta", **at, "delta": piece} for piece in pieces(item["arguments"])]
        return [*deltas, {"type": f"{name}.done", **at, "name": item["name"], "arguments": item["arguments"]}]
    if item["type"] == "reasoning":
        text, name = item["summary"][0]["text"], "response.reasoning_summary_text"
        at = {**at, "summary_index": 0}
        deltas = [{"type": f"{name}.delta", **at, "delta": piece} for piece in pieces(text)]
        part, empty = {"type": "summary_text", "text": text}, {"type": "summary_text", "text": ""}
        return [
            {"type": "response.reasoning_summary_part.added", **at, "part": empty},
            *deltas,
            {"type": f"{name}.done", **at, "text": text},
            {"type": "response.reasoning_summary_part.done", **at, "part": part},
        ]
    part, name = item["content"][0], "response.output_text"
    at = {**at, "content_index": 0}
    each: list[tuple[str, list[object]]] = [(piece, []) for piece in pieces(part["text"])]
    if part["logprobs"]:
        each = [(logprob["token"], [logprob]) for logprob in part["logprobs"]]
    return [
        {"type": "response.content_part.added", **at, "part": {**part, "text": "", "logprobs": []}},
        *({"type": f"{name}.delta", **at, "delta": piece, "logprobs": logprobs} for piece, logprobs in each),
        {"type": f"{name}.done", **at, "text": part["text"], "logprobs": part["logprobs"]},
        {"type": "response.content_part.done", **at, "part": part},
    ]


def _frame(request: MockRequest, said: LMResponse) -> dict[str, object]:
    body = request.body
    return {
        "id": f"resp_{request.digest[:20]}",
        "object": "response",
        "created_at": 0,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "model": said.model or request.model,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "temperature": body.get("temperature", 1.0),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "max_output_tokens": body.get("max_output_tokens"),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": fields_of(body.get("reasoning")).get("effort"), "summary": None},
        "store": body.get("store", True),
        "text": body.get("text") or {"format": {"type": "text"}},
        "truncation": "disabled",
    }


def _items(request: MockRequest, said: LMResponse) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if said.reasoning:
        summary = [{"type": "summary_text", "text": said.reasoning}]
        thought: dict[str, Any] = {"id": f"rs_{request.digest[:20]}", "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (request.body.get("include") or ()):
            thought["encrypted_content"] = f"encrypted {request.digest[:16]}"
        items.append(thought)
    if said.text or not said.tool_calls:
        text = {
            "type": "output_text",
            "text": said.text,
            "annotations": [],
            "logprobs": logprobs_of(said.logprobs or ()),
        }
        status = "completed" if said.stop != "length" else "incomplete"
        message = {"id": f"msg_{request.digest[:20]}", "type": "message", "status": status, "role": "assistant"}
        items.append({**message, "content": [text]})
    for number, call in enumerate(said.tool_calls):
        items.append(
            {
                "id": f"fc_{request.digest[:20]}_{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }
        )
    return items


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.written_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
