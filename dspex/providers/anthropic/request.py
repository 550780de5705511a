"""Anthropic's Messages format: a request as a body.

Source: Anthropic, Messages API reference, "Create a message".
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json

from dspex.lm.types import Attachment, LMRequest, Message
from dspex.providers.anthropic.claude import OTHER_MODEL, Claude, answer_schema, sampling
from dspex.providers.asking import arguments_of, state_in
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.http import Client

STATE = "anthropic"
"""Names this protocol in `LMResponse.state`."""

_CACHE_POINTS = 4
"""Marks for the prompt cache that a request may hold."""


def request_body(request: LMRequest, served: Served, known: Claude | None) -> dict[str, Any]:
    """The body of a request, without what `LM.extra` adds.

    Args:
        request: What is asked.
        served: Whom.
        known: What is known of the model, None for one that is no Claude.

    Raises:
        RequestRejected: DX4201.
    """
    served.check(request)
    client = served.client
    system, turns = _conversation(request.messages, served)
    body: dict[str, Any] = {"model": served.model, "max_tokens": request.max_tokens, "messages": turns}
    if system:
        body["system"] = system
    stops = [stop for stop in request.stop if stop.strip()]
    if stops:
        body["stop_sequences"] = stops
    thinking = (known or OTHER_MODEL).thinking_fields(request.reasoning, request.max_tokens)
    if thinking is None:
        raise client.incapable("an upper bound of reasoning in tokens; give an effort")
    body.update(thinking)
    mode = body["thinking"]["type"] if thinking else "disabled"
    if mode == "adaptive":
        # The newest models leave the text of their thinking out unless asked.
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    body.update(sampling(request, known, mode in ("adaptive", "enabled")))
    if request.choices or served.capabilities.json_schema:
        schema = answer_schema(request.json_schema, request.choices)
        if schema is not None:
            form = {"type": "json_schema", "schema": schema}
            body["output_config"] = {**body.get("output_config", {}), "format": form}
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "input_schema": from_json(tool.parameters)}
            | ({"description": tool.description} if tool.description else {})
            for tool in request.tools
        ]
        body["tool_choice"] = _tool_choice(request)
    return body


def _tool_choice(request: LMRequest) -> dict[str, object]:
    kinds = {"auto": "auto", "none": "none", "required": "any"}
    kind = kinds.get(request.tool_choice)
    choice: dict[str, object] = {"type": kind} if kind else {"type": "tool", "name": request.tool_choice}
    if not request.parallel_tools and kind != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


# --------------------------------------------------------------------------- messages


def _conversation(
    messages: tuple[Message, ...], served: Served
) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """System text and turns. Neighbours of one role become one turn: all results of a turn's calls must be together."""
    client = served.client
    leading = 0
    while leading < len(messages) and messages[leading].role == "system":
        leading += 1
    marks: list[dict[str, Any]] = []
    system: str | list[dict[str, Any]]
    if leading == 1 and not (messages[0].cache_point and served.prompt_cache):
        system = messages[0].content
    else:
        system = [block for message in messages[:leading] for block in _blocks(message, client, marks)]
    turns: list[dict[str, Any]] = []
    for message in messages[leading:]:
        if message.role == "system":
            raise client.incapable("system messages after the first turn")
        role = "assistant" if message.role == "assistant" else "user"
        plain = message.role != "tool" and not (
            message.attachments or message.tool_calls or message.state or (message.cache_point and served.prompt_cache)
        )
        content = message.content if plain else _blocks(message, client, marks)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _as_list(turns[-1]["content"]) + _as_list(content)
        else:
            turns.append({"role": role, "content": content})
    for block in marks[-_CACHE_POINTS:] if served.prompt_cache else ():
        block["cache_control"] = {"type": "ephemeral"}
    return system, turns


def _as_list(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _text(content) if isinstance(content, str) else content


def _text(text: str) -> list[dict[str, Any]]:
    # The API refuses empty blocks.
    return [{"type": "text", "text": text}] if text else []


def _blocks(message: Message, client: Client, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    held = state_in(message.state, STATE)
    if isinstance(held, list):
        blocks = cast("list[dict[str, Any]]", held)
    else:
        blocks = [_attachment(attachment, client) for attachment in message.attachments] + _text(message.content)
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call.arguments)}
            for call in message.tool_calls
        ]
        if message.role == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": blocks}]
    if message.cache_point and blocks and blocks[-1]["type"] not in ("thinking", "redacted_thinking"):
        marks.append(blocks[-1])
    return blocks


def _attachment(attachment: Attachment, client: Client) -> dict[str, Any]:
    source: dict[str, str]
    if attachment.url:
        source = {"type": "url", "url": attachment.url}
    else:
        source = {"type": "base64", "media_type": attachment.media_type, "data": attachment.data}
    if attachment.kind == "image":
        return {"type": "image", "source": source}
    if attachment.media_type == "text/plain" and not attachment.url:
        text = base64.b64decode(attachment.data).decode("utf-8", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif attachment.kind != "file" or attachment.media_type != "application/pdf":
        raise client.incapable(f"{attachment.kind} attachments of type {attachment.media_type}")
    return {"type": "document", "source": source} | ({"title": attachment.name} if attachment.name else {})
