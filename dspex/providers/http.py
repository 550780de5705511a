"""What every provider over HTTP does around its own protocol: send, refuse, read JSON and event streams.

A provider's file holds its protocol alone: how a request becomes a body, and a body a response. Errors are the same for
all of them, with the server's own words in them and nothing that looks like a secret.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urljoin

from pydantic_core import from_json, to_json

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError, UsageError
from dspex.lm.model import LM
from dspex.lm.record import record
from dspex.providers.lines import Events, Lines
from dspex.providers.rate_headers import rate_limits
from dspex.providers.refusals import Redactor, retry_after
from dspex.providers.transport import DirectWire, HttpxWire, LiveReply, Reply, Timeouts, Wire, place

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

T = TypeVar("T")

_KINDS = {
    "context_length_exceeded": (
        "DX4209",
        "shorten the input or the demonstrations, lower max_tokens, or use a model with a larger context",
    ),
    "content_filter": ("DX4210", "the provider refuses this content: change the input, or ask for another policy"),
    "insufficient_quota": ("DX4205", "fill the account, or use another key"),
    "invalid_api_key": ("DX4202", "check that the key is whole, valid and of this provider"),
}
"""Kinds that `Words` name alike whatever the provider calls them."""

_LONGEST_EVENT = 16 * 1024 * 1024
_LONGEST_REFUSAL = 1024 * 1024

_DOCUMENTS = ("application/json", "text/html")
"""What an answer is that was to be a stream of events and is none."""


@dataclass(frozen=True, slots=True)
class Words:
    """What an error body says: a machine-readable kind (``""`` where there is none) and the server's message.

    A provider translates its own names of ``context_length_exceeded``, ``content_filter``, ``insufficient_quota`` and
    ``invalid_api_key``. ``wait`` is the seconds to wait where the body tells them rather than a header.
    """

    kind: str
    message: str
    wait: float | None = None


@record
class Event:
    """One server-sent event, or one line of a stream of lines.

    Attributes:
        name: ``message`` where the server gave none, ``line`` for a line.
        data: Its text.
        headers: Those of the response.
    """

    name: str
    data: str
    headers: Mapping[str, str] = field(repr=False, compare=False)


def bearer(key: str) -> Mapping[str, str]:
    """The header that carries `key` as a bearer token."""
    return {"Authorization": f"Bearer {key}"}


def no_key() -> str:
    """Fetches the key of a server that takes none."""
    return ""


def renewed(access: Callable[[], T]) -> T:
    """What `access` gives for one request.

    Raises:
        RequestRejected: DX4218: it gives something else than it gave when the model was opened. Nothing was sent.
    """
    try:
        return access()
    except UsageError as error:
        raise RequestRejected("DX4218", error.message, where=error.where, fix=error.fix) from error


def words(body: bytes) -> Words:
    """The words of an error body in the shape that most servers use: ``{"error": {"code" | "type", "message"}}``."""
    try:
        data: object = from_json(body)
    except ValueError:
        return Words("", "")
    if isinstance(data, list) and data:
        data = cast("list[object]", data)[0]
    if isinstance(data, dict):
        fields = cast("dict[str, object]", data)
        error = fields.get("error", fields)
        if isinstance(error, str):
            return Words("", error)
        if isinstance(error, dict):
            inner = cast("dict[str, object]", error)
            kind = inner.get("code") if isinstance(inner.get("code"), str) else inner.get("type") or inner.get("status")
            said = inner.get("message") or inner.get("detail") or ""
            return Words(str(kind or ""), said if isinstance(said, str) else to_json(said).decode())
    return Words("", "")


class Client:
    """The connections of one opened model.

    Args:
        lm: What was configured: its timeout and its concurrency.
        base_url: Where the API begins; decides proxy and TLS.
        key: Fetches the key, ``""`` for none: once, or for each request where `lm` has a function for it, for keys that
            expire.
        keyed: The headers that carry a key.
        headers: Sent with every request; may hold secrets, so never printed.
        key_from: What holds the key, for the fix of a 401: for example ``api_key= or OPENAI_API_KEY``.
        secrets: Texts besides the key that no error may show.
        read: Reads the words of an error body.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.
    """

    def __init__(
        self,
        lm: LM,
        base_url: str,
        *,
        key: Callable[[], str] = no_key,
        keyed: Callable[[str], Mapping[str, str]] = bearer,
        headers: Mapping[str, str] | None = None,
        key_from: str = "api_key=",
        secrets: tuple[str, ...] = (),
        read: Callable[[bytes], Words] = words,
        transport: AnyTransport | None = None,
    ) -> None:
        first = key()
        self.redact = Redactor(first, *secrets)
        self._key = key if callable(lm.api_key) else None
        self._keyed = keyed
        self._name = lm.model
        self._model = lm.model.partition("/")[2]
        self.base_url = base_url
        self._words = read
        self._key_from = key_from
        timeouts = Timeouts(connect=min(10.0, lm.timeout), total=lm.timeout, write=min(30.0, lm.timeout))
        every = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "dspex"}
        every |= {**(headers or {}), **(keyed(first) if first and self._key is None else {})}
        self._wire: Wire
        if transport is None:
            self._wire = DirectWire(
                headers=every,
                limit=lm.connections,
                timeouts=timeouts,
                base_url=base_url,
                verify=lm.verify,
                cert=lm.cert,
                proxy=lm.proxy,
            )
        elif (lm.verify, lm.cert, lm.proxy) == (True, None, None):
            self._wire = HttpxWire(transport, headers=every, timeouts=timeouts)
        else:
            raise UsageError(
                "DX8161",
                f"{lm.model} has verify=, cert= or proxy= and a transport of its own, which knows nothing of them",
                fix="set them on the transport",
            )

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._wire.aclose()

    async def send(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Reply:
        """The server's answer, of status 200 to 299.

        Raises:
            LMError: what the transport raises, and `refusal` for any other status.
        """
        reply = await self._wire.send(url, body, self._authorized(headers), method)
        if not 200 <= reply.status < 300:
            raise self.refusal(reply, url)
        return reply

    async def events(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Event]:
        """The server-sent events of the answer, each as soon as it has arrived.

        Raises:
            LMError: as `send`; DX4302 when the answer is a document instead of a stream.
        """
        accept = {"Accept": "text/event-stream", **(headers or {})}
        async with self._wire.stream(url, body, self._authorized(accept)) as reply:
            await self._check(reply, url, _DOCUMENTS)
            events = Events()
            while piece := await reply.read():
                for name, data in events.feed(piece):
                    yield Event(name, data, reply.headers)
                self._bounded(events.pending, url)
            for name, data in events.end():
                yield Event(name, data, reply.headers)

    async def lines(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> AsyncGenerator[Event]:
        """The lines of a streamed answer (JSON Lines), each as soon as it has arrived; blank ones are left out.

        There may be any number of them: the results of a batch are one such answer.
        """
        async with self._wire.stream(url, body, self._authorized(headers), method, most=inf) as reply:
            await self._check(reply, url)
            lines = Lines()
            while piece := await reply.read():
                for line in lines.feed(piece):
                    if line:
                        yield Event("line", line, reply.headers)
                self._bounded(lines.pending, url)
            for line in lines.end():
                yield Event("line", line, reply.headers)

    async def chunks(
        self, url: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[tuple[LiveReply, bytes]]:
        """The bytes of a streamed answer as they arrive, for protocols with a framing of their own."""
        async with self._wire.stream(url, body, self._authorized(headers)) as reply:
            await self._check(reply, url)
            while piece := await reply.read():
                yield reply, piece

    def _authorized(self, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        key = "" if self._key is None else renewed(self._key)
        if not key:
            return headers
        self.redact.learn(key)
        return {**self._keyed(key), **(headers or {})}

    async def _check(self, reply: LiveReply, url: str, documents: tuple[str, ...] = ()) -> None:
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not 200 <= reply.status < 300 or kind in documents:
            told = bytearray()
            while len(told) <= _LONGEST_REFUSAL and (piece := await reply.read()):
                told += piece
            raise self.refusal(Reply(reply.status, reply.headers, bytes(told)), url)

    def _bounded(self, pending: int, url: str) -> None:
        if pending > _LONGEST_EVENT:
            raise self.broken(url, f"an event of the stream is longer than {_LONGEST_EVENT} bytes")

    # ----------------------------------------------------------------- errors

    def json(self, body: bytes | str, url: str) -> dict[str, object]:
        """`body` as a JSON object.

        Raises:
            ResponseError: DX4301 it is not JSON; DX4302 it is no object.
        """
        try:
            data: object = from_json(body)
        except ValueError as error:
            raise ResponseError(
                "DX4301",
                f"the body is not JSON ({error}): {self.redact.excerpt(body)}",
                where=place(url),
                fix=self._no_api,
                retryable=True,
                sent="yes",
            ) from error
        if not isinstance(data, dict):
            raise self.misshapen(body, url)
        return cast("dict[str, object]", data)

    def misshapen(self, body: bytes | str, url: str) -> ResponseError:
        """The error of an answer that is JSON of another shape."""
        return ResponseError(
            "DX4302",
            f"the body is not an answer of this protocol: {self.redact.excerpt(body)}",
            where=place(url),
            fix=self._no_api,
            retryable=True,
            sent="yes",
        )

    def broken(self, url: str, why: str) -> ResponseError:
        """The error of an answer that began and did not come to its end."""
        return ResponseError(
            "DX4107",
            f"the response broke off: {why}",
            where=place(url),
            fix="see the log of the server, and of a proxy in between",
            retryable=True,
            sent="yes",
        )

    def incapable(self, what: str) -> RequestRejected:
        """The error of a request that needs what the model is not known to do; nothing was sent."""
        return RequestRejected(
            "DX4201",
            f"{self._name} at {place(self.base_url)} is not known to support {what}",
            fix="if the server does, say so: dx.LM(..., capabilities=dspex.lm.types.Capabilities(...))",
        )

    @property
    def _no_api(self) -> str:
        return f"check that base_url ({place(self.base_url)}) is where the API of this provider begins"

    def refusal(self, reply: Reply, url: str) -> LMError:
        """The error that a status means, with the server's own words."""
        return refusal(reply, url, self._model, self.redact, self._words(reply.body), self._key_from)


def refusal(reply: Reply, url: str, model: str, redact: Redactor, said: Words, key_from: str) -> LMError:
    """The error that a status means, with the server's own words; the arguments are those of `Client`."""
    status = reply.status
    told = redact.excerpt(said.message or reply.body)
    message = f"{status}: {told}" if told else f"{status} without a message"
    where = place(url)
    if status == 429:
        # An exhausted account answers 429 as well, and waiting does not fill it.
        empty = said.kind in ("insufficient_quota", "billing_hard_limit_reached")
        wait = retry_after(reply.headers)
        wait = said.wait if wait is None else wait
        if wait is not None:
            message += f"; the server asks to wait {wait:g} s"
        fix = "fill the account, or use another key" if empty else "lower concurrency or raise retries of dx.LM(...)"
        limited = RateLimited("DX4207", message, where=where, fix=fix, retryable=not empty, sent="yes")
        limited.retry_after = wait
        limited.limits = rate_limits(reply.headers)
        return limited
    if status >= 500 or status in (408, 409, 425):
        fix = "see the server's own log; where it recovers by itself, raise retries of dx.LM(...)"
        failed = ServerError("DX4208", message, where=where, fix=fix, retryable=status not in (501, 505), sent="yes")
        wait = retry_after(reply.headers)
        failed.retry_after = said.wait if wait is None else wait
        failed.overloaded = status in (503, 529)
        return failed
    if 200 <= status < 300:
        return ResponseError("DX4302", message, where=where, retryable=True, sent="yes")
    if 300 <= status < 400:
        target = reply.headers.get("location", "")
        fix = f"set base_url to the server's final address ({place(urljoin(url, target))})" if target else None
        return RequestRejected(
            "DX4206",
            f"{status}: redirects are not followed, so that keys stay here",
            where=where,
            fix=fix,
            sent="yes",
        )
    if said.kind in _KINDS and status != 401:
        code, fix = _KINDS[said.kind]
        return RequestRejected(code, message, where=where, fix=fix, sent="yes")
    code, fix = {
        401: ("DX4202", f"check {key_from}"),
        402: _KINDS["insufficient_quota"],
        403: ("DX4203", "check that the key may use this model"),
        404: (
            "DX4204",
            f"check the model's name ({model!r}) and that base_url ends where the API begins (often /v1)",
        ),
    }.get(status, ("DX4205", None))
    return RequestRejected(code, message, where=where, fix=fix, sent="yes")
