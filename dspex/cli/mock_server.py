"""`dspex mock-server`: a server that speaks the protocols of model providers and fails on command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from pydantic_core import from_json

from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.testing.request import Answer

_FILE = click.Path(path_type=Path, dir_okay=False)
_MANY = click.IntRange(min=1)


@click.command("mock-server")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback; a free one by default.")
@click.option("--fields", help='JSON object of values to choose from, such as {"label": ["a", "b"]}.')
@click.option("--answer", metavar="TARGET", help="Function that answers, module:function.")
@click.option("--latency", type=float, default=0.0, metavar="SECONDS", help="Time before each answer.")
@click.option("--pace", type=float, default=0.0, metavar="SECONDS", help="Time between the events of a stream.")
@click.option("--faults", default="[]", metavar="JSON", help='Faults, such as [{"kind": "hang", "at": 3}].')
@click.option("--capacity", type=int, metavar="N", help="Requests that are served at once.")
@click.option("--queue", type=int, metavar="N", help="Requests that wait when that many are; by default all do.")
@click.option("--overload", type=int, default=503, metavar="STATUS", help="Status for those that may not even wait.")
@click.option("--limit-requests", type=_MANY, metavar="N", help="Requests that a key may send in the window.")
@click.option("--limit-tokens", type=_MANY, metavar="N", help="Tokens that a key may use in the window.")
@click.option("--limit-window", type=float, default=60.0, metavar="SECONDS", help="The window.")
@click.option("--api-key", metavar="KEY", help="Refuse all other keys.")
@click.option("--ledger", type=_FILE, help="File that gets a JSON line for each request and each answer.")
@click.option("--certificate", type=_FILE, help="PEM file with key and certificate, to speak TLS.")
@click.option("--while-stdin", is_flag=True, help="End when standard input is closed.")
def command(
    port: int,
    fields: str | None,
    answer: str | None,
    latency: float,
    pace: float,
    faults: str,
    capacity: int | None,
    queue: int | None,
    overload: int,
    limit_requests: int | None,
    limit_tokens: int | None,
    limit_window: float,
    api_key: str | None,
    ledger: Path | None,
    certificate: Path | None,
    while_stdin: bool,
) -> None:
    """Serve the protocols of OpenAI, Anthropic, Gemini, Ollama and Bedrock on loopback, until it is ended."""
    from dspex.testing import MockServer, RateLimit
    from dspex.testing.faults import read_plan

    limited = limit_requests is not None or limit_tokens is not None
    server = MockServer(
        _answer(answer, fields),
        latency=latency,
        pace=pace,
        faults=read_plan(faults),
        capacity=capacity,
        queue=queue,
        overload=overload,
        limit=RateLimit(limit_requests, limit_tokens, limit_window) if limited else None,
        ledger=ledger,
        record=False,
        port=port,
        api_key=api_key,
        certificate=certificate,
    )
    if while_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    def announce(url: str) -> None:
        click.echo(f"listening {url}")
        click.echo(f"base URL for Anthropic, Gemini, Ollama and Bedrock: {server.root}")
        sys.stdout.flush()

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        # An exception raised by a handler would be lost where it meets a finalizer, and the server go on for ever.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await server.serve_here(announce)

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        try:
            asyncio.run(serve())
        except OSError as error:
            raise UsageError(
                "DX8142", f"the mock server cannot start: {error}", fix="choose another port or file"
            ) from error


def _answer(target: str | None, fields: str | None) -> Answer | None:
    from dspex.cli.targets import load_object
    from dspex.testing.answers import choose_fields

    if target:
        function = load_object(target)
        if not callable(function):
            raise UsageError("DX8143", f"--answer names {function!r:.100}, which is no function", fix="name a function")
        return cast("Answer", function)
    if not fields:
        return None
    try:
        found: object = from_json(fields)
    except ValueError as error:
        raise UsageError("DX8143", f"--fields is not JSON: {error}", fix='such as {"label": ["a", "b"]}') from error
    values = cast("dict[str, list[object]]", found)
    if not isinstance(found, dict) or not all(type(choices) is list and choices for choices in values.values()):
        raise UsageError("DX8143", "--fields is no object of lists of values", fix='such as {"label": ["a", "b"]}')
    return choose_fields(values)


def _end_with_stdin() -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    os._exit(0)
