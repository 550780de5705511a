"""What Gemini answers: the parts of an answer or of a stream as a response, and the words of its errors.

Source: Google, "Gemini API reference": GenerateContentResponse; "Thought signatures"; google.rpc error details.
"""

from __future__ import annotations

import re
from typing import Any, cast

from pydantic_core import from_json

from dspex.lm.types import Delta, LMResponse, RateLimits, Stop, TokenLogprob, ToolCall, Usage, whole_calls
from dspex.providers.gemini.request import STATE
from dspex.providers.http import Words, words
from dspex.providers.reading import MALFORMED, arguments_in, count, state_of, text_of

_STOPS: dict[object, Stop] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "ESCALATION": "content_filter",
}

_PAUSE = re.compile(r"(\d+(?:\.\d+)?)s")


class Assembly:
    """What the parts of an answer add up to: one part of a whole answer, many of a stream.

    Attributes:
        began: Whether an answer came, be it empty.
        finish: Why it ended, in the server's word; None while it has not.
        blocked: Why the prompt was refused, ``""`` where it was not.
    """

    def __init__(self) -> None:
        self.began = False
        self.finish: str | None = None
        self.blocked = ""
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._usage: Usage | None = None
        self._model = ""
        self._parts: list[dict[str, Any]] = []
        self._stateful = False

    @property
    def ended(self) -> bool:
        return self.finish is not None or bool(self.blocked)

    def add(self, data: dict[str, Any]) -> Delta:
        """Take a part in; what of it is visible.

        Raises:
            MALFORMED: it has another shape.
        """
        if data.get("usageMetadata") is not None:
            self._usage = usage_of(data["usageMetadata"])
        if data.get("modelVersion"):
            self._model = str(data["modelVersion"])
        if not data.get("candidates"):
            feedback: dict[str, Any] = data.get("promptFeedback") or {}
            self.blocked = str(feedback.get("blockReasonMessage") or feedback.get("blockReason") or self.blocked)
            return Delta()
        candidate: dict[str, Any] = data["candidates"][0]
        self.began = True
        self.finish = text_of(candidate.get("finishReason") or "") or self.finish
        content: dict[str, Any] = candidate.get("content") or {}
        text = reasoning = ""
        known = len(self._calls)
        for part in cast("list[dict[str, Any]]", content.get("parts") or []):
            said = text_of(part.get("text", ""))
            if part.get("thought"):
                reasoning += said
            else:
                text += said
            self._keep(part)
        if text:
            self._texts.append(text)
        if reasoning:
            self._thoughts.append(reasoning)
        if candidate.get("logprobsResult"):
            self._logprobs = (self._logprobs or []) + _logprobs(candidate["logprobsResult"])
        return Delta(text, reasoning, calls=whole_calls(tuple(self._calls))[known:])

    def _keep(self, part: dict[str, Any]) -> None:
        signed = "thoughtSignature" in part
        call = part.get("functionCall")
        if call is not None:
            known: object = call.get("id")
            name = f"call_{len(self._calls)}" if known is None else str(known)
            self._calls.append(ToolCall(name, str(call["name"]), arguments_in(call.get("args") or {})))
            self._stateful |= known is not None
        if signed or not part.get("thought"):
            self._stateful |= signed
            self._parts.append(part)

    def response(self, limits: RateLimits | None) -> LMResponse:
        """The whole answer; an enforced choice is still spelled as JSON."""
        stop = _STOPS.get(self.finish, "unknown")
        return LMResponse(
            "".join(self._texts),
            self._usage,
            "tool_calls" if self._calls and stop == "stop" else stop,
            self._model,
            tool_calls=tuple(self._calls),
            reasoning="".join(self._thoughts),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            state=self._state(),
            limits=limits,
        )

    def _state(self) -> str:
        """The parts that the server wants back: all but unsigned thoughts; ``""`` where the text says everything."""
        if not self._stateful:
            return ""
        parts: list[dict[str, Any]] = []
        for part in self._parts:
            # How a stream was cut is no part of the answer; a signed part stays what it is.
            if part.keys() == {"text"} and parts and parts[-1].keys() == {"text"}:
                parts[-1] = {"text": parts[-1]["text"] + part["text"]}
            elif part != {"text": ""}:
                parts.append(part)
        return state_of(STATE, parts)


def usage_of(data: object) -> Usage | None:
    """The tokens that ``usageMetadata`` counts; hidden reasoning is output.

    Raises:
        AttributeError, ValueError: it has another shape.
    """
    if data is None:
        return None
    fields = cast("dict[str, object]", data)
    thoughts = count(fields, "thoughtsTokenCount")
    return Usage(
        count(fields, "promptTokenCount") + count(fields, "toolUsePromptTokenCount"),
        count(fields, "candidatesTokenCount") + thoughts,
        count(fields, "cachedContentTokenCount"),
        thoughts,
    )


def _logprobs(result: dict[str, Any]) -> list[TokenLogprob]:
    tops = [
        tuple((str(one["token"]), float(one["logProbability"])) for one in entry.get("candidates") or ())
        for entry in result.get("topCandidates") or ()
    ]
    return [
        TokenLogprob(str(one["token"]), float(one["logProbability"]), tops[index] if index < len(tops) else ())
        for index, one in enumerate(result.get("chosenCandidates") or ())
    ]


def read_words(body: bytes) -> Words:
    """The words of an error body, whose kind and pause are told in details and in prose."""
    said = words(body)
    kind, wait = said.kind, None
    for detail in _details(body):
        if detail.get("reason") in ("API_KEY_INVALID", "API_KEY_EXPIRED"):
            kind = "invalid_api_key"
        pause = _PAUSE.fullmatch(str(detail.get("retryDelay")))
        if pause:
            wait = float(pause[1])
        for violation in cast("list[object]", detail.get("violations") or []):
            # What a day allows is used up, and no pause within a call's life fills it.
            if isinstance(violation, dict) and "PerDay" in str(cast("dict[str, object]", violation).get("quotaId")):
                kind = "insufficient_quota"
    if "exceeds the maximum number of tokens" in said.message:
        kind = "context_length_exceeded"
    return Words(kind, said.message, wait)


def _details(body: bytes) -> list[dict[str, object]]:
    try:
        data: object = from_json(body)
        first = cast("list[object]", data)[0] if isinstance(data, list) else data
        details = cast("dict[str, dict[str, list[object]]]", first)["error"]["details"]
        return [cast("dict[str, object]", detail) for detail in details if isinstance(detail, dict)]
    except MALFORMED:
        # Prose alone, from the server or from a gateway before it.
        return []
