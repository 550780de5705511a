"""How the mock server misbehaves, and when."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from dspex.errors import UsageError
from dspex.testing.request import MockRequest

FaultKind = Literal[
    "status",
    "context_length",
    "content_filter",
    "quota",
    "redirect",
    "slow",
    "hold",
    "hold_body",
    "hang",
    "hang_head",
    "hang_body",
    "close",
    "half_close",
    "reset",
    "reset_body",
    "truncate",
    "no_end",
    "error_event",
    "short_length",
    "long_length",
    "drip",
    "not_utf8",
    "not_json",
    "shape",
    "not_http",
    "huge",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour and the requests that it meets. Without a condition it meets all of them.

    In the middle of a streamed answer means after half of its events, otherwise after half of the body's bytes.

    Attributes:
        kind: What happens.

            - In the protocol's own words: ``status`` (an error status), ``context_length``, ``content_filter``,
              ``quota`` (an empty account), ``redirect``.
            - Late: ``slow`` (the right answer after ``delay``), ``hold`` (the right answer after
              `MockServer.release`), ``hold_body`` (likewise, but the first half comes at once), ``drip`` (the body a
              byte at a time, ``delay`` apart).
            - Silent: ``hang`` (no answer), ``hang_head`` (headers, then nothing), ``hang_body`` (half a body, then
              nothing).
            - Broken connections: ``close`` (closed instead of answered), ``half_close`` (answered, then half-closed;
              later requests on the connection get nothing), ``reset`` and ``reset_body`` (TCP reset before, in the
              middle of the answer).
            - Broken bodies: ``truncate`` (half a body, then closed), ``no_end`` (half of a stream's events in
              well-formed HTTP, without the protocol's end), ``error_event`` (half of a stream's events, then an error),
              ``short_length`` and ``long_length`` (a wrong Content-Length), ``not_utf8`` (outside any text),
              ``not_json``, ``shape`` (JSON of another shape), ``not_http``, ``huge`` (``size`` bytes).
        status: For ``status``, ``redirect`` and ``error_event``.
        retry_after: Seconds to ask for; with ``date=True`` as an HTTP date.
        date: See ``retry_after``.
        message: Text of the error; by default as the real server has it, or ``mock failure``.
        location: Target of ``redirect``.
        delay: Seconds before the fault, besides the server's latency.
        size: Bytes of ``huge``.
        at: Meets only the request of this number.
        until: Meets only requests of lower numbers.
        every: Meets only each n-th request.
        attempts: Meets only the first n requests of the same content, so that retries come through.
        share: Meets this share of the requests, chosen by a hash of content and attempt.
        key: Meets only requests with this API key.

    Raises:
        UsageError: DX8140, there is no such kind.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    kind: FaultKind
    status: int = 500
    retry_after: float | None = None
    date: bool = False
    message: str = ""
    location: str = "/elsewhere"
    delay: float = 0.0
    size: int = 1 << 30
    at: int | None = None
    until: int | None = None
    every: int | None = None
    attempts: int | None = None
    share: float | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise UsageError(
                "DX8140", f"there is no fault {self.kind!r}", fix=f"one of {', '.join(get_args(FaultKind))}"
            )

    def meets(self, request: MockRequest) -> bool:
        """Whether `request` is one of those that it meets."""
        return (
            (self.at is None or request.number == self.at)
            and (self.until is None or request.number < self.until)
            and (self.every is None or (request.number + 1) % self.every == 0)
            and (self.attempts is None or request.attempt < self.attempts)
            and (self.key is None or request.key == self.key)
            and (self.share is None or self._lot(request) < self.share)
        )

    def _lot(self, request: MockRequest) -> float:
        drawn = hashlib.sha256(f"{request.digest}:{request.attempt}:{self.kind}:{self.status}".encode()).digest()
        return int.from_bytes(drawn[:7], "big") / (1 << 56)


def read_fault(entry: object) -> Fault:
    """A fault from an object with `Fault`'s attributes.

    Raises:
        UsageError: DX8140, it has others, or one is of the wrong type.
    """
    try:
        return _FAULT.validate_python(entry)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise UsageError(
            "DX8140",
            f"a fault cannot be {to_json(entry, serialize_unknown=True).decode():.200}: {place} {wrong['msg']}".strip(),
            fix="see dspex.testing.Fault for its attributes",
        ) from error


def read_plan(text: str) -> tuple[Fault, ...]:
    """Faults from a JSON list of objects with `Fault`'s attributes.

    Raises:
        UsageError: DX8140, it is no such list.
    """
    try:
        entries: object = from_json(text)
    except ValueError as error:
        raise UsageError("DX8140", f"the faults are not JSON: {error}", fix='such as [{"kind": "hang"}]') from error
    if not isinstance(entries, list):
        raise UsageError("DX8140", "the faults are not a list", fix='such as [{"kind": "hang"}]')
    return tuple(map(read_fault, cast("list[object]", entries)))


_FAULT = TypeAdapter(Fault)
