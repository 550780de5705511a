"""The real local model: what it answers, and that history never changes an answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from dspex.errors import LocalModelError, RequestRejected
from dspex.lm.model import LM, LanguageModel
from dspex.lm.types import FREE, LMRequest, LMResponse, Message
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
    ]


def answer(response: LMResponse) -> tuple[str, tuple[float, ...] | None]:
    return response.text, response.choice_logprobs


@pytest.mark.model
def test_answers_are_equal_bit_for_bit_in_any_order(model_file: Path) -> None:
    requests = overlapping()

    async def work(model: LocalModel) -> list[tuple[str, tuple[float, ...] | None]]:
        return [answer(await model.complete(request)) for request in requests]

    expected = dict(zip(requests, with_model(work), strict=True))
    rng = random.Random(0)
    order = rng.choices(requests[:-2], k=10) + requests[-2:]
    rng.shuffle(order)
    assert [answer(response) for response in ask(*order)] == [expected[request] for request in order]


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
def test_prompt_longer_than_the_window_is_refused_with_numbers(model_file: Path) -> None:
    with pytest.raises(RequestRejected, match="5001 tokens") as caught:
        ask(LMRequest(prompt="x " * 5000))
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
