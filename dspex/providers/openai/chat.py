"""OpenAI's chat-completions protocol, spoken by OpenAI and by any compatible server.

Chat requests go to ``/chat/completions``, raw prompts to ``/completions``. What the server can do beyond plain chat
is known for OpenAI itself; of any other server nothing is assumed, and `LM(capabilities=...)` says what it can. A
capability that is absent is never used: without ``json_schema`` no ``response_format`` is sent, and a request for
tools, attachments, raw prompts or enforced choices is refused before sending.

OpenAI's reasoning models take no temperature and no stop texts: the first is left out, the second are applied to the
answer here. For the key and the base URL see `dspex.providers.keys`; the variables are ``OPENAI_API_KEY`` and
``OPENAI_BASE_URL``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from dspex.lm.model import LM
from dspex.lm.types import Delta, LMRequest, LMResponse
from dspex.providers.batching import BatchedModel
from dspex.providers.openai.batch import FileBatches
from dspex.providers.openai.chat_answer import Assembly, answer
from dspex.providers.openai.chat_request import Dialect, request_body
from dspex.providers.openai.errors import error_of, failure
from dspex.providers.openai.site import CHAT, Site, openai_capabilities, openai_served, reasons
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, Flow, Reading
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

_DONE = "[DONE]"


def open_openai(lm: LM, transport: AnyTransport | None = None) -> OpenAIModel:
    """The model behind `lm`; see the module for where its URL and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    served, site, official = openai_served(lm, CHAT, openai_capabilities, transport)
    return OpenAIModel(served, site, openai_dialect(served) if official else Dialect(), halved=official)


def openai_dialect(served: Served) -> Dialect:
    """How OpenAI's own models are spoken to."""
    return Dialect(limit="max_completion_tokens", sampling=not reasons(served), strict_tools=True)


class OpenAIModel(BatchedModel):
    """One model that speaks chat completions. Make it with `open_openai`, `open_azure` or `open_compatible`.

    Args:
        served: The server and the model.
        site: Where the server's API is.
        dialect: How it wants to be spoken to.
        halved: Whether its batches cost half.
        endpoint: How a batch names the path of its requests.
    """

    def __init__(
        self,
        served: Served,
        site: Site,
        dialect: Dialect,
        *,
        halved: bool = False,
        endpoint: str = "/v1/chat/completions",
    ) -> None:
        batches = FileBatches(served.client, site, endpoint, self._body, self._reading, self._answer)
        super().__init__(served, batches, halved=halved)
        self._dialect = dialect
        self._chat_url = site.call("/chat/completions")
        self._prompt_url = site.call("/completions")

    async def complete(self, request: LMRequest, /) -> LMResponse:
        url = self._url(request)
        reply = await self._client.send(url, self._body(request))
        data = self._client.json(reply.body, url)
        return self._answer(data, self._reading(request), reply.headers, url, request.prompt is not None)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        """See `StreamingModel.stream`. An enforced choice comes whole, at the end of its object."""
        url, raw = self._url(request), request.prompt is not None
        assembly = Assembly(raw, self._dialect)
        reading = self._reading(request)
        flow = Flow(reading)
        done = False
        headers: Mapping[str, str] = {}
        async with aclosing(self._client.events(url, self._body(request, stream=True))) as events:
            async for event in events:
                headers = event.headers
                if event.data == _DONE:
                    # Read on to the end of the body, which gives the connection back.
                    done = True
                    continue
                delta = self._add(assembly, event.data, headers, url)
                if delta is not None and (shown := flow.of(delta)) is not None:
                    yield shown
        if not done or not assembly.begun:
            raise self._client.broken(url, f"the stream ended without {'an answer' if done else _DONE}")
        yield flow.last(self._answer(assembly.completion(), reading, headers, url, raw))

    def _add(self, assembly: Assembly, text: str, headers: Mapping[str, str], url: str) -> Delta | None:
        chunk = self._client.json(text, url)
        # Nearly no chunk has the word, and to look for it is quicker than to look into each.
        error = error_of(chunk) if '"error"' in text else None
        if error is not None:
            raise failure(self._client, error, headers, url)
        try:
            return assembly.add(chunk)
        except MALFORMED as cause:
            raise self._client.misshapen(text, url) from cause

    # ----------------------------------------------------------------- one request, one answer

    def _url(self, request: LMRequest) -> str:
        return self._chat_url if request.prompt is None else self._prompt_url

    def _body(self, request: LMRequest, stream: bool = False) -> bytes:
        return request_body(request, self._served, self._dialect, stream)

    def _reading(self, request: LMRequest) -> Reading:
        if request.prompt is not None:
            return Reading.of(request)._replace(bare=True)
        return Reading.of(request, () if self._dialect.sampling else request.stop)

    def _answer(
        self, data: Mapping[str, Any], reading: Reading, headers: Mapping[str, str], url: str, raw: bool = False
    ) -> LMResponse:
        # Some gateways answer 200 with the error of the server behind them.
        error = error_of(data)
        if error is not None:
            raise failure(self._client, error, headers, url)
        try:
            response = answer(data, self._dialect, raw, reading.logprobs)
        except MALFORMED as cause:
            raise self._client.misshapen(to_json(data), url) from cause
        response = reading.finished(response, self._client, url)
        limits = rate_limits(headers)
        return response if limits is None else replace(response, limits=limits)
