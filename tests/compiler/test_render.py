"""Prompts: their exact text, what constrains answers, and that no input can break a template."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.compiler.render import PreparedModule, prepare
from dspex.errors import LMError, OutputError
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.modules import ModuleSettings
from dspex.program.schema import Schema, field
from dspex.program.types import ApiKey

ABLE = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True)


class Ticket(Schema):
    text: str


class Route(Schema):
    """Route the ticket."""

    queue: Literal["billing", "account", "other"]


class Ask(Schema):
    question: str
    max_words: int = 5
    key: ApiKey | None = None


class Answer(Schema):
    answer: str


class Full(Schema):
    answer: str = field(description="a few words")
    score: float


class Secretive(Schema):
    question: str
    key: ApiKey


DEMOS = DemoSet((Demo({"text": "pay?"}, {"queue": "billing"}), Demo({"text": "login?"}, {"queue": "account"})))


def settings(**changes: Any) -> ModuleSettings[Any, Any]:
    base: dict[str, Any] = {
        "path": "solve",
        "input": Ticket,
        "output": Route,
        "instruction": "Route the ticket.",
        "demos": DEMOS,
        "demos_k": None,
        "temperature": 0.0,
        "max_tokens": 256,
        "format": "chat",
        "scoring": "generate",
        "reasoning": False,
        "lm": None,
    }
    return ModuleSettings(**{**base, **changes})


def prepared(**changes: Any) -> PreparedModule:
    return prepare(settings(**changes))


def test_chat_has_demonstrations_as_turns_with_bare_answers() -> None:
    request = prepared().request(Ticket(text="hello {text} %s"), capabilities=ABLE)
    assert request == LMRequest(
        messages=(
            Message(
                "system", "Route the ticket.\n\nAnswer with the queue only, exactly one of: billing, account, other."
            ),
            Message("user", "pay?"),
            Message("assistant", "billing"),
            Message("user", "login?"),
            Message("assistant", "account"),
            Message("user", "hello {text} %s"),
        ),
        max_tokens=33,
        choices=("billing", "account", "other"),
        output_fields=("queue",),
    )


def test_completion_has_blocks_and_ends_with_the_label() -> None:
    request = prepared(format="completion").request(Ticket(text="hello"), capabilities=ABLE)
    assert request.messages == ()
    assert request.prompt == (
        "Route the ticket.\nQueue is one of: billing, account, other.\n\n"
        "Text: pay?\nQueue: billing\n\nText: login?\nQueue: account\n\nText: hello\nQueue:"
    )
    assert request.choices == ("billing", "account", "other")
    assert request.stop == ()


def test_a_choice_reserves_no_more_than_it_takes_unless_the_model_reasons_first() -> None:
    def most(able: Capabilities, **changes: Any) -> int:
        return prepared(**changes).request(Ticket(text="x"), capabilities=able).max_tokens

    assert most(ABLE) == 33
    assert most(ABLE, max_tokens=20) == 20
    assert most(replace(ABLE, reasoning=True)) == 256


def test_completion_stops_at_the_line_when_nothing_constrains_the_answer() -> None:
    request = prepared(format="completion").request(Ticket(text="x"), capabilities=Capabilities(raw_prompt=True))
    assert (request.choices, request.stop, request.max_tokens) == ((), ("\n",), 256)


def test_completion_becomes_one_turn_when_the_model_has_chat_only() -> None:
    raw = prepared(format="completion").request(Ticket(text="x"), capabilities=ABLE)
    chat = prepared(format="completion").request(Ticket(text="x"), capabilities=replace(ABLE, raw_prompt=False))
    assert chat.prompt is None
    assert chat.messages == (Message("user", raw.prompt or ""),)


def test_several_fields_are_labelled_lines() -> None:
    module = prepared(input=Ask, output=Answer, demos=DemoSet())
    request = module.request(Ask(question="one\nmax_words: 9", max_words=3, key=ApiKey("sk-secret")))
    assert request.messages[-1].content.startswith("question: one\n  max_words: 9\nmax_words: 3")
    assert "sk-secret" not in repr(request)


class OptionallySecretive(Schema):
    question: str
    key: ApiKey | None = None
    more: tuple[ApiKey, ...] = ()


@pytest.mark.parametrize("schema", [Secretive, OptionallySecretive])
def test_a_secret_never_reaches_a_prompt(schema: type[Secretive] | type[OptionallySecretive]) -> None:
    module = prepared(input=schema, output=Answer, demos=DemoSet())
    request = module.request(schema(question="q", key=ApiKey("sk-secret")))
    assert request.messages[-1].content == "q"


def test_an_object_answer_has_a_schema_with_reasoning_first() -> None:
    demo = Demo({"text": "t"}, {"answer": "a", "score": 1.0}, reasoning="r")
    module = prepared(output=Full, reasoning=True, demos=DemoSet((demo,)))
    request = module.request(Ticket(text="x"), capabilities=ABLE)
    schema = json.loads(request.json_schema or "")
    assert list(schema["properties"]) == schema["required"] == ["reasoning", "answer", "score"]
    assert schema["additionalProperties"] is False
    assert "title" not in json.dumps(schema)
    assert request.messages[2] == Message("assistant", '{"reasoning": "r", "answer": "a", "score": 1.0}')
    assert request.output_fields == ("reasoning", "answer", "score")
    assert '"answer" (text: a few words)' in request.messages[0].content
    assert module.request(Ticket(text="x")).json_schema is None


def test_completion_with_several_outputs_reads_what_it_writes() -> None:
    demo = Demo({"text": "t"}, {"answer": "two\n\nlines", "score": 1.0}, reasoning="r")
    module = prepared(output=Full, reasoning=True, format="completion", demos=DemoSet((demo,)))
    request = module.request(Ticket(text="x"), capabilities=ABLE)
    assert request.prompt == (
        "Route the ticket.\n\nText: t\nReasoning: r\nAnswer: two\n  \n  lines\nScore: 1.0\n\nText: x\nReasoning:"
    )
    assert request.stop == ("\n\n",)
    got = module.parse(Ticket(text="x"), LMResponse(" r\nAnswer: two\n  \n  lines\nScore: 1.0"))
    assert got == (Full(answer="two\n\nlines", score=1.0), "r")


def test_the_last_demonstrations_are_used_when_k_is_set() -> None:
    turns = prepared(demos_k=1).request(Ticket(text="x")).messages
    assert [turn.content for turn in turns[1:]] == ["login?", "account", "x"]
    assert len(prepared(demos_k=0).request(Ticket(text="x")).messages) == 2


def test_nearest_demonstrations_follow_the_input_with_the_most_similar_last() -> None:
    pool = tuple(
        Demo({"text": t}, {"queue": q})
        for t, q in [("red car", "other"), ("blue bill", "billing"), ("green car boat", "other")]
    )
    module = prepared(demos=Nearest(pool, 2))
    turns = module.request(Ticket(text="a red car today")).messages
    assert [turn.content for turn in turns[1:]] == ["green car boat", "other", "red car", "other", "a red car today"]
    assert not module.fixed


def test_scoring_is_refused_when_the_model_cannot() -> None:
    module = prepared(scoring="logprob")
    assert module.request(Ticket(text="x"), capabilities=ABLE).score_choices
    with pytest.raises(LMError) as caught:
        module.request(Ticket(text="x"), capabilities=Capabilities(choices=True))
    assert caught.value.code == "DX4603"


def test_calibration_subtracts_the_content_free_scores() -> None:
    module = prepared(scoring="calibrated")
    free = module.content_free(Ticket(text="secret"), capabilities=ABLE)
    assert "secret" not in repr(free)
    assert free.messages[:-1] == module.request(Ticket(text="secret"), capabilities=ABLE).messages[:-1]
    assert free.messages[-1].content == "N/A"
    got = module.corrected(LMResponse("billing", choice_logprobs=(-0.5, -1.0, -3.0)), (-0.1, -2.0, -2.5))
    assert got.text == "account"
    assert [round(score, 9) for score in got.choice_logprobs or ()] == [-0.4, 1.0, -0.5]


def test_a_repair_shows_the_answer_and_the_reason() -> None:
    module = prepared()
    request = module.request(Ticket(text="x"))
    bad = LMResponse("shipping")
    with pytest.raises(OutputError) as caught:
        module.parse(Ticket(text="x"), bad)
    again = module.repair(request, bad, caught.value)
    assert again.messages[:-2] == request.messages
    assert again.messages[-2] == Message("assistant", "shipping")
    assert "exactly one of billing, account, other" in again.messages[-1].content
    raw = prepared(format="completion")
    asked = raw.request(Ticket(text="x"), capabilities=Capabilities(raw_prompt=True))
    prompt = raw.repair(asked, bad, caught.value).prompt or ""
    assert prompt.endswith("\nQueue:")
    assert "'shipping'" in prompt


def test_sampling_is_seeded_when_it_is_random() -> None:
    assert prepared().request(Ticket(text="x"), 3).seed is None
    hot = prepared(temperature=0.7).request(Ticket(text="x"), 3)
    assert (hot.seed, hot.rollout, hot.temperature) == (0, 3, 0.7)


@given(st.text(), st.sampled_from(["chat", "completion"]))
def test_no_input_text_changes_the_rest_of_the_prompt(text: str, form: str) -> None:
    module = prepared(format=form)
    plain = module.request(Ticket(text="X"), capabilities=ABLE)
    request = module.request(Ticket(text=text), capabilities=ABLE)
    if form == "chat":
        assert request.messages[:-1] == plain.messages[:-1]
        assert request.messages[-1].content == text
    else:
        head, tail = (plain.prompt or "").split("X")
        prompt = request.prompt or ""
        assert prompt.startswith(head)
        assert prompt.endswith(tail)
        middle = prompt[len(head) : len(prompt) - len(tail)]
        # Every line but the first is indented, so none can pass for a label.
        assert all(line.startswith("  ") for line in middle.split("\n")[1:])
        assert middle.replace("\n  ", "\n") == text or "\n  " in text


@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["billing", "account", "other"])), max_size=5))
def test_answers_of_demonstrations_parse_back(pairs: list[tuple[str, str]]) -> None:
    module = prepared(demos=DemoSet(Demo({"text": t}, {"queue": q}) for t, q in pairs))
    turns = module.request(Ticket(text="x")).messages
    for (_, queue), turn in zip(pairs, turns[2::2], strict=False):
        assert module.parse(Ticket(text="x"), LMResponse(turn.content))[0] == Route(queue=queue)  # type: ignore[arg-type]


class Count(Schema):
    n: int = field(description="how many there are")


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (Answer, "Answer with the answer only."),
        (Count, "Answer with the n (how many there are) only, a whole number."),
        (Route, "Answer with the queue only, exactly one of: billing, account, other."),
    ],
)
def test_the_form_of_the_answer_is_said_in_a_sentence(output: type[Schema], sentence: str) -> None:
    request = prepared(output=output, demos=DemoSet()).request(Ticket(text="x"))
    assert request.messages[0].content == f"Route the ticket.\n\n{sentence}"
