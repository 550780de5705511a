"""Chat completions: a request as a body.

Source: OpenAI API reference, "Chat", "Create chat completion", and "Completions"; what compatible servers say
differently is in `Dialect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

from pydantic_core import from_json, to_json

from dspex.lm.types import Attachment, LMRequest, Message, ToolSpec
from dspex.providers.asking import as_body, state_in, with_extra
from dspex.providers.continuing import grammar, lead
from dspex.providers.openai.schema import enforced_format, strict_schema
from dspex.providers.served import Served
from dspex.telemetry.events import Json

if TYPE_CHECKING:
    from dspex.providers.http import Client

STATE = "chat"
"""Names this protocol in `LMResponse.state`."""

_JSON_OBJECT = b'{"type":"json_object"}'


@dataclass(frozen=True, slots=True)
class Dialect:
    """What servers of chat completions say differently.

    Attributes:
        limit: Field of the most tokens to generate.
        seed: Field of the seed; ``""`` where there is none.
        sampling: Whether temperature, top_p and stop are taken; OpenAI's reasoning models refuse them.
        reasoning: ``effort`` for ``reasoning_effort``; ``object`` for OpenRouter's ``reasoning``; ``thinking`` where
            an effort of none is said by ``thinking``.
        strict_tools: Whether a tool may be marked as strict.
        asks_usage: Whether a stream tells its usage only when asked to.
        kept: Fields of an answer's message that the server wants back with it in the next turn.
        marks: Whether it takes marks for the prompt cache.
        continues: How a raw prompt is continued by one of some choices: vLLM is given the ``choice``, llama.cpp a
            ``grammar``; ``""`` where a server has no words for it.
    """

    limit: str = "max_tokens"
    seed: str = "seed"
    sampling: bool = True
    reasoning: Literal["effort", "object", "thinking"] = "effort"
    strict_tools: bool = False
    asks_usage: bool = True
    kept: tuple[str, ...] = ()
    marks: bool = False
    continues: Literal["", "choice", "grammar"] = ""


def request_body(request: LMRequest, served: Served, dialect: Dialect, stream: bool = False) -> bytes:
    """The body that asks for an answer to `request`; for a raw prompt that of ``/completions``.

    Args:
        request: What to ask.
        served: Whom.
        dialect: How the server says it.
        stream: Whether the answer shall come as a stream.

    Raises:
        RequestRejected: DX4201.
    """
    served.check(request)
    can, client = served.capabilities, served.client
    payload: dict[str, object] = {"model": served.model}
    raw = request.prompt is not None
    if raw:
        payload["prompt"] = request.prompt
        payload["max_tokens"] = request.max_tokens
        if request.choices:
            payload.update(_continuation(request, dialect, client))
    else:
        marks = dialect.marks and served.prompt_cache
        payload["messages"] = [
            {"role": m.role, "content": m.content}
            if not (m.attachments or m.tool_calls or m.tool_call_id or m.state or (marks and m.cache_point))
            else _message(m, dialect, client, marks)
            for m in request.messages
        ]
        payload[dialect.limit] = request.max_tokens
    if dialect.sampling or raw:
        payload["temperature"] = request.temperature
        if request.top_p is not None:
            payload["top_p"] = request.top_p
        if request.stop:
            payload["stop"] = request.stop
    if request.seed is not None and dialect.seed:
        payload[dialect.seed] = (request.seed + request.rollout) & 0x7FFFFFFF
    if request.top_logprobs is not None:
        if raw:
            payload["logprobs"] = request.top_logprobs
        else:
            payload["logprobs"] = True
            payload["top_logprobs"] = request.top_logprobs
    if request.reasoning is not None and can.reasoning:
        payload.update(_reasoning(request.reasoning, dialect, client))
    if stream:
        payload["stream"] = True
        if dialect.asks_usage:
            payload["stream_options"] = {"include_usage": True}
    large: dict[str, bytes] = {}
    if request.tools and can.tools:
        large["tools"] = _tools(request.tools, dialect.strict_tools)
        if request.tool_choice != "auto":
            named = {"type": "function", "function": {"name": request.tool_choice}}
            payload["tool_choice"] = request.tool_choice if request.tool_choice in ("none", "required") else named
        if not request.parallel_tools:
            payload["parallel_tool_calls"] = False
    form = enforced_format(() if raw else request.choices, request.json_schema if can.json_schema else None)
    if form is None and request.json_mode and can.json_mode:
        form = _JSON_OBJECT
    if form is not None:
        large["response_format"] = form
    return written(payload, large, served.extra)


def _continuation(request: LMRequest, dialect: Dialect, client: Client) -> dict[str, object]:
    # " yes" rather than "yes" after "Answer:": that is how the model's own tokens continue a line.
    before = lead(request.prompt)
    if dialect.continues == "choice":
        return {"structured_outputs": {"choice": [before + choice for choice in dict.fromkeys(request.choices)]}}
    if dialect.continues == "grammar":
        return {"grammar": grammar(request.choices, before)}
    raise client.incapable("choices with a raw prompt")


def written(payload: dict[str, object], large: dict[str, bytes], extra: Mapping[str, Json]) -> bytes:
    """`payload` with further fields: `large` ones that are JSON already, and the user's, which win.

    Schemas are large and the same for every call, so they are spliced in as they are.
    """
    if extra:
        for name in large.keys() & extra.keys():
            payload[name] = from_json(large.pop(name))
    whole = as_body(with_extra(payload, extra))
    pieces = [b',"%b":%b' % (name.encode(), text) for name, text in large.items()]
    return b"%b%b}" % (whole[:-1], b"".join(pieces)) if pieces else whole


def _message(message: Message, dialect: Dialect, client: Client, marks: bool) -> dict[str, object]:
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    marked = marks and message.cache_point and bool(message.content)
    if message.attachments or marked:
        parts = [_part(attachment, client) for attachment in message.attachments]
        if message.content:
            mark = {"cache_control": {"type": "ephemeral"}} if marked else {}
            parts.append({"type": "text", "text": message.content, **mark})
        turn["content"] = parts
    if message.tool_calls:
        turn["content"] = turn["content"] or None
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.state and dialect.kept:
        fields = cast("dict[str, object]", state_in(message.state, STATE) or {})
        turn.update({name: fields[name] for name in dialect.kept if name in fields})
    return turn


def _part(attachment: Attachment, client: Client) -> dict[str, object]:
    if attachment.kind == "image":
        return {"type": "image_url", "image_url": {"url": attachment.url or data_url(attachment)}}
    if attachment.url:
        raise client.incapable(f"attachments of kind {attachment.kind} by URL")
    if attachment.kind == "audio":
        return sound_part(attachment, client)
    return {"type": "file", "file": {"filename": file_name(attachment), "file_data": data_url(attachment)}}


def data_url(attachment: Attachment) -> str:
    """The content of `attachment` as a ``data:`` URL."""
    return f"data:{attachment.media_type};base64,{attachment.data}"


def file_name(attachment: Attachment) -> str:
    """The name of a file, which the server wants."""
    return attachment.name or f"file.{attachment.media_type.rpartition('/')[2]}"


def sound_part(attachment: Attachment, client: Client) -> dict[str, object]:
    """The part of a turn that holds a sound; its formats are WAV and MP3.

    Raises:
        RequestRejected: DX4201, it is another one.
    """
    kind = attachment.media_type.rpartition("/")[2].removeprefix("x-")
    name = {"wav": "wav", "wave": "wav", "mp3": "mp3", "mpeg": "mp3"}.get(kind)
    if name is None:
        raise client.incapable(f"sound of type {attachment.media_type}")
    return {"type": "input_audio", "input_audio": {"data": attachment.data, "format": name}}


@lru_cache(maxsize=256)
def _tools(tools: tuple[ToolSpec, ...], strict: bool) -> bytes:
    functions = [function(tool) for tool in tools]
    for described in functions:
        if not (strict and described["strict"]):
            del described["strict"]
    return to_json([{"type": "function", "function": described} for described in functions])


def function(tool: ToolSpec) -> dict[str, object]:
    """Name, description and parameters of a tool; strict where its schema is already in the strict dialect."""
    schema = cast("dict[str, object]", from_json(tool.parameters))
    strict = strict_schema(schema) == schema
    return {"name": tool.name, "description": tool.description, "parameters": schema, "strict": strict}


def _reasoning(asked: str | int, dialect: Dialect, client: Client) -> dict[str, object]:
    if dialect.reasoning == "object":
        return {"reasoning": {"effort": asked} if isinstance(asked, str) else {"max_tokens": asked}}
    if not isinstance(asked, str):
        raise client.incapable("a bound on the tokens of reasoning")
    if dialect.reasoning == "thinking" and asked == "none":
        return {"thinking": {"type": "disabled"}}
    return {"reasoning_effort": asked}
