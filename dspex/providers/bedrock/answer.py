"""Bedrock's Converse format: an answer, or the events of a stream, as a response.

Source: AWS, Amazon Bedrock Runtime API reference, "Converse" and "ConverseStream".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from dspex.lm.types import Delta, LMResponse, RateLimits, Stop, ToolCall, Usage
from dspex.providers.bedrock.request import STATE
from dspex.providers.reading import CallParts, arguments_in, count, input_of, state_of, text_of

_STOPS: dict[object, Stop] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def answer(data: Mapping[str, Any], limits: RateLimits | None = None) -> LMResponse:
    """The response that a whole answer means; an enforced choice is still wrapped.

    Args:
        data: As the API gives it.
        limits: What the headers told.

    Raises:
        MALFORMED: it is no answer of this format.
    """
    content = cast("list[dict[str, Any]]", data["output"]["message"]["content"])
    text: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    plain = True
    for block in content:
        if "text" in block:
            text.append(block["text"])
        elif "toolUse" in block:
            use = block["toolUse"]
            calls.append(ToolCall(text_of(use["toolUseId"]), text_of(use["name"]), arguments_in(use["input"])))
        elif "citationsContent" in block:
            text += [part["text"] for part in block["citationsContent"].get("content", ())]
        else:
            plain = False
            thoughts.append(block.get("reasoningContent", {}).get("reasoningText", {}).get("text", ""))
    return LMResponse(
        "".join(text),
        _usage(data.get("usage")),
        _STOPS.get(data["stopReason"], "unknown"),
        tool_calls=tuple(calls),
        reasoning="".join(thoughts),
        state="" if plain else state_of(STATE, content),
        limits=limits,
    )


def _usage(data: object) -> Usage | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    cached = count(fields, "cacheReadInputTokens")
    written = count(fields, "cacheWriteInputTokens")
    # What the cache read and wrote stands beside inputTokens, not inside.
    return Usage(
        count(fields, "inputTokens") + cached + written,
        count(fields, "outputTokens"),
        cached,
        written_tokens=written,
    )


class Assembly:
    """Puts the events of a stream together to the answer that the same request without streaming gets."""

    def __init__(self) -> None:
        self.ended = False
        self._blocks: dict[int, dict[str, list[str]]] = {}
        self._uses: dict[int, dict[str, Any]] = {}
        self._redacted: dict[int, bytes] = {}
        self._calls = CallParts()
        self._data: dict[str, Any] = {}

    def feed(self, kind: str, event: Mapping[str, Any]) -> Delta | None:
        """What an event adds to the answer; None where it adds nothing that shows.

        Raises:
            MALFORMED: it is no event of this format.
        """
        if kind == "contentBlockDelta":
            block: int = event["contentBlockIndex"]
            parts = self._blocks.setdefault(block, {})
            delta = event["delta"]
            if "text" in delta:
                text = text_of(delta["text"])
                parts.setdefault("text", []).append(text)
                return Delta(text)
            if "toolUse" in delta:
                text = text_of(delta["toolUse"]["input"])
                parts.setdefault("input", []).append(text)
                return self._calls.more(block, text)
            if "reasoningContent" in delta:
                thought = delta["reasoningContent"]
                for key, value in thought.items():
                    if key == "redactedContent":
                        self._redacted[block] = self._redacted.get(block, b"") + base64.b64decode(value)
                    else:
                        parts.setdefault(f"reasoning.{key}", []).append(text_of(value))
                return Delta(reasoning=thought.get("text", ""))
        elif kind == "contentBlockStart":
            block = event["contentBlockIndex"]
            self._blocks.setdefault(block, {})
            if "toolUse" in event["start"]:
                use = self._uses[block] = dict(event["start"]["toolUse"])
                return self._calls.begin(block, use["toolUseId"], use["name"])
        elif kind == "contentBlockStop":
            return self._calls.end(event["contentBlockIndex"])
        elif kind == "messageStop":
            self._data["stopReason"] = event["stopReason"]
            self.ended = True
        elif kind == "metadata":
            self._data["usage"] = event["usage"]
        return None

    def answer(self) -> dict[str, Any]:
        """The whole answer."""
        content = [self._block(index) for index in self._blocks]
        return {**self._data, "output": {"message": {"content": content}}}

    def _block(self, index: int) -> dict[str, Any]:
        parts = {key: "".join(pieces) for key, pieces in self._blocks[index].items()}
        if index in self._uses:
            return {"toolUse": {**self._uses[index], "input": input_of(parts.get("input", ""))}}
        if index in self._redacted:
            return {"reasoningContent": {"redactedContent": base64.b64encode(self._redacted[index]).decode()}}
        if "reasoning.text" in parts or "reasoning.signature" in parts:
            said = {"text": parts.get("reasoning.text", "")}
            if "reasoning.signature" in parts:
                said["signature"] = parts["reasoning.signature"]
            return {"reasoningContent": {"reasoningText": said}}
        return {"text": parts.get("text", "")}
