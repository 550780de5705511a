"""The settings of a mock server that may change while it runs, and the paths under ``/mock/`` that change them.

``GET /mock/totals`` gives the ledger's sums (``?protocol=`` and ``?key=`` choose), ``POST /mock/settings`` takes a JSON
object of settings, ``POST /mock/release`` lets held answers go on. They are no requests in the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from pydantic_core import from_json, to_json

from dspex.errors import DspexError, UsageError
from dspex.testing.faults import Fault, read_fault
from dspex.testing.request import Made
from dspex.testing.script import Script, honest

if TYPE_CHECKING:
    from dspex.testing.mock_server import MockServer

SETTINGS = ("latency", "pace", "faults", "capacity", "queue", "overload")


def check(**settings: object) -> None:
    """Check settings.

    Raises:
        UsageError: DX8141, one is unknown or out of range.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise _wrong(f"there is no setting {name!r}", f"settings are {', '.join(SETTINGS)}")
        if name == "faults":
            good = isinstance(value, (list, tuple)) and all(
                isinstance(fault, Fault) for fault in cast("tuple[object, ...]", value)
            )
        elif name in ("latency", "pace"):
            good = isinstance(value, (int, float)) and 0 <= value < float("inf")
        elif name == "overload":
            good = isinstance(value, int) and 400 <= value <= 599
        else:
            good = value is None or (isinstance(value, int) and value >= (1 if name == "capacity" else 0))
        if not good:
            raise _wrong(f"{name} may not be {value!r}", "see dspex.testing.MockServer for what it may be")


def _wrong(message: str, fix: str) -> UsageError:
    return UsageError("DX8141", message, fix=fix)


def controlled(server: MockServer, method: str, target: str, raw: bytes) -> Script:
    """What is answered to a request about the server itself."""
    path, _, query = target.partition("?")
    try:
        match method, path:
            case "GET", "/mock/totals":
                chosen = dict(parse_qsl(query))
                totals = server.totals(protocol=chosen.get("protocol"), key=chosen.get("key"))
                return honest(Made(200, to_json(totals)))
            case "POST", "/mock/settings":
                server.change(**_settings(raw))
            case "POST", "/mock/release":
                server.release()
            case _:
                return honest(Made(404, to_json({"error": f"no route {method} {path}"})))
    except DspexError as error:
        return honest(Made(400, to_json({"error": str(error)})))
    return honest(Made(200, b"{}"))


def _settings(raw: bytes) -> dict[str, Any]:
    try:
        found: object = from_json(raw)
    except ValueError as error:
        raise _wrong(f"settings are not JSON: {error}", "send a JSON object of settings") from error
    if not isinstance(found, dict):
        raise _wrong("settings are not a JSON object", "send a JSON object of settings")
    settings = cast("dict[str, Any]", found)
    if isinstance(settings.get("faults"), list):
        settings["faults"] = tuple(read_fault(entry) for entry in cast("list[object]", settings["faults"]))
    return settings
