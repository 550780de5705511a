"""Record a model's answers once, replay them bit for bit.

A recording is a JSON Lines file, mode 0600: a header with the model's name, fingerprint, capabilities and price, then
one line for each answered request. A request's identity is everything in it, the rollout included, so each is recorded
once; asked again while recording, the recorded answer is given.

A recording holds answers, not how they came: one that was recorded whole may be read as a stream, and the other way
round. While recording, a stream is passed on as it comes and is recorded at its end, where there is no answer yet; one
that is left before is not. Replayed, a stream comes a word at a time.

Lines are appended in one write each, so that several processes may record into one file. A line that a crash or a full
disk cut off is passed over; the error about a request that is not recorded says so.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, fields
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from dspex.errors import LMError, RequestRejected, UsageError
from dspex.lm.model import LM, LanguageModel, LMLike, StreamingModel
from dspex.lm.types import Capabilities, Delta, LMRequest, LMResponse, Price
from dspex.providers.open import open_model
from dspex.providers.scripted import parts_of

VERSION = 1
_NEAREST_OF = 200  # recorded requests that are compared when one is missing


def replay(
    path: str | os.PathLike[str], lm: LMLike | None = None, mode: Literal["record", "replay"] = "replay"
) -> ReplayLM:
    """A model that answers from the recording at `path`; with ``mode="record"`` it asks `lm` and records.

    Raises:
        UsageError: DX8115 when `lm` and `mode` do not fit; DX8116 when the file is no recording, or of another model.
    """
    if mode not in ("record", "replay"):
        raise UsageError("DX8115", f'mode is "record" or "replay", got {mode!r}')
    if (lm is None) == (mode == "record"):
        fix = "give lm= to record from" if lm is None else 'leave lm= out, or say mode="record"'
        given = "without" if lm is None else "with"
        raise UsageError("DX8115", f"replay(mode={mode!r}) was called {given} lm=", fix=fix)
    inner: LanguageModel | None = None
    if lm is not None:
        named = LM(lm) if isinstance(lm, str) else lm
        inner = open_model(named) if isinstance(named, LM) else named
    return ReplayLM(Path(path), inner)


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    fingerprint: str
    capabilities: Capabilities
    price: Price | None


class ReplayLM:
    """See `replay`.

    Attributes:
        path: The recording.
        asked: Calls that were passed on to the recorded model.
    """

    def __init__(self, path: Path, inner: LanguageModel | None) -> None:
        self.path = path
        self.asked = 0
        self._inner = inner
        self._answers: dict[LMRequest, LMResponse] = {}
        self._fd: int | None = None
        self._cut = 0
        self._header = self._load()

    def __repr__(self) -> str:
        return f"ReplayLM({str(self.path)!r}, {self._header.name!r}, requests={len(self._answers)})"

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def name(self) -> str:
        return self._header.name

    @property
    def fingerprint(self) -> str:
        """That of the recorded model: what was cached or settled with it stays so under replay."""
        return self._header.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        return self._header.capabilities

    @property
    def price(self) -> Price | None:
        return self._header.price

    async def complete(self, request: LMRequest, /) -> LMResponse:
        known = self._answers.get(request)
        if known is not None:
            return known
        if self._inner is None:
            raise self._missing(request)
        self.asked += 1
        # Of two identical requests in flight the first to be answered is recorded, and both get its answer.
        return self._keep(request, await self._inner.complete(request))

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        if request in self._answers or not isinstance(self._inner, StreamingModel):
            parts = parts_of(await self.complete(request))
        else:
            self.asked += 1
            parts = self._inner.stream(request)
        async with aclosing(parts):
            async for part in parts:
                if part.response is not None:
                    self._keep(request, part.response)
                yield part

    async def aclose(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._inner is not None:
            await self._inner.aclose()

    # ----------------------------------------------------------------- file

    def _keep(self, request: LMRequest, response: LMResponse) -> LMResponse:
        """The recorded answer, which is `response` unless there is one already."""
        known = self._answers.setdefault(request, response)
        if known is response:
            self._append({"request": _plain(request), "response": _plain(response)})
        return known

    def _load(self) -> _Header:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}") from error
        if not data:
            if self._inner is None:
                raise self._unusable("does not exist or is empty")
            header = _Header(self._inner.name, self._inner.fingerprint, self._inner.capabilities, self._inner.price)
            self._append({"dspex_recording": VERSION, **asdict(header)})
            return header
        lines = data.split(b"\n")
        try:
            header = self._read_header(lines[0])
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable("is not a recording: its first line is no header") from error
        for number, line in enumerate(lines[1:], 2):
            if not line:
                continue
            try:
                entry = cast("dict[str, Any]", _read(line))
            except ValueError:
                self._cut += 1
                continue
            try:
                request = _requests().validate_python(entry["request"])
                response = _responses().validate_python(entry["response"])
            except (KeyError, TypeError, ValidationError) as error:
                raise self._unusable(f"is damaged at line {number}: {error}") from error
            self._answers.setdefault(request, response)
        if self._inner is not None:
            if header.fingerprint != self._inner.fingerprint:
                raise self._unusable(
                    f"was recorded from {header.fingerprint!r}, and {self._inner.fingerprint!r} was given"
                )
            if lines[-1]:
                # Closes the line that was cut off, so that the next one begins on its own.
                self._write(b"\n")
        return header

    def _read_header(self, line: bytes) -> _Header:
        entry = cast("dict[str, Any]", from_json(line))
        if entry["dspex_recording"] != VERSION:
            raise self._unusable(f"has version {entry['dspex_recording']}; this dspex reads version {VERSION}")
        price: object = entry["price"]
        return _Header(
            str(entry["name"]),
            str(entry["fingerprint"]),
            TypeAdapter(Capabilities).validate_python(entry["capabilities"]),
            None if price is None else TypeAdapter(Price).validate_python(price),
        )

    def _append(self, entry: dict[str, object]) -> None:
        self._write(_line(entry) + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            written = os.write(self._fd, data)
        except OSError as error:
            raise LMError(
                "DX4402", f"the answer came, but cannot be recorded: {error.strerror}", where=str(self.path), sent="yes"
            ) from error
        if written != len(data):
            # The next line begins on its own.
            with contextlib.suppress(OSError):
                os.write(self._fd, b"\n")
            raise LMError("DX4402", "the answer came, but the disk is full", where=str(self.path), sent="yes")

    def _unusable(self, reason: str) -> UsageError:
        return UsageError(
            "DX8116",
            f"the recording {reason}",
            where=str(self.path),
            fix='record it with replay(path, lm, mode="record"), or into another file',
        )

    # ----------------------------------------------------------------- a request that was not recorded

    def _missing(self, request: LMRequest) -> RequestRejected:
        told = f"the request is not among the {len(self._answers)} recorded ones"
        nearest = self._nearest(request)
        if self._cut:
            told += f" ({self._cut} lines of the file were cut off and passed over)"
        if nearest is not None:
            told += f"; the nearest differs in {'; '.join(_differences(nearest, request))}"
        return RequestRejected(
            "DX4401", told, where=str(self.path), fix='record again with replay(path, lm, mode="record")'
        )

    def _nearest(self, request: LMRequest) -> LMRequest | None:
        def same(other: LMRequest) -> int:
            return sum(getattr(other, f.name) == getattr(request, f.name) for f in fields(LMRequest))

        ranked = sorted(self._answers, key=same, reverse=True)[:_NEAREST_OF]
        if not ranked:
            return None
        top = same(ranked[0])
        wanted = _text(request)[:4000]
        matcher = SequenceMatcher(b=wanted, autojunk=False)

        def likeness(other: LMRequest) -> float:
            matcher.set_seq1(_text(other)[:4000])
            return matcher.quick_ratio()

        return max((other for other in ranked if same(other) == top), key=likeness)


def _text(request: LMRequest) -> str:
    return request.prompt if request.prompt is not None else "\n".join(m.content for m in request.messages)


def _differences(recorded: LMRequest, asked: LMRequest) -> list[str]:
    found: list[str] = []
    for f in fields(LMRequest):
        before, now = getattr(recorded, f.name), getattr(asked, f.name)
        if before == now:
            continue
        if f.name == "messages":
            if len(before) != len(now):
                found.append(f"messages ({len(before)} recorded, {len(now)} asked)")
                continue
            for index, (old, new) in enumerate(zip(before, now, strict=True)):
                if old.role != new.role:
                    found.append(f"messages[{index}].role ({old.role} recorded, {new.role} asked)")
                if old.content != new.content:
                    found.append(f"messages[{index}].content {_first_difference(old.content, new.content)}")
        elif isinstance(before, str) and isinstance(now, str):
            found.append(f"{f.name} {_first_difference(before, now)}")
        else:
            found.append(f"{f.name} ({_short(before)} recorded, {_short(now)} asked)")
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _first_difference(before: str, now: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    start = max(0, at - 10)
    return f"at character {at} ({before[start : at + 30]!r} recorded, {now[start : at + 30]!r} asked)"


def _plain(value: LMRequest | LMResponse) -> dict[str, object]:
    """The fields that are not at their default; what a server told of its limits is not part of an answer."""
    plain = asdict(value)
    return {f.name: plain[f.name] for f in fields(value) if f.name != "limits" and getattr(value, f.name) != f.default}


def _line(entry: dict[str, object]) -> bytes:
    try:
        return to_json(entry, inf_nan_mode="constants")
    except ValueError:
        # Lone surrogates, which a model's answer may hold, have no UTF-8 form.
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _read(line: bytes) -> object:
    try:
        return from_json(line)
    except ValueError:
        return json.loads(line)


@cache
def _requests() -> TypeAdapter[LMRequest]:
    return TypeAdapter(LMRequest)


@cache
def _responses() -> TypeAdapter[LMResponse]:
    return TypeAdapter(LMResponse)
