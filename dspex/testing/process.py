"""The mock server as a process of its own."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlencode

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from dspex.errors import UsageError
from dspex.testing.control import check
from dspex.testing.faults import Fault
from dspex.testing.ledger import Totals
from dspex.testing.limits import RateLimit

_TOTALS = TypeAdapter(Totals)


class ServerProcess:
    """`MockServer` in another process; ends when the ``with`` block or this process does.

    Args:
        latency, pace, faults, capacity, queue, overload, limit, ledger, port, api_key, certificate: See `MockServer`.
        fields: Values for `choose_fields`; without, `default_answer` answers.
        answer: ``module:function`` instead, imported there.

    Attributes:
        url: As `MockServer.url`; empty when it does not run.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        pace: float = 0.0,
        faults: Sequence[Fault] = (),
        fields: Mapping[str, Sequence[object]] | None = None,
        answer: str | None = None,
        ledger: str | os.PathLike[str] | None = None,
        capacity: int | None = None,
        queue: int | None = None,
        overload: int = 503,
        limit: RateLimit | None = None,
        port: int = 0,
        api_key: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:
        limit = limit or RateLimit()
        options = {
            "latency": latency,
            "pace": pace,
            "faults": to_json(list(faults)).decode(),
            "fields": None if fields is None else to_json(fields).decode(),
            "answer": answer,
            "ledger": None if ledger is None else os.fspath(ledger),
            "capacity": capacity,
            "queue": queue,
            "overload": overload,
            "limit-requests": limit.requests,
            "limit-tokens": limit.tokens,
            "limit-window": limit.window,
            "port": port,
            "api-key": api_key,
            "certificate": None if certificate is None else os.fspath(certificate),
        }
        self._command = [sys.executable, "-m", "dspex", "mock-server", "--while-stdin"]
        self._command += [f"--{name}={value}" for name, value in options.items() if value is not None]
        self._certificate = certificate
        self._ledger = None if ledger is None else Path(ledger)
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def root(self) -> str:
        """See `MockServer`."""
        return self.url.removesuffix("/v1")

    @property
    def pid(self) -> int:
        """Process ID; 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    def __enter__(self) -> ServerProcess:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = cast("IO[str]", self._process.stdout).readline()
        if not line.startswith("listening "):
            self.__exit__()
            raise UsageError("DX8142", "the mock server did not start", fix="see its message on standard error")
        self.url = line.split()[1]
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def totals(self, *, protocol: str | None = None, key: str | None = None) -> Totals:
        """See `MockServer.totals`."""
        chosen = {name: value for name, value in (("protocol", protocol), ("key", key)) if value is not None}
        return _TOTALS.validate_json(self._control("GET", f"/mock/totals?{urlencode(chosen)}"))

    def change(self, **settings: Any) -> None:
        """See `MockServer.change`.

        Raises:
            UsageError: DX8141, a setting is unknown or out of range.
        """
        check(**settings)
        self._control("POST", "/mock/settings", to_json(settings))

    def release(self) -> None:
        """See `MockServer.release`."""
        self._control("POST", "/mock/release", b"{}")

    def _control(self, method: str, path: str, body: bytes | None = None) -> bytes:
        address = self.root.rpartition("/")[2]
        if self._certificate is None:
            connection = HTTPConnection(address)
        else:
            connection = HTTPSConnection(address, context=ssl.create_default_context(cafile=self._certificate))
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def ledger(self) -> list[dict[str, Any]]:
        """The entries of the ledger's file so far."""
        if self._ledger is None or not self._ledger.exists():
            return []
        whole = self._ledger.read_bytes()
        return [from_json(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
