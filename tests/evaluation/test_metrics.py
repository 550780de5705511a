"""Metrics, label distributions and the baselines without a model."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import DataError
from dspex.evaluation.baselines import majority, tfidf_nearest
from dspex.evaluation.dataset import Dataset, load
from dspex.evaluation.labels import distribution, one_label_warning
from dspex.evaluation.metrics import accuracy, exact_match, f1
from dspex.program.schema import Schema


class Answer(Schema):
    answer: str
    sure: bool = True


class Text(Schema):
    text: str


class Team(Enum):
    A = "billing"
    B = "tech"


class Route(Schema):
    team: Literal["billing", "tech", "other"]


class Mixed(Schema):
    team: Team | None
    flag: bool


def a(text: str, sure: bool = True) -> Answer:
    return Answer(answer=text, sure=sure)


@pytest.mark.parametrize(
    ("got", "want", "strict", "loose", "overlap"),
    [
        (a("Paris"), a("Paris"), 1.0, 1.0, 1.0),
        (a(" paris\n"), a("Paris"), 0.0, 1.0, 1.0),
        (a("ﬁne"), a("FINE"), 0.0, 1.0, 1.0),
        (a("Paris", False), a("Paris"), 0.0, 0.0, 0.5),
        (a("the city of Paris"), a("Paris"), 0.0, 0.0, (0.4 + 1) / 2),
        (a(""), a("Paris"), 0.0, 0.0, 0.5),
        (a(""), a(""), 1.0, 1.0, 1.0),
        (a("..."), a("!"), 0.0, 0.0, 1.0),
        (a("a a b"), a("a b b"), 0.0, 0.0, (2 / 3 + 1) / 2),
    ],
)
def test_metrics_agree_with_hand_counts(got: Answer, want: Answer, strict: float, loose: float, overlap: float) -> None:
    assert accuracy(got, want) == strict
    assert exact_match(got, want) == loose
    assert abs(f1(got, want) - overlap) < 1e-12


@given(st.text(), st.text())
def test_metrics_are_symmetric_bounded_and_ordered(one: str, two: str) -> None:
    first, second = a(one), a(two)
    for metric in (accuracy, exact_match, f1):
        assert metric(first, first) == 1.0
        assert 0.0 <= metric(first, second) <= 1.0
        assert metric(first, second) == metric(second, first)
    assert accuracy(first, second) <= exact_match(first, second)


def test_labels_are_counted_in_the_order_of_the_schema() -> None:
    outputs = [Route(team="tech"), None, Route(team="tech"), Route(team="billing")]
    assert list(distribution(outputs, Route, "team").items()) == [("billing", 1), ("tech", 2), ("other", 0)]
    mixed = [Mixed(team=Team.B, flag=True), Mixed(team=Team.B, flag=False)]
    assert distribution(mixed, Mixed, "team")["tech"] == 2
    assert distribution(mixed, Mixed, "flag") == {"true": 1, "false": 1}


def test_one_label_for_most_inputs_gives_a_warning() -> None:
    assert one_label_warning({"a": 60, "b": 40}) is None
    assert one_label_warning({"a": 0, "b": 0}) is None
    said = one_label_warning({"a": 61, "b": 39}, "zero-shot", expected={"a": 30, "b": 70})
    assert said == "zero-shot answers 'a' for 61% of the inputs, which is right for 30%"


ROWS = [
    ("invoice is wrong", "billing"),
    ("refund my invoice", "billing"),
    ("screen stays black", "tech"),
    ("hello there", "other"),
]


def tickets() -> Dataset[Text, Route]:
    return load([{"text": text, "team": team} for text, team in ROWS], Text, Route)


def test_baselines_predict_from_examples_only() -> None:
    usual, nearest = majority(tickets()), tfidf_nearest(tickets())
    assert usual.predict(Text(text="my screen")).team == "billing"
    assert nearest.predict(Text(text="my black screen")).team == "tech"
    assert nearest.predict(Text(text="zzz")).team == "billing"  # no word in common: the majority
    held_out = load([{"text": "black screen", "team": "tech"}, {"text": "Hello!", "team": "billing"}], Text, Route)
    assert [o.score for o in asyncio.run(nearest.evaluate(held_out, accuracy))] == [1.0, 0.0]
    assert [o.score for o in asyncio.run(usual.evaluate(held_out, accuracy))] == [0.0, 1.0]


def test_baselines_do_not_depend_on_the_order_of_rows() -> None:
    rows = tickets()
    turned = rows.but(list(rows)[::-1])
    tied = rows[1:]  # one example of each label
    assert majority(tied).predict(Text(text="")) == majority(tied.but(list(tied)[::-1])).predict(Text(text=""))
    for text in ("invoice", "screen hello", "is there my"):
        assert tfidf_nearest(rows).predict(Text(text=text)) == tfidf_nearest(turned).predict(Text(text=text))


def test_a_baseline_without_examples_is_refused() -> None:
    for make in (majority, tfidf_nearest):
        with pytest.raises(DataError, match="DX5110"):
            make(tickets()[:0])
