"""The real local model: what it answers, and that history never changes an answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import pytest

import dspex as dx
from dspex.errors import LocalModelError, RequestRejected
from dspex.lm.model import LM, LanguageModel, StreamingModel
from dspex.lm.types import (
    FREE,
    Attachment,
    Capabilities,
    Delta,
    LMRequest,
    LMResponse,
    Message,
    TokenLogprob,
    ToolCall,
    ToolSpec,
)
from dspex.providers import open_model
from dspex.providers.local import LocalModel, doctor_checks, open_local

T = TypeVar("T")

DEMOS = (
    "Question: Who wrote Hamlet?\nType: Person\n\n"
    "Question: Where is Oslo?\nType: Location\n\n"
    "Question: How many legs has a spider?\nType: Number\n\n"
)
TYPES = ("Person", "Location", "Number")
WHO = f"{DEMOS}Question: Who painted the Mona Lisa?\nType:"
CHAT = (Message("system", "Answer briefly."), Message("user", "What is the capital of France?"))
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"team": {"$ref": "#/$defs/Team"}, "urgent": {"type": "boolean"}},
        "required": ["team", "urgent"],
        "$defs": {"Team": {"type": "string", "enum": ["billing", "delivery"]}},
    }
)


def with_model(work: Callable[[LocalModel], Awaitable[T]]) -> T:
    async def run() -> T:
        model = open_local(LM("local/smollm2"))
        try:
            return await work(model)
        finally:
            await model.aclose()

    return asyncio.run(run())


def ask(*requests: LMRequest) -> list[LMResponse]:
    async def work(model: LocalModel) -> list[LMResponse]:
        return [await model.complete(request) for request in requests]

    return with_model(work)


# ------------------------------------------------------------------ what needs no model


def test_opening_starts_and_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DSPEX_MODEL_DIR", raising=False)
    model = open_model(LM("local/smollm2"))
    assert isinstance(model, LocalModel)
    assert isinstance(model, LanguageModel)
    assert model.capabilities.parallel == 2
    assert model.pid is None
    assert model.price == FREE
    can = model.capabilities
    assert (can.raw_prompt, can.json_schema, can.choices, can.score_choices) == (True, True, True, True)
    assert (can.json_mode, can.logprobs, can.seed) == (True, True, True)
    assert (can.tools, can.media, can.reasoning) == (False, (), False)
    assert isinstance(model, StreamingModel)
    assert can.context_tokens == 4096
    assert "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in model.fingerprint
    asyncio.run(model.aclose())


def test_unknown_local_model_is_refused() -> None:
    with pytest.raises(LocalModelError) as caught:
        open_model(LM("local/gpt"))
    assert caught.value.code == "DX7005"


def test_call_without_the_file_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DSPEX_HOME", raising=False)
    monkeypatch.delenv("DSPEX_MODEL_DIR", raising=False)
    with pytest.raises(LocalModelError, match="dspex model pull smollm2") as caught:
        ask(LMRequest(prompt="x"))
    assert caught.value.code == "DX7003"
    (check,) = [check for check in doctor_checks() if check.name == "model file"]
    assert (check.ok, check.fix) == (False, "dspex model pull smollm2")


LOOK = ToolSpec("look_up", "Finds a parcel", "{}")
PICTURE = Message("user", "What is it?", (Attachment("image", "image/png", "aGk="),))
ASKED = Message("assistant", "", tool_calls=(ToolCall("1", "look_up", "{}"),))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (LMRequest(messages=CHAT, tools=(LOOK,)), "tools"),
        (LMRequest(messages=(*CHAT, ASKED, Message("tool", "7", tool_call_id="1"))), "tools"),
        (LMRequest(messages=(PICTURE,)), "attachments of kind image"),
        (LMRequest(messages=CHAT, reasoning="low"), "reasoning settings"),
        (LMRequest(messages=CHAT, choices=TYPES, score_choices=True, top_logprobs=1), "scores of choices"),
    ],
)
def test_what_it_cannot_do_is_refused_whatever_was_said_of_it(request_: LMRequest, told: str, stream: bool) -> None:
    claimed = Capabilities(tools=True, tool_choice=True, media=("image",), reasoning=True)
    for model in (open_local(LM("local/smollm2")), open_local(LM("local/smollm2", capabilities=claimed))):
        with pytest.raises(RequestRejected, match=told) as caught:
            asyncio.run(anext(model.stream(request_)) if stream else model.complete(request_))
        assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX4201", "no", False)
        assert model.pid is None


def test_what_is_taken_from_it_is_refused() -> None:
    model = open_local(LM("local/smollm2", capabilities=Capabilities(raw_prompt=True)))
    with pytest.raises(RequestRejected, match="enforced choices"):
        asyncio.run(model.complete(LMRequest(prompt=WHO, choices=TYPES)))


def test_fields_of_the_servers_own_are_part_of_the_fingerprint() -> None:
    plain, one, other = (
        open_local(LM("local/smollm2", extra=extra)).fingerprint for extra in ({}, {"top_k": 1}, {"top_k": 2})
    )
    assert len({plain, one, other}) == 3


# ------------------------------------------------------------------ answers


@pytest.mark.model
def test_generates_text_with_usage_stops_and_limits(model_file: Path) -> None:
    line, cut, chat = ask(
        LMRequest(prompt=WHO, max_tokens=16, stop=("\n",)),
        LMRequest(prompt="One, two, three,", max_tokens=3),
        LMRequest(messages=CHAT, max_tokens=24),
    )
    assert line.text.strip()
    assert "\n" not in line.text
    assert (line.stop, line.model) == ("stop", "local/smollm2")
    assert cut.stop == "length"
    assert cut.usage is not None
    assert cut.usage.output_tokens == 3
    assert chat.text
    assert chat.usage is not None
    assert chat.usage.input_tokens > 10


@pytest.mark.model
def test_choices_and_schemas_are_enforced(model_file: Path) -> None:
    odd = ('say "no"', "back\\slash", "two\nlines", "é, 漢")
    by_prompt, by_chat, strange, cut, chat, raw = ask(
        LMRequest(prompt=WHO, choices=TYPES),
        LMRequest(messages=CHAT, choices=("London", "Paris")),
        LMRequest(messages=CHAT, choices=odd),
        LMRequest(messages=CHAT, choices=("incomprehensibilities", "otherwise"), max_tokens=1),
        LMRequest(messages=CHAT, json_schema=SCHEMA, max_tokens=128),
        LMRequest(prompt=WHO, json_schema=SCHEMA, max_tokens=128),
    )
    assert by_prompt.text in TYPES
    assert by_chat.text in ("London", "Paris")
    assert strange.text in odd
    assert (cut.text in ("incomprehensibilities", "otherwise"), cut.stop) == (True, "stop")
    for response in (chat, raw):
        value = json.loads(response.text)
        assert set(value) == {"team", "urgent"}
        assert value["team"] in ("billing", "delivery")
        assert isinstance(value["urgent"], bool)


@pytest.mark.model
def test_samples_depend_on_seed_and_rollout_alone(model_file: Path) -> None:
    def sample(seed: int | None, rollout: int) -> LMRequest:
        return LMRequest(messages=CHAT, temperature=1.5, max_tokens=12, seed=seed, rollout=rollout)

    requests = [sample(0, 0), sample(0, 1), sample(1, 0), sample(0, 0), sample(None, 0)]
    first = [response.text for response in ask(*requests)]
    assert [response.text for response in ask(*requests[::-1])] == first[::-1]
    assert first[0] == first[3] == first[4]
    assert len(set(first[:3])) == 3


@pytest.mark.model
def test_json_is_enforced_without_a_schema(model_file: Path) -> None:
    ask_json = Message("user", "Describe Paris as a JSON object with the keys name and country.")
    chat, raw = ask(
        LMRequest(messages=(ask_json,), json_mode=True, max_tokens=200),
        LMRequest(prompt='The city as JSON: {"name": "Paris"}\nThe country as JSON:', json_mode=True, max_tokens=200),
    )
    for response in (chat, raw):
        assert response.stop == "stop"
        assert isinstance(json.loads(response.text), dict)


@pytest.mark.model
def test_tokens_come_with_their_log_probabilities(model_file: Path) -> None:
    alone, beside, none, raw, warm, choice = ask(
        LMRequest(messages=CHAT, max_tokens=6, top_logprobs=0),
        LMRequest(messages=CHAT, max_tokens=6, top_logprobs=3),
        LMRequest(messages=CHAT, max_tokens=6),
        LMRequest(prompt="One, two,", max_tokens=4, top_logprobs=1),
        LMRequest(messages=CHAT, max_tokens=6, top_logprobs=3, temperature=1.5, seed=1),
        LMRequest(messages=CHAT, choices=("London", "Paris"), top_logprobs=0),
    )
    assert none.logprobs is None
    assert alone.text == beside.text == none.text
    assert alone.logprobs is not None
    assert beside.logprobs is not None
    assert "".join(token.token for token in alone.logprobs) == alone.text
    # The server adds up probabilities in an order that depends on how many alternatives it looks for.
    for one, other in zip(alone.logprobs, beside.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
    assert all(token.top == () for token in alone.logprobs)
    for token in beside.logprobs:
        # The most probable one is what a temperature of 0 takes.
        assert token.top[0] == (token.token, token.logprob)
        assert len(token.top) == 3
        assert token.logprob <= 0.0
    assert raw.logprobs is not None
    assert len(raw.logprobs) == 4
    assert warm.logprobs is not None
    # What the temperature does to them is not in them.
    assert warm.logprobs[0].top == beside.logprobs[0].top
    assert choice.logprobs is not None
    assert "".join(token.token for token in choice.logprobs) in ("London", "Paris")


@pytest.mark.model
def test_top_p_and_fields_of_the_servers_own_change_the_sample(model_file: Path) -> None:
    wide = LMRequest(messages=CHAT, temperature=2.0, max_tokens=12, seed=5)
    narrow = LMRequest(messages=CHAT, temperature=2.0, max_tokens=12, seed=5, top_p=0.001)
    greedy = LMRequest(messages=CHAT, max_tokens=12)
    first, second, third = ask(wide, narrow, greedy)
    assert first.text != second.text
    assert second.text == third.text

    async def least() -> str:
        model = open_local(LM("local/smollm2", extra={"top_k": 1}))
        try:
            return (await model.complete(wide)).text
        finally:
            await model.aclose()

    assert asyncio.run(least()) == third.text


# ------------------------------------------------------------------ streams


async def parts(model: LocalModel, request: LMRequest) -> list[Delta]:
    return [delta async for delta in model.stream(request)]


@pytest.mark.model
def test_a_stream_says_what_a_call_answers(model_file: Path) -> None:
    emoji = Message("user", "Write an emoji poem \N{PARTY POPPER}")
    requests = [
        *overlapping()[:9],
        LMRequest(messages=CHAT, json_schema=SCHEMA, max_tokens=128),
        LMRequest(prompt=WHO, json_schema=SCHEMA, max_tokens=128),
        LMRequest(messages=CHAT, choices=("London", "Paris")),
        LMRequest(prompt=WHO, choices=TYPES),
        LMRequest(messages=CHAT, max_tokens=24, stop=("capital", "France")),
        LMRequest(messages=CHAT, max_tokens=6, top_logprobs=2),
        LMRequest(messages=(emoji,), max_tokens=24, temperature=0.8, seed=3),
    ]

    async def work(model: LocalModel) -> list[list[Delta]]:
        return [await parts(model, request) for request in requests]

    streams = with_model(work)
    for request, deltas, whole in zip(requests, streams, ask(*requests), strict=True):
        last = deltas[-1].response
        assert last is not None
        assert [delta.response for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert "".join(delta.text for delta in deltas) == last.text == whole.text
        assert (last.stop, last.choice_logprobs, last.logprobs) == (whole.stop, whole.choice_logprobs, whole.logprobs)
        assert last.usage is not None
        assert whole.usage is not None
        assert last.usage.total_tokens == whole.usage.total_tokens
        if request.max_tokens == 128:
            assert len(deltas) > 5


@pytest.mark.model
def test_a_stream_tells_what_the_prompt_cache_served(model_file: Path) -> None:
    async def work(model: LocalModel) -> list[LMResponse | None]:
        second = LMRequest(prompt=f"{DEMOS}Question: Where is Lima?\nType:", max_tokens=4)
        return [(await parts(model, request))[-1].response for request in (LMRequest(prompt=WHO, max_tokens=4), second)]

    first, second = with_model(work)
    assert first is not None
    assert second is not None
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens > 30


@pytest.mark.model
def test_a_reader_may_ask_the_model_while_it_reads(model_file: Path) -> None:
    outer, inner, third = LMRequest(messages=CHAT, max_tokens=12), overlapping()[3], overlapping()[1]
    expected = [response.text for response in ask(outer, inner, third)]

    async def work(model: LocalModel) -> list[str]:
        stream = model.stream(outer)
        text = (await anext(stream)).text
        within = model.stream(inner)
        between = (await anext(within)).text
        last = (await model.complete(third)).text
        between += "".join([delta.text async for delta in within])
        text += "".join([delta.text async for delta in stream])
        return [text, between, last]

    assert with_model(work) == expected


class Ask(dx.Schema):
    question: str


class Note(dx.Schema):
    team: Literal["billing", "delivery"]
    urgent: bool


@pytest.mark.model
def test_a_program_streams_from_it_and_runs_while_it_does(model_file: Path) -> None:
    note, other = dx.Predict(Ask, Note), Ask(question="Is it late?")

    async def work() -> tuple[list[str], Note | None, Note, Note]:
        alone = await note(other)
        texts: list[str] = []
        beside = output = None
        async with note.stream(Ask(question="Where is my invoice?")) as stream:
            async for part in stream:
                texts.append(part.text)
                output = part.output
                beside = beside or await note(other)
        assert beside is not None
        return texts, output, alone, beside

    with dx.using(lm=dx.LM("local/smollm2", cache="off")):
        texts, output, alone, beside = asyncio.run(work())
    assert len([text for text in texts if text]) > 1
    assert isinstance(output, Note)
    assert alone == beside


@pytest.mark.model
@pytest.mark.parametrize("cancelled", [False, True])
def test_leaving_a_stream_stops_the_server(model_file: Path, cancelled: bool) -> None:
    (expected,) = ask(LMRequest(prompt=WHO, max_tokens=4))

    async def drained(stream: AsyncGenerator[Delta]) -> None:
        async for _ in stream:
            pass

    async def work() -> None:
        # By itself it would go on for far longer than the other call may take.
        endless = open_local(LM("local/smollm2", extra={"ignore_eos": True}))
        model = open_local(LM("local/smollm2", timeout=30.0))
        try:
            for _ in range(3):
                stream = endless.stream(LMRequest(prompt="One, two,", max_tokens=4000))
                assert (await anext(stream)).text
                if cancelled:
                    task = asyncio.create_task(drained(stream))
                    await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    await stream.aclose()
            assert (await model.complete(LMRequest(prompt=WHO, max_tokens=4))).text == expected.text
        finally:
            await endless.aclose()
            await model.aclose()

    asyncio.run(work())


# ------------------------------------------------------------------ scores


@pytest.mark.model
def test_scores_order_the_choices(model_file: Path) -> None:
    who, where, swapped, chat = ask(
        LMRequest(prompt=WHO, choices=TYPES, score_choices=True),
        LMRequest(prompt=f"{DEMOS}Question: Where is Lima?\nType:", choices=TYPES, score_choices=True),
        LMRequest(prompt=WHO, choices=TYPES[::-1], score_choices=True),
        LMRequest(messages=CHAT, choices=("London", "Paris"), score_choices=True),
    )
    assert (who.text, where.text, chat.text) == ("Person", "Location", "Paris")
    assert who.choice_logprobs is not None
    assert swapped.choice_logprobs == who.choice_logprobs[::-1]
    assert math.isclose(sum(map(math.exp, who.choice_logprobs)), 1.0, rel_tol=1e-5)
    assert who.usage is not None
    assert who.usage.output_tokens == 1


@pytest.mark.model
def test_choices_that_begin_alike_are_told_apart(model_file: Path) -> None:
    prompt = "Oslo is in Norway.\nLima is in Peru.\nMiami is in the United States.\nSeoul is in"
    apart, alike = ask(
        LMRequest(prompt=prompt, choices=("South Korea", "Peru"), score_choices=True),
        LMRequest(prompt=prompt, choices=("South Korea", "South", "South Africa", "Peru"), score_choices=True),
    )
    assert apart.text == alike.text == "South Korea"
    assert alike.choice_logprobs is not None
    assert len(set(alike.choice_logprobs)) == 4
    assert math.isclose(sum(map(math.exp, alike.choice_logprobs)), 1.0, rel_tol=1e-5)


# ------------------------------------------------------------------ history changes nothing


def overlapping() -> list[LMRequest]:
    """Requests whose prompts repeat, contain and continue each other, one of them a row longer than a batch."""
    long = "x " * 512
    return [
        LMRequest(prompt=WHO, choices=TYPES, score_choices=True),
        LMRequest(prompt=DEMOS, max_tokens=6),
        LMRequest(prompt=f"{DEMOS}Question: Where is Lima?\nType:", choices=TYPES, score_choices=True),
        LMRequest(prompt="One, two, three,", max_tokens=12),
        LMRequest(prompt="One, two, three, four, five, six, seven", choices=(", eight", " and"), score_choices=True),
        LMRequest(prompt="One", choices=(", two", " of"), score_choices=True),
        LMRequest(messages=CHAT, max_tokens=6),
        LMRequest(messages=CHAT, choices=("Lyon", "Paris"), score_choices=True),
        LMRequest(messages=CHAT, temperature=1.0, max_tokens=6, rollout=3),
        LMRequest(prompt=long, choices=("x", "y"), score_choices=True),
        LMRequest(prompt=long[:400], choices=("x", "y"), score_choices=True),
        LMRequest(prompt=DEMOS, max_tokens=4, top_logprobs=2),
    ]


Answer = tuple[str, tuple[float, ...] | None, tuple[TokenLogprob, ...] | None]


def answer(response: LMResponse) -> Answer:
    return response.text, response.choice_logprobs, response.logprobs


@pytest.mark.model
def test_answers_are_equal_bit_for_bit_in_any_order(model_file: Path) -> None:
    requests = overlapping()

    async def work(model: LocalModel) -> list[Answer]:
        return [answer(await model.complete(request)) for request in requests]

    expected = dict(zip(requests, with_model(work), strict=True))
    rng = random.Random(0)
    order = rng.choices(requests[:-3], k=12) + requests[-3:]
    rng.shuffle(order)

    async def mixed(model: LocalModel) -> list[Answer]:
        answers: list[Answer] = []
        for request in order:
            left = model.stream(rng.choice(requests[:-3]))
            await anext(left)
            if rng.random() < 0.5:
                await left.aclose()
            last = (await parts(model, request))[-1].response if rng.random() < 0.5 else await model.complete(request)
            assert last is not None
            answers.append(answer(last))
            await left.aclose()
        return answers

    assert with_model(mixed) == [expected[request] for request in order]


@pytest.mark.model
def test_a_cancelled_call_changes_no_later_answer(model_file: Path) -> None:
    requests = overlapping()[:3]
    expected = [answer(response) for response in ask(*requests)]

    async def work(model: LocalModel) -> Sequence[LMResponse]:
        await model.complete(requests[1])
        for request in (requests[0], LMRequest(prompt=DEMOS * 4, max_tokens=64)):
            call = asyncio.create_task(model.complete(request))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        return await asyncio.gather(*(model.complete(request) for request in requests))

    assert [answer(response) for response in with_model(work)] == expected


@pytest.mark.model
def test_a_shared_prefix_is_evaluated_once(model_file: Path) -> None:
    first, second = ask(
        LMRequest(prompt=WHO, choices=TYPES, score_choices=True),
        LMRequest(prompt=f"{DEMOS}Question: Where is Lima?\nType:", choices=TYPES, score_choices=True),
    )
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens > 30


# ------------------------------------------------------------------ faults


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
def test_prompt_longer_than_the_window_is_refused_with_numbers(model_file: Path, stream: bool) -> None:
    request = LMRequest(prompt="x " * 5000)
    with pytest.raises(RequestRejected, match="5001 tokens") as caught:
        with_model(lambda model: parts(model, request) if stream else model.complete(request))
    error = caught.value
    assert (error.code, error.retryable, error.sent) == ("DX7009", False, "yes")
    assert "4096" in str(error)


@pytest.mark.model
def test_proxies_of_the_environment_are_not_asked(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (response,) = ask(LMRequest(prompt="One, two,", max_tokens=2))
    assert response.text


@pytest.mark.model
def test_doctor_sees_a_sound_installation(model_file: Path) -> None:
    checks = doctor_checks()
    assert [check.name for check in checks] == ["xllamacpp", "libgomp", "model file", "local model"]
    assert all(check.ok for check in checks), checks
