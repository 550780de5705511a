"""What Gemini is asked: turns, tools and schemas in its form.

Source: Google, "Gemini API reference": Content, Part, FunctionDeclaration, GenerationConfig; "Thought signatures".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from pydantic_core import from_json

from dspex.errors import RequestRejected
from dspex.lm.types import Attachment, Message, ToolSpec
from dspex.providers.asking import arguments_of, state_in

STATE = "gemini"
"""Names this protocol in `LMResponse.state`."""

_UNSIGNED = "skip_thought_signature_validator"
"""Stands for the signature of a tool call that this model did not make; the reference names it for that."""

Asked = dict[str, tuple[str, bool]]
"""Id of a tool call → (the tool's name, whether the server knows that id)."""


def turns(messages: tuple[Message, ...], signs: bool) -> tuple[list[object], list[object]]:
    """(parts of the system instruction, the other turns).

    Args:
        messages: The chat.
        signs: Whether the model refuses tool calls without a signature.

    Raises:
        RequestRejected: DX4231.
    """
    system: list[object] = []
    contents: list[object] = []
    asked: Asked = {}
    results: list[object] | None = None
    for message in messages:
        if message.role == "tool":
            # The results of one answer's calls belong into one turn.
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results.append(_result(message, asked))
            continue
        results = None
        if message.role == "system":
            system.append({"text": message.content})
        elif message.role == "user":
            contents.append({"role": "user", "parts": _said(message)})
        else:
            contents.append({"role": "model", "parts": _answered(message, asked, signs)})
    return system, contents


def _said(message: Message) -> list[object]:
    parts: list[object] = [_media(attachment) for attachment in message.attachments]
    if message.content or not parts:
        parts.append({"text": message.content})
    return parts


def _media(attachment: Attachment) -> object:
    if attachment.url:
        return {"fileData": {"fileUri": attachment.url, "mimeType": attachment.media_type}}
    return {"inlineData": {"mimeType": attachment.media_type, "data": attachment.data}}


def _answered(message: Message, asked: Asked, signs: bool) -> list[object]:
    """The parts of an assistant's turn; its calls go into `asked`."""
    held = state_in(message.state, STATE)
    if isinstance(held, list):
        kept = cast("list[dict[str, Any]]", held)
        known = {part["functionCall"].get("id") for part in kept if "functionCall" in part}
        asked.update({call.id: (call.name, call.id in known) for call in message.tool_calls})
        return list[object](kept)
    parts = _said(message) if message.content or message.attachments or not message.tool_calls else []
    for number, call in enumerate(message.tool_calls):
        part: dict[str, object] = {"functionCall": {"name": call.name, "args": arguments_of(call.arguments)}}
        if signs and number == 0:
            part["thoughtSignature"] = _UNSIGNED
        parts.append(part)
        asked[call.id] = (call.name, False)
    return parts


def _result(message: Message, asked: Asked) -> object:
    found = asked.get(message.tool_call_id)
    if found is None:
        raise RequestRejected(
            "DX4231",
            f"a tool's turn answers the call {message.tool_call_id!r}, and no turn before it asked for that",
            fix="put the assistant's turn with its tool_calls before the tool's turn",
        )
    name, known = found
    try:
        output: object = from_json(message.content)
    except ValueError:
        output = message.content
    response: dict[str, object] = {"name": name, "response": {"output": output}}
    if known:
        response["id"] = message.tool_call_id
    return {"functionResponse": response}


def declarations(tools: tuple[ToolSpec, ...]) -> list[object]:
    """``tools`` of a request's body."""
    functions = [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": known_schema(tool.parameters)}
        for tool in tools
    ]
    return [{"functionDeclarations": functions}]


def tool_config(choice: str) -> dict[str, object] | None:
    """``toolConfig`` of a request's body; None where the model is free to choose."""
    if choice == "auto":
        return None
    if choice in ("none", "required"):
        return {"functionCallingConfig": {"mode": "NONE" if choice == "none" else "ANY"}}
    return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice]}}


# --------------------------------------------------------------------- schemas

_PLAIN = ("type", "format", "title", "description", "minItems", "maxItems", "minimum", "maximum", "required")
_SCHEMAS = ("items", "prefixItems", "anyOf", "oneOf", "additionalProperties")
_NAMED_SCHEMAS = ("properties", "$defs")


@lru_cache(maxsize=512)
def known_schema(text: str) -> object:
    """The JSON Schema `text` without the keywords that Gemini does not know.

    What they say is then not enforced while generating; whoever asked for the schema checks the answer against all
    of it.
    """
    return _known(from_json(text))


def _known(node: object) -> object:
    if isinstance(node, list):
        return [_known(item) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, object]", node)
    out: dict[str, object] = {}
    for key, value in fields.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            out[key] = {name: _known(inner) for name, inner in cast("dict[str, object]", value).items()}
        elif key == "$ref":
            out[key] = value
        elif "$ref" in fields:
            continue  # Nothing but definitions may stand beside a reference.
        elif key in ("enum", "const"):
            values = cast("list[object]", value) if key == "enum" else [value]
            if all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
                out["enum"] = values
        elif key in _SCHEMAS:
            out[key] = _known(value)
        elif key in _PLAIN:
            out[key] = value
    return out
