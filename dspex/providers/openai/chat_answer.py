"""Chat completions: a body, or the chunks of a stream, as an answer.

Source: OpenAI API reference, "Chat", "The chat completion object", "The chat completion chunk object"; "Completions".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dspex.lm.types import CallDelta, Delta, LMResponse, Stop, TokenLogprob, ToolCall, Usage
from dspex.providers.openai.chat_request import STATE, Dialect
from dspex.providers.reading import arguments_in, count, state_of, text_of, token_logprob

_STOPS: dict[object, Stop] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def answer(data: Mapping[str, Any], dialect: Dialect, raw: bool, wanted: bool) -> LMResponse:
    """The answer that the JSON object `data` is; an enforced choice is still inside its object.

    Args:
        data: As the server gives it.
        dialect: How the server says it.
        raw: It continues a raw prompt.
        wanted: Log-probabilities were asked for.

    Raises:
        MALFORMED: it has another shape.
    """
    choice: dict[str, Any] = data["choices"][0]
    stop = _STOPS.get(choice.get("finish_reason"), "unknown")
    usage = usage_of(data.get("usage"))
    model: object = data.get("model")
    name = model if isinstance(model, str) else ""
    if raw:
        logprobs = _raw_logprobs(choice.get("logprobs")) if wanted else None
        return LMResponse(text_of(choice["text"]), usage, stop, name, logprobs=logprobs)
    message: dict[str, Any] = choice["message"]
    content: object = message["content"] if "tool_calls" not in message else message.get("content")
    reasoning: object = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(content, list):
        content, thought = parts_of(cast("list[dict[str, Any]]", content))
        reasoning = reasoning or thought
    if content is None:
        refusal: object = message.get("refusal")
        content = refusal if isinstance(refusal, str) else ""
        stop = "content_filter" if refusal else stop
    found: object = message.get("tool_calls")
    calls = tuple(_call(call) for call in cast("list[dict[str, Any]]", found)) if found else ()
    logprobs = _logprobs(choice.get("logprobs")) if wanted else None
    kept = {field: message[field] for field in dialect.kept if message.get(field)}
    return LMResponse(
        text_of(content),
        usage,
        "tool_calls" if calls and stop == "stop" else stop,
        name,
        tool_calls=calls,
        reasoning=text_of(reasoning),
        logprobs=logprobs,
        state=state_of(STATE, kept) if kept else "",
    )


def parts_of(parts: list[dict[str, Any]]) -> tuple[str, str]:
    """Text and reasoning of content in parts."""
    text, thought = "", ""
    for part in parts:
        if part.get("type") == "text":
            text += part["text"]
        elif part.get("type") == "thinking":
            inner: object = part["thinking"]
            thought += inner if isinstance(inner, str) else parts_of(cast("list[dict[str, Any]]", inner))[0]
    return text, thought


def _call(call: dict[str, Any]) -> ToolCall:
    named = call["function"]
    # Some servers send the arguments as an object.
    return ToolCall(text_of(call["id"]), text_of(named["name"]), arguments_in(named["arguments"]))


def _logprobs(data: object) -> tuple[TokenLogprob, ...] | None:
    content: object = cast("dict[str, object]", data).get("content") if isinstance(data, dict) else None
    if content is None:
        return None
    return tuple(token_logprob(entry) for entry in cast("list[dict[str, Any]]", content))


def _raw_logprobs(data: object) -> tuple[TokenLogprob, ...] | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, Any]", data)
    tokens: list[str] = fields["tokens"]
    tops: list[dict[str, float] | None] = fields.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(text_of(token), float(logprob), tuple((top or {}).items()))
        for token, logprob, top in zip(tokens, fields["token_logprobs"], tops, strict=True)
    )


def usage_of(data: object) -> Usage | None:
    """Tokens of ``usage``, or None when there is none.

    Raises:
        ValueError: a figure is no count.
    """
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    prompt = fields.get("prompt_tokens_details")
    # DeepSeek's own name stands beside or instead of OpenAI's.
    cached = count(prompt, "cached_tokens") or count(fields, "prompt_cache_hit_tokens")
    return Usage(
        count(fields, "prompt_tokens"),
        count(fields, "completion_tokens"),
        cached,
        count(fields.get("completion_tokens_details"), "reasoning_tokens"),
        count(prompt, "cache_write_tokens"),
    )


@dataclass(slots=True)
class _Call:
    """A tool call as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


class Assembly:
    """Puts the chunks of a stream together to the body that would have come in one piece.

    Attributes:
        begun: Whether any of it has come.
    """

    def __init__(self, raw: bool, dialect: Dialect) -> None:
        self._raw = raw
        self._kept = dialect.kept
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}
        self._tokens: list[Any] = []
        self._raw_tokens: dict[str, list[Any]] = {}
        self._details: list[dict[str, Any]] = []
        self._finish: object = None
        self._usage: object = None
        self._model: object = None
        self.begun = False

    def add(self, chunk: Mapping[str, Any]) -> Delta | None:
        """Take in a chunk; what of it is visible, or None.

        Raises:
            MALFORMED: it has another shape.
        """
        self._model = chunk.get("model") or self._model
        self._usage = chunk.get("usage") or self._usage
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not choices:
            return None
        choice = choices[0]
        self.begun = True
        self._finish = choice.get("finish_reason") or self._finish
        if self._raw:
            raw: dict[str, list[Any] | None] = choice.get("logprobs") or {}
            for name, values in raw.items():
                self._raw_tokens.setdefault(name, []).extend(values or ())
            text = text_of(choice.get("text") or "")
            self._text.append(text)
            return Delta(text) if text else None
        logprobs: dict[str, list[Any] | None] | None = choice.get("logprobs")
        if logprobs:
            self._tokens += logprobs.get("content") or ()
        delta: dict[str, Any] = choice.get("delta") or {}
        content: object = delta.get("content") or ""
        thought: object = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if isinstance(content, list):
            content, inner = parts_of(cast("list[dict[str, Any]]", content))
            thought = thought or inner
        text, reasoning, refusal = text_of(content), text_of(thought), text_of(delta.get("refusal") or "")
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        if refusal:
            self._refusal.append(refusal)
        pieces: list[dict[str, Any]] = delta.get("tool_calls") or []
        calls = tuple([self._call(place, piece) for place, piece in enumerate(pieces)]) if pieces else ()
        if "reasoning_details" in self._kept:
            for detail in delta.get("reasoning_details") or ():
                self._detail(detail)
        visible = text or ("" if self._text else refusal)
        return Delta(visible, reasoning, calls=calls) if visible or reasoning or calls else None

    def _call(self, place: int, piece: Mapping[str, Any]) -> CallDelta:
        index = piece.get("index")
        index = place if index is None else int(index)
        named: dict[str, Any] = piece.get("function") or {}
        call_id, name = text_of(piece.get("id") or ""), text_of(named.get("name") or "")
        given: object = named.get("arguments")
        arguments = "" if given is None else arguments_in(given)
        at = self._places.get(index)
        # Some servers give all calls the same index.
        if at is None or (call_id and name and self._calls[at].id not in ("", call_id)):
            at = self._places[index] = len(self._calls)
            self._calls.append(_Call())
        call = self._calls[at]
        # Some servers repeat it in each piece.
        call_id = "" if call.id else call_id
        call.id += call_id
        call.name += name
        call.arguments.append(arguments)
        return CallDelta(at, call_id, name, arguments)

    def _detail(self, detail: dict[str, Any]) -> None:
        last = self._details[-1] if self._details else {}
        if any(last.get(key) != detail.get(key) for key in ("type", "index")):
            self._details.append(dict(detail))
            return
        for key, value in detail.items():
            grows = key in ("text", "summary") and isinstance(last.get(key), str) and isinstance(value, str)
            last[key] = last[key] + value if grows else value if value is not None else last.get(key)

    def completion(self) -> dict[str, Any]:
        """The body, for `answer`."""
        choice: dict[str, Any] = {"finish_reason": self._finish}
        if self._raw:
            choice |= {"text": "".join(self._text), "logprobs": self._raw_tokens or None}
        else:
            text, refusal = "".join(self._text), "".join(self._refusal)
            message: dict[str, Any] = {
                "content": None if refusal and not text else text,
                "refusal": refusal or None,
                "reasoning": "".join(self._reasoning),
            }
            if self._calls:
                message["tool_calls"] = [
                    {"id": call.id, "function": {"name": call.name, "arguments": "".join(call.arguments)}}
                    for call in self._calls
                ]
            if "reasoning_content" in self._kept:
                message["reasoning_content"] = message["reasoning"]
            if self._details:
                message["reasoning_details"] = self._details
            choice |= {"message": message, "logprobs": {"content": self._tokens or None}}
        return {"model": self._model, "choices": [choice], "usage": self._usage}
