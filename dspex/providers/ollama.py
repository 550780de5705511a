"""Ollama's own protocol: ``/api/chat``, ``/api/generate`` for raw prompts, and ``/api/embed``.

The server is ``base_url=``, else ``OLLAMA_HOST`` in any of the forms that Ollama reads, else
``http://127.0.0.1:11434``. A key is sent when there is one: ``api_key=``, else, without ``base_url=``,
``OLLAMA_API_KEY``. A model on one's own network costs nothing.

The server enforces schemas and choices for every model, and gives log-probabilities. Whether a model calls tools, sees
images or reasons is its own, so `LM(capabilities=...)` says it. The server would cut a prompt or an answer that does
not fit the context; it is told not to, so that such a request is refused. Which tool is called, and whether several
are, the protocol leaves to the model.

Source: Ollama, "API reference" and the server's types of requests and responses (``api/types.go``).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from dspex.errors import LMError, RequestRejected
from dspex.lm.model import LM
from dspex.lm.types import (
    FREE,
    Capabilities,
    Delta,
    Embeddings,
    LMRequest,
    LMResponse,
    Message,
    Price,
    RateLimits,
    Stop,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
    whole_calls,
)
from dspex.providers.asking import Vocabulary, arguments_of, as_body, choice_schema, state_in, with_extra
from dspex.providers.http import Client, Words, words
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.prices import is_private, list_price
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import (
    MALFORMED,
    Flow,
    Reading,
    arguments_in,
    count,
    state_of,
    text_of,
    token_logprob,
)
from dspex.providers.served import Served, ServedModel
from dspex.providers.transport import Reply, place

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

OLLAMA = "http://127.0.0.1:11434"

_CAN = Capabilities(raw_prompt=True, json_schema=True, choices=True, json_mode=True, logprobs=True, seed=True)
_OLLAMA = Vocabulary(
    replace(_CAN, tools=True, media=("image",), reasoning=True),
    media_in=("user", "assistant", "tool"),
    one_call=False,
)
_EFFORTS = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_STOPS: dict[object, Stop] = {"stop": "stop", "length": "length", None: "stop"}
_TOO_LONG = (
    "exceeds the context",
    "exceeds maximum context",
    "longer than the context",
    "exceeds the available context",
)
_STATE = "ollama"


def open_ollama(lm: LM, transport: AnyTransport | None = None) -> OllamaModel:
    """The model behind `lm`; see the module for where its URL and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key for ollama.com, DX8113 malformed key, DX8114 malformed URL; DX8117, DX8118 no key
            where it was said to be.
    """
    base_url = base_url_for(lm, "", server_named(os.environ.get("OLLAMA_HOST", ""))).removesuffix("/api")
    client = Client(
        lm,
        base_url,
        key=lambda: key_for(lm, ("OLLAMA_API_KEY",), needed=urlsplit(base_url).hostname == "ollama.com"),
        key_from="api_key= or OLLAMA_API_KEY",
        read=_read_words,
        transport=transport,
    )
    served = Served(lm, client, _OLLAMA, _CAN, price=_price)
    return OllamaModel(served)


def _price(base_url: str, model: str) -> Price | None:
    # One's own server passes models named so on to Ollama's.
    own = is_private(urlsplit(base_url).hostname or "") and not model.endswith(("-cloud", ":cloud"))
    return list_price(base_url, model) or (FREE if own else None)


def server_named(host: str) -> str:
    """The URL that ``OLLAMA_HOST`` names: an address with or without a scheme, a port or a host.

    An address to listen on everywhere, such as ``0.0.0.0``, is reached at the loopback address.
    """
    host = host.strip().strip("\"'")
    scheme, found, rest = host.partition("://")
    if not found:
        scheme, rest = "http", host
    place, slash, path = rest.partition("/")
    name, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        name, port = place, ""
    if name in ("", "0.0.0.0", "[::]"):
        name = "127.0.0.1"
    port = port or ({"http": "80", "https": "443"}[scheme] if found and scheme in ("http", "https") else "11434")
    return f"{scheme}://{name}:{port}{slash}{path}".rstrip("/")


class OllamaModel(ServedModel):
    """One model of an Ollama server; it completes, streams and embeds. Make it with `open_ollama`."""

    most_texts = 512
    """No limit of the server's: it works through them one after the other, and a request must end in time."""

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self._chat_url = f"{served.base_url}/api/chat"
        self._prompt_url = f"{served.base_url}/api/generate"
        self._embed_url = f"{served.base_url}/api/embed"

    async def complete(self, request: LMRequest, /) -> LMResponse:
        url = self._url(request)
        with self._telling_how_to_pull():
            reply = await self._client.send(url, self._body(request, stream=False))
        assembly = _Assembly()
        self._read(assembly, reply.body, url)
        if not assembly.done:
            raise self._client.misshapen(reply.body, url)
        return self._response(assembly, Reading.of(request), url, reply.headers)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        url = self._url(request)
        assembly = _Assembly()
        reading = Reading.of(request)
        flow = Flow(reading)
        headers: Mapping[str, str] = {}
        with self._telling_how_to_pull():
            async with aclosing(self._client.lines(url, self._body(request, stream=True))) as lines:
                async for line in lines:
                    headers = line.headers
                    if (shown := flow.of(self._read(assembly, line.data, url))) is not None:
                        yield shown
        if not assembly.done:
            raise self._client.broken(url, "the stream ended before its last part")
        yield flow.last(self._response(assembly, reading, url, headers))

    async def embed(self, texts: tuple[str, ...], /) -> Embeddings:
        """Vectors of the texts, each of length one. `LM.extra` is joined in, for example ``dimensions``."""
        url = self._embed_url
        body: dict[str, object] = {"model": self._served.model, "input": texts, "truncate": False}
        with self._telling_how_to_pull():
            reply = await self._client.send(url, as_body(with_extra(body, self._served.extra)))
        data = self._client.json(reply.body, url)
        try:
            vectors = tuple(tuple(map(float, vector)) for vector in cast("list[list[float]]", data["embeddings"]))
            usage = _usage(data)
        except MALFORMED as error:
            raise self._client.misshapen(reply.body, url) from error
        if len(vectors) != len(texts):
            raise self._client.misshapen(reply.body, url)
        return Embeddings(vectors, usage, str(data.get("model") or ""))

    @contextmanager
    def _telling_how_to_pull(self) -> Generator[None]:
        try:
            yield
        except RequestRejected as error:
            if error.code == "DX4204":
                error.fix = f"ollama pull {self._served.model}, or check base_url ({place(self._served.base_url)})"
            raise

    # ----------------------------------------------------------------- request

    def _url(self, request: LMRequest) -> str:
        return self._chat_url if request.prompt is None else self._prompt_url

    def _body(self, request: LMRequest, stream: bool) -> bytes:
        self._check(request)
        can = self.capabilities
        options: dict[str, object] = {"temperature": request.temperature, "num_predict": request.max_tokens}
        body: dict[str, object] = {"model": self._served.model, "options": options, "stream": stream}
        body["truncate"] = body["shift"] = False
        if request.prompt is not None:
            body["prompt"] = request.prompt
            body["raw"] = True
        else:
            body["messages"] = _turns(request.messages)
        if request.top_p is not None:
            options["top_p"] = request.top_p
        if request.stop:
            options["stop"] = request.stop
        if request.seed is not None and can.seed:
            options["seed"] = (request.seed + request.rollout) & 0x7FFFFFFF
        if request.choices:
            body["format"] = choice_schema(request.choices)
        elif request.json_schema is not None and can.json_schema:
            body["format"] = from_json(request.json_schema)
        elif request.json_mode and can.json_mode:
            body["format"] = "json"
        if request.reasoning is not None:
            body["think"] = _EFFORTS[cast(str, request.reasoning)]
        elif request.choices and not can.reasoning:
            # A model that can think does so unless told not to, and the room of a choice is soon spent.
            body["think"] = False
        if request.top_logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
        if request.tools and request.tool_choice == "auto":
            body["tools"] = [_declared(tool) for tool in request.tools]
        return as_body(with_extra(body, self._served.extra))

    def _check(self, request: LMRequest) -> None:
        self._served.check(request)
        if isinstance(request.reasoning, int):
            raise self._client.incapable("an upper bound of reasoning in tokens")
        if any(attachment.url for message in request.messages for attachment in message.attachments):
            raise self._client.incapable("attachments by URL")

    # ----------------------------------------------------------------- response

    def _read(self, assembly: _Assembly, body: bytes | str, url: str) -> Delta:
        data = self._client.json(body, url)
        if "error" in data:
            raise self._failure(data, url)
        try:
            return assembly.add(data)
        except MALFORMED as error:
            raise self._client.misshapen(body, url) from error

    def _failure(self, data: Mapping[str, object], url: str) -> LMError:
        """The error that came after the status 200 was sent."""
        body = to_json(data)
        status = 400 if _read_words(body).kind else 500
        return self._client.refusal(Reply(status, {}, body), url)

    def _response(self, assembly: _Assembly, reading: Reading, url: str, headers: Mapping[str, str]) -> LMResponse:
        return reading.finished(assembly.response(rate_limits(headers)), self._client, url)


class _Assembly:
    """What the parts of an answer add up to: one part of a whole answer, many of a stream."""

    def __init__(self) -> None:
        self.done = False
        self._stop: Stop = "unknown"
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._usage: Usage | None = None
        self._model = ""

    def add(self, data: dict[str, Any]) -> Delta:
        """Take a part in; what of it is visible.

        Raises:
            MALFORMED: it has another shape.
        """
        said: dict[str, Any] = data.get("message", data)
        text = text_of(said.get("content") or data.get("response") or "")
        reasoning = text_of(said.get("thinking") or "")
        if text:
            self._texts.append(text)
        if reasoning:
            self._thoughts.append(reasoning)
        known = len(self._calls)
        for call in cast("list[dict[str, Any]]", said.get("tool_calls") or []):
            function: dict[str, Any] = call["function"]
            name = str(call.get("id") or f"call_{len(self._calls)}")
            self._calls.append(ToolCall(name, str(function["name"]), arguments_in(function.get("arguments") or {})))
        if data.get("logprobs"):
            self._logprobs = (self._logprobs or []) + [token_logprob(entry) for entry in data["logprobs"]]
        if data["done"]:
            self.done = True
            self._stop = _STOPS.get(data.get("done_reason"), "unknown")
            self._usage = _usage(data)
        self._model = str(data.get("model") or self._model)
        return Delta(text, reasoning, calls=whole_calls(tuple(self._calls))[known:])

    def response(self, limits: RateLimits | None) -> LMResponse:
        """The whole answer; an enforced choice is still spelled as JSON."""
        reasoning = "".join(self._thoughts)
        return LMResponse(
            "".join(self._texts),
            self._usage,
            "tool_calls" if self._calls and self._stop == "stop" else self._stop,
            self._model,
            tool_calls=tuple(self._calls),
            reasoning=reasoning,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            # A model that reasons goes on from there when it has the results of its calls.
            state=state_of(_STATE, {"thinking": reasoning}) if self._calls and reasoning else "",
            limits=limits,
        )


# --------------------------------------------------------------------- parts of a request


def _turns(messages: tuple[Message, ...]) -> list[object]:
    turns: list[object] = []
    names: dict[str, str] = {}
    for message in messages:
        turn: dict[str, object] = {"role": message.role, "content": message.content}
        if message.attachments:
            turn["images"] = [attachment.data for attachment in message.attachments]
        if message.tool_calls:
            turn["tool_calls"] = [_called(call, names) for call in message.tool_calls]
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                turn["tool_name"] = names[message.tool_call_id]
        turn.update(cast("dict[str, object]", state_in(message.state, _STATE) or {}))
        turns.append(turn)
    return turns


def _called(call: ToolCall, names: dict[str, str]) -> object:
    names[call.id] = call.name
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call.arguments)}}


def _declared(tool: ToolSpec) -> object:
    function = {"name": tool.name, "description": tool.description, "parameters": _inlined(tool.parameters)}
    return {"type": "function", "function": function}


@lru_cache(maxsize=512)
def _inlined(text: str) -> object:
    """The JSON Schema `text` with its definitions in the places that refer to them: the server knows no references.

    Where a definition refers to itself, what stands deeper is any object.
    """
    schema = cast("dict[str, Any]", from_json(text))
    definitions: dict[str, object] = schema.pop("$defs", {})

    def within(node: object, above: tuple[str, ...]) -> object:
        if isinstance(node, list):
            return [within(item, above) for item in cast("list[object]", node)]
        if not isinstance(node, dict):
            return node
        fields = cast("dict[str, object]", node)
        name = str(fields.get("$ref", "")).removeprefix("#/$defs/")
        if name not in definitions:
            return {key: within(value, above) for key, value in fields.items()}
        beside = {key: value for key, value in fields.items() if key != "$ref"}
        if name in above:
            return {"type": "object", **beside}
        return {**cast("dict[str, object]", within(definitions[name], (*above, name))), **beside}

    return within(schema, ())


# --------------------------------------------------------------------- parts of an answer


def _usage(data: Mapping[str, object]) -> Usage | None:
    """The tokens that a last part counts; a count of zero is left out by the server, but not both."""
    if data.get("prompt_eval_count") is None and data.get("eval_count") is None:
        return None
    return Usage(count(data, "prompt_eval_count"), count(data, "eval_count"))


def _read_words(body: bytes) -> Words:
    said = words(body)
    if any(phrase in said.message for phrase in _TOO_LONG):
        return Words("context_length_exceeded", said.message)
    if "usage limit" in said.message:
        return Words("insufficient_quota", said.message)
    return said
