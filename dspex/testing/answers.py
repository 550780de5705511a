"""What the mock server says: pure functions of the request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic_core import to_json

from dspex.lm.types import LMResponse, ToolCall
from dspex.testing.request import Answer, MockRequest


def _pick(digest: str, salt: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{digest}:{salt}".encode()).digest()[:8], "big") % size


def choose_fields(fields: Mapping[str, Sequence[object]]) -> Answer:
    """An answer that gives each field one of its values, chosen by a hash of the request."""

    def answer(request: MockRequest) -> Mapping[str, object]:
        return {name: values[_pick(request.digest, name, len(values))] for name, values in fields.items()}

    return answer


def default_answer(request: MockRequest) -> str | Mapping[str, object] | LMResponse:
    """Fits what the request demands, chosen by a hash of it.

    A call of the tool that has to be called, else JSON of the schema that is enforced, else a short text.
    """
    tool = request.forced_tool
    if tool is not None:
        made = instance(request.tools.get(tool, {}), request.digest)
        call = ToolCall(f"call_{request.digest[:12]}", tool, to_json(made).decode())
        return LMResponse("", stop="tool_calls", tool_calls=(call,))
    schema = request.schema
    if schema is not None:
        made = instance(schema, request.digest)
        return cast("Mapping[str, object]", made) if isinstance(made, dict) else to_json(made).decode()
    return f"answer {request.digest[:12]}"


def instance(schema: Mapping[str, Any], digest: str) -> object:
    """A value that fits `schema`, chosen by `digest`."""
    return _instance(schema, schema, digest, "$")


def _instance(schema: Mapping[str, Any], root: Mapping[str, Any], digest: str, path: str) -> object:
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return _instance(target, root, digest, path)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][_pick(digest, path, len(schema["enum"]))]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _instance(schema[key][0], root, digest, path)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = cast("Mapping[str, Any]", schema.get("properties", {}))
        return {name: _instance(inner, root, digest, f"{path}.{name}") for name, inner in properties.items()}
    if kind == "array":
        number = max(1, int(schema.get("minItems", 1)))
        return [_instance(schema.get("items", {}), root, digest, f"{path}[{i}]") for i in range(number)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
        share = _pick(digest, path, 1001) / 1000
        if kind == "number":
            return low + (high - low) * (0.001 + 0.998 * share)
        return min(int(high), int(low) + 1) if "exclusiveMinimum" in schema else round(low + (int(high) - low) * share)
    if kind == "boolean":
        return bool(_pick(digest, path, 2))
    return None if kind == "null" else f"text {digest[:8]}"
