"""Answers read while they are written: however a text is cut into parts, the fields come out whole."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.compiler.answers import AnswerParser, OutputShape
from dspex.lm.types import LMResponse
from dspex.program.schema import Schema


class Record(Schema):
    answer: str
    score: float
    items: list[str]
    extra: dict[str, list[int]]


class Text(Schema):
    answer: str


class Number(Schema):
    count: int


class Label(Schema):
    label: Literal["refund", "billing"]


LABELS = ("Reasoning", "Answer", "Score", "Items", "Extra")

records = st.fixed_dictionaries(
    {
        "reasoning": st.text(),
        "answer": st.text(),
        "score": st.floats(allow_nan=False, allow_infinity=False),
        "items": st.lists(st.text(), max_size=3),
        "extra": st.dictionaries(st.text(), st.lists(st.integers(), max_size=3), max_size=2),
    }
)


def parser(output: type[Schema] = Record, *, reasoning: bool = True, **options: Any) -> AnswerParser:
    return AnswerParser(OutputShape.of(output, reasoning=reasoning), **options)


def shown(made: AnswerParser, parts: list[str]) -> tuple[dict[str, str], dict[str, object]]:
    """Text and last value of each field."""
    reader = made.partial()
    texts: dict[str, str] = {}
    values: dict[str, object] = {}
    for part in parts:
        for name, text, value in reader.feed(part):
            texts[name] = texts.get(name, "") + text
            values[name] = value
    return texts, values


def cut(text: str, sizes: list[int]) -> list[str]:
    """`text` in parts of these sizes, the last one taking the rest."""
    parts: list[str] = []
    for size in sizes:
        parts.append(text[:size])
        text = text[size:]
    return [*parts, text]


@given(
    records,
    st.lists(st.integers(1, 7), max_size=40),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["", "Here it is:\n```json\n", "for {x}: "]),
)
def test_the_fields_of_an_object_come_out_whole(
    fields: dict[str, Any], sizes: list[int], ascii_only: bool, indent: int | None, before: str
) -> None:
    text = before + json.dumps(fields, ensure_ascii=ascii_only, indent=indent) + "\n```"
    texts, values = shown(parser(), cut(text, sizes))
    # A text that is empty has nothing to show.
    assert {name: value for name, value in fields.items() if value != ""} == {
        name: value for name, value in values.items() if value != ""
    }
    assert (texts.get("reasoning", ""), texts.get("answer", "")) == (fields["reasoning"], fields["answer"])
    for name in ("score", "items", "extra"):
        assert json.loads(texts[name]) == fields[name]


@given(st.text(), st.lists(st.integers(1, 5), max_size=20))
def test_any_text_in_any_parts_is_followed_or_passed_over(text: str, sizes: list[int]) -> None:
    for made in (
        parser(),
        parser(labels=LABELS),
        parser(labels=LABELS, continued=False),
        parser(Number, reasoning=False),
        parser(Text, reasoning=False),
    ):
        shown(made, cut(text, sizes))
        shown(made, cut('{"answer": ' + text, sizes))


words = st.text(alphabet=st.sampled_from("ab :*#_\nN"), max_size=30)


@given(words, words, st.lists(st.integers(1, 7), max_size=40), st.booleans())
def test_labelled_fields_come_out_as_they_are_parsed(
    reasoning: str, answer: str, sizes: list[int], continued: bool
) -> None:
    lines = [reasoning, answer, "0.5", '["a",\n  "b"]', "{}"]
    block = [line.replace("\n", "\n  ") for line in lines]
    text = "\n".join(f"{label}: {line}" for label, line in zip(LABELS, block, strict=True))
    made = parser(labels=LABELS, continued=continued)
    texts, values = shown(made, cut(text.removeprefix("Reasoning:") if continued else text, sizes))
    output, thought = made.parse(LMResponse(text))
    assert isinstance(output, Record)
    if continued:
        assert texts.get("reasoning", "") == thought
        assert texts.get("answer", "") == output.answer
    else:
        # Whether all lines are indented is known at the end alone.
        assert texts.get("answer", "") in (output.answer, output.answer.replace("\n", "\n  "))
    assert (texts["score"], values["score"]) == ("0.5", None)
    assert values["items"] == ["a", "b"]


def test_a_line_that_may_still_become_a_label_is_held_back() -> None:
    reader = parser(labels=LABELS, continued=False).partial()
    assert reader.feed("Reasoning: yes\nSco") == [("reasoning", "yes", "yes")]
    assert reader.feed("ttish") == [("reasoning", "\nScottish", "yes\nScottish")]
    assert reader.feed("\n**Score") == []
    assert reader.feed(":** 1") == [("score", "1", None)]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_bare_answer_comes_out_without_the_white_space_around_it(size: int) -> None:
    def pieces(text: str) -> list[str]:
        return [text[at : at + size] for at in range(0, len(text), size)]

    assert shown(parser(Text, reasoning=False), pieces("\n Paris, \n in France \n")) == (
        {"answer": "Paris, \n in France"},
        {"answer": "Paris, \n in France"},
    )
    assert shown(parser(Text, reasoning=False), pieces(' {"answer": "Paris"}')) == (
        {"answer": "Paris"},
        {"answer": "Paris"},
    )
    assert shown(parser(Label, reasoning=False), pieces("billing")) == ({"label": "billing"}, {"label": "billing"})
    # Half a number is another number, so that a bare one has no value before its end.
    assert shown(parser(Number, reasoning=False), pieces("12")) == ({"count": "12"}, {"count": None})


def test_a_list_is_shown_as_far_as_it_goes() -> None:
    reader = parser(reasoning=False).partial()
    assert reader.feed('{"items": ["a", "b') == [("items", '["a", "b', ["a", "b"])]
    assert reader.feed('c", ') == [("items", 'c", ', ["a", "bc"])]
    assert reader.feed('"d"], "score": 1') == [("items", '"d"]', ["a", "bc", "d"]), ("score", "1", None)]
    assert reader.feed("2}") == [("score", "2", 12)]


def test_what_is_no_field_is_passed_over() -> None:
    texts, _ = shown(
        parser(Text, reasoning=True), ['{"note": {"answer": "no"}, "answer": "yes", "more": ["]"]} {"answer": 1}']
    )
    assert texts == {"answer": "yes"}
