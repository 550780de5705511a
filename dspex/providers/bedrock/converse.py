"""Amazon Bedrock's Converse protocol, for every model that it serves.

The server is that of the region: ``base_url=``, else ``AWS_ENDPOINT_URL_BEDROCK_RUNTIME``, else
``https://bedrock-runtime.REGION.amazonaws.com`` with the region of ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the shared
config file. ``bedrock/NAME`` names a model, an inference profile or an ARN.

Keys. ``api_key=`` is an API key of Bedrock, or ``ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]``, whose requests are
signed; without it ``AWS_BEARER_TOKEN_BEDROCK``, else the credentials of the environment or of the shared files. A
server named in code that is not AWS's gets ``api_key=`` or nothing. A function as ``api_key=`` is asked for each
request, for credentials that expire.

What a Claude can do is known by its name; of any other model that it calls tools, and `LM(capabilities=...)` says what
else.

Source: AWS, Amazon Bedrock Runtime API reference, "Converse" and "ConverseStream".
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from pydantic_core import to_json

from dspex.lm.model import LM
from dspex.lm.types import Capabilities, Delta, LMRequest, LMResponse
from dspex.providers.anthropic.claude import blank_stops, claude
from dspex.providers.asking import Vocabulary, as_body, with_extra
from dspex.providers.bedrock.answer import Assembly, answer
from dspex.providers.bedrock.credentials import aws_credentials, aws_region, credentials_in
from dspex.providers.bedrock.eventstream import Frame, FrameReader
from dspex.providers.bedrock.request import request_body
from dspex.providers.bedrock.sigv4 import Credentials, Signer
from dspex.providers.http import Client, Words, renewed, words
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, Flow, Reading
from dspex.providers.served import Served, ServedModel
from dspex.providers.transport import Reply

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

_CONVERSE = Vocabulary(
    Capabilities(
        json_schema=True, choices=True, tools=True, media=("image", "audio", "file"), reasoning=True, tool_choice=True
    ),
    media_in=("user", "tool"),
)
_ENDPOINT = "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"
_REGION = re.compile(r"\bbedrock-runtime(?:-fips)?\.([a-z]{2,}(?:-[a-z]+)+-\d+)\.")
_OWN = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

_OTHER_KEY = (
    "security token included in the request",
    "signature we calculated does not match",
    "your api key is valid",
)
_TOO_LONG = ("input is too long", "prompt is too long", "exceed context limit", "maximum context length")

# Claude models whose schemas Anthropic's own API enforces and Bedrock does not.
_UNENFORCED = re.compile(r"claude-(opus-4-1|fable-5)(?!\d)")

_STATUS = {
    "throttlingException": 429,
    "serviceUnavailableException": 503,
    "internalServerException": 500,
    "modelStreamErrorException": 500,
    "validationException": 400,
}
"""Exceptions within a stream, and the status that each has alone; a model's broken stream may be asked for again."""


def open_bedrock(lm: LM, transport: AnyTransport | None = None) -> BedrockModel:
    """The model behind `lm`; see the module for where its server and credentials come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8113 malformed key, DX8114 malformed URL, DX8130 no region, DX8131 no credentials, DX8132
            unreadable config file, DX8133 incomplete credentials in ``api_key=``.
    """
    named = lm.base_url or os.environ.get(_ENDPOINT) or ""
    base_url = base_url_for(lm, _ENDPOINT, "" if named else _server(aws_region()))
    host = urlsplit(base_url).hostname or ""
    # AWS's own servers in code are no stranger than those that the region names.
    own = lm.base_url is None or (host.endswith(_OWN) and base_url.startswith("https:"))
    keyed = replace(lm, base_url=None) if own else lm

    def access() -> str | Credentials:
        key = key_for(keyed, ("AWS_BEARER_TOKEN_BEDROCK",), needed=False)
        if not key and own:
            return aws_credentials()
        return credentials_in(key) or key

    first = access()
    found = _REGION.search(f"{host}.")
    region = found[1] if found else aws_region() if isinstance(first, Credentials) else ""
    client = Client(
        lm,
        base_url,
        key_from="api_key=, AWS_BEARER_TOKEN_BEDROCK or the AWS credentials",
        secrets=_secrets(first),
        read=read_words,
        transport=transport,
    )
    served = Served(lm, client, _CONVERSE, _capabilities(lm.model))
    return BedrockModel(served, access if callable(lm.api_key) else lambda: first, region)


def _capabilities(model: str) -> Capabilities:
    known = claude(model)
    if known is None:
        return Capabilities(tools=True)
    can = known.capabilities
    return replace(can, json_schema=False, choices=False) if _UNENFORCED.search(model) else can


def _secrets(access: str | Credentials) -> tuple[str, ...]:
    return (access,) if isinstance(access, str) else (access.secret_key, access.token)


def _server(region: str) -> str:
    return f"https://bedrock-runtime.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def read_words(body: bytes) -> Words:
    """The words of an error body."""
    said = words(body)
    message = said.message.lower()
    if any(phrase in message for phrase in _TOO_LONG):
        return Words("context_length_exceeded", said.message)
    if any(phrase in message for phrase in _OTHER_KEY):
        return Words("invalid_api_key", said.message)
    if "content filter" in message:
        return Words("content_filter", said.message)
    return said


class BedrockModel(ServedModel):
    """One model in one region. Make it with `open_bedrock`.

    Args:
        served: The server and the model.
        access: Gives an API key, ``""`` for none, or credentials to sign with: for each request.
        region: In which requests are signed; ``""`` where none are.
    """

    def __init__(self, served: Served, access: Callable[[], str | Credentials], region: str) -> None:
        super().__init__(served)
        self._known = claude(served.model)
        self._access = access
        self._region = region
        self._signer = lru_cache(maxsize=2)(self._new_signer)
        root = f"{served.base_url}/model/{quote(served.model, safe='-._~')}"
        self._url = f"{root}/converse"
        self._stream_url = f"{root}/converse-stream"

    async def complete(self, request: LMRequest, /) -> LMResponse:
        body = self._body(request)
        reply = await self._client.send(self._url, body, self._headers(self._url, body))
        return self._response(self._client.json(reply.body, self._url), self._reading(request), reply.headers)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        body, url = self._body(request), self._stream_url
        headers = {"Accept": "application/vnd.amazon.eventstream", **self._headers(url, body)}
        told: Mapping[str, str] = {}
        assembly = Assembly()
        reading = self._reading(request)
        flow = Flow(reading)
        reader = FrameReader()
        async with aclosing(self._client.chunks(url, body, headers)) as chunks:
            async for reply, chunk in chunks:
                told = reply.headers
                try:
                    frames = list(reader.feed(chunk))
                except ValueError as error:
                    raise self._client.broken(url, str(error)) from error
                for frame in frames:
                    delta = self._event(frame, assembly, told)
                    if delta is not None and (shown := flow.of(delta)) is not None:
                        yield shown
        if reader.within or not assembly.ended:
            raise self._client.broken(url, "the stream ended before its messageStop")
        yield flow.last(self._response(assembly.answer(), reading, told))

    # ----------------------------------------------------------------- request and response

    def _body(self, request: LMRequest) -> bytes:
        return as_body(with_extra(request_body(request, self._served, self._known), self._served.extra))

    def _reading(self, request: LMRequest) -> Reading:
        return Reading.of(request, () if self._known is None else blank_stops(request.stop))

    def _headers(self, url: str, body: bytes) -> dict[str, str]:
        access = renewed(self._access)
        for secret in _secrets(access):
            self._client.redact.learn(secret)
        if isinstance(access, Credentials):
            return self._signer(access).sign("POST", url, body, {"content-type": "application/json"})
        return {"authorization": f"Bearer {access}"} if access else {}

    def _new_signer(self, credentials: Credentials) -> Signer:
        return Signer(credentials, self._region, "bedrock")

    def _event(self, frame: Frame, assembly: Assembly, headers: Mapping[str, str]) -> Delta | None:
        url = self._stream_url
        kind = frame.headers.get(":message-type", "event")
        if kind == "exception":
            status = _STATUS.get(frame.headers.get(":exception-type", ""), 500)
            raise self._client.refusal(Reply(status, headers, frame.payload), url)
        if kind != "event":
            said = {"message": frame.headers.get(":error-message", ""), "code": frame.headers.get(":error-code", "")}
            raise self._client.refusal(Reply(500, headers, to_json(said)), url)
        data = cast("dict[str, Any]", self._client.json(frame.payload, url))
        try:
            return assembly.feed(frame.headers.get(":event-type", ""), data)
        except MALFORMED as error:
            raise self._client.misshapen(frame.payload, url) from error

    def _response(self, data: Mapping[str, Any], reading: Reading, headers: Mapping[str, str]) -> LMResponse:
        try:
            response = answer(data, rate_limits(headers))
        except MALFORMED as error:
            raise self._client.misshapen(to_json(data), self._url) from error
        return reading.finished(response, self._client, self._url)
