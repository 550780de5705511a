"""Metrics: how good an output is, as a plain function of (got, want) or of a whole `Run`."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import isawaitable, signature
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, overload

from dspex.errors import MetricError, ProgramError
from dspex.program.schema import Schema

if TYPE_CHECKING:
    from dspex.lm.types import Usage
    from dspex.program.trace import Trace

__all__ = ["Metric", "MetricLike", "Run", "Score", "Verdict", "as_metric", "metric"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its reasons.

    Attributes:
        value: The score; larger is better.
        feedback: What was good or bad, in words, for proposers that read it.
        parts: Scores of parts, for reports.
    """

    value: float
    feedback: str | None = None
    parts: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Run(Generic[I, O]):
    """One example, run.

    Attributes:
        input: The example's input.
        got: The program's output.
        want: The example's output.
        trace: Calls made for it.
        usage: Tokens used for it.
    """

    input: I
    got: O
    want: O
    trace: Trace
    usage: Usage


Verdict = float | bool | Score
"""What a metric gives."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[I, O]):
    """A metric over whole runs. Built by `metric`.

    Attributes:
        function: The user's function.
        name: Its name, for reports.
        whole: Whether it takes a `Run` rather than (got, want).
        source: What its content hash is taken from.
    """

    function: Callable[..., Verdict | Awaitable[Verdict]]
    name: str
    whole: bool = True
    source: object = field(default=None, compare=False)

    async def score(self, run: Run[I, O]) -> Score:
        """The score of `run`.

        Raises:
            MetricError: DX5301, when the result is no finite number. What the user's function raises passes through.
        """
        verdict = self.function(run) if self.whole else self.function(run.got, run.want)
        if isawaitable(verdict):
            verdict = await verdict
        score = verdict if isinstance(verdict, Score) else None
        number: object = verdict if score is None else score.value
        if not isinstance(number, bool | int | float) and hasattr(number, "__float__"):
            number = float(cast(Any, number))
        if not isinstance(number, bool | int | float) or not math.isfinite(number):
            raise MetricError(
                "DX5301",
                f"the metric {self.name!r} gives a finite number, a bool or a dx.Score, got {verdict!r}",
                where=_defined(self.function) or self.name,
                fix="return 0.0 for a wrong output, and raise when it cannot be judged",
            )
        return Score(float(number)) if score is None else score

    def __call__(self, run: Run[I, O], /) -> Verdict | Awaitable[Verdict]:
        """The user's function itself."""
        return self.function(run) if self.whole else self.function(run.got, run.want)

    def identity(self) -> str:
        """Content hash over the function's source; the same in every process."""
        from dspex.program.identity import function_hash

        return function_hash(self.function)


MetricLike = Metric[I, O] | Callable[[O, O], Verdict | Awaitable[Verdict]]
"""What `maximize=` accepts."""


@overload
def metric(function: Callable[[Run[I, O]], Awaitable[Verdict]], /) -> Metric[I, O]: ...
@overload
def metric(function: Callable[[Run[I, O]], Verdict], /) -> Metric[I, O]: ...
def metric(function: Callable[[Run[I, O]], Any], /) -> Metric[I, O]:
    """A metric over whole runs: `@dx.metric def brief(run: dx.Run[Ask, Answer]) -> float`. Sync or async."""
    _parameters(function, 1)
    return Metric(function, getattr(function, "__name__", "metric"))


def as_metric(maximize: MetricLike[I, O], input: type[I], output: type[O]) -> Metric[I, O]:
    """`maximize` as a `Metric`, checked against the schemas of the program that it is to judge.

    Raises:
        ProgramError: DX1521 when it is no metric, DX1520 when its annotations name other schemas.
    """
    if isinstance(maximize, Metric):
        judge: Metric[I, O] = maximize
    elif callable(maximize):
        _parameters(maximize, 2)
        judge = Metric(maximize, getattr(maximize, "__name__", "metric"), whole=False)
    else:
        raise ProgramError("DX1521", f"a metric is a function of (got, want) or a dx.metric, got {maximize!r}")
    annotations = _annotations(judge.function)
    wanted: list[tuple[object, type[Schema], str]] = []
    if judge.whole:
        given = annotations[0] if annotations else None
        if get_origin(given) is Run:
            ours, theirs = get_args(given)
            wanted = [(ours, input, "input"), (theirs, output, "output")]
    else:
        wanted = [(annotation, output, "output") for annotation in annotations[:2]]
    for annotation, schema, side in wanted:
        if isinstance(annotation, type) and issubclass(annotation, Schema) and not issubclass(schema, annotation):
            raise ProgramError(
                "DX1520",
                f"the metric {judge.name!r} judges {annotation.__name__}, the program's {side} is {schema.__name__}",
                where=judge.name,
                fix=f"annotate and write it for {schema.__name__}",
            )
    return judge


def _parameters(function: Callable[..., object], count: int) -> None:
    form = "(run)" if count == 1 else "(got, want)"
    if not callable(function):  # pyright: ignore[reportUnnecessaryComparison]
        raise ProgramError("DX1521", f"a metric is a function of {form}, got {function!r}")
    try:
        signature(function).bind(*range(count))
    except ValueError:
        return
    except TypeError:
        raise ProgramError(
            "DX1521",
            f"the metric {getattr(function, '__name__', function)!r} cannot be called with {form}",
            fix="write def accuracy(got: Answer, want: Answer) -> float, or @dx.metric over a dx.Run",
        ) from None


def _defined(function: Callable[..., object]) -> str | None:
    code = getattr(function, "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _annotations(function: Callable[..., object]) -> list[object]:
    """Annotations of the parameters in order; None where there is none or it cannot be resolved."""
    code = getattr(function, "__code__", None)
    given = cast("dict[str, object]", getattr(function, "__annotations__", {}))
    if code is None:
        return []
    names = code.co_varnames[: code.co_argcount]
    module = sys.modules.get(getattr(function, "__module__", ""))
    scope = cast("dict[str, object]", getattr(function, "__globals__", vars(module) if module else {}))
    resolved: list[object] = []
    for name in names:
        annotation = given.get(name)
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, scope)
            except Exception:  # noqa: BLE001 - user code: unresolvable annotations are for the static checker alone
                annotation = None
        resolved.append(annotation)
    return resolved
