"""The mock server's ledger: what arrived, what became of it, and what it cost, by protocol and API key."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

from pydantic_core import to_json

from dspex.lm.types import Usage
from dspex.testing.request import NO_USAGE, MockRequest
from dspex.testing.script import Outcome


@dataclass(frozen=True, slots=True)
class Totals:
    """What the ledger holds of some requests.

    Attributes:
        requests: That arrived. Those that are in none of the next three are being answered.
        completed: Answered whole, with success.
        refused: Answered whole, with an error or a fault.
        cut: Never answered whole: the server hung or broke off, or the client went away.
        usage: Of those completed.
        lost: Usage of those cut whose answer had been generated.
    """

    requests: int = 0
    completed: int = 0
    refused: int = 0
    cut: int = 0
    usage: Usage = NO_USAGE
    lost: Usage = NO_USAGE

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.requests + other.requests,
            self.completed + other.completed,
            self.refused + other.refused,
            self.cut + other.cut,
            self.usage + other.usage,
            self.lost + other.lost,
        )


class _Account:
    """`Totals` that change."""

    __slots__ = ("completed", "cut", "lost", "refused", "requests", "usage")

    def __init__(self) -> None:
        self.requests = self.completed = self.refused = self.cut = 0
        self.usage = self.lost = NO_USAGE

    def totals(self) -> Totals:
        return Totals(self.requests, self.completed, self.refused, self.cut, self.usage, self.lost)


class Ledger:
    """Sums in memory, and every entry in a file when there is one. Not safe for several threads at once.

    Args:
        path: File that gets one JSON line for each request and one for what became of it, written through at once.
            It never holds a key.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path
        self._file: int | None = None
        self._accounts: defaultdict[tuple[str, str], _Account] = defaultdict(_Account)

    def open(self) -> None:
        """Open the file."""
        if self._path is not None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def received(self, request: MockRequest) -> None:
        """Enter that `request` arrived."""
        self._accounts[request.protocol, request.key].requests += 1
        self._write(
            "received",
            request,
            attempt=request.attempt,
            protocol=request.protocol,
            path=request.path,
            body=request.body,
        )

    def settled(self, request: MockRequest, outcome: Outcome, status: int, usage: Usage) -> None:
        """Enter what became of `request`."""
        account = self._accounts[request.protocol, request.key]
        if outcome == "completed":
            account.completed += 1
            account.usage += usage
        elif outcome == "refused":
            account.refused += 1
        else:
            account.cut += 1
            account.lost += usage
        self._write(
            "cut" if outcome == "cut" else "answered",
            request,
            status=status,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )

    def totals(self, protocol: str | None = None, key: str | None = None) -> Totals:
        """Sums over all requests, or over those of one protocol, of one API key, or of both."""
        chosen = (
            account.totals()
            for (spoken, came_with), account in self._accounts.items()
            if protocol in (None, spoken) and key in (None, came_with)
        )
        return sum(chosen, Totals())

    def _write(self, event: str, request: MockRequest, **fields: object) -> None:
        if self._file is not None:
            entry = {"event": event, "number": request.number, "digest": request.digest, **fields}
            os.write(self._file, to_json(entry) + b"\n")
