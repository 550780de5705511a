"""JSON as stores write it, and answers of models in that form.

pydantic-core's reader and writer are about five times faster than the standard library's, but refuse the lone
surrogates that a model's answer may hold; such texts take the slower way, escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import pydantic_core

from dspex.lm.types import LMResponse, Stop, TokenLogprob, ToolCall, Usage
from dspex.telemetry.events import Json

__all__ = ["dumps", "loads", "response_from_json", "response_to_json"]


def dumps(value: Json) -> str:
    """`value` as compact JSON text.

    Raises:
        ValueError: it holds something that JSON cannot.
    """
    try:
        return pydantic_core.to_json(value).decode()
    except ValueError:
        try:
            return json.dumps(value, separators=(",", ":"))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error


def loads(data: str | bytes) -> Json:
    """The value that `dumps` wrote.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return cast(Json, pydantic_core.from_json(data))
    except ValueError:
        return cast(Json, json.loads(data))


def response_to_json(response: LMResponse) -> dict[str, Json]:
    """A response as a JSON object; fields at their default are left out."""
    body: dict[str, Json] = {"text": response.text}
    usage = response.usage
    if usage is not None:
        body["usage"] = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            usage.written_tokens,
        )
    if response.stop != "stop":
        body["stop"] = response.stop
    if response.model:
        body["model"] = response.model
    if response.choice_logprobs is not None:
        body["logprobs"] = response.choice_logprobs
    if response.tool_calls:
        body["tool_calls"] = [[call.id, call.name, call.arguments] for call in response.tool_calls]
    if response.reasoning:
        body["reasoning"] = response.reasoning
    if response.logprobs is not None:
        body["tokens"] = [[one.token, one.logprob, one.top] for one in response.logprobs]
    if response.state:
        body["state"] = response.state
    return body


def response_from_json(value: Json) -> LMResponse:
    """The response that `response_to_json` wrote.

    Raises:
        ValueError: `value` is not of that shape (redacted content, for one).
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"not a stored response: {value!r:.80}")
    try:
        usage = cast("list[int] | None", value.get("usage"))
        logprobs = cast("list[float] | None", value.get("logprobs"))
        tokens = cast("list[tuple[str, float, list[tuple[str, float]]]] | None", value.get("tokens"))
        text = value["text"]
        if not isinstance(text, str):
            raise ValueError(f"not a stored response: its text is {text!r:.80}")
        return LMResponse(
            text,
            None if usage is None else Usage(*usage),
            cast(Stop, value.get("stop", "stop")),
            cast(str, value.get("model", "")),
            None if logprobs is None else tuple(logprobs),
            tuple(ToolCall(*call) for call in cast("list[list[str]]", value.get("tool_calls", ()))),
            cast(str, value.get("reasoning", "")),
            None if tokens is None else tuple(_token(one) for one in tokens),
            cast(str, value.get("state", "")),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a stored response: {error}") from error


def _token(stored: tuple[str, float, list[tuple[str, float]]]) -> TokenLogprob:
    token, logprob, top = stored
    return TokenLogprob(token, logprob, tuple((other, value) for other, value in top))
