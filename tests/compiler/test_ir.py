"""The graph's text: printer, parser, structural hash."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.ir.nodes import Graph, Location, walk
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.types import type_of
from dspex.compiler.ir.verify import violations
from dspex.errors import CompileError
from tests.compiler.graphs import graphs

EXAMPLE = """\
program qabot : Ask -> Answer {
  %0 = input : Ask
  %1 = python bot:search (%0.question, $k) : list[str]                    # bot.py:22
  %2 = join record (question=%0.question, context=%1) : Grounded
  %3 = select $solver {
    predict: lm Grounded -> Answer (%2) @solver.predict instruction=$solver.predict.instruction temperature=0.0
    cot: {
      %5 = call @solver.cot Grounded -> Answer (%2) {
        %6 = input : Grounded
        %7 = opaque bot:Careful Grounded -> Answer (%6) @solver.cot owns [solver.cot.a] uses [$solver.cot.a.demos]
        output %7
      }
      %8 = join copy (%5, sure=true) : Answer
      output %8
    }
  } : Answer
  %9 = map %1 {
    %10 = input : str
    %11 = python bot:QABot.__call__ (item=%10) expr "item.strip()" source "ab12" : str
    output %11
  } : list[str]
  %12 = cond %0.deep {
    output %3
  } else {
    %13 = tool web_search (%9, limit=3) : Answer
    output %13
  } : Answer
  output %12
}
"""


def test_text_is_canonical_when_printed_again() -> None:
    assert print_graph(parse(EXAMPLE)) == EXAMPLE


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_parse_gives_an_equal_graph_when_any_graph_is_printed(graph: Graph) -> None:
    assert violations(graph) == ()
    again = parse(str(graph))
    assert again == graph
    assert str(again) == str(graph)
    assert [node.loc for node in walk(again.body)] == [node.loc for node in walk(graph.body)]
    assert again.hash == graph.hash


@settings(max_examples=200, deadline=None)
@given(graphs(), st.data())
def test_parse_gives_a_graph_or_a_coded_error_when_text_is_damaged(graph: Graph, data: st.DataObject) -> None:
    text = str(graph)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    again = None
    with suppress(CompileError):
        again = parse(damaged)
    assert again is None or parse(str(again)) == again


def test_every_prefix_is_refused_when_text_is_truncated() -> None:
    for end in range(len(EXAMPLE) - 2):
        with pytest.raises(CompileError) as refused:
            parse(EXAMPLE[:end])
        assert refused.value.code == "DX2080"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("program p : A -> B {\n  %0 = inptu : A\n  output %0\n}", "line 2, column 8", "one of input, lm"),
        ("program p : A -> B {\n  %0 = input : A\n  output %7\n}", "line 3, column 10", "%7 is nowhere defined"),
        ("program p : A -> B {\n  %0 = input : A\n  %0 = input : A\n  output %0\n}", "line 3, column 6", "taken"),
        ("program p : A -> B {\n  %0.x = input : A\n  output %0\n}", "line 2, column 3", "without a path"),
        ("program p : A -> B {\n  output ^\n}", "line 2, column 10", "unexpected '^'"),
        ("program p : A -> B {\n  output 1e999\n}", "line 2, column 10", "out of range"),
        ("program p : A -> B {\n  output 1\n} more", "line 3, column 3", "the end expected"),
        ('program p : A -> B {\n  output "\\q"\n}', "line 2, column 10", "is not a string"),
        ("program p : A -> B {\n  output " + "[" * 100 + "\n}", "line 2, column 73", "nesting"),
        ("program p : A -> B {\n  output " + "9" * 5000 + "\n}", "line 2, column 10", "too long"),
    ],
)
def test_error_names_line_and_column_when_text_is_wrong(text: str, place: str, words: str) -> None:
    with pytest.raises(CompileError) as refused:
        parse(text)
    assert refused.value.code == "DX2080"
    assert refused.value.where == place
    assert words in refused.value.message


def test_hash_is_the_same_when_only_locations_reasons_and_the_name_differ() -> None:
    reasoned = EXAMPLE.replace("$solver.cot.a.demos]", '$solver.cot.a.demos] because "a loop" remedy "dx.map"')
    moved = reasoned.replace("bot.py:22", "other.py:99").replace("qabot", "renamed")
    assert parse(moved).hash == parse(EXAMPLE).hash
    assert parse(EXAMPLE.replace("$k", "$j")).hash != parse(EXAMPLE).hash
    assert parse(EXAMPLE.replace("0.0", "0")).hash != parse(EXAMPLE).hash


def test_numbers_are_canonical_when_the_text_numbers_freely() -> None:
    text = "program p : A -> B {\n  %40 = input : A\n  %7 = join tuple (%40) : B\n  output %7\n}\n"
    assert print_graph(parse(text)) == text.replace("%40", "%0").replace("%7", "%1")


def test_location_is_read_when_it_stands_in_a_comment() -> None:
    nodes = parse(EXAMPLE.replace("%7)", "%7)  # opaque, a dir/bot.py:31")).nodes
    assert nodes[1].loc == Location("bot.py", 22)
    assert nodes[0].loc is None


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str, "str"),
        (None, "None"),
        (list[str], "list[str]"),
        (dict[str, int | None], "dict[str, int | None]"),
        (tuple[int, ...], "tuple[int, ...]"),
        ("forward", "?"),
        (json.JSONDecoder, "JSONDecoder"),
    ],
)
def test_type_is_named_when_it_comes_from_python(annotation: object, text: str) -> None:
    assert str(type_of(annotation, lambda cls: cls.__name__)) == text
