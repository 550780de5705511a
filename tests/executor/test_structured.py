"""What keeps answers in form: chosen by what the model can do, or as the module says, and repaired within bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

import dspex as dx
from dspex.errors import LMError, OutputError, ProgramError, ServerError
from dspex.executor.budget import BudgetAccount
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, Price, ToolCall, Usage
from dspex.program.context import trace, using
from dspex.program.demos import Demo, DemoSet
from dspex.program.modules import ChainOfThought, Predict
from dspex.program.schema import Schema
from dspex.testing import MockRequest, MockServer, ScriptedLM
from tests.executor.models import StepsLM


class Ask(Schema):
    question: str


class Answer(Schema):
    """Answer the question."""

    answer: str


class Label(Schema):
    topic: Literal["art", "sport", "law"]


class Scored(Schema):
    answer: str
    score: int


class Count(Schema):
    count: int


Q = Ask(question="Where?")
PARIS = Scored(answer="Paris", score=3)
JSON = '{"answer": "Paris", "score": 3}'
EVERYTHING = Capabilities(True, True, True, True, json_mode=True, tools=True, tool_choice=True)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def asked(request: LMRequest) -> str:
    """What keeps the answer in form."""
    found = [
        name
        for name, there in (
            ("choices", request.choices),
            ("schema", request.json_schema),
            ("json", request.json_mode),
            ("tool", request.tools),
        )
        if there
    ]
    return " ".join(found) or "words"


def means(capabilities: Capabilities, output: type[Schema] = Scored, **arguments: Any) -> str:
    lm = StepsLM("art" if output is Label else JSON, capabilities=capabilities)
    with using(lm=lm), suppress(OutputError):
        run(Predict(Ask, output, repairs=0, **arguments)(Q))
    return asked(lm.requests[0])


NO_SCHEMA = replace(EVERYTHING, json_schema=False)
TOOLS = Capabilities(tools=True, tool_choice=True)


@pytest.mark.parametrize(
    ("answers", "capabilities", "record", "choice", "text", "count"),
    [
        ("auto", EVERYTHING, "schema", "choices", "words", "schema"),
        ("auto", NO_SCHEMA, "json", "choices", "words", "words"),
        ("auto", Capabilities(json_schema=True), "schema", "schema", "words", "schema"),
        ("auto", replace(TOOLS, json_mode=True), "json", "words", "words", "words"),
        ("auto", TOOLS, "tool", "words", "words", "words"),
        ("auto", Capabilities(tools=True), "words", "words", "words", "words"),
        ("auto", Capabilities(), "words", "words", "words", "words"),
        ("schema", EVERYTHING, "schema", "choices", "schema", "schema"),
        ("tool", EVERYTHING, "tool", "tool", "tool", "tool"),
        ("tool", Capabilities(tools=True), "tool", "tool", "tool", "tool"),
        ("json", EVERYTHING, "json", "json", "json", "json"),
        ("json", Capabilities(), "words", "words", "words", "words"),
        ("labels", EVERYTHING, "words", "words", "words", "words"),
    ],
)
def test_the_strictest_means_that_model_and_module_allow_is_used(
    answers: str, capabilities: Capabilities, record: str, choice: str, text: str, count: str
) -> None:
    for output, wanted in ((Scored, record), (Label, choice), (Answer, text), (Count, count)):
        assert means(capabilities, output, answers=answers) == wanted, output


def test_the_completion_format_keeps_its_labels_whatever_the_model_can_do() -> None:
    assert means(EVERYTHING, format="completion") == "words"
    assert means(EVERYTHING, Label, format="completion") == "choices"
    assert means(EVERYTHING, Label, answers="tool", scoring="logprob") == "choices"


@pytest.mark.parametrize(("answers", "lacks"), [("schema", "enforces no schema"), ("tool", "calls no tools")])
def test_a_model_that_cannot_do_what_is_wanted_is_not_asked(answers: Any, lacks: str) -> None:
    lm = StepsLM(JSON, capabilities=Capabilities(json_mode=True))
    with using(lm=lm), pytest.raises(LMError, match=lacks) as caught:
        run(Predict(Ask, Scored, answers=answers)(Q))
    assert (caught.value.code, caught.value.sent, caught.value.attempts, lm.requests) == ("DX4605", "no", 0, [])


def test_a_tool_call_carries_the_answer() -> None:
    call = ToolCall("call_1", "answer", '{"reasoning": "it is known", "answer": "Paris", "score": 3}')
    lm = StepsLM(LMResponse("", Usage(5, 5), "tool_calls", tool_calls=(call,)), capabilities=EVERYTHING)
    with using(lm=lm), trace() as t:
        assert run(ChainOfThought(Ask, Scored, answers="tool")(Q)) == PARIS
    (request,) = lm.requests
    (tool,) = request.tools
    assert (tool.name, request.tool_choice) == ("answer", "answer")
    assert list(json.loads(tool.parameters)["properties"]) == ["reasoning", "answer", "score"]
    assert t.calls[0].reasoning == "it is known"


def test_an_answer_in_a_tool_call_that_does_not_fit_is_shown_back() -> None:
    wrong = LMResponse("", stop="tool_calls", tool_calls=(ToolCall("c", "answer", '{"answer": "Paris"}'),))
    right = LMResponse("", stop="tool_calls", tool_calls=(ToolCall("c", "answer", JSON),))
    lm = StepsLM(wrong, right, capabilities=TOOLS)
    with using(lm=lm):
        assert run(Predict(Ask, Scored)(Q)) == PARIS
    assert lm.requests[1].messages[-2] == Message("assistant", '{"answer": "Paris"}')
    assert "score: Field required" in lm.requests[1].messages[-1].content


def test_labels_ask_for_lines_and_show_demonstrations_as_lines() -> None:
    demos = DemoSet([Demo({"question": "Who?"}, {"answer": "Ann\nand Bob", "score": 1})])
    lm = StepsLM("Answer: Paris\nScore: 3", capabilities=EVERYTHING)
    with using(lm=lm):
        assert run(Predict(Ask, Scored, answers="labels", demos=demos)(Q)) == PARIS
    system, _, shown, _ = lm.requests[0].messages
    assert system.content.endswith(
        "Answer in this form, each field after its label and nothing else:\nAnswer: (text)\nScore: (a whole number)"
    )
    assert shown.content == "Answer: Ann\n  and Bob\nScore: 1"


def test_every_form_carries_a_scripted_answer() -> None:
    for answers in ("auto", "schema", "tool", "json", "labels"):
        with using(lm=ScriptedLM(lambda request: {"answer": "Paris", "score": 3})):
            assert run(Predict(Ask, Scored, answers=answers)(Q)) == PARIS
        with using(lm=ScriptedLM(lambda request: {"topic": "law"})):
            assert run(Predict(Ask, Label, answers=answers)(Q)) == Label(topic="law")
        with using(lm=ScriptedLM(lambda request: {"answer": "Paris"})):
            assert run(Predict(Ask, Answer, answers=answers)(Q)) == Answer(answer="Paris")


# --- as settings and Variables ------------------------------------------------------------------


class Bot(dx.Program[Ask, Scored]):
    form: dx.Var[str] = dx.var("labels", choices=["labels", "schema"])
    tries: dx.Var[int] = dx.var(0, lo=0, hi=5)
    solve = dx.Predict(Ask, Scored, answers=form, repairs=tries)

    async def __call__(self, x: Ask, /) -> Scored:
        return await self.solve(x)


@pytest.mark.parametrize("compiled", [False, True])
def test_form_and_repairs_may_be_variables(compiled: bool) -> None:
    for bound, wanted, tries in ((Bot(), "words", 0), (Bot().bind(form="schema", tries=2), "schema", 2)):
        lm = StepsLM("nothing", capabilities=EVERYTHING)
        with using(lm=lm), pytest.raises(OutputError):
            run(dx.compile(bound)(Q) if compiled else bound(Q))
        assert [asked(request) for request in lm.requests] == [wanted] * (tries + 1)
        assert dx.compile(bound).settings["solve"] == bound.solve.settings


def test_a_fixed_form_of_chat_fixes_the_format() -> None:
    assert "predict.format" in Predict(Ask, Scored, answers="auto").variables()
    module = Predict(Ask, Scored, answers="json")
    assert "format" not in " ".join(module.variables())
    assert module.settings.format == "chat"
    assert dx.compile(module).settings["predict"] == module.settings
    with pytest.raises(ProgramError, match=r"DX1509.*chat"):
        Predict(Ask, Scored, answers="json", format="completion")


@pytest.mark.parametrize(
    "wrong", [{"answers": "xml"}, {"answers": 1}, {"repairs": -1}, {"repairs": 6}, {"repairs": 1.0}, {"repairs": True}]
)
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProgramError, match="DX1509"):
        Predict(Ask, Scored, **wrong)


def test_unset_settings_leave_identity_and_graph_as_they_are() -> None:
    graph = str(dx.compile(Predict(Ask, Scored)))
    assert "answers" not in graph
    assert "repairs" not in graph
    assert Predict(Ask, Scored).identity() != Predict(Ask, Scored, answers="tool").identity()
    assert Predict(Ask, Scored).identity() != Predict(Ask, Scored, repairs=3).identity()


def test_a_study_offers_no_form_that_the_model_cannot_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(ScriptedLM):
        requests: ClassVar[list[LMRequest]] = []

        @property
        def capabilities(self) -> Capabilities:
            return Capabilities()

        async def complete(self, request: LMRequest, /) -> LMResponse:
            self.requests.append(request)
            return await super().complete(request)

    monkeypatch.setenv("DSPEX_HOME", str(tmp_path))
    data = [(Ask(question=f"{n}?"), Scored(answer=str(n), score=n)) for n in range(24)]
    lm = Plain(lambda request: {"answer": "1", "score": 1})
    best = Bot().optimize(data, maximize=lambda got, want: float(got == want), budget=Budget(calls=60), lm=lm)
    assert best.config["form"] == "labels"
    assert best.study.report.failures == {}
    assert {asked(request) for request in lm.requests} == {"words"}


# --- repairs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("repairs", range(6))
def test_an_answer_is_repaired_as_often_as_the_module_says(repairs: int) -> None:
    steps = [LMResponse(f"wrong {n}", Usage(1, 1)) for n in range(9)]
    lm = StepsLM(*steps, capabilities=Capabilities(), price=Price(1e6, 1e6))
    caps = BudgetAccount(Budget(calls=20, usd=1e9))
    with using(lm=lm, budget=caps), trace() as t, pytest.raises(OutputError) as caught:
        run(Predict(Ask, Scored, repairs=repairs)(Q))
    error = caught.value
    assert (error.code, error.attempts, error.sent, error.spent) == ("DX4601", repairs + 1, "yes", 2.0 * (repairs + 1))
    assert all(f"'wrong {n}'" in error.message for n in range(repairs + 1))
    assert len(lm.requests) == len(t.calls) == caps.settled.calls == repairs + 1
    assert [call.error is not None for call in t.calls] == [True] * (repairs + 1)
    assert (t.usd, caps.settled.usd) == (error.spent, error.spent)
    # Every request shows the model all that it said before.
    last = [message.content for message in lm.requests[-1].messages if message.role == "assistant"]
    assert last == [f"wrong {n}" for n in range(repairs)]


def test_the_first_answer_that_fits_ends_the_repairs() -> None:
    lm = StepsLM("no", "neither", JSON, capabilities=EVERYTHING)
    with using(lm=lm), trace() as t:
        assert run(Predict(Ask, Scored, repairs=5)(Q)) == PARIS
    assert (len(lm.requests), [call.output for call in t.calls]) == (3, [None, None, PARIS])
    assert {asked(request) for request in lm.requests} == {"schema"}


def test_a_repair_that_is_cut_off_is_the_last_one() -> None:
    lm = StepsLM("no", LMResponse('{"answer": "Pa', stop="length"), capabilities=Capabilities())
    with using(lm=lm), pytest.raises(OutputError) as caught:
        run(Predict(Ask, Scored, repairs=5)(Q))
    assert (caught.value.code, caught.value.attempts, len(lm.requests)) == ("DX4602", 2, 2)
    assert "'no'" in caught.value.message


def test_a_failure_in_a_repair_counts_what_the_answers_before_it_cost() -> None:
    broken = ServerError("DX4201", "down", sent="yes")
    lm = StepsLM(LMResponse("no", Usage(1, 1)), broken, capabilities=Capabilities(), price=Price(1e6, 1e6))
    with using(lm=lm), trace() as t, pytest.raises(ServerError) as caught:
        run(Predict(Ask, Scored, repairs=3)(Q))
    assert caught.value.attempts == 2
    assert isinstance(caught.value.__cause__, OutputError)
    assert [type(call.error) for call in t.calls] == [OutputError, ServerError]


def test_the_completion_format_is_repaired_as_often() -> None:
    lm = StepsLM("no", "still no", "Paris\nScore: 3", capabilities=Capabilities(raw_prompt=True))
    with using(lm=lm):
        assert run(Predict(Ask, Scored, format="completion", repairs=2)(Q)) == PARIS
    assert [request.prompt.count("Note: not") for request in lm.requests if request.prompt] == [0, 1, 2]


# --- over the wire ------------------------------------------------------------------------------


def truthful(request: MockRequest) -> Any:
    """Answers in whatever form the request demands."""
    if request.forced_tool is not None:
        return LMResponse("", stop="tool_calls", tool_calls=(ToolCall("c1", request.forced_tool, JSON),))
    return JSON


@pytest.mark.parametrize(
    ("name", "path"), [("openai", "/v1"), ("anthropic", ""), ("gemini", "/v1beta"), ("ollama", "")]
)
@pytest.mark.parametrize("answers", ["auto", "schema", "tool", "json", "labels"])
def test_every_provider_carries_every_form_that_it_has(name: str, path: str, answers: Any) -> None:
    can = EVERYTHING if name != "ollama" else replace(EVERYTHING, tools=False)
    with MockServer(truthful) as server:
        lm = LM(f"{name}/any", base_url=server.root + path, api_key="k", capabilities=can, cache="off")
        with using(lm=lm):
            if answers == "tool" and not can.tools:
                with pytest.raises(LMError, match="DX4605"):
                    Predict(Ask, Scored, answers=answers).run(Q)
                return
            assert Predict(Ask, Scored, answers=answers).run(Q) == PARIS
        (request,) = server.requests
    assert (request.forced_tool == "answer") == (answers == "tool")
    # Anthropic's protocol has no JSON mode, and is asked in words.
    enforced = ("auto", "schema") if name == "anthropic" else ("auto", "schema", "json")
    assert (request.schema is not None) == (answers in enforced)


def test_a_fallback_is_asked_in_the_form_that_it_can_do() -> None:
    with MockServer(truthful) as server:
        spare = LM("openai/spare", base_url=server.url, api_key="k", capabilities=TOOLS, cache="off", retries=0)
        first = LM(
            "openai/first",
            base_url="http://127.0.0.1:9/v1",
            api_key="k",
            capabilities=Capabilities(json_schema=True),
            cache="off",
            retries=0,
            fallback=(spare,),
        )
        with using(lm=first):
            assert Predict(Ask, Scored).run(Q) == PARIS
        (request,) = server.requests
    assert (request.forced_tool, request.schema) == ("answer", None)
