"""What a command prints: results on stdout, everything else on stderr, one JSON shape for all.

Under ``--json`` a result waits in the `Channel` until the command has ended, so that stdout carries exactly one object
whatever fails after it, and what imported modules print goes to stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, cast

import click

from dspex.errors import (
    BudgetExceeded,
    CompileError,
    DataError,
    DspexError,
    LMError,
    LocalModelError,
    MetricError,
    NoLMError,
    ProgramError,
    ResumeRefused,
    StudyError,
    UsageError,
)

if TYPE_CHECKING:
    from dspex.study.report import Report

SCHEMA_VERSION = 1

Status = Literal["complete", "partial", "interrupted", "failed"]

DONE, FAULT, USAGE, BUDGET, PROVIDER, USER_CODE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130

_STUDY_CODES = {
    **dict.fromkeys(("DX6201", "DX6203", "DX6205", "DX6206", "DX6207", "DX6208", "DX6209"), USAGE),
    **dict.fromkeys(("DX6105", "DX6204"), REFUSED),
    "DX6211": PROVIDER,
    "DX6212": USER_CODE,
}
_PACKAGE = str(Path(__file__).resolve().parents[1])


def _nothing_spent() -> dict[str, object]:
    return {"calls": 0, "tokens": 0, "usd": 0.0}


@dataclass
class Channel:
    """Where one command line's result goes, and what is known of the work that it is about.

    Attributes:
        as_json: Whether ``--json`` was given.
        stream: The real stdout.
        study, seed: Of the study in work, once they are known.
        settled: Spending of a command that is no study.
    """

    as_json: bool
    stream: TextIO
    study: str | None = None
    seed: int | None = None
    settled: dict[str, object] = field(default_factory=_nothing_spent)
    document: Mapping[str, object] | None = None

    def flush(self) -> None:
        """Write the result, if there is one."""
        if self.document is not None:
            self.stream.write(_text(self.document))
            self.stream.flush()
            self.document = None


_CHANNEL: ContextVar[Channel | None] = ContextVar("dspex.cli", default=None)


def channel() -> Channel:
    """The channel of the running command line."""
    found = _CHANNEL.get()
    return Channel(False, sys.stdout) if found is None else found


@contextmanager
def opened(as_json: bool, stream: TextIO | None = None) -> Generator[Channel]:
    """A channel for one command line. Under ``--json`` whatever else is printed meanwhile goes to stderr."""
    made = Channel(as_json, stream or sys.stdout)
    token = _CHANNEL.set(made)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield made
    finally:
        _CHANNEL.reset(token)


def claim_stdout() -> TextIO | None:
    """Keep the process's stdout for results: file descriptor 1 becomes stderr, for libraries and children too."""
    try:
        if (sys.stdout.fileno(), sys.stderr.fileno()) != (1, 2):
            return None
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, AttributeError, io.UnsupportedOperation):
        return None
    return os.fdopen(kept, "w", encoding="utf-8")


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    match error:
        case ResumeRefused():
            return REFUSED
        case BudgetExceeded():
            return BUDGET
        case NoLMError() | UsageError():
            return USAGE
        case MetricError() | ProgramError() | CompileError():
            return USER_CODE
        case LMError() | LocalModelError():
            return PROVIDER
        case DataError():
            return USER_CODE if error.code == "DX5403" else USAGE
        case StudyError():
            return _study_code(error)
        case _:
            return FAULT


def _study_code(error: StudyError) -> int:
    if error.code in ("DX6213", "DX6214"):
        # Both stand for the first failure of an evaluation, whose code is in the message.
        inner = re.search(r"DX\d{4}", error.message)
        return PROVIDER if inner is not None and inner[0][2] in "47" else USER_CODE
    return _STUDY_CODES.get(error.code, FAULT)


def emit(document: Mapping[str, object]) -> None:
    """Make `document` the command's JSON result."""
    found = _CHANNEL.get()
    if found is None:
        click.echo(_text(document), nl=False)
    else:
        found.document = document


def _text(document: Mapping[str, object]) -> str:
    return json.dumps(_finite(document), allow_nan=False, indent=2) + "\n"


def _finite(value: object) -> object:
    """`value` with null for numbers that JSON has not."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[object]", value)]
    return value


def envelope(status: Status = "complete", **fields: object) -> dict[str, object]:
    """The keys that every ``--json`` result has, with `fields` over them."""
    about = channel()
    document: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "stopped_because": None,
        "study": about.study,
        "seed": about.seed,
        "spent": {"settled": dict(about.settled), "uncertain": _nothing_spent()},
        "error": None,
    }
    document.update(fields)
    return document


def error_document(error: BaseException) -> dict[str, object]:
    """``{code, message, where, fix}`` of an error, secrets never included (errors do not carry them)."""
    if isinstance(error, DspexError):
        return {"code": error.code, "message": error.message, "where": error.where, "fix": error.fix}
    return {
        "code": "DX8901",
        "message": f"{type(error).__name__}: {error}",
        "where": None,
        "fix": "report it with the traceback and what `dspex doctor --json` prints",
    }


def failed(error: BaseException) -> int:
    """Report an error that ended a command and return its exit code."""
    code = exit_code(error)
    report = cast("Report | None", getattr(error, "report", None))
    study = getattr(error, "study", None)
    if channel().as_json:
        document = error_document(error)
        found = envelope("failed", stopped_because=document["message"], error=document)
        if isinstance(study, str):
            found["study"] = study
        if report is not None:
            found = {**report.as_json(), "status": "failed", "error": document, "artifact": None, "report": None}
        emit(found)
    if not isinstance(error, DspexError):
        note(user_traceback(error, whole=True))
        note("DX8901 an unexpected error; `dspex explain DX8901` says how to report it", error=True)
        return code
    if code == USER_CODE and error.__cause__ is not None:
        note(user_traceback(error.__cause__))
    note(str(error), error=True)
    if report is not None and (report.attempts or report.calls):
        note(f"study {report.study}: {report.calls} calls answered, {report.tokens} tokens; what was bought is kept")
    return code


def user_traceback(error: BaseException, *, whole: bool = False) -> str:
    """The traceback of an error; from the first line of a user's own file on, unless the `whole` is wanted."""
    frames = error.__traceback__
    inner = frames
    while inner is not None and not whole:
        file = inner.tb_frame.f_code.co_filename
        if not file.startswith((_PACKAGE, "<frozen")) and os.path.basename(os.path.dirname(file)) != "importlib":
            frames = inner
            break
        inner = inner.tb_next
    else:
        # A syntax error has no frame of its own.
        frames = frames if whole else None
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def usage_error(error: click.ClickException) -> int:
    """Report a command line that click refused."""
    at = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "dspex"
    return failed(UsageError("DX8001", error.format_message(), fix=f"see {at} --help"))


def interrupted() -> int:
    """Report an interruption, of a study too when it came before or after its work."""
    if channel().as_json:
        emit(envelope("interrupted", stopped_because="signal"))
    note("interrupted", error=True)
    if (study := channel().study) is not None:
        note(f"go on with: dspex study resume {study}")
    return INTERRUPTED


def leave() -> None:
    """End the process at once, from inside a signal handler; the JSON object is written all the same."""
    found = channel()
    if found.as_json:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            document = envelope("interrupted", stopped_because="signal")
            os.write(found.stream.fileno(), _text(document).encode())
    os._exit(INTERRUPTED)


def color() -> bool | None:
    """False where ``NO_COLOR`` asks for none; None leaves it to the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def note(text: str, *, error: bool = False) -> None:
    """Tell a person something, on stderr."""
    click.secho(text, err=True, fg="red" if error else None, color=color())


def must_be_writable(*paths: str | None) -> None:
    """Refuse results that could not be written, before anything is spent on them.

    Raises:
        UsageError: DX8309.
    """
    for given in paths:
        if given is None:
            continue
        path = Path(given)
        folder = path.absolute().parent
        if not folder.is_dir():
            reason = f"there is no folder {folder}"
        elif path.is_dir():
            reason = "it is a folder"
        elif not os.access(path if path.exists() else folder, os.W_OK):
            reason = "permission denied"
        else:
            continue
        raise UsageError("DX8309", f"{given} cannot be written: {reason}", where=given, fix="name another file")
