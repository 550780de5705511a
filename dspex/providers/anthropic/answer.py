"""Anthropic's Messages format: an answer, or the events of a stream, as a response.

Source: Anthropic, Messages API reference, "Create a message" and "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dspex.lm.types import Delta, LMResponse, RateLimits, Stop, ToolCall, Usage
from dspex.providers.anthropic.request import STATE
from dspex.providers.reading import CallParts, arguments_in, count, input_of, state_of, text_of

_STOPS: dict[object, Stop] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_PLAIN = ("text", "tool_use")
"""Blocks that a `Message` says in full; any other has to go back to the provider as it came."""


def answer(message: Mapping[str, Any], limits: RateLimits | None = None) -> LMResponse:
    """The response that a whole message means; an enforced choice is still wrapped.

    Args:
        message: As the API gives it.
        limits: What the headers told.

    Raises:
        MALFORMED: it is no message of this format.
    """
    content = cast("list[dict[str, Any]]", message["content"])
    text: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    plain = True
    for block in content:
        kind = block["type"]
        if kind == "text":
            text.append(block["text"])
        elif kind == "tool_use":
            calls.append(ToolCall(text_of(block["id"]), text_of(block["name"]), arguments_in(block["input"])))
        elif kind == "thinking":
            thoughts.append(block["thinking"])
        plain = plain and kind in _PLAIN
    model: object = message.get("model")
    return LMResponse(
        "".join(text),
        _usage(message.get("usage")),
        _STOPS.get(message.get("stop_reason"), "unknown"),
        model if isinstance(model, str) else "",
        tool_calls=tuple(calls),
        reasoning="".join(thoughts),
        state="" if plain else state_of(STATE, content),
        limits=limits,
    )


def _usage(data: object) -> Usage | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    cached = count(fields, "cache_read_input_tokens")
    written = count(fields, "cache_creation_input_tokens")
    # What the cache read and wrote stands beside input_tokens, not inside.
    return Usage(
        count(fields, "input_tokens") + cached + written,
        count(fields, "output_tokens"),
        cached,
        count(fields.get("output_tokens_details"), "thinking_tokens"),
        written,
    )


class Assembly:
    """Puts the events of a stream together to the message that the same request without streaming gets."""

    def __init__(self) -> None:
        self.ended = False
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, tuple[dict[str, Any], dict[str, list[str]]]] = {}
        self._calls = CallParts()

    def feed(self, event: Mapping[str, Any]) -> Delta | None:
        """What an event adds to the answer; None where it adds nothing that shows.

        Raises:
            MALFORMED: it is no event of this format.
        """
        kind = event["type"]
        if kind == "content_block_delta":
            block, parts = self._blocks[event["index"]]
            delta = event["delta"]
            if delta["type"] == "text_delta":
                text = text_of(delta["text"])
                parts.setdefault("text", []).append(text)
                return Delta(text)
            if delta["type"] == "thinking_delta":
                text = text_of(delta["thinking"])
                parts.setdefault("thinking", []).append(text)
                return Delta(reasoning=text)
            if delta["type"] == "input_json_delta":
                text = text_of(delta["partial_json"])
                parts.setdefault("input", []).append(text)
                return self._calls.more(event["index"], text)
            if delta["type"] == "signature_delta":
                parts.setdefault("signature", []).append(text_of(delta["signature"]))
            elif delta["type"] == "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind == "content_block_start":
            block = dict(event["content_block"])
            self._blocks[event["index"]] = (block, {})
            if block["type"] == "tool_use":
                return self._calls.begin(event["index"], block["id"], block["name"])
            # Here these are empty, except with servers that begin with what they have.
            return Delta(text_of(block.get("text") or ""), text_of(block.get("thinking") or ""))
        elif kind == "content_block_stop":
            block, _ = self._blocks[event["index"]]
            return self._calls.end(event["index"], arguments_in(block.get("input") or {}))
        elif kind == "message_start":
            self._message = dict(event["message"])
        elif kind == "message_delta":
            self._message.update(event["delta"])
            usage: dict[str, Any] = event.get("usage") or {}
            told = {key: value for key, value in usage.items() if value is not None}
            self._message["usage"] = {**(self._message.get("usage") or {}), **told}
        elif kind == "message_stop":
            self.ended = True
        return None

    def message(self) -> dict[str, Any]:
        """The whole message."""
        content: list[dict[str, Any]] = []
        for block, parts in self._blocks.values():
            for key, pieces in parts.items():
                whole = "".join(pieces)
                block[key] = input_of(whole) if key == "input" else str(block.get(key) or "") + whole
            content.append(block)
        return {**self._message, "content": content}
