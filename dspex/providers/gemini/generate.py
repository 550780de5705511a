"""Google's Gemini protocol: ``models/NAME:generateContent``, ``:streamGenerateContent`` and ``:batchEmbedContents``.

The key is `LM(api_key=...)`, else ``GOOGLE_API_KEY``, else ``GEMINI_API_KEY``; ``GOOGLE_GEMINI_BASE_URL`` names another
server for them. A server that is named without a path is asked under ``/v1beta``.

What the protocol says in its own way: system turns are one instruction, whatever stands between them. A tool's result
names the tool, so the turn that asked for it must be in the request. `LMResponse.state` holds the parts of an answer
with the signatures of its hidden reasoning, which the newest models want back beside tool calls. Models of version 2.5
take a budget of tokens for hidden reasoning, later ones a level; these have no ``none`` and get the lowest. Nothing
forbids parallel tool calls.

Source: Google, "Gemini API reference"; "Thinking"; "OpenAI compatibility" (what an effort is in tokens).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from pydantic_core import to_json

from dspex.errors import LMError, RequestRejected, ResponseError
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, Delta, Embeddings, LMRequest, LMResponse
from dspex.providers.asking import Vocabulary, as_body, choice_schema, with_extra
from dspex.providers.gemini.answer import Assembly, read_words, usage_of
from dspex.providers.gemini.request import declarations, known_schema, tool_config, turns
from dspex.providers.http import Client
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, Flow, Reading
from dspex.providers.served import Served, ServedModel
from dspex.providers.transport import Reply, place

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

GEMINI = "https://generativelanguage.googleapis.com/v1beta"

_CAN = Capabilities(
    json_schema=True,
    choices=True,
    json_mode=True,
    tools=True,
    media=("image", "audio", "file"),
    reasoning=True,
    seed=True,
    tool_choice=True,
)
_GENERATE = Vocabulary(replace(_CAN, logprobs=True), media_in=("user", "assistant"), one_call=False)

_UNREASONING = re.compile(r"gemini-(1|2\.0)|gemma|embedding")
_BUDGETED = re.compile(r"gemini-2\.5")
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}

_UNREADABLE_CALL = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL")


def open_gemini(lm: LM, transport: AnyTransport | None = None) -> GeminiModel:
    """The model behind `lm`; see the module for where its URL and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL; DX8117, DX8118 no key where it was
            said to be.
    """
    base_url = base_url_for(lm, "GOOGLE_GEMINI_BASE_URL", GEMINI)
    if not urlsplit(base_url).path:
        base_url += "/v1beta"
    client = Client(
        lm,
        base_url,
        key=lambda: key_for(lm, ("GOOGLE_API_KEY", "GEMINI_API_KEY"), needed=base_url == GEMINI),
        keyed=lambda key: {"x-goog-api-key": key},
        key_from="api_key=, GOOGLE_API_KEY or GEMINI_API_KEY",
        read=read_words,
        transport=transport,
    )
    served = Served(lm, client, _GENERATE, replace(_CAN, reasoning=_reasons(lm.model)))
    return GeminiModel(served)


def _reasons(model: str) -> bool:
    return not _UNREASONING.search(model)


class GeminiModel(ServedModel):
    """One model behind the Gemini protocol; it completes, streams and embeds. Make it with `open_gemini`."""

    most_texts = 100

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self._budgeted = bool(_BUDGETED.search(served.model))
        self._signs = _reasons(served.model) and not self._budgeted
        self._path = served.model if "/" in served.model else f"models/{served.model}"
        root = f"{served.base_url}/{quote(self._path)}"
        self._url = f"{root}:generateContent"
        self._stream_url = f"{root}:streamGenerateContent?alt=sse"
        self._embed_url = f"{root}:batchEmbedContents"

    async def complete(self, request: LMRequest, /) -> LMResponse:
        reply = await self._client.send(self._url, self._body(request))
        assembly = Assembly()
        self._read(assembly, reply.body, self._url)
        if not assembly.began and not assembly.ended:
            raise self._client.misshapen(reply.body, self._url)
        return self._response(assembly, Reading.of(request), self._url, reply.headers)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        url = self._stream_url
        assembly = Assembly()
        reading = Reading.of(request)
        flow = Flow(reading)
        headers: Mapping[str, str] = {}
        async with aclosing(self._client.events(url, self._body(request))) as events:
            async for event in events:
                headers = event.headers
                if (shown := flow.of(self._read(assembly, event.data, url))) is not None:
                    yield shown
        if not assembly.ended:
            raise self._client.broken(url, "the stream ended without a finish reason")
        yield flow.last(self._response(assembly, reading, url, headers))

    async def embed(self, texts: tuple[str, ...], /) -> Embeddings:
        """Vectors of the texts. `LM.extra` goes into the request of each, for example ``outputDimensionality``."""
        url, extra = self._embed_url, self._served.extra
        requests = [with_extra({"model": self._path, "content": {"parts": [{"text": text}]}}, extra) for text in texts]
        reply = await self._client.send(url, as_body({"requests": requests}))
        data = self._client.json(reply.body, url)
        try:
            entries = cast("list[dict[str, Any]]", data["embeddings"])
            vectors = tuple(tuple(map(float, entry["values"])) for entry in entries)
            usage = usage_of(data.get("usageMetadata"))
        except MALFORMED as error:
            raise self._client.misshapen(reply.body, url) from error
        if len(vectors) != len(texts):
            raise self._client.misshapen(reply.body, url)
        return Embeddings(vectors, usage, self._served.model)

    # ----------------------------------------------------------------- request

    def _body(self, request: LMRequest) -> bytes:
        self._served.check(request)
        can = self.capabilities
        system, contents = turns(request.messages, self._signs)
        config: dict[str, object] = {"temperature": request.temperature, "maxOutputTokens": request.max_tokens}
        body: dict[str, object] = {"contents": contents, "generationConfig": config}
        if system:
            body["systemInstruction"] = {"parts": system}
        if request.top_p is not None:
            config["topP"] = request.top_p
        if request.stop:
            config["stopSequences"] = request.stop
        if request.seed is not None and can.seed:
            config["seed"] = (request.seed + request.rollout) & 0x7FFFFFFF
        if request.choices:
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = choice_schema(request.choices)
        elif request.json_schema is not None and can.json_schema:
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = known_schema(request.json_schema)
        elif request.json_mode and can.json_mode:
            config["responseMimeType"] = "application/json"
        if request.reasoning is not None and can.reasoning:
            config["thinkingConfig"] = self._thinking(request.reasoning)
        if request.top_logprobs is not None:
            config["responseLogprobs"] = True
            if request.top_logprobs:
                config["logprobs"] = request.top_logprobs
        if request.tools:
            body["tools"] = declarations(request.tools)
            choice = tool_config(request.tool_choice)
            if choice is not None:
                body["toolConfig"] = choice
        return as_body(with_extra(body, self._served.extra))

    def _thinking(self, reasoning: str | int) -> dict[str, object]:
        if isinstance(reasoning, int):
            return {"thinkingBudget": reasoning, "includeThoughts": True}
        bound = {"thinkingBudget": _BUDGETS[reasoning]} if self._budgeted else {"thinkingLevel": _LEVELS[reasoning]}
        return {**bound, "includeThoughts": reasoning != "none"}

    # ----------------------------------------------------------------- response

    def _read(self, assembly: Assembly, body: bytes | str, url: str) -> Delta:
        data = self._client.json(body, url)
        if "error" in data:
            raise self._failure(data, url)
        try:
            return assembly.add(data)
        except MALFORMED as error:
            raise self._client.misshapen(body, url) from error

    def _failure(self, data: dict[str, object], url: str) -> LMError:
        """The error that came in a body or a stream of status 200."""
        error = data["error"]
        code = cast("dict[str, object]", error).get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        return self._client.refusal(Reply(status, {}, to_json(data)), url)

    def _response(self, assembly: Assembly, reading: Reading, url: str, headers: Mapping[str, str]) -> LMResponse:
        if assembly.blocked:
            raise RequestRejected(
                "DX4210",
                f"the prompt was blocked: {self._client.redact.excerpt(assembly.blocked)}",
                where=place(url),
                fix="change the input, or set safetySettings in dx.LM(extra=...)",
                sent="yes",
            )
        if assembly.finish in _UNREADABLE_CALL:
            raise ResponseError(
                "DX4230",
                f"the model called a tool in a way that its server cannot read ({assembly.finish})",
                where=place(url),
                fix="simplify the tools' parameters, or say in the prompt which tools there are",
                retryable=True,
                sent="yes",
            )
        return reading.finished(assembly.response(rate_limits(headers)), self._client, url)
