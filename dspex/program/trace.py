"""What happened: every language-model call inside a `trace()` block."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

from dspex.lm.record import record
from dspex.lm.spend import Spend
from dspex.lm.types import LMRequest, LMResponse, Usage

if TYPE_CHECKING:
    from dspex.errors import LMError

__all__ = ["CallRecord", "Trace"]


@record
class CallRecord:
    """One call of one module.

    Attributes:
        module: Path of the module in its program.
        model: ``provider/model``.
        request: What was asked.
        response: What was answered; None when the call failed.
        key: The call's content hash; None when it failed before it had one.
        cached: Whether the answer came without a request of its own.
        attempts: Requests sent.
        spent: What the attempts cost.
        seconds: Wall time, waiting included.
        reasoning: The steps that a reasoning module wrote before its answer.
        output: The parsed output.
        error: Why there is no output.
        input: What the module was given, when it gave an output.
        ambiguous: How many of the attempts may have been paid without an answer.
    """

    module: str
    model: str
    request: LMRequest
    response: LMResponse | None
    key: str | None
    cached: bool
    attempts: int
    spent: Spend
    seconds: float
    reasoning: str | None = None
    output: object | None = None
    error: LMError | None = None
    input: object | None = None
    ambiguous: int = 0

    @classmethod
    def of_failure(cls, module: str, model: str, request: LMRequest, error: LMError) -> CallRecord:
        """The record of a call that came to no answer: the error says what it cost."""
        spent = Spend(error.attempts if error.sent != "no" else 0, 0, 0, error.spent)
        return cls(module, model, request, None, None, False, error.attempts, spent, 0.0, error=error)


# One random prefix a process and a counter: unique across processes, and far cheaper than a uuid per trace.
_PREFIX = uuid4().hex[:12]
_NEXT = count(1)


def _trace_id() -> str:
    return f"{_PREFIX}-{next(_NEXT)}"


@dataclass(slots=True, eq=False)
class Trace:
    """The calls made while it was open, in the order in which they ended.

    Attributes:
        id: Unique name of this trace.
        calls: One record a call.
    """

    id: str = field(default_factory=_trace_id)
    calls: list[CallRecord] = field(default_factory=list[CallRecord])

    @property
    def attempts(self) -> int:
        """Requests sent, retries and repairs included."""
        return sum(call.attempts for call in self.calls)

    @property
    def cached(self) -> int:
        """Calls answered without a request of their own."""
        return sum(call.cached for call in self.calls)

    @property
    def usage(self) -> Usage:
        """Tokens of all calls that sent a request."""
        total = Usage()
        for call in self.calls:
            if not call.cached and call.response is not None and call.response.usage is not None:
                total = total + call.response.usage
        return total

    @property
    def usd(self) -> float | None:
        """US dollars of all calls; None when any of them has no known price."""
        total = 0.0
        for call in self.calls:
            if call.spent.usd is None:
                return None
            total += call.spent.usd
        return total

    def __len__(self) -> int:
        return len(self.calls)

    def __bool__(self) -> bool:
        return True
