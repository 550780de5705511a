"""Bedrock's Converse format: a request as a body.

Source: AWS, Amazon Bedrock Runtime API reference, "Converse".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json

from dspex.lm.types import Attachment, LMRequest, Message
from dspex.providers.anthropic.claude import Claude, answer_schema_text, sampling
from dspex.providers.asking import arguments_of, state_in
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.http import Client

STATE = "converse"
"""Names this protocol in `LMResponse.state`."""

_CACHE_POINTS = 4
"""Marks for the prompt cache that a request may hold."""

_CACHE_POINT = {"cachePoint": {"type": "default"}}

_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_SOUNDS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "x-flac": "flac", "mp4": "mp4"}


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
    system, turns = _Conversation(request.messages, served).parts()
    body: dict[str, Any] = {"messages": turns}
    if system:
        body["system"] = system
    thinking = _thinking(request, known, client)
    effort = thinking.pop("output_config", {}).get("effort")
    further: dict[str, Any] = thinking
    config: dict[str, Any] = {"maxTokens": request.max_tokens}
    thinks = "thinking" in thinking and request.reasoning != "none"
    names = {"temperature": "temperature", "top_p": "topP"}
    config.update((names[name], value) for name, value in sampling(request, known, thinks).items())
    stops = [stop for stop in request.stop if known is None or stop.strip()]
    if stops:
        config["stopSequences"] = stops
    body["inferenceConfig"] = config
    output: dict[str, Any] = {} if effort is None else {"effort": effort}
    if request.choices or served.capabilities.json_schema:
        schema = answer_schema_text(request.json_schema, request.choices)
        if schema is not None:
            structure = {"jsonSchema": {"name": "output", "schema": schema}}
            output["textFormat"] = {"type": "json_schema", "structure": structure}
    if output:
        body["outputConfig"] = output
    _add_tools(body, further, request, known, client)
    if further:
        body["additionalModelRequestFields"] = further
    return body


def _thinking(request: LMRequest, known: Claude | None, client: Client) -> dict[str, Any]:
    """Claude's ``thinking`` and any model's effort, the latter as ``output_config``."""
    if known is not None:
        fields = known.thinking_fields(request.reasoning, request.max_tokens)
    elif isinstance(request.reasoning, int):
        fields = None
    elif request.reasoning in (None, "none"):
        fields = {}
    else:
        fields = {"output_config": {"effort": "low" if request.reasoning == "minimal" else request.reasoning}}
    if fields is None:
        raise client.incapable("an upper bound of reasoning in tokens; give an effort")
    return fields


def _add_tools(
    body: dict[str, Any], further: dict[str, Any], request: LMRequest, known: Claude | None, client: Client
) -> None:
    history = any(message.tool_calls or message.role == "tool" for message in request.messages)
    wanted = request.tool_choice
    if not request.tools or (wanted == "none" and not history):
        return
    tools = [
        {
            "toolSpec": {"name": tool.name, "inputSchema": {"json": from_json(tool.parameters)}}
            | ({"description": tool.description} if tool.description else {})
        }
        for tool in request.tools
    ]
    config: dict[str, Any] = {"tools": tools}
    if wanted == "none":
        # Converse has no such choice, and wants the tools of a conversation that called some.
        if known is None:
            raise client.incapable("tool_choice='none' in a conversation with calls")
        further["tool_choice"] = {"type": "none"}
    elif not request.parallel_tools:
        if known is None:
            raise client.incapable("parallel_tools=False")
        kind = {"auto": "auto", "required": "any"}.get(wanted)
        choice = {"type": kind} if kind else {"type": "tool", "name": wanted}
        further["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
    elif wanted != "auto":
        # Not every model takes a choice, and each begins with auto.
        config["toolChoice"] = {"any": {}} if wanted == "required" else {"tool": {"name": wanted}}
    body["toolConfig"] = config


# --------------------------------------------------------------------------- messages


class _Conversation:
    """System text and turns of a request; neighbours of one role become one turn, as Converse wants them."""

    def __init__(self, messages: tuple[Message, ...], served: Served) -> None:
        self._messages = messages
        self._client = served.client
        self._documents = 0
        marked = [index for index, message in enumerate(messages) if message.cache_point and served.prompt_cache]
        self._marks = frozenset(marked[-_CACHE_POINTS:])

    def parts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        system: list[dict[str, Any]] = []
        turns: list[dict[str, Any]] = []
        for index, message in enumerate(self._messages):
            blocks = self._blocks(message)
            if index in self._marks and blocks:
                blocks.append(_CACHE_POINT)
            if message.role == "system":
                if turns:
                    raise self._client.incapable("system messages after the first turn")
                system += blocks
                continue
            role = "assistant" if message.role == "assistant" else "user"
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += blocks
            else:
                turns.append({"role": role, "content": blocks})
        return system, turns

    def _blocks(self, message: Message) -> list[dict[str, Any]]:
        held = state_in(message.state, STATE)
        if isinstance(held, list):
            return cast("list[dict[str, Any]]", held)
        blocks = [self._attachment(attachment) for attachment in message.attachments]
        if message.content:
            blocks.append({"text": message.content})
        blocks += [
            {"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments_of(call.arguments)}}
            for call in message.tool_calls
        ]
        if message.role == "tool":
            return [{"toolResult": {"toolUseId": message.tool_call_id, "content": blocks}}]
        return blocks

    def _attachment(self, attachment: Attachment) -> dict[str, Any]:
        kind = attachment.kind
        source: dict[str, Any]
        if not attachment.url:
            source = {"bytes": attachment.data}
        elif attachment.url.startswith("s3://"):
            source = {"s3Location": {"uri": attachment.url}}
        else:
            raise self._client.incapable("attachments by a URL other than s3://")
        subtype = attachment.media_type.partition("/")[2].partition(";")[0]
        if kind == "image":
            return {"image": {"format": {"jpg": "jpeg"}.get(subtype, subtype), "source": source}}
        if kind == "audio":
            return {"audio": {"format": _SOUNDS.get(subtype, subtype), "source": source}}
        form = _DOCUMENTS.get(attachment.media_type.partition(";")[0])
        if form is None:
            raise self._client.incapable(f"file attachments of type {attachment.media_type}")
        self._documents += 1
        # Names have to differ within a request, and only these characters are taken.
        name = " ".join(re.sub(r"[^A-Za-z0-9\-()\[\]]+", " ", attachment.name).split())
        name = f"{name} {self._documents}".strip() if name else f"document {self._documents}"
        return {"document": {"format": form, "name": name[:200], "source": source}}
