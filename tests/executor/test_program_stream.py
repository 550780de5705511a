"""A program's run read while it goes on: what comes, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, Literal

import pytest

import dspex as dx
from dspex.errors import CallTimeout, LMError, OutputError, ProgramError, ServerError
from dspex.executor.budget import BudgetAccount
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import FREE, CallDelta, Capabilities, Delta, LMRequest, LMResponse, Price, ToolCall, Usage
from dspex.program.context import trace, using
from dspex.program.schema import Schema
from dspex.testing import Fault, MockRequest, MockServer
from tests.executor.models import StepsLM


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


class Scored(Schema):
    answer: str
    score: int
    tags: list[str] = []


Q = Ask(question="Where?")


class Bot(dx.Program[Ask, Scored]):
    solve = dx.ChainOfThought(Ask, Scored)

    async def __call__(self, x: Ask, /) -> Scored:
        return await self.solve(x)


class Two(dx.Program[Ask, Scored]):
    """Two modules, one after the other."""

    first = dx.Predict(Ask, Answer)
    second = dx.Predict(Ask, Scored)

    async def __call__(self, x: Ask, /) -> Scored:
        found = await self.first(x)
        return await self.second(Ask(question=found.answer))


FIELDS = {"reasoning": "it is well known to everybody", "answer": "Paris, in France", "score": 3, "tags": ["a", "b"]}
OUTPUT = Scored(answer="Paris, in France", score=3, tags=["a", "b"])


def known(request: MockRequest) -> Any:
    return FIELDS


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(known) as made:
        yield made


def served(server: MockServer, **options: Any) -> LM:
    options = {"cache": "off", "retries": 0, **options}
    return LM("openai/any", base_url=server.url, api_key="k", **options)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def checked() -> Any:
        result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(checked())


async def read(stream: dx.Stream[Any]) -> list[dx.Part[Any]]:
    return [part async for part in stream]


def texts(parts: Sequence[dx.Part[Any]]) -> dict[tuple[int, str], str]:
    """What a reader has of each field at the end who minds `anew`."""
    found: dict[tuple[int, str], str] = {}
    for part in parts:
        place = (part.call, part.field)
        if part.field:
            found[place] = ("" if part.anew else found.get(place, "")) + part.text
    return found


def all_closed(server: MockServer) -> bool:
    return server.open == 0


class PiecesLM:
    """Streams each answer of `answers`, the last one for ever, in the pieces that it is given as."""

    name = "test/pieces"
    fingerprint = "test:pieces"
    price: Price | None = FREE

    def __init__(self, *answers: Sequence[str | Delta | LMError], capabilities: Capabilities | None = None) -> None:
        self.answers = answers
        self.capabilities = capabilities or Capabilities()
        self.requests: list[LMRequest] = []
        self.given = 0
        self.open = 0

    async def complete(self, request: LMRequest, /) -> LMResponse:
        raise AssertionError("a run that is read streams its calls")

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        pieces = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.open += 1
        text = ""
        try:
            for piece in pieces:
                await asyncio.sleep(0)
                if piece == "hold":
                    await asyncio.Event().wait()
                if isinstance(piece, LMError):
                    raise piece
                delta = piece if isinstance(piece, Delta) else Delta(piece)
                self.given += 1
                text += delta.text
                yield delta
                if delta.response is not None:
                    return
            yield Delta(response=LMResponse(text, Usage(10, 5)))
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        """Nothing to close."""


# --- what comes ---------------------------------------------------------------------------------


def test_fields_come_as_they_are_written_and_the_output_at_the_end(server: MockServer) -> None:
    with using(lm=served(server)), trace() as t:
        parts = run(read(Bot().stream(Q)))
    assert parts[-1] == dx.Part(output=OUTPUT)
    assert all(part.output is None and (part.module, part.call) == ("solve", 1) for part in parts[:-1])
    shown = [part for part in parts[:-1] if not part.done]
    # Long texts came in several pieces, and in the order in which the model wrote them.
    assert list(dict.fromkeys(part.field for part in shown)) == ["reasoning", "answer", "score", "tags"]
    assert sum(part.field == "reasoning" for part in shown) > 1
    assert not any(part.anew for part in parts)
    assert texts(parts) == {
        (1, "reasoning"): FIELDS["reasoning"],
        (1, "answer"): FIELDS["answer"],
        (1, "score"): "3",
        (1, "tags"): '["a","b"]',
    }
    so_far = ""
    for part in shown:
        if part.field == "answer":
            so_far += part.text
            assert part.value == so_far
    done = [(part.field, part.value) for part in parts if part.done]
    assert done == list(FIELDS.items())
    assert [call.output for call in t.calls] == [OUTPUT]


@pytest.mark.parametrize(
    ("name", "path"),
    [("openai", "/v1"), ("openai-responses", "/v1"), ("anthropic", ""), ("gemini", "/v1beta"), ("ollama", "")],
)
def test_every_protocol_shows_the_same_fields(server: MockServer, name: str, path: str) -> None:
    can = Capabilities(json_schema=True)
    lm = LM(f"{name}/any", base_url=server.root + path, api_key="k", capabilities=can, cache="off")
    with using(lm=lm):
        parts = run(read(Bot().stream(Q)))
    assert (parts[-1].output, texts(parts)[1, "answer"]) == (OUTPUT, FIELDS["answer"])
    assert sum(part.field == "reasoning" and not part.done for part in parts) > 1


@pytest.mark.parametrize("compiled", [False, True])
def test_every_module_says_which_it_is(compiled: bool) -> None:
    lm = PiecesLM(["Lon", "don"], ['{"answer": "Pa', 'ris", "score": 3}'])
    with using(lm=lm):
        parts = run(read(dx.compile(Two()).stream(Q) if compiled else Two().stream(Q)))
    assert [(part.module, part.call, part.field, part.text, part.done) for part in parts[:-1]] == [
        ("first", 1, "answer", "Lon", False),
        ("first", 1, "answer", "don", False),
        ("first", 1, "answer", "", True),
        ("second", 2, "answer", "Pa", False),
        ("second", 2, "answer", "ris", False),
        ("second", 2, "score", "3", False),
        ("second", 2, "answer", "", True),
        ("second", 2, "score", "", True),
        ("second", 2, "tags", "[]", True),
    ]
    assert parts[-1].output == Scored(answer="Paris", score=3)


def test_calls_of_one_module_at_once_are_told_apart() -> None:
    class Many(dx.Program[Ask, Scored]):
        ask = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Scored:
            found = await asyncio.gather(self.ask(x), self.ask(x), self.ask(x))
            return Scored(answer=found[0].answer, score=len(found))

    with using(lm=PiecesLM(["a", "b", "c"])):
        parts = run(read(Many().stream(Q)))
    assert texts(parts) == {(1, "answer"): "abc", (2, "answer"): "abc", (3, "answer"): "abc"}


class HastyLM(PiecesLM):
    """Has all of its answer at once."""

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        yield Delta('{"answer": "')
        for _ in range(200):
            yield Delta("x")
        yield Delta('"}', response=LMResponse('{"answer": "' + "x" * 200 + '"}', Usage(1, 1)))


def test_calls_that_go_on_at_once_are_shown_by_turns() -> None:
    class Both(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            self.ask = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask) -> Answer:
            first, _ = await asyncio.gather(self.ask(x), self.ask(x))
            return first

    async def first_hundred() -> list[int]:
        calls: list[int] = []
        async with Both().stream(Q) as parts:
            async for part in parts:
                calls.append(part.call)
                if len(calls) == 100:
                    break
                # Everybody who has a part to show gets to where it has to wait.
                for _ in range(3):
                    await asyncio.sleep(0)
        return calls

    with using(lm=HastyLM()):
        calls = run(first_hundred())
    assert min(calls[-60:].count(1), calls[-60:].count(2)) >= 20


def test_hidden_reasoning_that_the_provider_shows_comes_too() -> None:
    lm = PiecesLM([Delta(reasoning="hm"), Delta(reasoning=" well"), "Lon", "don"])
    with using(lm=lm):
        parts = run(read(dx.Predict(Ask, Answer).stream(Q)))
    assert [(part.field, part.thinking) for part in parts[:2]] == [("", "hm"), ("", " well")]
    assert texts(parts) == {(1, "answer"): "London"}


@pytest.mark.parametrize("form", ["labels", "completion"])
def test_labelled_answers_come_field_by_field(form: Any) -> None:
    options: dict[str, Any] = {"format": form} if form == "completion" else {"answers": form}
    first = "" if form == "completion" else "Answer:"
    with using(lm=PiecesLM([first, " Par", "is\nSco", "re: 3\nTa", 'gs: ["a"', "]"])):
        parts = run(read(dx.Predict(Ask, Scored, **options).stream(Q)))
    assert texts(parts) == {(1, "answer"): "Paris", (1, "score"): "3", (1, "tags"): '["a"]'}
    assert parts[-1].output == Scored(answer="Paris", score=3, tags=["a"])


def test_a_model_that_does_not_stream_gives_each_field_in_one_part() -> None:
    lm = StepsLM('{"answer": "Paris", "score": 3}', capabilities=Capabilities())
    with using(lm=lm):
        parts = run(read(dx.Predict(Ask, Scored).stream(Q)))
    assert [(part.field, part.text) for part in parts if part.field and not part.done] == [
        ("answer", "Paris"),
        ("score", "3"),
    ]


CALL = ToolCall("c", "answer", '{"answer": "Paris", "score": 3}')
LAST = Delta(response=LMResponse("Well: ", Usage(1, 1), "tool_calls", tool_calls=(CALL,)))
BY_TOOL = {(1, "answer"): "Paris", (1, "score"): "3", (1, "tags"): "[]"}


def told(text: str) -> Delta:
    return Delta(calls=(CallDelta(0, arguments=text),))


def answer_by_tool(*pieces: Delta) -> list[dx.Part[Any]]:
    with using(lm=PiecesLM([*pieces], capabilities=Capabilities(tools=True))):
        return run(read(dx.Predict(Ask, Scored, answers="tool").stream(Q)))


def test_a_tools_arguments_come_as_they_are_written() -> None:
    begun = Delta(calls=(CallDelta(0, "c", "answer"),))
    parts = answer_by_tool(begun, told('{"answer": "Pa'), told('ris", "sco'), told('re": 3}'), LAST)
    shown = [(part.field, part.text) for part in parts if part.field and not part.done]
    assert shown == [("answer", "Pa"), ("answer", "ris"), ("score", "3")]
    assert not any(part.anew for part in parts)
    assert texts(parts) == BY_TOOL


def test_what_was_said_before_a_tool_was_called_is_void() -> None:
    parts = answer_by_tool(Delta('Well: {"answer": "Rome'), told('{"answer": "Paris", "score": 3}'), Delta("?"), LAST)
    assert [(part.text, part.anew) for part in parts if part.field == "answer"] == [
        ("Rome", False),
        ("", True),
        ("Paris", False),
        ("", False),
    ]
    assert texts(parts) == BY_TOOL


def test_a_tools_arguments_may_come_at_the_end() -> None:
    assert texts(answer_by_tool(LAST)) == BY_TOOL


@pytest.mark.parametrize(
    ("name", "path"),
    [("openai", "/v1"), ("openai-responses", "/v1"), ("anthropic", ""), ("bedrock", ""), ("gemini", "/v1beta")],
)
def test_every_protocol_shows_a_tools_arguments(name: str, path: str) -> None:
    call = ToolCall("c", "answer", json.dumps(FIELDS))
    with MockServer(lambda _: LMResponse("", tool_calls=(call,))) as server:
        can = Capabilities(tools=True)
        lm = LM(f"{name}/any", base_url=server.root + path, api_key="k", capabilities=can, cache="off")
        with using(lm=lm):
            parts = run(read(dx.ChainOfThought(Ask, Scored, answers="tool").stream(Q)))
    assert (texts(parts)[1, "answer"], parts[-1].output) == (FIELDS["answer"], OUTPUT)
    pieces = [part for part in parts if part.field == "answer" and not part.done]
    assert len(pieces) == 1 if name == "gemini" else len(pieces) > 1


def test_an_answer_that_is_known_comes_without_a_request(server: MockServer) -> None:
    lm = served(server, cache="on")
    with using(lm=lm):
        first = run(read(Bot().stream(Q)))
        again = run(read(Bot().stream(Q)))
    assert len(server.requests) == 1
    assert texts(again) == texts(first)
    assert (again[-1], len([part for part in again if part.field == "reasoning"])) == (first[-1], 2)


def test_what_was_read_otherwise_than_it_was_shown_begins_again() -> None:
    class Label(Schema):
        topic: Literal["art", "law"]

    with using(lm=PiecesLM(["**L", "aw**"])):
        parts = run(read(dx.Predict(Ask, Label).stream(Q)))
    assert [(part.text, part.anew, part.done) for part in parts[:-1]] == [
        ("**L", False, False),
        ("aw**", False, False),
        ("law", True, True),
    ]
    with using(lm=PiecesLM(["{'answer': 'x',", " 'score': 1}"])):
        parts = run(read(dx.Predict(Ask, Scored).stream(Q)))
    # Single quotes are not followed while they are written; the validated fields come whole.
    assert all(part.done for part in parts[:-1])
    assert texts(parts) == {(1, "answer"): "x", (1, "score"): "1", (1, "tags"): "[]"}


def test_a_repair_begins_the_fields_again() -> None:
    lm = PiecesLM(['{"answer": "Lon', 'don"}'], ['{"answer": "Par', 'is", "score": 3}'])
    with using(lm=lm), trace() as t:
        parts = run(read(dx.Predict(Ask, Scored).stream(Q)))
    assert [(part.text, part.anew, part.done) for part in parts if part.field == "answer"] == [
        ("Lon", False, False),
        ("don", False, False),
        ("", True, False),
        ("Par", False, False),
        ("is", False, False),
        ("", False, True),
    ]
    assert texts(parts)[1, "answer"] == "Paris"
    assert len(t.calls) == 2


def test_a_scoring_module_shows_its_choice() -> None:
    class Label(Schema):
        topic: bool

    scores = LMResponse("true", Usage(1, 1), choice_logprobs=(-0.1, -3.0))
    with using(lm=StepsLM(scores)):
        parts = run(read(dx.Predict(Ask, Label, scoring="logprob").stream(Q)))
    assert [(part.field, part.text, part.value) for part in parts[:-1]] == [("topic", "true", True)]


# --- how it ends --------------------------------------------------------------------------------


def test_a_failure_is_raised_where_the_parts_are_read() -> None:
    broken = ServerError("DX4201", "down", retryable=True, sent="yes")
    lm = PiecesLM(["Lon", broken])
    with pytest.raises(ServerError):
        run(read_with(lm, dx.Predict(Ask, Answer)))
    # Nothing is tried again once something was seen.
    assert len(lm.requests) == 1
    with pytest.raises(OutputError, match="DX4601"):
        run(read_with(PiecesLM(["thirty"]), dx.Predict(Ask, Scored)))
    with pytest.raises(ProgramError, match="DX1514"):
        run(read_with(PiecesLM(["x"]), dx.Predict(Answer, Scored)))


async def read_with(lm: Any, program: dx.Program[Any, Any], **options: Any) -> list[dx.Part[Any]]:
    with using(lm=lm):
        return await read(program.stream(Q, **options))


def test_closing_early_cancels_the_call_and_frees_the_connection() -> None:
    with MockServer(known, faults=[Fault("hang_body")]) as server:

        async def scenario() -> None:
            caps = BudgetAccount(Budget(calls=5))
            with using(lm=served(server), budget=caps):
                async with Bot().stream(Q) as parts:
                    async for part in parts:
                        assert part.field == "reasoning"
                        break
            assert (caps.settled.calls, caps.reserved.calls, caps.uncertain.calls) == (0, 0, 1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(server.wait_until, all_closed)

        run(scenario())


def test_a_reader_who_is_cancelled_ends_the_run() -> None:
    async def scenario() -> None:
        lm = PiecesLM(["Lon", "hold"])
        seen = asyncio.Event()

        async def reader() -> None:
            with using(lm=lm):
                async for _ in dx.Predict(Ask, Answer).stream(Q):
                    seen.set()

        task = asyncio.create_task(reader())
        await seen.wait()
        assert lm.open == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lm.open == 0

    run(scenario())


def test_a_stream_that_is_dropped_ends_its_run() -> None:
    async def scenario() -> None:
        lm = PiecesLM(["Lon", "hold"])
        with using(lm=lm):
            async for _ in dx.Predict(Ask, Answer).stream(Q):
                break
        # The loop closes what was dropped by itself, in a task.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        assert lm.open == 0

    run(scenario())


def test_a_stream_that_nobody_reads_begins_nothing() -> None:
    lm = PiecesLM(["London"])

    async def scenario() -> None:
        with using(lm=lm):
            stream = dx.Predict(Ask, Answer).stream(Q)
            await asyncio.sleep(0)
            await stream.aclose()
            assert await read(stream) == []

    run(scenario())
    assert not lm.requests


def test_the_model_is_read_no_faster_than_its_reader_reads() -> None:
    async def scenario() -> None:
        lm = PiecesLM([f"{n} " for n in range(10_000)])
        with using(lm=lm):
            async with dx.Predict(Ask, Answer).stream(Q) as parts:
                await anext(parts)
                for _ in range(2_000):
                    await asyncio.sleep(0)
                assert lm.given < 100
                rest = [part async for part in parts]
        assert isinstance(rest[-1].output, Answer)
        assert lm.given == 10_000

    run(scenario())


def test_the_timeout_is_that_of_the_whole_run() -> None:
    with pytest.raises(CallTimeout, match="DX4702"):
        run(read_with(PiecesLM(["Lon", "hold"]), dx.Predict(Ask, Answer), timeout=0.05))


def test_a_budget_binds_the_run() -> None:
    with pytest.raises(dx.BudgetExceeded):
        run(read_with(PiecesLM(["Lon"]), Two(), budget=Budget(calls=1)))


# --- synchronous code ---------------------------------------------------------------------------


def test_a_run_is_read_in_synchronous_code_as_well(server: MockServer) -> None:
    with using(lm=served(server)):
        parts = list(Bot().stream(Q))
        assert texts(parts) == texts(run(read(Bot().stream(Q))))
        assert parts[-1] == dx.Part(output=OUTPUT)
        with dx.compile(Bot()).stream(Q) as stream:
            assert list(stream)[-1] == dx.Part(output=OUTPUT)


def test_synchronous_code_that_stops_reading_ends_the_run() -> None:
    lm = PiecesLM(["Lon", "hold"])
    with using(lm=lm):
        with dx.Predict(Ask, Answer).stream(Q) as stream:
            assert next(stream).text == "Lon"
            assert lm.open == 1
        assert lm.open == 0
        assert list(stream) == []
        for part in dx.Predict(Ask, Answer).stream(Q):
            assert part.text == "Lon"
            break
        assert lm.open == 0


def test_synchronous_code_inside_a_running_loop_may_read_a_run() -> None:
    def read_all() -> list[dx.Part[Any]]:
        return list(dx.Predict(Ask, Answer).stream(Q))

    async def here() -> list[dx.Part[Any]]:
        return read_all()

    class Nested(dx.Program[Ask, Answer]):
        async def __call__(self, x: Ask, /) -> Answer:
            output = read_all()[-1].output
            assert isinstance(output, Answer)
            return output

    with using(lm=PiecesLM(["Lon", "don"])):
        assert asyncio.run(here())[-1].output == Answer(answer="London")
        assert Nested().run(Q) == Answer(answer="London")
        # The program inside has a reader of its own; its parts are not those of the run around it.
        assert [part.field for part in Nested().stream(Q)] == [""]


def test_a_program_run_inside_of_one_that_is_read_is_not_shown() -> None:
    class Outer(dx.Program[Ask, Answer]):
        async def __call__(self, x: Ask, /) -> Answer:
            return dx.Predict(Ask, Answer).run(x)

    with using(lm=StepsLM("London")):
        assert [part.output for part in run(read(Outer().stream(Q)))] == [Answer(answer="London")]


def test_a_part_prints_what_it_has() -> None:
    part: dx.Part[Answer] = dx.Part(module="solve", call=1, field="answer", text="x")
    assert repr(part) == "Part(module='solve', call=1, field='answer', text='x')"
