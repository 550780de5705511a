"""Anthropic's Messages protocol, spoken by Anthropic and by servers compatible with it.

What a Claude model can do is known by its name (`claude`), wherever it is served; of any other model
behind this protocol only that it calls tools, and `LM(capabilities=...)` says what else it can. A model that takes no
temperature is sent none.

The base URL is ``base_url=``, else ``ANTHROPIC_BASE_URL``, else Anthropic's own; with or without ``/v1`` at its end.
The key is ``api_key=``, else, without ``base_url=``, ``ANTHROPIC_API_KEY``.

Source: Anthropic, Messages API reference; "Errors"; "Streaming messages".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import to_json

from dspex.errors import LMError
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, Delta, LMRequest, LMResponse
from dspex.providers.anthropic.answer import Assembly, answer
from dspex.providers.anthropic.batch import MessageBatches
from dspex.providers.anthropic.claude import blank_stops, claude
from dspex.providers.anthropic.request import request_body
from dspex.providers.asking import Vocabulary, as_body, with_extra
from dspex.providers.batching import BatchedModel, unanswered
from dspex.providers.http import Client, Words, words
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, Flow, Reading
from dspex.providers.served import Served
from dspex.providers.transport import Reply, place

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

ANTHROPIC = "https://api.anthropic.com"
_VERSION = "2023-06-01"
_MESSAGES = Vocabulary(
    Capabilities(json_schema=True, choices=True, tools=True, media=("image", "file"), reasoning=True, tool_choice=True),
    media_in=("user", "tool"),
)

# The API has a machine-readable name for neither, so its sentences have to do.
_TOO_LONG = ("prompt is too long", "exceed context limit", "input is too long")
_FILTERED = ("content filtering policy",)
_SPENT = (
    b"contract_spend_limit_reached",
    b"enforced_spend_limit_reached",
    b"billing_error",
    b"credit balance is too low",
)

_STATUS: dict[object, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Types of errors that come without a status, within a stream or a batch, and the status that they have alone."""


def open_anthropic(lm: LM, transport: AnyTransport | None = None) -> AnthropicModel:
    """The model behind `lm`; see the module for where its URL and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    base_url = base_url_for(lm, "ANTHROPIC_BASE_URL", ANTHROPIC).removesuffix("/v1")
    known = claude(lm.model)
    client = Client(
        lm,
        base_url,
        key=lambda: key_for(lm, ("ANTHROPIC_API_KEY",), needed=base_url == ANTHROPIC),
        keyed=lambda key: {"x-api-key": key},
        headers={"anthropic-version": _VERSION},
        key_from="api_key= or ANTHROPIC_API_KEY",
        read=read_words,
        transport=transport,
    )
    served = Served(lm, client, _MESSAGES, Capabilities(tools=True) if known is None else known.capabilities)
    return AnthropicModel(served)


def read_words(body: bytes) -> Words:
    """The words of an error body."""
    said = words(body)
    message = said.message.lower()
    if any(phrase in message for phrase in _TOO_LONG):
        return Words("context_length_exceeded", said.message)
    if any(phrase in message for phrase in _FILTERED):
        return Words("content_filter", said.message)
    if any(sign in body for sign in _SPENT):
        return Words("insufficient_quota", said.message)
    return said


class AnthropicModel(BatchedModel):
    """One model of one server that speaks Anthropic's protocol. Make it with `open_anthropic`."""

    def __init__(self, served: Served) -> None:
        self._url = f"{served.base_url}/v1/messages"
        batches = MessageBatches(served.client, f"{self._url}/batches", self._body, self._reading, self._outcome)
        # Source: Anthropic, "Batch processing", "Pricing".
        super().__init__(served, batches, halved=True)
        self._known = claude(served.model)

    async def complete(self, request: LMRequest, /) -> LMResponse:
        reply = await self._client.send(self._url, as_body(self._body(request)))
        message = self._client.json(reply.body, self._url)
        if message.get("type") == "error":
            raise self._failure(message, reply.headers)
        return self._response(message, self._reading(request), reply.headers)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        body = {**self._body(request), "stream": True}
        assembly = Assembly()
        reading = self._reading(request)
        flow = Flow(reading)
        headers: Mapping[str, str] = {}
        async with aclosing(self._client.events(self._url, as_body(body))) as events:
            async for event in events:
                headers = event.headers
                data = self._client.json(event.data, self._url)
                if data.get("type") == "error":
                    raise self._failure(data, headers)
                try:
                    delta = assembly.feed(data)
                except MALFORMED as error:
                    raise self._client.misshapen(event.data, self._url) from error
                if delta is not None and (shown := flow.of(delta)) is not None:
                    yield shown
        if not assembly.ended:
            raise self._client.broken(self._url, "the stream ended before its message_stop")
        yield flow.last(self._response(assembly.message(), reading, headers))

    # ----------------------------------------------------------------- request and response

    def _body(self, request: LMRequest) -> dict[str, object]:
        return with_extra(request_body(request, self._served, self._known), self._served.extra)

    @staticmethod
    def _reading(request: LMRequest) -> Reading:
        return Reading.of(request, blank_stops(request.stop))

    def _response(self, message: Mapping[str, Any], reading: Reading, headers: Mapping[str, str]) -> LMResponse:
        try:
            response = answer(message, rate_limits(headers))
        except MALFORMED as error:
            raise self._client.misshapen(to_json(message), self._url) from error
        return reading.finished(response, self._client, self._url)

    def _failure(self, data: Mapping[str, Any], headers: Mapping[str, str]) -> LMError:
        """The error that came without a status of its own."""
        error: object = data.get("error")
        kind = str(cast("dict[str, object]", error).get("type")) if isinstance(error, dict) else ""
        return self._client.refusal(Reply(_STATUS.get(kind, 500), headers, to_json(data)), self._url)

    def _outcome(self, result: Mapping[str, Any], reading: Reading) -> LMResponse | LMError:
        """What became of one request of a batch."""
        kind = result["type"]
        if kind == "errored":
            return self._failure(result["error"], {})
        if kind != "succeeded":
            why = "was cancelled" if kind == "canceled" else "expired"
            return unanswered(f"the batch {why} before this request", place(self._url))
        try:
            return self._response(result["message"], reading, {})
        except LMError as error:
            return error
