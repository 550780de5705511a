"""Data sets from every source, and errors that name file, line, field and value."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspex.errors import DataError
from dspex.evaluation.dataset import Dataset, Example, load
from dspex.program.schema import Schema


class Ask(Schema):
    question: str
    k: int = 3


class Answer(Schema):
    answer: str


class Team(Enum):
    BILLING = "billing"
    TECH = "tech"


class Ticket(Schema):
    text: str


class Route(Schema):
    team: Literal["billing", "technical", "other"]


class Rich(Schema):
    flag: bool
    number: float | None = None
    tags: list[str] = []
    team: Team = Team.TECH
    level: Literal[1, 2] = 1
    note: str | None = None


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def writing(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return writing


Write = Callable[[str, str], Path]
ROWS: list[dict[str, Any]] = [{"question": "a?", "answer": "A"}, {"question": "b?", "k": 5, "answer": "B"}]


def check(dataset: Dataset[Ask, Answer]) -> None:
    assert [example.input for example in dataset] == [Ask(question="a?"), Ask(question="b?", k=5)]
    assert [example.want.answer for example in dataset] == ["A", "B"]
    assert dataset.hash == load(ROWS, Ask, Answer).hash


def test_every_source_gives_the_same_data(write: Write) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    check(load(write("a.jsonl", lines + "\n\n"), Ask, Answer))
    check(load(str(write("b.jsonl", "\ufeff" + lines.replace("\n", "\r\n"))), Ask, Answer))
    check(load(write("c.json", json.dumps(ROWS)), Ask, Answer))
    check(load(write("d.csv", "question,k,answer\na?,,A\nb?,5,B\n"), Ask, Answer))
    check(load(write("e.tsv", "answer\tk\tquestion\nA\t\ta?\nB\t5\tb?\n"), Ask, Answer))
    check(load(ROWS, Ask, Answer))
    check(load(iter(ROWS), Ask, Answer))
    pairs = [(Ask(question="a?"), Answer(answer="A")), ({"question": "b?", "k": 5}, {"answer": "B"})]
    check(load(pairs, Ask, Answer))
    examples: list[Example[Ask, Answer]] = list(load(ROWS, Ask, Answer))
    check(load(examples, Ask, Answer))
    check(load(load(ROWS, Ask, Answer), Ask, Answer))


def test_a_dataset_is_a_sequence_that_keeps_its_places(write: Write) -> None:
    path = write("a.jsonl", "\n" + "\n".join(json.dumps(row) for row in ROWS))
    dataset = load(path, Ask, Answer)
    assert [example.where for example in dataset] == [f"{path}:2", f"{path}:3"]
    assert dataset[1].input.k == 5
    assert dataset[-1:] == load(ROWS[1:], Ask, Answer)
    assert len(dataset[:1]) == 1
    assert dataset.source == "a.jsonl"
    assert [example.where for example in load(ROWS, Ask, Answer)] == ["row 0", "row 1"]
    assert load(ROWS[::-1], Ask, Answer).hash == dataset.hash
    assert load(ROWS[::-1], Ask, Answer) != dataset


def test_cells_become_values_of_the_schema(write: Write) -> None:
    path = write(
        "a.csv",
        'text,flag,number,tags,team,level,note\n7,true,1.5,"[""a"", ""b""]",billing,2,\nx,No,,[],tech,1,12\n',
    )
    first, second = load(path, Ticket, Rich)
    assert first.input == Ticket(text="7")
    assert first.want == Rich(flag=True, number=1.5, tags=["a", "b"], team=Team.BILLING, level=2, note="")
    assert second.want == Rich(flag=False, note="12")


def test_columns_can_have_other_names_and_feed_both_sides() -> None:
    class Back(Schema):
        text: str
        team: str

    rows = [{"text": "t", "label": "other", "original": "o"}]
    assert load(rows, Ticket, Route, columns={"team": "label"})[0].want == Route(team="other")
    both = load(rows, Ticket, Back, columns={"team": "label"})
    assert both[0].input.text == both[0].want.text == "t"
    apart = load(rows, Ticket, Back, columns={"team": "label", "input.text": "original"})
    assert (apart[0].input.text, apart[0].want.text) == ("o", "t")
    with pytest.raises(DataError, match=r"DX5112[\s\S]*did you mean 'team'"):
        load(rows, Ticket, Route, columns={"teem": "label"})


def test_columns_of_neither_schema_are_noticed_or_refused() -> None:
    rows = [{"text": "t", "team": "other", "id": 1}, {"text": "u", "team": "other"}]
    dataset = load(rows, Ticket, Route)
    assert len(dataset) == 2
    assert dataset.notices == ("the column 'id' is in neither schema and was ignored (1 rows)",)
    with pytest.raises(DataError) as caught:
        load(rows, Ticket, Route, strict=True)
    assert (caught.value.code, caught.value.where) == ("DX5109", "row 0")


@pytest.mark.parametrize(
    ("name", "text", "code", "line", "said"),
    [
        ("a.jsonl", '{"text": "t", "team": "other"}\n{"text": "t", "team": "Technical"}', "DX5108", 2, "'Technical'"),
        ("a.jsonl", '{"text": "t", "team": "other"}\n\n{"text": 3, "team": "other"}', "DX5104", 3, "3"),
        ("a.jsonl", '{"text": "t"}', "DX5105", 1, "team"),
        ("a.jsonl", '{"text": "t", "tema": "other"}', "DX5105", 1, "did you mean 'tema'"),
        ("a.jsonl", '{"text": "t", "team": null}', "DX5108", 1, "None"),
        ("a.jsonl", '{"text": "t", "team": "other"}\n{"text": "t', "DX5102", 2, "not JSON"),
        ("a.jsonl", '{"text": "t", "team": "other"}\n["t", "other"]', "DX5103", 2, "a list"),
        ("a.jsonl", "3", "DX5103", 1, "a number"),
        ("a.json", '{"text": "t"}', "DX5103", 0, "an object"),
        ("a.csv", 'text,team\n"two\nlines",other\nx,others\n', "DX5108", 4, "'others'"),
        ("a.csv", "text,team\nt,other,more\n", "DX5106", 2, "3 cells"),
        ("a.csv", "text,team\nt\n", "DX5106", 2, "1 cells"),
        ("a.csv", "text,team,text\n", "DX5106", 1, "'text'"),
        ("a.csv", 'text,team\n"t,other\n', "DX5102", 2, "table"),
        ("a.csv", "words,team\nt,other\n", "DX5105", 2, "'text'"),
        ("a.csv", "text,team\n", "DX5110", 0, "no examples"),
        ("a.jsonl", "\n \n", "DX5110", 0, "no examples"),
        ("a.jsonl", "", "DX5110", 0, "no examples"),
        ("a.csv", "", "DX5110", 0, "no examples"),
        ("a.txt", "x", "DX5101", 0, "a.txt"),
    ],
)
def test_errors_name_file_line_and_value(write: Write, name: str, text: str, code: str, line: int, said: str) -> None:
    path = write(name, text)
    with pytest.raises(DataError) as caught:
        load(path, Ticket, Route)
    error = caught.value
    assert error.code == code
    assert said in str(error)
    assert (error.where or "").startswith(f"{path}:{line}" if line else str(path))


def test_errors_name_the_field_and_the_rule(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        load(write("a.jsonl", '{"question": "q", "k": "many", "answer": "a"}'), Ask, Answer)
    assert (caught.value.where or "").endswith("a.jsonl:1 field k")
    assert "'many'" in caught.value.message
    assert "valid integer" in caught.value.message


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_cannot_hold_are_refused(write: Write, value: str) -> None:
    with pytest.raises(DataError) as caught:
        load(write("a.jsonl", f'{{"text": "t", "flag": true, "number": {value}}}'), Ticket, Rich)
    assert caught.value.code == "DX5104"
    assert (caught.value.where or "").endswith("a.jsonl:1 field number")


def test_half_a_surrogate_pair_is_refused(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        load(write("a.jsonl", '{"text": "\\ud83d", "team": "other"}'), Ticket, Route)
    assert caught.value.code == "DX5104"
    assert (caught.value.where or "").endswith("a.jsonl:1 field text")


def test_a_label_outside_the_schema_names_the_one_that_was_meant() -> None:
    with pytest.raises(DataError) as caught:
        load([{"text": "t", "team": "technicall"}], Ticket, Route)
    assert caught.value.fix == "did you mean 'technical'?"
    with pytest.raises(DataError, match=r"'billing', 'tech'"):
        load([({"text": "t"}, {"flag": True, "team": "sales"})], Ticket, Rich)


def test_a_file_that_is_not_there_or_not_text_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "no.jsonl", Ticket, Route)
    assert caught.value.code == "DX5101"
    (tmp_path / "latin.csv").write_bytes(b"text,team\nok,other\ncaf\xe9,other\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "latin.csv", Ticket, Route)
    assert (caught.value.code, caught.value.where) == ("DX5102", f"{tmp_path / 'latin.csv'}:3")


@pytest.mark.parametrize(
    "item", [3, "text", (Ticket(text="t"),), (Ask(question="q"), Route(team="other")), ("t", "other")]
)
def test_rows_of_no_known_form_are_refused(item: Any) -> None:
    with pytest.raises(DataError) as caught:
        load([item], Ticket, Route)
    assert caught.value.code == "DX5111"
    with pytest.raises(DataError, match="DX5110"):
        load([], Ticket, Route)
    for nothing in (None, 3):
        with pytest.raises(DataError, match=f"DX5111.*got {nothing}"):
            load(cast("Any", nothing), Ticket, Route)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, st.integers(), TEXT), min_size=1, max_size=5))
def test_any_text_survives_files(tmp_path: Path, rows: list[tuple[str, int, str]]) -> None:
    wanted = load([{"question": q, "k": k, "answer": a} for q, k, a in rows], Ask, Answer)
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(
        b"".join(
            json.dumps({"question": q, "k": k, "answer": a}, ensure_ascii=False).encode() + b"\n" for q, k, a in rows
        )
    )
    table = tmp_path / "rows.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "k", "answer"])
        writer.writerows(rows)
    for path in (lines, table):
        assert load(path, Ask, Answer) == wanted


def test_labels_are_the_only_field_of_closed_choices() -> None:
    assert load([{"text": "t", "team": "other"}], Ticket, Route).labels == "team"
    assert load(ROWS, Ask, Answer).labels is None
    assert load([({"text": "t"}, {"flag": True})], Ticket, Rich).labels is None
