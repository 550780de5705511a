"""A module's call as its user sees it: answers, repairs, calibration, traces, budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest

from dspex.errors import BudgetExceeded, LMError, NoLMError, OutputError, UsageError
from dspex.lm.model import LM
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Price, Usage
from dspex.program.context import trace, using
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.modules import ChainOfThought, Predict
from dspex.program.schema import Schema
from dspex.providers.scripted import ScriptedLM
from tests.executor.models import ANSWER, StepsLM


class Ask(Schema):
    question: str


class Answer(Schema):
    """Answer the question."""

    answer: str


class Label(Schema):
    """Name the topic."""

    topic: Literal["art", "sport", "law"]


class Scored(Schema):
    answer: str
    score: int


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def checked() -> Any:
        result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(checked())


Q = Ask(question="What is the capital of France?")


def test_a_scripted_answer_comes_back_typed() -> None:
    async def scenario() -> None:
        lm = ScriptedLM(lambda request: {"answer": "Paris"})
        with using(lm=lm), trace() as t:
            got = await Predict(Ask, Answer)(Q)
            many = await asyncio.gather(*[Predict(Ask, Answer)(Q) for _ in range(20)])
        assert got == Answer(answer="Paris")
        assert all(one == got for one in many)
        assert (lm.calls, t.attempts, t.usd, len(t.calls)) == (21, 21, 0.0, 21)
        assert t.calls[0].output == got
        assert t.calls[0].model == "scripted/lm"

    run(scenario())


def test_reasoning_is_in_the_trace() -> None:
    async def scenario() -> None:
        lm = ScriptedLM(lambda request: {"reasoning": "It is well known.", "answer": "Paris"})
        with using(lm=lm), trace() as t:
            assert await ChainOfThought(Ask, Answer)(Q) == Answer(answer="Paris")
        assert t.calls[0].reasoning == "It is well known."
        assert t.calls[0].request.output_fields == ("reasoning", "answer")

    run(scenario())


def test_every_format_carries_a_scripted_answer() -> None:
    async def scenario() -> None:
        with using(lm=ScriptedLM(lambda request: {"answer": "Paris", "score": 3})):
            for form in ("chat", "completion"):
                assert await Predict(Ask, Scored, format=form)(Q) == Scored(answer="Paris", score=3)
        with using(lm=ScriptedLM(lambda request: {"topic": "law"})):
            for form in ("chat", "completion"):
                for scoring in ("generate", "logprob"):
                    module = Predict(Ask, Label, format=form, scoring=scoring)
                    assert await module(Q) == Label(topic="law")

    run(scenario())


def test_an_answer_that_does_not_fit_is_repaired_once() -> None:
    async def scenario() -> None:
        lm = StepsLM("about thirty", '{"answer": "Paris", "score": 30}', capabilities=Capabilities())
        with using(lm=lm), trace() as t:
            assert await Predict(Ask, Scored)(Q) == Scored(answer="Paris", score=30)
        assert len(lm.requests) == 2
        assert "not usable" in lm.requests[1].messages[-1].content
        assert [call.error is None for call in t.calls] == [False, True]
        lm = StepsLM("about thirty", capabilities=Capabilities(), price=Price(1e6, 1e6))
        lm.steps = [LMResponse("thirty", Usage(1, 1))]
        with using(lm=lm), pytest.raises(OutputError) as caught:
            await Predict(Ask, Scored)(Q)
        assert len(lm.requests) == 2
        error = caught.value
        assert (error.code, error.attempts, error.sent, error.spent) == ("DX4601", 2, "yes", 4.0)
        assert isinstance(error.__cause__, OutputError)

    run(scenario())


def test_a_repair_needs_budget_too() -> None:
    lm = StepsLM("thirty", capabilities=Capabilities())
    with using(lm=lm), pytest.raises(BudgetExceeded) as caught:
        Predict(Ask, Scored).run(Q, budget=Budget(calls=1))
    assert (caught.value.attempts, caught.value.sent) == (1, "yes")
    assert len(lm.requests) == 1


def test_a_cut_off_answer_is_not_asked_for_again() -> None:
    async def scenario() -> None:
        lm = StepsLM(LMResponse('{"answer": "Par', Usage(1, 1), "length"))
        with using(lm=lm), pytest.raises(OutputError, match="DX4602"):
            await Predict(Ask, Scored)(Q)
        assert len(lm.requests) == 1

    run(scenario())


def test_what_a_filter_left_is_no_answer() -> None:
    async def scenario() -> None:
        lm = StepsLM(LMResponse("I cannot help with that.", Usage(1, 1), "content_filter"))
        with using(lm=lm), pytest.raises(OutputError, match="DX4606") as caught:
            await Predict(Ask, Answer)(Q)
        assert "I cannot help" in caught.value.message
        assert len(lm.requests) == 1

    run(scenario())


class ScoringLM(StepsLM):
    """Prefers "art" by habit, whatever it is asked."""

    async def complete(self, request: LMRequest, /) -> LMResponse:
        self.requests.append(request)
        text = request.messages[-1].content
        scores = (-0.2, -2.0, -4.0) if text == "N/A" else (-0.3, -1.0, -4.5)
        return LMResponse("art", Usage(5, 1), choice_logprobs=scores)


def test_calibration_corrects_the_models_habit_and_is_paid_once() -> None:
    async def scenario() -> None:
        lm = ScoringLM()
        with using(lm=lm):
            assert (await Predict(Ask, Label, scoring="logprob")(Q)).topic == "art"
            lm.requests.clear()
            module = Predict(Ask, Label, scoring="calibrated")
            with trace() as t:
                got = await asyncio.gather(*[module(Ask(question=f"q{i}")) for i in range(10)])
            assert {one.topic for one in got} == {"sport"}
            free = [request for request in lm.requests if request.messages[-1].content == "N/A"]
            assert 1 <= len(free) < len(lm.requests)
            assert sum(call.request in free for call in t.calls) >= 1
            await module(Q)
            assert lm.requests[-1].messages[-1].content == Q.question
            lm.requests.clear()
            pool = [Demo({"question": q}, {"topic": "law"}) for q in ("court", "judge")]
            near = Predict(Ask, Label, scoring="calibrated", demos=Nearest(pool, 1))
            await near(Ask(question="court day"))
            await near(Ask(question="judge day"))
            assert len(lm.requests) == 4

    run(scenario())


def test_scoring_is_an_error_when_the_model_has_no_scores() -> None:
    async def scenario() -> None:
        with using(lm=StepsLM(capabilities=Capabilities())), pytest.raises(LMError, match="DX4603"):
            await Predict(Ask, Label, scoring="logprob")(Q)
        with using(lm=StepsLM("art")), pytest.raises(LMError, match="DX4604"):
            await Predict(Ask, Label, scoring="calibrated")(Q)

    run(scenario())


def test_the_model_is_chosen_by_the_nearest_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        own, around = ScriptedLM(lambda r: "own"), ScriptedLM(lambda r: "around")
        with using(lm=around):
            assert (await Predict(Ask, Answer, lm=own)(Q)).answer == "own"
            assert (await Predict(Ask, Answer)(Q)).answer == "around"
        monkeypatch.delenv("DSPEX_LM", raising=False)
        with pytest.raises(NoLMError):
            await Predict(Ask, Answer)(Q)
        with using(lm=3), pytest.raises(UsageError, match="DX8106"):  # type: ignore[arg-type]
            await Predict(Ask, Answer)(Q)
        with using(lm="nobody/knows"), pytest.raises(UsageError, match="DX8110"):
            await Predict(Ask, Answer)(Q)

    run(scenario())


def test_a_module_serves_several_models_and_loops_in_turn() -> None:
    module = Predict(Ask, Answer, demos=DemoSet((Demo({"question": "a"}, {"answer": "b"}),)))
    for name in ("one", "two", "one"):

        def answer(request: LMRequest, name: str = name) -> str:
            return name

        with using(lm=ScriptedLM(answer)):
            assert asyncio.run(module(Q)).answer == name  # type: ignore[arg-type]
            assert module.run(Q).answer == name


def test_errors_are_in_the_trace_and_name_the_module() -> None:
    async def scenario() -> None:
        failure = LMError("DX4205", "refused", sent="yes")
        with using(lm=StepsLM(failure)), trace() as t, pytest.raises(LMError) as caught:
            await Predict(Ask, Answer)(Q)
        assert caught.value.attempts == 1
        assert caught.value.where == "predict"
        assert [call.error for call in t.calls] == [caught.value]
        assert t.calls[0].response is None

    run(scenario())


def test_a_budget_binds_a_whole_run() -> None:
    lm = ScriptedLM(lambda request: "x")
    with using(lm=lm):
        module = Predict(Ask, Answer)
        module.run(Q, budget=Budget(calls=1))
        with pytest.raises(BudgetExceeded):
            module.batch([Q, Q, Q], budget=Budget(calls=2), concurrency=1)
        results = module.batch([Q, Q, Q], on_error="return", budget=Budget(calls=2), concurrency=1)
    assert [type(one).__name__ for one in results] == ["Answer", "Answer", "BudgetExceeded"]
    assert lm.calls == 5


def test_a_configured_model_is_cached_and_closed_with_its_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    from dspex.executor import models

    fresh: Callable[[], Any] = models._Shared  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(models, "_shared", fresh())
    opened: list[StepsLM] = []

    def open_model(lm: LM) -> StepsLM:
        opened.append(StepsLM(ANSWER))
        return opened[-1]

    monkeypatch.setattr("dspex.providers.open.open_model", open_model)
    lm = LM("openai/x", base_url="http://127.0.0.1:1/v1", concurrency=3)

    async def scenario() -> None:
        with using(lm=lm), trace() as t:
            module = Predict(Ask, Answer)
            await asyncio.gather(*[module(Q) for _ in range(5)])
            await module(Q)
            assert len(opened[-1].requests) <= 1
            assert t.cached == len(t) - len(opened[-1].requests)
            assert opened[-1].closed == 0

    asyncio.run(scenario())
    assert (len(opened), opened[0].closed, len(opened[0].requests)) == (1, 1, 1)
    asyncio.run(scenario())
    # A second loop has a client of its own; the answer came from the shared cache.
    assert (len(opened), opened[1].closed, len(opened[1].requests)) == (2, 1, 0)
    models.response_cache().close()


def test_a_bad_answer_is_never_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    from dspex.executor import models

    fresh: Callable[[], Any] = models._Shared  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(models, "_shared", fresh())
    model = StepsLM("thirty", "still thirty", '{"answer": "x", "score": 3}')
    monkeypatch.setattr("dspex.providers.open.open_model", lambda lm: model)  # pyright: ignore

    async def scenario() -> None:
        with using(lm=LM("openai/x", base_url="http://127.0.0.1:1/v1")):
            with pytest.raises(OutputError):
                await Predict(Ask, Scored)(Q)
            assert (await Predict(Ask, Scored)(Q)).score == 3
            assert (await Predict(Ask, Scored)(Q)).score == 3
        assert len(model.requests) == 3

    asyncio.run(scenario())
    models.response_cache().close()


def test_spent_is_settled_in_the_trace() -> None:
    async def scenario() -> None:
        lm = StepsLM(LMResponse("Paris", Usage(100, 10)), price=Price(1.0, 10.0))
        with using(lm=lm), trace() as t:
            await Predict(Ask, Answer)(Q)
        assert t.calls[0].spent == Spend(1, 100, 10, pytest.approx(2e-4))  # type: ignore[arg-type]
        assert t.usage == Usage(100, 10)

    run(scenario())
