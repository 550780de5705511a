"""One example gives a score or a failure with its reason; what concerns the whole search goes through."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dspex.errors import (
    BudgetExceeded,
    DataError,
    LMError,
    MetricError,
    NoLMError,
    OutputError,
    StudyError,
)
from dspex.evaluation.dataset import Example, load
from dspex.evaluation.evaluator import Outcome, outcome_of, score_of
from dspex.lm.spend import Spend
from dspex.lm.types import LMRequest, Usage
from dspex.program.context import current, trace
from dspex.program.metric import Run, Score, metric
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.program.trace import CallRecord, Trace


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


EXAMPLE: Example[Ask, Answer] = load([{"question": "q", "answer": "a"}], Ask, Answer)[0]


def record(spent: Spend) -> None:
    """What the call path does for each call."""
    for opened in current().traces:
        opened.calls.append(CallRecord("solve", "m", LMRequest(), None, "k", False, 1, spent, 0.0))


async def right(x: Ask, /) -> Answer:
    record(Spend(1, 10, 2, 0.5))
    record(Spend(2, 1, 1, 0.25))
    return Answer(answer="a")


def same(got: Answer, want: Answer) -> bool:
    return got == want


def once(program: Callable[[Ask], Any], by: Any = same, **options: Any) -> Outcome[Answer]:
    return asyncio.run(outcome_of(program, EXAMPLE, by, **options))


def test_an_outcome_has_score_output_trace_and_cost() -> None:
    found = once(right)
    assert (found.score, found.failure, found.code, found.got) == (1.0, None, None, Answer(answer="a"))
    assert found.spent == Spend(3, 11, 3, 0.75)
    assert len(found.trace) == 2
    assert found.seconds >= 0


def test_surrounding_traces_see_the_calls_too() -> None:
    async def inside() -> tuple[int, int]:
        with trace() as outer:
            found = await outcome_of(right, EXAMPLE, same)
            return len(outer), len(found.trace)

    assert asyncio.run(inside()) == (2, 2)


def test_the_rollout_reaches_the_calls() -> None:
    seen: list[int] = []

    async def program(x: Ask, /) -> Answer:
        seen.append(current().rollout)
        return Answer(answer="a")

    once(program)
    once(program, rollout=7)
    assert seen == [0, 7]
    assert current().rollout == 0


def test_examples_at_once_do_not_mix_their_traces() -> None:
    async def program(x: Ask, /) -> Answer:
        for _ in range(int(x.question)):
            await asyncio.sleep(0)
            record(Spend(1))
        return Answer(answer="a")

    async def many() -> list[Outcome[Answer]]:
        rows = load([{"question": str(n), "answer": "a"} for n in range(5)], Ask, Answer)
        return list(await asyncio.gather(*(outcome_of(program, example, same) for example in rows)))

    assert [found.spent.calls for found in asyncio.run(many())] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "error", [OutputError("DX4301", "no JSON"), LMError("DX4999", "down", retryable=True, sent="maybe")]
)
def test_a_failed_call_is_a_failure_with_its_reason(error: LMError) -> None:
    async def program(x: Ask, /) -> Answer:
        record(Spend(1, usd=None))
        raise error

    found = once(program)
    assert found.score is None
    assert found.error is error
    assert (found.code, found.failure) == (error.code, error.message)
    assert found.spent.usd is None
    assert found.got is None


def test_users_code_that_raises_is_a_failure_with_its_place() -> None:
    async def program(x: Ask, /) -> Answer:
        return {"a": Answer(answer="a")}[x.question]

    found = once(program)
    assert found.score is None
    assert found.code == "DX5403"
    assert "KeyError: 'q'" in (found.failure or "")
    assert f"(at {__file__}:" in (found.failure or "")
    assert isinstance(found.error, DataError)
    line = program.__code__.co_firstlineno + 1
    assert found.error.where == f"{__file__}:{line}"
    assert isinstance(found.error.__cause__, KeyError)


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceeded("DX4502", "cap"),
        NoLMError("DX4001", "none"),
        StudyError("DX6101", "disk full"),
        KeyboardInterrupt(),
    ],
)
def test_what_concerns_the_whole_search_goes_through(error: BaseException) -> None:
    async def program(x: Ask, /) -> Answer:
        raise error

    with pytest.raises(type(error)) as caught:
        once(program)
    assert caught.value is error


def test_what_is_no_output_is_a_failure() -> None:
    class Forgets(Program[Ask, Answer]):
        async def __call__(self, x: Ask, /) -> Answer:
            return right(x)  # type: ignore[return-value]  # pyright: ignore

    found = once(Forgets())
    assert (found.score, found.code, found.got) == (None, "DX1543", None)
    assert "Forgets.__call__ gave an awaitable" in (found.failure or "")
    assert once(lambda x: Answer(answer="a")).code == "DX1543"


def test_cancellation_goes_through() -> None:
    async def cancelled() -> None:
        started = asyncio.Event()

        async def program(x: Ask, /) -> Answer:
            started.set()
            await asyncio.Event().wait()
            return Answer(answer="a")

        task = asyncio.create_task(outcome_of(program, EXAMPLE, same))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


def test_a_metric_of_the_run_sees_everything_and_may_be_asynchronous() -> None:
    @metric
    async def judged(run: Run[Ask, Answer]) -> Score:
        await asyncio.sleep(0)
        record(Spend(1, 5, 5, 0.0))
        assert run.input == EXAMPLE.input
        return Score(0.5 * (run.got == run.want), "half right", {"calls": float(len(run.trace))})

    found = once(right, judged)
    assert (found.score, found.feedback, found.parts) == (0.5, "half right", {"calls": 3.0})
    assert found.spent.calls == 4  # what the judge cost counts

    async def plain(got: Answer, want: Answer) -> float:
        return 0.25

    assert once(right, plain).score == 0.25


def run() -> Run[Ask, Answer]:
    return Run(EXAMPLE.input, EXAMPLE.want, EXAMPLE.want, Trace(), Usage())


def scored(result: object) -> Score:
    def by(got: Answer, want: Answer) -> Any:
        return result

    return asyncio.run(score_of(by, run()))


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (True, 1.0),
        (False, 0.0),
        (1, 1.0),
        (-2.5, -2.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (Score(0.5, "why"), 0.5),
    ],
)
def test_numbers_of_every_kind_are_scores(result: object, value: float) -> None:
    assert scored(result).value == value


@pytest.mark.parametrize(
    "result",
    [None, math.nan, math.inf, -math.inf, "0.5", [1.0], np.float64("nan"), object(), 1j, (1.0, "why")],
)
def test_anything_else_is_an_error_and_never_zero(result: object) -> None:
    with pytest.raises(MetricError) as caught:
        scored(result)
    assert caught.value.code == "DX5301"
    assert caught.value.fix is not None
    found = once(right, lambda got, want: result)  # pyright: ignore[reportUnknownLambdaType]
    assert (found.score, found.code, found.got) == (None, "DX5301", Answer(answer="a"))
    assert found.spent.calls == 3


def test_a_score_with_a_bad_value_is_an_error() -> None:
    with pytest.raises(MetricError, match="DX5301"):
        scored(Score(math.nan))


def test_a_metric_that_raises_is_an_error_with_its_place() -> None:
    def broken(got: Answer, want: Answer) -> float:
        return 1 / len(got.answer.strip("a"))

    found = once(right, broken)
    assert (found.score, found.code) == (None, "DX5401")
    assert "'broken' raised ZeroDivisionError: division by zero" in (found.failure or "")
    assert found.error is not None
    assert found.error.where == f"{__file__}:{broken.__code__.co_firstlineno + 1}"


def test_a_judge_whose_model_fails_says_so_itself() -> None:
    async def judge(got: Answer, want: Answer) -> float:
        raise OutputError("DX4301", "the judge wrote no number")

    assert once(right, judge).code == "DX4301"
