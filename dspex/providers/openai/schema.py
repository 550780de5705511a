"""Schemas as OpenAI and compatible servers enforce them while they generate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from pydantic_core import from_json, to_json

from dspex.lm.types import LMRequest
from dspex.providers.asking import choice_object


def response_format(request: LMRequest) -> object:
    """The ``response_format`` of a chat completion for a server that enforces choices and schemas; None for none."""
    form = enforced_format(request.choices, request.json_schema)
    return None if form is None else from_json(form)


@lru_cache(maxsize=512)
def enforced_format(choices: tuple[str, ...], json_schema: str | None) -> bytes | None:
    """The ``response_format`` of a chat completion as JSON text, or None for free text."""
    named = named_schema(choices, json_schema)
    return None if named is None else b'{"type":"json_schema","json_schema":' + named + b"}"


@lru_cache(maxsize=512)
def named_schema(choices: tuple[str, ...], json_schema: str | None) -> bytes | None:
    """Name, schema and strictness of what an answer must be, as JSON text, or None for free text.

    A schema that cannot be said in the strict dialect is sent as it is, for the server to do what it can.
    """
    if choices:
        return to_json({"name": "choice", "schema": choice_object(choices), "strict": True})
    if json_schema is None:
        return None
    schema = cast("dict[str, object]", from_json(json_schema))
    strict = strict_schema(schema)
    return to_json({"name": "output", "schema": strict or schema, "strict": strict is not None})


def strict_schema(schema: Mapping[str, object]) -> dict[str, object] | None:
    """`schema` in OpenAI's strict dialect, or None when it cannot be said there.

    Every object is closed and all its fields are required; defaults are dropped. An object with free keys has no
    strict form.
    """
    try:
        return cast("dict[str, object]", _strict(schema))
    except ValueError:
        return None


def _strict(node: object) -> object:
    if isinstance(node, list):
        return [_strict(item) for item in cast("list[object]", node)]
    if not isinstance(node, Mapping):
        return node
    fields = cast("Mapping[str, object]", node)
    out: dict[str, object] = {}
    for key, value in fields.items():
        if key == "default":
            continue
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            # The keys in here are names, not keywords.
            out[key] = {name: _strict(inner) for name, inner in cast("Mapping[str, object]", value).items()}
        elif key in ("enum", "const", "required"):
            out[key] = value
        else:
            out[key] = _strict(value)
    if fields.get("type") == "object" or "properties" in fields:
        if fields.get("additionalProperties") not in (None, False) or "properties" not in fields:
            raise ValueError("free keys")
        out["additionalProperties"] = False
        out["required"] = list(cast("Mapping[str, object]", fields["properties"]))
    return out
