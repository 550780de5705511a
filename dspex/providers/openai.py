"""OpenAI's chat-completions protocol, spoken by OpenAI and by any compatible server.

Chat requests go to ``/chat/completions``, raw prompts to ``/completions``. What the server can do beyond plain chat
is known for OpenAI itself (schemas enforced while generating); of any other server nothing is assumed, and
`LM(capabilities=...)` says what it can. A capability that is absent is never used: without ``json_schema`` no
``response_format`` is sent, and a request for raw prompts, enforced choices or scores is refused before sending.

Keys. With the default base URL the key is `LM(api_key=...)`, else ``OPENAI_API_KEY``; the two variables
``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` belong together in the same way. A ``base_url=`` given in code gets
``api_key=`` or no key at all, so that a key meant for OpenAI never reaches another host. Keys stand in no repr, error,
fingerprint or log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

from pydantic_core import from_json, to_json

from dspex.errors import (
    LMError,
    RateLimited,
    RequestRejected,
    ResponseError,
    ServerError,
    UsageError,
)
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Price, Stop, Usage
from dspex.providers.prices import list_price
from dspex.providers.refusals import Redactor, retry_after
from dspex.providers.transport import AioWire, HttpxWire, Reply, Timeouts, Wire, place

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

OPENAI = "https://api.openai.com/v1"

# OpenAI's reasoning models refuse a temperature and stop texts.
_REASONING = re.compile(r"^(o\d|gpt-5(?!.*chat))")

_STOPS: dict[object, Stop] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}

_CHOICE = "answer"
"""The one field of the object that carries an enforced choice."""


def open_openai(lm: LM, transport: AnyTransport | None = None) -> OpenAIModel:
    """The model behind `lm`; see the module for where its URL and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    base_url, key = lm.base_url, lm.api_key
    if base_url is None:
        base_url = os.environ.get("OPENAI_BASE_URL") or OPENAI
        key = key or os.environ.get("OPENAI_API_KEY")
        if not key and base_url.rstrip("/") == OPENAI:
            raise UsageError(
                "DX8111",
                f"{lm.model} needs a key and none was given",
                fix="set OPENAI_API_KEY, give api_key=, or use dx.LM('local/smollm2'), which needs none",
            )
    key = (key or "").strip()
    if not all("!" <= c <= "~" for c in key):
        raise UsageError("DX8113", "the API key holds spaces, line ends or characters that no header may carry")
    base_url = base_url.rstrip("/")
    if not _is_base_url(base_url):
        raise UsageError(
            "DX8114",
            f"base_url is an http or https URL without query, got {place(base_url)!r}",
            fix="for example http://127.0.0.1:9000/v1",
        )
    return OpenAIModel(lm, base_url, key, transport)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not parts.query and not re.search(r"[\s#?]", url)


class OpenAIModel:
    """One model of one OpenAI-compatible server. Make it with `open_openai`."""

    def __init__(self, lm: LM, base_url: str, key: str, transport: AnyTransport | None = None) -> None:
        self._name = lm.model
        self._model = lm.model.partition("/")[2]
        self._base_url = base_url
        self._official = base_url == OPENAI
        self._price = lm.price
        self._priced = lm.price is not None
        enforced = self._official
        self._capabilities = lm.capabilities or Capabilities(json_schema=enforced, choices=enforced)
        self._redact = Redactor(key)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "dspex"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        timeouts = Timeouts(connect=min(10.0, lm.timeout), read=None, total=lm.timeout)
        self._wire: Wire
        if transport is None:
            self._wire = AioWire(headers=headers, limit=lm.concurrency, timeouts=timeouts, base_url=base_url)
        else:
            self._wire = HttpxWire(transport, headers=headers, timeouts=timeouts)
        self._chat_url = f"{base_url}/chat/completions"
        self._prompt_url = f"{base_url}/completions"
        limit = "max_completion_tokens" if self._official else "max_tokens"
        self._limit_key = limit
        self._plain = not (self._official and _REASONING.match(self._model))

    def __repr__(self) -> str:
        return f"OpenAIModel({self._name!r}, base_url={place(self._base_url)!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        # What a server enforces while generating shapes its answers, and is not in the request.
        enforced = ":json_schema" if self._capabilities.json_schema else ""
        return f"openai:{place(self._base_url)}:{self._model}{enforced}"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def price(self) -> Price | None:
        if not self._priced:
            self._price = list_price(self._base_url, self._model)
            self._priced = True
        return self._price

    async def complete(self, request: LMRequest, /) -> LMResponse:
        raw = request.prompt is not None
        body = self._body(request)
        url = self._prompt_url if raw else self._chat_url
        reply = await self._wire.post(url, body)
        if reply.status != 200:
            raise self._refusal(reply, url)
        return self._answer(request, reply, url)

    async def aclose(self) -> None:
        await self._wire.aclose()

    # ----------------------------------------------------------------- request

    def _body(self, request: LMRequest) -> bytes:
        can = self._capabilities
        if request.score_choices:
            raise self._incapable("scores of choices")
        if request.choices and not can.choices:
            raise self._incapable("enforced choices")
        payload: dict[str, object] = {"model": self._model}
        if request.prompt is not None:
            if not can.raw_prompt:
                raise self._incapable("raw prompts")
            payload["prompt"] = request.prompt
            payload["max_tokens"] = request.max_tokens
        else:
            payload["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
            payload[self._limit_key] = request.max_tokens
        if self._plain:
            payload["temperature"] = request.temperature
            if request.stop:
                payload["stop"] = request.stop
        if request.seed is not None:
            payload["seed"] = (request.seed + request.rollout) & 0x7FFFFFFF
        body = to_json(payload)
        schema = _choice_format(request.choices) if request.choices else None
        if schema is None and request.json_schema is not None and can.json_schema:
            schema = _schema_format(request.json_schema)
        if schema is not None:
            # Spliced in as bytes: a schema is large and the same for every call.
            body = body[:-1] + b',"response_format":' + schema + b"}"
        return body

    def _incapable(self, what: str) -> RequestRejected:
        return RequestRejected(
            "DX4201",
            f"{self._name} at {place(self._base_url)} is not known to support {what}",
            fix="if the server does, say so: dx.LM(..., capabilities=dspex.lm.types.Capabilities(...))",
        )

    # ----------------------------------------------------------------- response

    def _answer(self, request: LMRequest, reply: Reply, url: str) -> LMResponse:
        try:
            data: object = from_json(reply.body)
        except ValueError as error:
            raise ResponseError(
                "DX4301",
                f"the body is not JSON ({error}): {self._redact.excerpt(reply.body)}",
                where=place(url),
                fix=_NO_API,
                retryable=True,
                sent="yes",
            ) from error
        try:
            fields = cast("dict[str, Any]", data)
            choice = cast("dict[str, Any]", fields["choices"][0])
            reason: object = choice.get("finish_reason")
            stop: Stop = _STOPS.get(reason, "unknown")
            if request.prompt is not None:
                text = choice["text"]
            else:
                message = cast("dict[str, Any]", choice["message"])
                text = message["content"]
                if text is None:
                    refusal: object = message.get("refusal")
                    text = refusal if isinstance(refusal, str) else ""
                    stop = "content_filter" if refusal else stop
                elif isinstance(text, list):
                    parts = cast("list[dict[str, Any]]", text)
                    text = "".join(part["text"] for part in parts if part.get("type") == "text")
            if not isinstance(text, str):
                raise TypeError("the content is not text")
            usage = _usage(fields.get("usage"))
            model = fields.get("model")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise self._misshapen(data, reply, url) from error
        if request.choices and stop == "stop":
            text = self._chosen(text, request, url)
        return LMResponse(text, usage, stop, model if isinstance(model, str) else "")

    def _chosen(self, text: str, request: LMRequest, url: str) -> str:
        try:
            value: object = cast("dict[str, object]", from_json(text))[_CHOICE]
        except (ValueError, KeyError, TypeError):
            value = None
        if value not in request.choices:
            raise ResponseError(
                "DX4303",
                f"the server did not enforce the choices {list(request.choices)}: {self._redact.excerpt(text)}",
                where=place(url),
                fix="leave choices out of LM(capabilities=...) for this server",
                retryable=True,
                sent="yes",
            )
        return cast(str, value)

    def _misshapen(self, data: object, reply: Reply, url: str) -> LMError:
        # Some gateways answer 200 with the error of the server behind them.
        if isinstance(data, dict):
            error = cast("dict[str, Any]", data).get("error")
            if isinstance(error, dict):
                status = cast("dict[str, Any]", error).get("code")
                code = status if isinstance(status, int) and 400 <= status <= 599 else 500
                return self._refusal(Reply(code, reply.headers, reply.body), url)
        return ResponseError(
            "DX4302",
            f"the body is not a completion: {self._redact.excerpt(reply.body)}",
            where=place(url),
            fix=_NO_API,
            retryable=True,
            sent="yes",
        )

    def _refusal(self, reply: Reply, url: str) -> LMError:
        return refusal(reply, url, self._model, self._redact)


_NO_API = "base_url must be the root of an OpenAI-compatible API; it usually ends in /v1"


def refusal(reply: Reply, url: str, model: str, redact: Redactor) -> LMError:
    """The error that a status other than 200 means, with the server's own words."""
    status = reply.status
    kind, words = _words(reply.body)
    told = redact.excerpt(words) if words else redact.excerpt(reply.body)
    message = f"{status}: {told}" if told else f"{status} without a message"
    where = place(url)
    if status == 429:
        # An exhausted account answers 429 as well, and waiting does not fill it.
        empty = kind == "insufficient_quota"
        wait = retry_after(reply.headers)
        if wait is not None:
            message += f"; the server asks to wait {wait:g} s"
        fix = "fill the account, or use another key" if empty else "lower concurrency or raise retries of dx.LM(...)"
        limited = RateLimited("DX4207", message, where=where, fix=fix, retryable=not empty, sent="yes")
        limited.retry_after = wait
        return limited
    if status >= 500 or status in (408, 409, 425):
        fix = "see the server's own log; where it recovers by itself, raise retries of dx.LM(...)"
        failed = ServerError("DX4208", message, where=where, fix=fix, retryable=status not in (501, 505), sent="yes")
        failed.retry_after = retry_after(reply.headers)
        return failed
    if 200 <= status < 300:
        return ResponseError("DX4302", message, where=where, retryable=True, sent="yes")
    if 300 <= status < 400:
        target = reply.headers.get("location", "")
        fix = f"set base_url to the server's final address ({place(urljoin(url, target))})" if target else None
        return RequestRejected(
            "DX4206", f"{status}: redirects are not followed, so that keys stay here", where=where, fix=fix, sent="yes"
        )
    code, fix = {
        401: ("DX4202", "check api_key= or OPENAI_API_KEY"),
        403: ("DX4203", "check that the key may use this model"),
        404: ("DX4204", f"check the model's name ({model!r}) and that base_url ends where the API begins (often /v1)"),
    }.get(status, ("DX4205", None))
    return RequestRejected(code, message, where=where, fix=fix, sent="yes")


def _words(body: bytes) -> tuple[str, str]:
    """(machine-readable kind, message) of an error body, of OpenAI's or a related shape."""
    try:
        data: object = from_json(body)
    except ValueError:
        return "", ""
    if isinstance(data, dict):
        fields = cast("dict[str, object]", data)
        error = fields.get("error", fields)
        if isinstance(error, str):
            return "", error
        if isinstance(error, dict):
            inner = cast("dict[str, object]", error)
            kind = inner.get("code") or inner.get("type") or ""
            words = inner.get("message") or inner.get("detail") or ""
            return str(kind), words if isinstance(words, str) else to_json(words).decode()
    return "", ""


def _usage(data: object) -> Usage | None:
    if not isinstance(data, dict):
        return None
    fields = cast("dict[str, object]", data)
    return Usage(
        _count(fields, "prompt_tokens"),
        _count(fields, "completion_tokens"),
        _count(fields.get("prompt_tokens_details"), "cached_tokens"),
        _count(fields.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(fields: object, key: str) -> int:
    if not isinstance(fields, dict):
        return 0
    value = cast("dict[str, object]", fields).get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is not a count")
    return value


# ----------------------------------------------------------------- schemas


@lru_cache(maxsize=512)
def response_format(request: LMRequest) -> object:
    """The ``response_format`` of a request's body for a server that enforces choices and schemas; None for none."""
    if request.choices:
        return from_json(_choice_format(request.choices))
    return None if request.json_schema is None else from_json(_schema_format(request.json_schema))


def _choice_format(choices: tuple[str, ...]) -> bytes:
    schema = {
        "type": "object",
        "properties": {_CHOICE: {"type": "string", "enum": list(choices)}},
        "required": [_CHOICE],
        "additionalProperties": False,
    }
    return to_json({"type": "json_schema", "json_schema": {"name": "choice", "schema": schema, "strict": True}})


@lru_cache(maxsize=512)
def _schema_format(text: str) -> bytes:
    schema = cast("dict[str, object]", from_json(text))
    strict = strict_schema(schema)
    inner = {"name": "output", "schema": strict or schema, "strict": strict is not None}
    return to_json({"type": "json_schema", "json_schema": inner})


def strict_schema(schema: Mapping[str, object]) -> dict[str, object] | None:
    """`schema` in OpenAI's strict dialect, or None when it cannot be said there.

    Every object is closed and all its fields are required; defaults are dropped. An object with free keys has no
    strict form.
    """
    try:
        return cast("dict[str, object]", _strict(schema))
    except ValueError:
        return None


def _strict(node: object) -> object:
    if isinstance(node, list):
        return [_strict(item) for item in cast("list[object]", node)]
    if not isinstance(node, Mapping):
        return node
    fields = cast("Mapping[str, object]", node)
    out: dict[str, object] = {}
    for key, value in fields.items():
        if key == "default":
            continue
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            # The keys in here are names, not keywords.
            out[key] = {name: _strict(inner) for name, inner in cast("Mapping[str, object]", value).items()}
        elif key in ("enum", "const", "required"):
            out[key] = value
        else:
            out[key] = _strict(value)
    if fields.get("type") == "object" or "properties" in fields:
        if fields.get("additionalProperties") not in (None, False) or "properties" not in fields:
            raise ValueError("free keys")
        out["additionalProperties"] = False
        out["required"] = list(cast("Mapping[str, object]", fields["properties"]))
    return out
