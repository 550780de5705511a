"""Answers: tolerant of wrapping, strict about content, and always either an output or an OutputError."""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.compiler.answers import AnswerParser, OutputShape
from dspex.compiler.answers.lenient import json_value
from dspex.errors import OutputError
from dspex.lm.types import LMResponse, ToolCall
from dspex.program.schema import Schema, field


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Label(Schema):
    label: Literal["refund", "refund request", "billing", "other"]


class Paint(Schema):
    colour: Colour


class Yes(Schema):
    ok: bool


class Text(Schema):
    answer: str


class Number(Schema):
    count: int = field(ge=0, le=10)


class Ratio(Schema):
    ratio: float


class Items(Schema):
    items: list[str]


class Record(Schema):
    answer: str
    score: float = field(ge=0, le=1)


class Grade(Schema):
    level: Literal[1, 2, 3]


def read(output: type[Schema], text: str, *, reasoning: bool = False, labels: tuple[str, ...] = (), stop: str = "stop"):
    parser = AnswerParser(OutputShape.of(output, reasoning=reasoning), labels=labels, where="solve")
    return parser.parse(LMResponse(text, stop=stop))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("billing", "billing"),
        (" billing\n", "billing"),
        ("Billing.", "billing"),
        ('"billing"', "billing"),
        ("**billing**", "billing"),
        ("Label: billing", "billing"),
        ('{"label": "billing"}', "billing"),
        ('```json\n{"label": "billing"}\n```', "billing"),
        ("```\nbilling\n```", "billing"),
        ("billing\nbecause the invoice is wrong", "billing"),
        ("billing - the invoice is wrong", "billing"),
        ("refund request, please", "refund request"),
        ("REFUND", "refund"),
    ],
)
def test_a_choice_is_found_when_it_is_wrapped(text: str, label: str) -> None:
    assert read(Label, text) == (Label(label=label), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "it is not billing",
        "billing or refund",
        "billing, other",
        "refunds",
        "shipping",
        '{"label": "shipping"}',
        "{}",
        "[]",
    ],
)
def test_a_choice_is_refused_when_none_is_meant_clearly(text: str) -> None:
    with pytest.raises(OutputError) as caught:
        read(Label, text)
    error = caught.value
    assert (error.code, error.sent, error.retryable, error.where) == ("DX4601", "yes", False, "solve")
    assert "billing" in error.message


def test_closed_sets_of_every_kind_come_back_as_their_values() -> None:
    assert read(Paint, "blue")[0] == Paint(colour=Colour.BLUE)
    assert read(Yes, "True")[0] == Yes(ok=True)
    assert read(Yes, '{"ok": false}')[0] == Yes(ok=False)
    assert read(Grade, "2")[0] == Grade(level=2)
    assert read(Grade, '{"level": 3}')[0] == Grade(level=3)


@given(st.text())
def test_a_plain_text_is_taken_as_it_is(text: str) -> None:
    try:
        output, reasoning = read(Text, text)
    except OutputError:
        assert not text.strip()
        return
    assert reasoning is None
    assert isinstance(output, Text)
    if not text.strip().startswith(("{", "`")):
        assert output.answer == text.strip()


@given(st.text(min_size=1).filter(lambda t: t.encode(errors="ignore").decode() == t))
def test_a_single_field_is_read_from_an_object_as_well(text: str) -> None:
    assert read(Text, json.dumps({"answer": text}))[0] == Text(answer=text)


@pytest.mark.parametrize("text", ["7", " 7 ", "7.", '{"count": 7}', "```json\n7\n```", "count: 7", '"7"'])
def test_a_number_is_read_when_it_is_wrapped(text: str) -> None:
    assert read(Number, text)[0] == Number(count=7)


@pytest.mark.parametrize("text", ["eleven", "11", "-1", "7.5", "{}", "", "7 or 8"])
def test_a_number_is_refused_when_it_breaks_its_bounds(text: str) -> None:
    with pytest.raises(OutputError, match="DX4601"):
        read(Number, text)


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "a {b} c", "score": 0.5}',
        'Sure! Here it is:\n```json\n{"answer": "a {b} c", "score": 0.5}\n```\nAnything else?',
        'I think {so}: {"answer": "a {b} c", "score": 0.5} (done)',
        '{"score": 0.5, "answer": "a {b} c"}',
    ],
)
def test_an_object_is_found_when_text_surrounds_it(text: str) -> None:
    assert read(Record, text)[0] == Record(answer="a {b} c", score=0.5)


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "x"}',
        '{"answer": "x", "score": 2}',
        '{"answer": "x", "score": 0.5, "extra": 1}',
        "x",
        "[1]",
        '{"answer": "x", "sc',
    ],
)
def test_an_object_is_refused_when_it_does_not_fit(text: str) -> None:
    with pytest.raises(OutputError) as caught:
        read(Record, text)
    assert caught.value.code == "DX4601"


def test_the_error_names_the_field_and_the_rule() -> None:
    with pytest.raises(OutputError) as caught:
        read(Record, '{"answer": "x", "score": 2}')
    assert "score: Input should be less than or equal to 1" in caught.value.message


def test_a_cut_off_answer_says_so() -> None:
    with pytest.raises(OutputError) as caught:
        read(Record, '{"answer": "x", "sc', stop="length")
    assert caught.value.code == "DX4602"
    assert "max_tokens" in (caught.value.fix or "")


def test_a_single_structure_may_come_without_its_object() -> None:
    assert read(Items, '["a", "b"]')[0] == Items(items=["a", "b"])
    assert read(Items, '{"items": ["a"]}')[0] == Items(items=["a"])


def test_reasoning_is_taken_apart_from_the_output() -> None:
    text = '{"reasoning": "because", "answer": "x", "score": 1}'
    assert read(Record, text, reasoning=True) == (Record(answer="x", score=1.0), "because")
    assert read(Label, '{"reasoning": "r", "label": "other"}', reasoning=True) == (Label(label="other"), "r")
    assert read(Text, '{"answer": "x"}', reasoning=True) == (Text(answer="x"), None)


def test_labelled_lines_are_read_in_the_completion_format() -> None:
    labels = ("Reasoning", "Answer", "Score")
    text = " First this.\n  Then that.\nAnswer: a: b\nScore: 0.25"
    assert read(Record, text, reasoning=True, labels=labels) == (
        Record(answer="a: b", score=0.25),
        "First this.\nThen that.",
    )
    assert read(Record, "x\nscore: 0", labels=("Answer", "Score")) == (Record(answer="x", score=0.0), None)
    with pytest.raises(OutputError):
        read(Record, "x", labels=("Answer", "Score"))


@given(st.sampled_from([Label, Text, Number, Ratio, Items, Record, Paint, Yes]), st.text(), st.booleans())
def test_any_text_gives_an_output_or_an_output_error(output: type[Schema], text: str, reasoning: bool) -> None:
    try:
        parsed, _ = read(output, text, reasoning=reasoning)
    except OutputError:
        return
    assert isinstance(parsed, output)


@given(st.integers(1, 400), st.sampled_from(["{", "[", '{"a":', "```"]))
def test_deep_nesting_is_an_output_error(depth: int, opening: str) -> None:
    with pytest.raises(OutputError):
        read(Record, opening * depth * 10)


@pytest.mark.parametrize(
    "text",
    [
        "{'answer': 'it's a \"b\"', 'score': 0.5}",
        '{"answer": "it\'s a "b"", "score": 0.5,}',
        '{answer: "it\'s a \\"b\\"", score: 0.5} // done',
        '{"answer": "it\'s a \\"b\\"", /* half */ "score": 0.5',
        '```json\n{"answer": "it\'s a \\"b\\"", "score": 0.5',
        '{"unrelated": 1} and then {“answer”: “it\'s a "b"”, “score”: 0.5}',
    ],
)
def test_json_is_read_as_models_write_it(text: str) -> None:
    assert read(Record, text)[0] == Record(answer='it\'s a "b"', score=0.5)


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "x',
        '{"answer": "x", "score": -',
        '{"answer": "x", "score": tru',
        '{"answer": "x" "score": 1}',
        "{" * 200,
    ],
)
def test_json_is_refused_when_nobody_knows_how_it_goes_on(text: str) -> None:
    with pytest.raises(OutputError) as caught:
        read(Record, text)
    assert caught.value.code == "DX4601"


def test_an_open_bracket_is_closed_unless_the_answer_was_cut_off() -> None:
    class Two(Schema):
        items: list[str]
        note: str = ""

    assert read(Two, '{"items": ["a", "b"')[0] == Two(items=["a", "b"])
    with pytest.raises(OutputError, match="DX4602"):
        read(Two, '{"items": ["a", "b"', stop="length")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 0, 2]))
def test_json_that_is_sound_but_for_a_comma_means_the_same(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert json_value(text, whole=True) == value
    assert json_value(json.dumps([value], indent=indent)[:-1] + ", ]", whole=True) == [value]


@given(st.text(alphabet=st.sampled_from("{}[]\"'`,:\\ \nab1-utrue/*“”"), max_size=60), st.booleans())
def test_any_text_is_read_or_refused(text: str, whole: bool) -> None:
    try:
        value = json_value(text, whole=whole)
    except ValueError:
        return
    assert json_value(json.dumps(value), whole=True) == value


def test_a_text_that_shows_code_is_not_taken_for_an_object() -> None:
    code = "```python\nd = {'answer': 'x'}\n```"
    assert read(Text, code)[0] == Text(answer=code)


LABELS = ("Reasoning", "Answer", "Score")


@pytest.mark.parametrize(
    "text",
    [
        "Reasoning: because\nof it\nAnswer: x\nScore: 0.5",
        "Sure, here it is.\n\n**Reasoning:** because\nof it\n\n**Answer:** x\n**Score:** 0.5",
        "## reasoning: because\n  of it\nSCORE: 0.5\nAnswer: x\nAnswer: y",
        '{"reasoning": "because\\nof it", "answer": "x", "score": 0.5}',
    ],
)
def test_labelled_lines_are_read_in_chat(text: str) -> None:
    parser = AnswerParser(OutputShape.of(Record, reasoning=True), labels=LABELS, continued=False)
    assert parser.parse(LMResponse(text)) == (Record(answer="x", score=0.5), "because\nof it")


def test_a_labelled_value_keeps_its_own_indentation() -> None:
    parser = AnswerParser(OutputShape.of(Record, reasoning=False), labels=("Answer", "Score"), continued=False)
    assert parser.parse(LMResponse("Answer: def f():\n  return {}\nend\nScore: 1"))[0] == Record(
        answer="def f():\n  return {}\nend", score=1
    )


def test_the_arguments_of_a_tool_call_are_the_answer() -> None:
    call = ToolCall("c1", "answer", '{"answer": "x", "score": 1}')
    parser = AnswerParser(OutputShape.of(Record, reasoning=False))
    assert parser.parse(LMResponse("", stop="tool_calls", tool_calls=(call,)))[0] == Record(answer="x", score=1)
    with pytest.raises(OutputError, match="2 times"):
        parser.parse(LMResponse("", stop="tool_calls", tool_calls=(call, call)))
