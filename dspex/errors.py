"""Every error that dspex raises, as one tree.

    DspexError
    ├── ProgramError        DX1xxx  what a user wrote: schemas, Variables, rules, programs, bindings
    ├── CompileError        DX2xxx  the compiler: graph, types, rules that cannot hold, artifacts
    ├── CoreError           DX3xxx  a parameter table or an array that breaks the core's contract
    ├── LMError             DX4xxx  one language-model call
    │   ├── NoLMError               no model was chosen
    │   ├── ConnectError            nothing was sent
    │   ├── CallTimeout             the deadline passed
    │   ├── RateLimited             429; ``retry_after`` in seconds when the server gave one
    │   ├── ServerError             5xx, or the connection broke after sending
    │   ├── RequestRejected         other 4xx: authentication, unknown model, bad request
    │   ├── ResponseError           the body is truncated, not JSON, or not of the protocol's shape
    │   ├── OutputError             the model's text does not fit the output schema
    │   └── BudgetExceeded          a cap would be broken; nothing was sent
    ├── DataError           DX5xxx  data sets, splits, metrics
    │   └── MetricError             the metric raised or gave no finite number
    ├── StudyError          DX6xxx  studies, the event log, stores, resume
    │   └── ResumeRefused           program, data, metric or versions changed
    ├── LocalModelError     DX7xxx  the local model: files, child process, system libraries
    └── UsageError          DX8xxx  the command line and settings

The message of each says the broken rule, the values, the place and the fix. `dspex explain CODE`
prints more, offline, from `catalogue.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dspex.lm.types import RateLimits

__all__ = [
    "BudgetExceeded",
    "CallTimeout",
    "CompileError",
    "ConnectError",
    "CoreError",
    "DataError",
    "DspexError",
    "LMError",
    "LocalModelError",
    "MetricError",
    "NoLMError",
    "OutputError",
    "ProgramError",
    "RateLimited",
    "RequestRejected",
    "ResponseError",
    "ResumeRefused",
    "Sent",
    "ServerError",
    "StudyError",
    "UsageError",
]

Sent = Literal["no", "maybe", "yes"]


class DspexError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable identifier, ``DXnnnn``; `dspex explain CODE` says more.
        message: The broken rule with the values that broke it.
        where: ``file:line``, a field or a dotted path, when there is one.
        fix: What to do about it, when that is known.
        retryable: Whether the same call may succeed later, unchanged.
        sent: Whether a request reached a server: ``no``, ``maybe`` or ``yes``.
        attempts: Attempts sent before this error.
        spent: US dollars known to be spent on the failed call; None when unpriced.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        retryable: bool = False,
        sent: Sent = "no",
        attempts: int = 0,
        spent: float | None = 0.0,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix
        self.retryable = retryable
        self.sent: Sent = sent
        self.attempts = attempts
        self.spent = spent

    def __str__(self) -> str:
        lines = [f"{self.code} {self.message}"]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(cls: type[DspexError], state: dict[str, object]) -> DspexError:
    error = cls.__new__(cls)
    Exception.__init__(error, state.get("code"), state.get("message"))
    error.__dict__.update(state)
    return error


class ProgramError(DspexError):
    """Something in a program as written: a schema, a Variable, a rule, a binding."""


class CompileError(DspexError):
    """The compiler refuses the program, or an artifact is not sound."""


class CoreError(DspexError):
    """A parameter table or array breaks the contract of the core."""


class LMError(DspexError):
    """One language-model call failed."""


class NoLMError(LMError):
    """No language model was chosen anywhere."""


class ConnectError(LMError):
    """The server could not be reached; nothing was sent."""


class CallTimeout(LMError):
    """The call's deadline passed."""


class RateLimited(LMError):
    """The server answered 429.

    Attributes:
        retry_after: Seconds that the server asked to wait, or None.
        limits: What the server told about its limits, or None.
    """

    retry_after: float | None = None
    limits: RateLimits | None = None


class ServerError(LMError):
    """The server failed (5xx) or the connection broke after the request was sent.

    Attributes:
        retry_after: Seconds that the server asked to wait, or None.
        overloaded: Whether it failed because it takes no more calls now (503, 529).
    """

    retry_after: float | None = None
    overloaded: bool = False


class RequestRejected(LMError):
    """The server refused the request (4xx other than 429); retrying does not help."""


class ResponseError(LMError):
    """The response's body is truncated, not JSON, or not of the protocol's shape."""


class OutputError(LMError):
    """The model answered, but its text does not fit the output schema."""


class BudgetExceeded(LMError):
    """A cap would be broken; the call was not sent."""


class DataError(DspexError):
    """A data set, a split or a metric."""


class MetricError(DataError):
    """The metric raised, or did not return a finite number."""


class StudyError(DspexError):
    """A study, its event log or its store."""


class ResumeRefused(StudyError):
    """The study was recorded with another program, data set, metric or version."""


class LocalModelError(DspexError):
    """The local model's files, child process or system libraries."""


class UsageError(DspexError):
    """A command line or a setting that cannot be carried out."""
