"""A large study keeps a model busy, and holds no more the longer it works. Time is simulated, so figures are exact."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from dspex.lm.spend import NOTHING, Budget, Spend
from dspex.lm.types import LMRequest
from dspex.program.trace import CallRecord, Trace
from dspex.stores.memory import MemoryEventStore
from dspex.study.aside import RESERVED_PER_TOKEN, Aside
from dspex.study.evaluations import Candidate, Evaluations
from dspex.study.journal import StudyJournal, StudyLog
from dspex.study.ledger import Caps, Ledger, larger
from dspex.study.loop import optimize_async, resume_async
from dspex.study.progress import Progress
from dspex.study.report import Report
from dspex.study.resume import History
from dspex.study.stop import StopToken
from dspex.testing import ScriptedLM
from tests.executor.virtual import simulate
from tests.study.tasks import Message, Router, Team, accuracy, messages, scripted

LATENCY = 0.05


class Wide(dx.Program[Message, Team]):
    """A space that no budget here exhausts."""

    tone: dx.Var[int] = dx.var(0, lo=0, hi=99)
    route = dx.Predict(Message, Team, instruction="Name the team. Tone {tone}.")

    async def __call__(self, x: Message, /) -> Team:
        return await self.route(x)


async def _answer(request: LMRequest) -> Mapping[str, object]:
    await asyncio.sleep(LATENCY)
    return scripted(request)


async def _study(calls: int, width: int, rows: int = 1_200, **options: Any) -> Report:
    options.setdefault("lm", ScriptedLM(_answer, fingerprint="wide"))
    options.setdefault("store", MemoryEventStore())
    best = await optimize_async(
        Wide(),
        messages(rows),
        accuracy,
        budget=Budget(calls=calls),
        concurrency=width,
        study_id="s",
        **options,
    )
    return best.study.report


@pytest.mark.parametrize(("width", "share"), [(32, 0.97), (64, 0.94), (256, 0.72)])
def test_large_study_keeps_its_slots_busy(width: int, share: float) -> None:
    async def timed() -> tuple[Report, float]:
        report = await _study(6_500, width)
        return report, asyncio.get_running_loop().time()

    report, seconds = simulate(timed())
    assert report.status == "complete"
    assert report.calls > 6_000
    assert report.calls * LATENCY / width >= share * seconds


def _stable(report: Report) -> tuple[object, ...]:
    return report.held_out, report.configuration, report.search, report.calls, report.tokens


def test_result_of_a_large_study_is_the_same_for_every_concurrency_and_when_it_is_interrupted() -> None:
    reports = [simulate(_study(6_000, width)) for width in (7, 300)]
    assert _stable(reports[0]) == _stable(reports[1])
    token, store = StopToken(), MemoryEventStore()

    def watch(progress: Progress) -> None:
        if progress.done == 2_500:
            token.request("enough")

    first = simulate(_study(6_000, 100, store=store, stop=token, progress=watch))
    assert first.status == "interrupted"
    lm = ScriptedLM(_answer, fingerprint="wide")
    best = simulate(resume_async("s", Wide(), messages(1_200), accuracy, lm=lm, concurrency=40, store=store))
    assert _stable(best.study.report) == _stable(reports[0])
    assert first.calls + lm.calls == reports[0].calls


def test_no_more_evaluations_are_in_work_than_the_concurrency_says() -> None:
    width, running, most = 5, 0, 0

    async def answer(request: LMRequest) -> Mapping[str, object]:
        nonlocal running, most
        evaluates = "instruction" not in request.output_fields
        running += evaluates
        most = max(most, running)
        found = await _answer(request)
        running -= evaluates
        return found

    simulate(_study(900, width, rows=300, lm=ScriptedLM(answer, fingerprint="wide")))
    assert most == width


def test_study_holds_traces_of_what_is_in_work_alone() -> None:
    width, held = 8, list[int]()

    def watch(progress: Progress) -> None:
        if progress.phase != "propose" and progress.done % 100 == 50:
            gc.collect()
            held.append(sum(isinstance(each, Trace | CallRecord) for each in gc.get_objects()))

    before = sum(isinstance(each, Trace | CallRecord) for each in gc.get_objects())
    simulate(_study(900, width, rows=300, progress=watch))
    assert len(held) > 5
    # Answers that are there at once wait for a slow one before them, so that single samples are larger.
    assert median(held) - before <= 2 * width
    assert held[-1] - before <= 2 * width


amounts = st.builds(Spend, st.integers(0, 3), st.integers(0, 50), st.integers(0, 9), st.sampled_from([0.0, 0.5, None]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), amounts), max_size=25), st.booleans(), st.booleans())
def test_what_is_set_aside_is_that_of_the_dearest_however_results_come(
    results: list[tuple[int, Spend]], other: bool, searching: bool
) -> None:
    program, count = Router(), 10
    candidates = [Candidate[Any, Any](n, "", {}, str(n), program, 1 + n % 2) for n in range(5)]
    default, formats, alive = candidates[0], candidates[:2], candidates[2:4]
    log, history = StudyLog(MemoryEventStore(), "s", "full"), History()
    journal = StudyJournal(log, history)
    evaluations = Evaluations[Any, Any](accuracy, log, journal, history, Ledger(Caps()), {}, StopToken(), lambda: 1)
    aside = Aside(evaluations, default, formats, count, other_formats=other, searching=searching)
    aside.follow(alive)
    for number, (who, cost) in enumerate(results):
        candidate = candidates[who]
        evaluations.most = larger(evaluations.most, candidate.saw({f"{number}": cost}))
        aside.learned(candidate)
        costs = [evaluations.final_cost(each, count) for each in candidates]
        zero = larger(costs[0], costs[1])
        after = _most([*costs[2:4], *([costs[0]] if searching else [])])
        reserve = _most([_reserve(each) for each in (default, *alive)])
        assert evaluations.ledger.aside == costs[0] + zero + after + reserve
    assert aside.least == (1 + other + searching) * count


def _most(amounts: list[Spend]) -> Spend:
    found = NOTHING
    for each in amounts:
        found = larger(found, each)
    return found


def _reserve(candidate: Candidate[Any, Any]) -> Spend:
    usd = None if candidate.most.usd is None else candidate.most.usd * RESERVED_PER_TOKEN
    return Spend(0, candidate.most.input_tokens * RESERVED_PER_TOKEN, candidate.most_output, usd)


@given(amounts, amounts)
def test_larger_is_the_larger_of_each_amount(a: Spend, b: Spend) -> None:
    found = larger(a, b)
    assert (found.calls, found.input_tokens) == (max(a.calls, b.calls), max(a.input_tokens, b.input_tokens))
    assert found.output_tokens == max(a.output_tokens, b.output_tokens)
    dollars = math.nan if a.usd is None or b.usd is None else max(a.usd, b.usd)
    assert found.usd == dollars or (found.usd is None and math.isnan(dollars))
