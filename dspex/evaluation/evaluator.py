"""One program on one example: a score, or a failure with its reason.

This is a supervision boundary: whatever the user's program and metric raise becomes the `Outcome` of this example. What
concerns the whole search and not the example goes through: a spent budget, cancellation, no model, a log that cannot
be written.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dspex.errors import (
    BudgetExceeded,
    CoreError,
    DataError,
    DspexError,
    LocalModelError,
    MetricError,
    NoLMError,
    StudyError,
    UsageError,
)
from dspex.evaluation.dataset import Example
from dspex.lm.spend import NOTHING, Spend
from dspex.program.context import current, within
from dspex.program.metric import Metric, MetricLike, Run, Score
from dspex.program.outputs import output_of
from dspex.program.schema import Schema
from dspex.program.trace import Trace

__all__ = ["Outcome", "Runnable", "outcome_of", "score_of"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741
I_contra = TypeVar("I_contra", bound=Schema, contravariant=True)
O_co = TypeVar("O_co", bound=Schema, covariant=True)

_WHOLE_SEARCH = (BudgetExceeded, NoLMError, StudyError, LocalModelError, UsageError, CoreError)


class Runnable(Protocol[I_contra, O_co]):
    """What can be evaluated: a program, or any function of that shape."""

    def __call__(self, x: I_contra, /) -> Awaitable[O_co]: ...


@dataclass(frozen=True, slots=True)
class Outcome(Generic[O]):
    """What one example gave.

    Attributes:
        score: The metric's value; None for a failure, never a stand-in.
        error: Why there is no score; None when there is one.
        feedback: The metric's words on it.
        parts: The metric's parts.
        got: The program's output; None when it gave none.
        trace: Every call made, those of a metric that asks a model included.
        seconds: Wall time.
    """

    score: float | None
    error: DspexError | None
    feedback: str | None
    parts: dict[str, float]
    got: O | None
    trace: Trace
    seconds: float

    @property
    def failure(self) -> str | None:
        """The reason of a failure in one line, without its code; where it was, when it was in the user's code."""
        if self.error is None:
            return None
        where = self.error.where if isinstance(self.error, DataError) else None
        return self.error.message + (f" (at {where})" if where else "")

    @property
    def code(self) -> str | None:
        """The code of a failure's reason."""
        return None if self.error is None else self.error.code

    @property
    def spent(self) -> Spend:
        """What all calls of the example cost."""
        return sum((call.spent for call in self.trace.calls), NOTHING)


async def outcome_of(
    program: Runnable[I, O], example: Example[I, O], metric: MetricLike[I, O], *, rollout: int = 0
) -> Outcome[O]:
    """Run the program on one example and score what it gives.

    Args:
        program: Called with the example's input.
        example: The input, and what is wanted for it.
        metric: Of the output and the wanted one.
        rollout: Number of the repeated sample; another number makes other calls.

    Raises:
        BudgetExceeded: A cap would be broken.
        DspexError: What concerns every example: NoLMError, StudyError, LocalModelError, UsageError, CoreError.
    """
    opened = Trace()
    outer = current()
    got: O | None = None
    score: Score | None = None
    error: DspexError | None = None
    begun = time.perf_counter()
    with within(outer.replace(traces=(*outer.traces, opened), rollout=rollout)):
        try:
            got = await output_of(program, example.input)
            score = await score_of(metric, Run(example.input, got, example.want, opened, opened.usage))
        except _WHOLE_SEARCH:
            raise
        except DspexError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - the user's own program
            error = DataError(
                "DX5403",
                f"the program raised {_said(failure)}",
                where=_place(failure, example.where),
                fix="correct the program, or let it handle this input",
            )
            error.__cause__ = failure
    seconds = time.perf_counter() - begun
    if score is None:
        return Outcome(None, error, None, {}, got, opened, seconds)
    return Outcome(score.value, None, score.feedback, dict(score.parts or {}), got, opened, seconds)


async def score_of(metric: MetricLike[I, O], run: Run[I, O]) -> Score:
    """The metric's result as a `Score` with a finite value.

    Args:
        metric: A function of the output and the wanted one, or a decorated one of the run; awaited where it is
        asynchronous.
        run: The example, what the program gave for it, and its trace.

    Raises:
        MetricError: DX5401: the metric raised; DX5301: it gave no finite number.
        LMError: A model that the metric asked failed.
    """
    judge: Metric[I, O] = metric if isinstance(metric, Metric) else Metric(metric, _name(metric), whole=False)
    try:
        return await judge.score(run)
    except DspexError:
        raise
    except Exception as failure:
        raise MetricError(
            "DX5401",
            f"the metric {judge.name!r} raised {_said(failure)}",
            where=_place(failure, judge.name),
            fix="correct the metric; an output that it cannot judge needs a score of its choice, not an exception",
        ) from failure


def _name(metric: object) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def _said(failure: BaseException) -> str:
    text = str(failure)
    return f"{type(failure).__name__}: {text:.300}" if text else type(failure).__name__


def _place(failure: BaseException, otherwise: str) -> str:
    """File and line in which the user's code failed: the innermost frame that is not dspex's own."""
    own = __name__.partition(".")[0] + "."
    found = otherwise
    for frame, line in traceback.walk_tb(failure.__traceback__):
        if not str(frame.f_globals.get("__name__", "")).startswith(own):
            found = f"{frame.f_code.co_filename}:{line}"
    return found
