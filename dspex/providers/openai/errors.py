"""Errors as OpenAI and compatible servers put them: in bodies, inside a 200, and in the middle of a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from pydantic_core import to_json

from dspex.errors import LMError
from dspex.providers.http import Client, Words, words
from dspex.providers.transport import Reply

_TOO_LONG = re.compile(
    r"maximum context length|exceed_context_size|available context size|context (?:window|length) (?:is )?exceeded"
    r"|exceeds? the (?:model's )?context|maximum input length|too large for model with \d+ maximum",
    re.IGNORECASE,
)
_FILTERED = {"content_filter", "content_policy_violation", "moderation_blocked", "ResponsibleAIPolicyViolation"}
_STATUSES = {
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "tokens": 429,
    "requests": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
}
_REJECTED = re.compile(r"^invalid_|_policy$|_policy_violation$|image|^content_filter$|_mismatch$")


def read_words(body: bytes) -> Words:
    """The words of an error body, the names that related servers give alike translated to one kind."""
    said = words(body)
    # OpenRouter tells by a field of its own.
    if said.kind in _FILTERED or said.kind.endswith(("_policy", "_policy_violation")) or b'"flagged_input"' in body:
        return Words("content_filter", said.message)
    # Servers other than OpenAI's tell this in their message or type alone.
    if said.kind != "context_length_exceeded" and _TOO_LONG.search(f"{said.kind} {said.message[:2000]}"):
        return Words("context_length_exceeded", said.message)
    return said


def error_of(answer: Mapping[str, object]) -> dict[str, object] | None:
    """The error that an answer of status 200, or a part of a stream, is; None for an answer."""
    found = answer.get("error")
    if isinstance(found, str) and found:
        return {"message": found}
    if isinstance(found, dict) and found:
        return cast("dict[str, object]", found)
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        choice = cast("dict[str, object]", choices[0])
        inner = choice.get("error")
        if isinstance(inner, dict) and inner:
            return cast("dict[str, object]", inner)
        if choice.get("finish_reason") == "error":
            return {"message": "the model failed while it generated"}
    return None


def failure(client: Client, error: Mapping[str, object], headers: Mapping[str, str], url: str) -> LMError:
    """The coded error of what `error_of` found; its status is the one that it names, else that of its kind."""
    code, kind = error.get("code"), error.get("type")
    status = 500
    for name in (code, kind):
        number = int(name) if isinstance(name, str) and name.isdigit() and len(name) == 3 else name
        if isinstance(number, int) and 400 <= number <= 599:
            status = number
            break
        if isinstance(name, str) and (name in _STATUSES or _REJECTED.search(name)):
            status = _STATUSES.get(name, 400)
            break
    return client.refusal(Reply(status, headers, to_json({"error": dict(error)})), url)
