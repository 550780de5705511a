from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import dspex as dx
from dspex.lm.types import Usage
from dspex.program.metric import as_metric
from tests.program.schemas import Answer, Ask, Note

RUN = dx.Run(Ask(question="?"), Answer(answer="a"), Answer(answer="a"), dx.Trace(), Usage())


def plain(got: Answer, want: Answer) -> bool:
    return got == want


async def slow(got: Answer, want: Answer) -> dx.Score:
    return dx.Score(0.5, "half")


@dx.metric
def whole(run: dx.Run[Ask, Answer]) -> float:
    return float(len(run.input.question))


def test_every_form_of_metric_gives_a_score() -> None:
    scores = [asyncio.run(as_metric(one, Ask, Answer).score(RUN)) for one in (plain, slow, whole)]
    assert scores == [dx.Score(1.0), dx.Score(0.5, "half"), dx.Score(1.0)]
    assert as_metric(plain, Ask, Answer).identity() != as_metric(slow, Ask, Answer).identity()


@pytest.mark.parametrize("verdict", [math.nan, math.inf, "good", None, dx.Score(math.nan)])
def test_a_metric_without_a_finite_number_is_an_error(verdict: Any) -> None:
    judge = as_metric(lambda got, want: verdict, Ask, Answer)
    with pytest.raises(dx.MetricError, match="DX5301") as caught:
        asyncio.run(judge.score(RUN))
    assert str(caught.value.where).startswith(f"{__file__}:")


def test_a_metric_for_another_schema_is_refused_at_run_time() -> None:
    def for_notes(got: Note, want: Note) -> float:
        return 1.0

    @dx.metric
    def over_notes(run: dx.Run[Ask, Note]) -> float:
        return 1.0

    def too_many(got: Answer, want: Answer, extra: int) -> float:
        return 1.0

    for wrong, code in ((for_notes, "DX1520"), (over_notes, "DX1520"), (too_many, "DX1521"), (3, "DX1521")):
        with pytest.raises(dx.ProgramError, match=code):
            as_metric(wrong, Ask, Answer)  # type: ignore[arg-type]  # pyright: ignore


def test_identity_of_a_metric_sees_what_it_was_configured_with() -> None:
    def within(got: Answer, want: Answer, *, margin: int) -> bool:
        return abs(len(got.answer) - len(want.answer)) <= margin

    class Within:
        def __init__(self, margin: int) -> None:
            self.margin = margin

        def __call__(self, got: Answer, want: Answer) -> bool:
            return within(got, want, margin=self.margin)

    def identity(function: Callable[[Answer, Answer], bool]) -> str:
        return as_metric(function, Ask, Answer).identity()

    assert identity(partial(within, margin=1)) == identity(partial(within, margin=1))
    assert identity(partial(within, margin=1)) != identity(partial(within, margin=2))
    assert identity(Within(1)) == identity(Within(1))
    assert identity(Within(1)) != identity(Within(2))
