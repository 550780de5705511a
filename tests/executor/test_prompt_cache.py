"""Marks for a provider's prompt cache: where a program's prompts have them, when they are sent, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import dspex as dx
from dspex.lm.types import Capabilities, LMResponse, Message, Price, Usage
from dspex.program.context import trace, using
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.testing import MockRequest, MockServer

MARK = {"type": "ephemeral"}
PRICE = Price(2.0, 10.0, cached=0.2, written=2.5)
DEMOS = (
    Demo({"question": "Red?"}, {"answer": "a colour"}),
    Demo({"question": "Lyon?"}, {"answer": "a city"}),
)


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str


class Scored(dx.Schema):
    answer: str
    score: int


SAID: dict[str, object] = {"answer": "a river", "score": 3}


def lm(server: MockServer, model: str, **options: Any) -> dx.LM:
    roots = {"anthropic": "", "bedrock": "", "gemini": "/v1beta", "ollama": ""}
    base_url = server.root + roots.get(model.partition("/")[0], "/v1")
    options.setdefault("cache", "off")
    return dx.LM(model, base_url=base_url, api_key="k", **options)


def asked(module: dx.Module[Any, Any], model: str, *questions: str, **options: Any) -> list[Mapping[str, Any]]:
    """The bodies that calls of `module` send."""
    with MockServer(lambda _: SAID if module.settings.output is Scored else "a river") as server:
        with using(lm=lm(server, model, **options)):
            for question in questions or ("Seine?",):
                module.run(Ask(question=question))
        return [request.body for request in server.requests]


def marked(blocks: list[dict[str, Any]]) -> bool:
    return blocks[-1].get("cache_control") == MARK and not any("cache_control" in block for block in blocks[:-1])


@pytest.fixture
def module() -> dx.Predict[Ask, Answer]:
    return dx.Predict(Ask, Answer, instruction="Say what it is.", demos=DemoSet(DEMOS))


# --- where the marks stand ----------------------------------------------------------------------


def test_anthropic_is_told_where_the_fixed_part_ends(module: dx.Predict[Ask, Answer]) -> None:
    (body,) = asked(module, "anthropic/m", prompt_cache=True)
    assert marked(body["system"])
    turns = body["messages"]
    assert [turn["content"] for turn in turns[:3]] == ["Red?", "a colour", "Lyon?"]
    assert turns[3]["content"] == [{"type": "text", "text": "a city", "cache_control": MARK}]
    assert turns[4]["content"] == "Seine?"


def test_bedrock_is_told_where_the_fixed_part_ends(module: dx.Predict[Ask, Answer]) -> None:
    (body,) = asked(module, "bedrock/m", prompt_cache=True)
    point = {"cachePoint": {"type": "default"}}
    assert body["system"][-1] == point
    assert [turn["content"] for turn in body["messages"][3:]] == [[{"text": "a city"}, point], [{"text": "Seine?"}]]
    assert repr(body).count("cachePoint") == 2


def test_openrouter_is_told_where_the_fixed_part_ends(module: dx.Predict[Ask, Answer]) -> None:
    (body,) = asked(module, "openrouter/anthropic/claude-opus-5", prompt_cache=True)
    system, *_, demo, question = body["messages"]
    assert marked(system["content"])
    assert demo == {"role": "assistant", "content": [{"type": "text", "text": "a city", "cache_control": MARK}]}
    assert question == {"role": "user", "content": "Seine?"}


@pytest.mark.parametrize("model", ["anthropic/m", "bedrock/m", "openrouter/anthropic/claude-opus-5"])
def test_nothing_is_marked_unless_asked_for(module: dx.Predict[Ask, Answer], model: str) -> None:
    (body,) = asked(module, model)
    assert "cache" not in repr(body).casefold()


@pytest.mark.parametrize("model", ["openai/m", "openai-responses/m", "vllm/m", "gemini/m", "ollama/m"])
def test_a_protocol_without_marks_is_sent_what_it_is_sent_without(module: dx.Predict[Ask, Answer], model: str) -> None:
    assert asked(module, model, prompt_cache=True) == asked(module, model)


def test_the_definition_of_a_tool_stands_before_the_mark() -> None:
    module = dx.Predict(Ask, Scored, answers="tool")
    (body,) = asked(module, "anthropic/m", prompt_cache=True, capabilities=Capabilities(tools=True, tool_choice=True))
    assert [tool["name"] for tool in body["tools"]] == ["answer"]
    assert marked(body["system"])


def test_demonstrations_that_the_input_chooses_are_not_marked() -> None:
    module = dx.Predict(Ask, Answer, demos=Nearest(DEMOS, k=1))
    for body in asked(module, "anthropic/m", "Red?", "Lyon?", prompt_cache=True):
        assert marked(body["system"])
        assert all(isinstance(turn["content"], str) for turn in body["messages"])


def test_a_repair_keeps_the_marks_where_they_are() -> None:
    module = dx.Predict(Ask, Scored, demos=DemoSet([Demo({"question": "Red?"}, {"answer": "a colour", "score": 1})]))

    def answer(request: MockRequest) -> Mapping[str, object]:
        return SAID if request.number else {"answer": "a river"}

    with MockServer(answer) as server:
        with using(lm=lm(server, "anthropic/m", prompt_cache=True)):
            module.run(Ask(question="Seine?"))
        first, second = (request.body for request in server.requests)
    assert second["system"] == first["system"]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert repr(second).count("cache_control") == 2


# --- what they change ---------------------------------------------------------------------------


def test_a_mark_is_no_part_of_what_an_answer_is_found_by(module: dx.Predict[Ask, Answer]) -> None:
    with MockServer(lambda _: "a river") as server:
        for prompt_cache in (False, True):
            with using(lm=lm(server, "anthropic/m", prompt_cache=prompt_cache, cache="on")):
                assert module.run(Ask(question="Seine?")) == Answer(answer="a river")
        assert len(server.requests) == 1
    assert Message("user", "a", cache_point=True) == Message("user", "a")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["anthropic/m", "bedrock/m"])
def test_what_the_cache_wrote_and_read_is_paid_at_its_price(
    module: dx.Predict[Ask, Answer], model: str, stream: bool
) -> None:
    usages = [Usage(1000, 10, 0, 0, 900), Usage(1000, 10, 900, 0, 0)]

    async def ask() -> None:
        if stream:
            async for _ in module.stream(Ask(question="Seine?")):
                pass
        else:
            await module(Ask(question="Seine?"))

    with (
        MockServer(lambda request: LMResponse("a river", usages[request.number])) as server,
        using(lm=lm(server, model, prompt_cache=True, price=PRICE)),
        trace() as t,
    ):
        asyncio.run(ask())
        asyncio.run(ask())
    written = (100 * 2.0 + 900 * 2.5 + 10 * 10.0) / 1e6
    read = (100 * 2.0 + 900 * 0.2 + 10 * 10.0) / 1e6
    assert [call.spent.usd for call in t.calls] == [pytest.approx(written), pytest.approx(read)]
    assert t.usage == Usage(2000, 20, 900, 0, 900)


@pytest.mark.parametrize("model", ["anthropic/claude-opus-5", "bedrock/m", "openrouter/anthropic/claude-opus-5"])
def test_an_estimate_knows_whether_the_cache_will_serve(module: dx.Predict[Ask, Answer], model: str) -> None:
    def least(**options: Any) -> float:
        named = dx.LM(model, base_url="http://127.0.0.1:1/v1", api_key="k", price=PRICE, **options)
        found = dx.compile(module).estimate([Ask(question="Seine?")], model=named).run.usd
        assert found is not None
        return found.low

    assert least(prompt_cache=True) < least()


def test_the_setting_is_true_or_false() -> None:
    with pytest.raises(dx.UsageError, match="DX8155"):
        dx.LM("anthropic/m", prompt_cache="yes")  # pyright: ignore[reportArgumentType]
