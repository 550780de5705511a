"""OpenAI's Responses API: items in, items out.

Nothing is stored on the server (``store`` is false). What a reasoning model wants back of its hidden reasoning comes
encrypted and travels in `Message.state`, as the answer's own items.

The protocol has no raw prompts, no stop texts and no seed: raw prompts are refused, stop texts are applied to the
answer here, a seed is left out. For the key and the base URL see `dspex.providers.keys`; the variables are
``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``.

Source: OpenAI API reference, "Responses", "Create a model response", "The response object", "Streaming events".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import to_json

from dspex.lm.model import LM
from dspex.lm.types import (
    Attachment,
    Delta,
    LMRequest,
    LMResponse,
    Message,
    Stop,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.asking import Vocabulary, state_in
from dspex.providers.batching import BatchedModel
from dspex.providers.openai.batch import FileBatches
from dspex.providers.openai.chat_request import data_url, file_name, function, sound_part, written
from dspex.providers.openai.errors import error_of, failure
from dspex.providers.openai.schema import named_schema
from dspex.providers.openai.site import CHAT, Site, openai_capabilities, openai_served, reasons
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, CallParts, Flow, Reading, count, state_of, text_of, token_logprob
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.http import Client
    from dspex.providers.transport import AnyTransport

_RESPONSES = Vocabulary(replace(CHAT.can, raw_prompt=False, seed=False))
_STATE = "openai-responses"
"""Names this protocol in `LMResponse.state`."""

_INCOMPLETE: dict[object, Stop] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ENDS = ("response.completed", "response.incomplete", "response.failed")


def open_openai_responses(lm: LM, transport: AnyTransport | None = None) -> OpenAIResponsesModel:
    """The model behind `lm`, asked through ``/responses``.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    served, site, official = openai_served(lm, _RESPONSES, openai_capabilities, transport)
    return OpenAIResponsesModel(served, site, halved=official)


class OpenAIResponsesModel(BatchedModel):
    """One model behind the Responses API. Make it with `open_openai_responses`."""

    def __init__(self, served: Served, site: Site, *, halved: bool = False) -> None:
        batches = FileBatches(served.client, site, "/v1/responses", self._body, self._reading, self._answer)
        super().__init__(served, batches, halved=halved)
        self._reasons = reasons(served)
        self._url = site.call("/responses")

    async def complete(self, request: LMRequest, /) -> LMResponse:
        reply = await self._client.send(self._url, self._body(request))
        data = self._client.json(reply.body, self._url)
        return self._answer(data, self._reading(request), reply.headers, self._url)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        """See `StreamingModel.stream`. An enforced choice comes whole, at the end of its object."""
        url, reading = self._url, self._reading(request)
        flow = Flow(reading)
        parts = _Parts()
        response: LMResponse | None = None
        async with aclosing(self._client.events(url, self._body(request, stream=True))) as events:
            async for event in events:
                part = self._client.json(event.data, url)
                kind = part.get("type")
                if kind == "error":
                    # Its code stands beside its type, and the type is no kind of error.
                    error = error_of(part) or {"code": part.get("code"), "message": part.get("message")}
                    raise failure(self._client, error, event.headers, url)
                if kind in _ENDS:
                    data = part.get("response")
                    if not isinstance(data, dict):
                        raise self._client.misshapen(event.data, url)
                    whole = cast("dict[str, Any]", data)
                    # Read on to the end of the body, which gives the connection back.
                    response = self._answer(whole, reading, event.headers, url)
                    continue
                try:
                    delta = parts.feed(part)
                except MALFORMED as cause:
                    raise self._client.misshapen(event.data, url) from cause
                if delta is not None and (shown := flow.of(delta)) is not None:
                    yield shown
        if response is None:
            raise self._client.broken(url, "the stream ended without response.completed")
        yield flow.last(response)

    # ----------------------------------------------------------------- request

    @staticmethod
    def _reading(request: LMRequest) -> Reading:
        return Reading.of(request, request.stop)

    def _body(self, request: LMRequest, stream: bool = False) -> bytes:
        self._served.check(request)
        can = self.capabilities
        payload: dict[str, object] = {
            "model": self._served.model,
            "input": [item for message in request.messages for item in _items(message, self._client)],
            "max_output_tokens": request.max_tokens,
            "store": False,
        }
        include: list[str] = []
        if self._reasons:
            include.append("reasoning.encrypted_content")
        else:
            payload["temperature"] = request.temperature
            if request.top_p is not None:
                payload["top_p"] = request.top_p
        if request.reasoning is not None and can.reasoning:
            if not isinstance(request.reasoning, str):
                raise self._client.incapable("a bound on the tokens of reasoning")
            payload["reasoning"] = {"effort": request.reasoning, "summary": "auto"}
        if request.top_logprobs is not None:
            payload["top_logprobs"] = request.top_logprobs
            include.append("message.output_text.logprobs")
        if include:
            payload["include"] = include
        if stream:
            payload["stream"] = True
        large: dict[str, bytes] = {}
        if request.tools and can.tools:
            large["tools"] = _tools(request.tools)
            choice = request.tool_choice
            if choice != "auto":
                plain = choice in ("none", "required")
                payload["tool_choice"] = choice if plain else {"type": "function", "name": choice}
            if not request.parallel_tools:
                payload["parallel_tool_calls"] = False
        schema = named_schema(request.choices, request.json_schema if can.json_schema else None)
        if schema is not None:
            large["text"] = b'{"format":{"type":"json_schema",' + schema[1:] + b"}"
        elif request.json_mode and can.json_mode:
            large["text"] = b'{"format":{"type":"json_object"}}'
        return written(payload, large, self._served.extra)

    # ----------------------------------------------------------------- response

    def _answer(self, data: Mapping[str, Any], reading: Reading, headers: Mapping[str, str], url: str) -> LMResponse:
        error = error_of(data)
        if error is not None:
            raise failure(self._client, error, headers, url)
        try:
            response = _read(data, reading.logprobs)
        except MALFORMED as cause:
            raise self._client.misshapen(to_json(data), url) from cause
        response = reading.finished(response, self._client, url)
        limits = rate_limits(headers)
        return response if limits is None else replace(response, limits=limits)


# --------------------------------------------------------------------------- items


def _items(message: Message, client: Client) -> list[object]:
    """The items of one turn; an assistant's turn with a state is that state's items."""
    if message.role == "tool":
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content}]
    kept = state_in(message.state, _STATE)
    if isinstance(kept, list):
        return cast("list[object]", kept)
    content: object = message.content
    if message.attachments:
        parts = [_part(attachment, client) for attachment in message.attachments]
        if message.content:
            parts.append({"type": "input_text", "text": message.content})
        content = parts
    items: list[object] = [{"role": message.role, "content": content}] if content or not message.tool_calls else []
    items += [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls
    ]
    return items


def _part(attachment: Attachment, client: Client) -> dict[str, object]:
    if attachment.kind == "image":
        url = attachment.url or data_url(attachment)
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if attachment.kind == "file":
        if attachment.url:
            return {"type": "input_file", "file_url": attachment.url}
        return {"type": "input_file", "filename": file_name(attachment), "file_data": data_url(attachment)}
    if attachment.url:
        raise client.incapable("attachments of kind audio by URL")
    return sound_part(attachment, client)


@lru_cache(maxsize=256)
def _tools(tools: tuple[ToolSpec, ...]) -> bytes:
    # Strictness is said either way: left out it would be on.
    return to_json([{"type": "function", **function(tool)} for tool in tools])


class _Parts:
    """What the events of a stream show of an answer that comes whole at its end."""

    def __init__(self) -> None:
        self._thought = False
        self._calls = CallParts()

    def feed(self, event: Mapping[str, Any]) -> Delta | None:
        """What an event shows; None for nothing.

        Raises:
            MALFORMED: it is no event of this format.
        """
        kind, delta = event.get("type"), event.get("delta")
        if kind == "response.output_item.added":
            item: dict[str, Any] = event.get("item") or {}
            if item.get("type") != "function_call":
                return None
            return self._calls.begin(event.get("output_index"), item.get("call_id") or "", item.get("name") or "")
        if kind == "response.function_call_arguments.done":
            return self._calls.end(event.get("output_index"), text_of(event.get("arguments") or ""))
        if kind == "response.reasoning_summary_part.added" and self._thought:
            return Delta(reasoning="\n\n")
        if not isinstance(delta, str):
            return None
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            return Delta(delta)
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self._thought = True
            return Delta(reasoning=delta)
        if kind == "response.function_call_arguments.delta":
            return self._calls.more(event.get("output_index"), delta)
        return None


def _read(data: Mapping[str, Any], logprobs: bool) -> LMResponse:
    status: object = data["status"]
    output: list[dict[str, Any]] = data["output"]
    text, thoughts, calls = "", list[str](), list[ToolCall]()
    tokens = list[TokenLogprob]()
    refused = kept = False
    for item in output:
        kind = item["type"]
        if kind == "message":
            kept = kept or bool(item.get("phase"))
            for part in item["content"]:
                if part["type"] == "refusal":
                    refused = True
                    text += part["refusal"]
                elif part["type"] == "output_text":
                    text += part["text"]
                    tokens += [token_logprob(entry) for entry in part.get("logprobs") or ()]
        elif kind == "function_call":
            calls.append(ToolCall(text_of(item["call_id"]), text_of(item["name"]), text_of(item["arguments"])))
        elif kind == "reasoning":
            kept = True
            thoughts += [part["text"] for part in item.get("summary") or ()]
            thoughts += [part["text"] for part in item.get("content") or ()]
    stop: Stop = "stop"
    if status == "incomplete":
        why: dict[str, object] = data.get("incomplete_details") or {}
        stop = _INCOMPLETE.get(why.get("reason"), "unknown")
    elif status != "completed":
        raise ValueError("the response has not ended")
    elif refused:
        stop = "content_filter"
    elif calls:
        stop = "tool_calls"
    return LMResponse(
        text,
        _usage(data.get("usage")),
        stop,
        str(data.get("model") or ""),
        tool_calls=tuple(calls),
        reasoning="\n\n".join(thoughts),
        logprobs=tuple(tokens) if logprobs else None,
        state=state_of(_STATE, output) if kept else "",
    )


def _usage(data: object) -> Usage | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    prompt = fields.get("input_tokens_details")
    return Usage(
        count(fields, "input_tokens"),
        count(fields, "output_tokens"),
        count(prompt, "cached_tokens"),
        count(fields.get("output_tokens_details"), "reasoning_tokens"),
        count(prompt, "cache_write_tokens"),
    )
