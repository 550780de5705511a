"""What is written for an answer, with or without a fault: HTTP in bytes, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

from pydantic_core import to_json

from dspex.lm.types import Usage
from dspex.testing.faults import Fault
from dspex.testing.request import NO_USAGE, Endpoint, Made, MockRequest, Trouble

End = Literal["next", "hang", "close", "half_close", "reset", "hold"]
Outcome = Literal["completed", "refused", "cut"]

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_FILLER = b"x" * 65536
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """The bytes of an answer and what comes after them.

    Attributes:
        pieces: Written one after the other; the last one completes the answer.
        outcome: How the ledger counts it.
        status: HTTP status.
        usage: What was generated for it.
        gap: Seconds between pieces.
        end: What happens to the connection then: ``next`` request, or silence, or an end of it. ``hold`` waits for
            the release and then writes ``held``.
        held: See ``end``.
    """

    pieces: Iterable[bytes]
    outcome: Outcome
    status: int = 200
    usage: Usage = NO_USAGE
    gap: float = 0.0
    end: End = "next"
    held: Sequence[bytes] = ()


def _head(made: Made, length: int | None, headers: Sequence[tuple[str, str]]) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    more = "".join(f"{name}: {value}\r\n" for name, value in (*made.headers, *headers))
    start = b"HTTP/1.1 %d %b\r\n" % (made.status, _REASONS.get(made.status, b"Status"))
    return start + f"Content-Type: {made.media_type}\r\n{size}\r\n{more}\r\n".encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def honest(made: Made, headers: Sequence[tuple[str, str]] = (), pace: float = 0.0) -> Script:
    """`made` as it should be; the events of a stream `pace` seconds apart."""
    pieces = _pieces(made, headers)
    if pace == 0:
        pieces = [b"".join(pieces)]
    return Script(pieces, "completed" if made.status == 200 else "refused", made.status, made.usage, pace)


def _pieces(made: Made, headers: Sequence[tuple[str, str]]) -> list[bytes]:
    if not made.parts:
        return [_head(made, len(made.body), headers) + made.body]
    return [_head(made, None, headers), *map(_chunk, made.parts[:-1]), _chunk(made.parts[-1]) + _LAST_CHUNK]


def instead(fault: Fault, request: MockRequest, now: float) -> Script | None:
    """The script of a fault that needs no answer; None for one that spoils or delays an answer.

    Args:
        fault: What happens.
        request: What it happens to.
        now: Seconds since the epoch, for dates.
    """
    kind = fault.kind
    headers: list[tuple[str, str]] = []
    if fault.retry_after is not None:
        value = formatdate(now + fault.retry_after, usegmt=True) if fault.date else f"{fault.retry_after:g}"
        headers.append(("Retry-After", value))
        if fault.date:
            headers.append(("Date", formatdate(now, usegmt=True)))
    if kind == "status":
        said = Trouble.of(fault.status, fault.message or "mock failure", fault.retry_after)
        return replace(honest(request.endpoint.refusal(request, said), headers), outcome="refused")
    if kind in ("context_length", "content_filter", "quota"):
        said = Trouble(kind, message=fault.message, retry_after=fault.retry_after)
        made = request.endpoint.refusal(request, said)
        return replace(honest(made, headers), outcome="refused")
    if kind == "redirect":
        status = fault.status if 300 <= fault.status < 400 else 307
        return honest(Made(status, headers=(("Location", fault.location),)))
    if kind == "not_json":
        return replace(honest(Made(200, b"<html>mock failure</html>", media_type="text/html")), outcome="refused")
    if kind == "shape":
        return replace(honest(Made(200, to_json({"unexpected": True}))), outcome="refused")
    if kind == "not_http":
        return Script([b"220 mail.example ESMTP\r\n\r\n"], "refused", end="close")
    if kind == "huge":
        return Script(_huge(fault.size), "refused")
    if kind in ("hang", "close", "reset"):
        return Script((), "cut", end=kind)
    return None


def _huge(size: int) -> Iterator[bytes]:
    yield _head(Made(200), size, ())
    for _ in range(size // len(_FILLER)):
        yield _FILLER
    yield _FILLER[: size % len(_FILLER)]


def spoiled(fault: Fault, made: Made, endpoint: Endpoint, headers: Sequence[tuple[str, str]], pace: float) -> Script:
    """`made` as `fault` leaves it."""
    kind = fault.kind
    whole = honest(made, headers, pace)
    cut = Script((), "cut", made.status, made.usage, pace)
    if kind == "hold":
        return replace(whole, pieces=(), end="hold", held=tuple(whole.pieces))
    if kind == "half_close":
        return replace(whole, end="half_close")
    first, rest = _halves(made, headers)
    if kind == "hold_body":
        return replace(whole, pieces=first, end="hold", held=rest)
    if kind == "drip":
        return replace(whole, pieces=_drip(first, rest), gap=fault.delay)
    if kind == "hang_head":
        return replace(cut, pieces=[_head(made, None if made.parts else len(made.body), headers)], end="hang")
    if kind == "hang_body":
        return replace(cut, pieces=first, end="hang")
    if kind == "reset_body":
        return replace(cut, pieces=first, end="reset")
    if kind == "truncate" or (kind in ("no_end", "error_event") and not made.parts):
        return replace(cut, pieces=[*first, rest[0][: len(rest[0]) // 2]], end="close")
    if kind == "no_end":
        return replace(cut, pieces=[*first, _LAST_CHUNK])
    if kind == "error_event":
        said = Trouble.of(fault.status, fault.message or "mock failure")
        return replace(cut, pieces=[*first, _chunk(endpoint.trouble_part(said)) + _LAST_CHUNK])
    body = made.body or b"".join(made.parts)
    if kind == "not_utf8":
        return replace(cut, pieces=_pieces(_not_utf8(made), headers))
    if kind == "short_length":
        return replace(cut, pieces=[_head(made, len(body) // 2, headers) + body], end="next")
    if kind == "long_length":
        return replace(cut, pieces=[_head(made, len(body) + 100, headers) + body], end="hang")
    return whole


def _halves(made: Made, headers: Sequence[tuple[str, str]]) -> tuple[list[bytes], list[bytes]]:
    pieces = _pieces(made, headers)
    if made.parts:
        # The head, and never all events.
        middle = 1 + min((len(made.parts) + 1) // 2, len(made.parts) - 1)
        return pieces[:middle], pieces[middle:]
    cut = len(pieces[0]) - len(made.body) + len(made.body) // 2
    return [pieces[0][:cut]], [pieces[0][cut:]]


def _drip(first: Sequence[bytes], rest: Sequence[bytes]) -> Iterator[bytes]:
    whole = b"".join((*first, *rest))
    start = whole.index(b"\r\n\r\n") + 4
    yield whole[:start]
    for position in range(start, len(whole)):
        yield whole[position : position + 1]


def _not_utf8(made: Made) -> Made:
    middle = (len(made.parts) - 1) // 2
    parts = (*made.parts[:middle], *map(_spoil, made.parts[middle:]))
    return replace(made, body=_spoil(made.body), parts=parts)


def _spoil(data: bytes) -> bytes:
    # Outside any text, where nobody can read over it.
    return data.replace(b"{", b"{\xff\xfe", 1)
