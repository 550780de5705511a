"""`ScriptedLM`: what scripts may return, what they cost, and what identifies them."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest

from dspex.errors import OutputError, RateLimited, UsageError
from dspex.lm.types import FREE, Delta, LMRequest, LMResponse, Message, TokenLogprob, ToolCall, ToolSpec, Usage
from dspex.testing import ScriptedLM

ASK = LMRequest(
    messages=(Message("system", "Be  brief.\n"), Message("user", "Which city is it?")), output_fields=("answer",)
)
PICK = LMRequest(prompt="Pick one:", choices=("a", "b", "true"), output_fields=("label",))


def streamed(lm: ScriptedLM, request: LMRequest) -> list[Delta]:
    async def work() -> list[Delta]:
        return [part async for part in lm.stream(request)]

    return asyncio.run(work())


class Label(enum.Enum):
    A = "a"


def ask(answer: Any, request: LMRequest = ASK) -> LMResponse:
    return asyncio.run(ScriptedLM(lambda _: answer).complete(request))


def test_a_mapping_becomes_a_json_object() -> None:
    response = ask({"answer": "Paris", "sure": 0.5})
    assert json.loads(response.text) == {"answer": "Paris", "sure": 0.5}


def test_usage_counts_words() -> None:
    assert ask("It is Paris") == LMResponse("It is Paris", Usage(6, 3), "stop", "scripted/lm")


def test_a_response_is_passed_through() -> None:
    given = LMResponse("x", None, "length", "m")
    assert ask(given) is given


@pytest.mark.parametrize(
    ("answer", "text"), [("b", "b"), ({"label": "b"}, "b"), ({"label": Label.A}, "a"), ({"label": True}, "true")]
)
def test_choices_get_the_one_value(answer: object, text: str) -> None:
    assert ask(answer, PICK).text == text


def test_a_value_outside_the_choices_is_passed_on_as_a_bad_model_would() -> None:
    assert ask({"label": "z"}, PICK).text == "z"


def test_scores_favour_the_chosen() -> None:
    request = LMRequest(prompt="?", choices=("a", "b"), score_choices=True)
    response = ask({"label": "b"}, request)
    assert (response.text, response.choice_logprobs) == ("b", (-20.0, 0.0))


def test_what_cannot_be_scored_is_a_coded_error() -> None:
    request = LMRequest(prompt="?", choices=("a", "b"), score_choices=True)
    for answer, code in (({"label": "z"}, "DX4403"), ({"label": "a", "more": 1}, "DX4404")):
        with pytest.raises(OutputError) as caught:
            ask(answer, request)
        assert caught.value.code == code


def test_scripts_may_be_asynchronous_and_calls_are_counted() -> None:
    async def script(request: LMRequest) -> str:
        await asyncio.sleep(0)
        return request.messages[-1].content

    lm = ScriptedLM(script)

    async def work() -> list[LMResponse]:
        return await asyncio.gather(*(lm.complete(ASK) for _ in range(5)))

    assert {r.text for r in asyncio.run(work())} == {"Which city is it?"}
    assert lm.calls == 5
    assert lm.price == FREE
    assert lm.name == "scripted/lm"


def test_a_script_that_returns_nothing_is_refused() -> None:
    async def nothing(request: LMRequest) -> None: ...

    def number(request: LMRequest) -> int:
        return 3

    for script, given in ((nothing, "NoneType"), (number, "int")):
        with pytest.raises(UsageError, match=f"DX4405.*got {given}"):
            asyncio.run(ScriptedLM(cast("Any", script)).complete(ASK))


CALL = ToolCall("call_1", "look_up", '{"parcel": 7}')


@pytest.mark.parametrize(
    ("answer", "request_", "texts", "thoughts"),
    [
        ("It is  in\nParis ", ASK, ["It", " is", "  in", "\nParis", " "], []),
        ("", ASK, [], []),
        ({"answer": "Paris, France"}, ASK, ['{"answer":"Paris,', ' France"}'], []),
        ({"label": "b"}, PICK, ["b"], []),
        (
            LMResponse("", Usage(1, 2), "tool_calls", tool_calls=(CALL,), reasoning="Look it up."),
            ASK,
            [],
            ["Look", " it", " up."],
        ),
    ],
)
def test_a_stream_comes_a_word_at_a_time(
    answer: Any, request_: LMRequest, texts: list[str], thoughts: list[str]
) -> None:
    lm = ScriptedLM(lambda _: answer)
    first = streamed(lm, request_)
    assert lm.calls == 1
    assert streamed(lm, request_) == first
    assert [part.text for part in first if part.text] == texts
    assert [part.reasoning for part in first if part.reasoning] == thoughts
    called = [(part.id, part.name, part.arguments) for delta in first for part in delta.calls]
    assert called == ([("call_1", "look_up", ""), ("", "", '{"parcel":'), ("", "", " 7}")] if thoughts else [])
    assert [part.response for part in first] == [None] * (len(first) - 1) + [ask(answer, request_)]


def test_a_stream_may_be_left_and_cancelled_between_its_parts() -> None:
    async def work() -> list[str]:
        lm = ScriptedLM(lambda _: "one two three")
        seen: list[str] = []
        note = seen.append
        stream = lm.stream(ASK)
        seen.append((await anext(stream)).text)
        await stream.aclose()

        async def read() -> None:
            async for part in lm.stream(ASK):
                note(part.text)

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(work()) == ["one", "one"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_script_raises_reaches_the_caller(stream: bool) -> None:
    failure = RateLimited("DX4207", "too many", retryable=True, sent="yes")

    def script(_: LMRequest) -> str:
        raise failure

    lm = ScriptedLM(script)
    with pytest.raises(RateLimited) as caught:
        streamed(lm, ASK) if stream else asyncio.run(lm.complete(ASK))
    assert caught.value is failure


def test_words_are_tokens_where_their_log_probabilities_are_asked_for() -> None:
    plain = ask("It is", replace(ASK, top_logprobs=0)).logprobs
    assert plain == (TokenLogprob("It", 0.0), TokenLogprob(" is", 0.0))
    beside = ask("It", replace(ASK, top_logprobs=2)).logprobs
    assert beside == (TokenLogprob("It", 0.0, (("It", 0.0),)),)
    assert ask("It").logprobs is None


def test_a_tool_that_must_be_called_is_called_with_the_answer() -> None:
    request = replace(ASK, tools=(ToolSpec("give", "", "{}"),), tool_choice="give")
    response = ask({"answer": "Paris"}, request)
    assert (response.text, response.stop) == ("", "tool_calls")
    assert response.tool_calls == (ToolCall("call_0", "give", '{"answer":"Paris"}'),)


def test_a_synchronous_script_makes_no_task() -> None:
    async def work() -> int:
        await asyncio.gather(ScriptedLM(lambda _: "x").complete(ASK))
        coroutine = ScriptedLM(lambda _: "x").complete(ASK)
        with pytest.raises(StopIteration):
            # Ends in its first step: nothing was awaited.
            coroutine.send(None)
        return len(asyncio.all_tasks())

    assert asyncio.run(work()) == 1


LIMIT = 3
NAMES = ["a"]


def make(value: object) -> ScriptedLM:
    return ScriptedLM(lambda request: f"{value}{request.rollout}")


def test_fingerprints_follow_the_code_and_the_plain_values_it_uses() -> None:
    assert make(1).fingerprint == make(1).fingerprint
    assert make((1, "x")).fingerprint == make((1, "x")).fingerprint
    assert make(1).fingerprint != make(2).fingerprint
    assert ScriptedLM(lambda _: "a").fingerprint != ScriptedLM(lambda _: "b").fingerprint
    assert ScriptedLM(lambda _: "a").fingerprint != ScriptedLM(lambda _: "a", name="scripted/b").fingerprint
    assert ScriptedLM(lambda _: "a" * LIMIT).fingerprint == ScriptedLM(lambda _: "a" * LIMIT).fingerprint
    assert ScriptedLM(lambda _: json.dumps(1)).fingerprint == ScriptedLM(lambda _: json.dumps(1)).fingerprint


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    script = """
from dspex.testing import ScriptedLM
print(ScriptedLM(lambda r: "a" if r.prompt in {"one", "two", "three", "four", "five"} else "b").fingerprint)
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_a_global_value_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(_: LMRequest) -> str:
        return "a" * LIMIT

    before = ScriptedLM(script).fingerprint
    monkeypatch.setitem(globals(), "LIMIT", 4)
    assert ScriptedLM(script).fingerprint != before


def test_a_script_that_uses_what_may_change_is_like_no_other() -> None:
    assert make([1]).fingerprint != make([1]).fingerprint
    assert ScriptedLM(lambda _: NAMES[0]).fingerprint != ScriptedLM(lambda _: NAMES[0]).fingerprint
    given = [ScriptedLM(lambda _: NAMES[0], fingerprint="mine").fingerprint for _ in range(2)]
    assert given == ["mine", "mine"]
    lm = make([1])
    assert lm.fingerprint == lm.fingerprint


def test_a_script_that_calls_itself_has_a_fingerprint() -> None:
    def down(request: LMRequest, n: int = 3) -> str:
        return "x" if n == 0 else down(request, n - 1)

    assert ScriptedLM(down).fingerprint == ScriptedLM(down).fingerprint


def test_a_mapping_without_the_output_field_is_an_error_and_unasked_reasoning_is_dropped() -> None:
    plain = LMRequest(messages=(Message("user", "Which city?"),), output_fields=("answer",))
    with pytest.raises(OutputError) as caught:
        ask({"nope": 1}, plain)
    assert caught.value.code == "DX4404"
    assert "answer" in caught.value.message
    assert ask({"reasoning": "Because.", "answer": "Paris"}, plain).text == '{"answer":"Paris"}'
    assert ask({"reasoning": "Because.", "label": "b"}, PICK).text == "b"
