"""The graph's text: printer, parser, structural hash."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.ir.nodes import Graph, Location, Tool, walk
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.types import type_of
from dspex.compiler.ir.verify import violations
from dspex.errors import CompileError
from tests.compiler.graphs import graphs

ARTIFACTS = Path(__file__).parent / "artifacts"

EXAMPLE = """\
program qabot : Ask -> Answer {
  params $k, $solver, $solver.predict.instruction, $solver.cot.a.demos
  computed $tokens
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
  %14 = fallback {
    first: lm Answer -> Answer (%12) @first scope @inner max_tokens=$tokens prefix [instruction, demos] estimate 120..180 -> 1..512
    second: {
      %16 = tool notify bot:notify (text=%12.text) : None
      %17 = after %16 python bot:log (%12.text) : None
      output %12
    }
  } : Answer
  %18 = race {
    a: lm Answer -> Answer (%14) @a prefix []
    b: lm Answer -> Answer (%14) @b
  } : Answer
  %21 = map ordered %9 {
    %22 = input : str
    %23 = tool notify (%22) : None
    output %23
  } : list[None]
  %24 = after %21 together {
    a: tool notify (%0.text) : None
    "b c": {
      %26 = lm Answer -> Answer (%14) @b
      output %26.text
    }
  } : list
  %27 = after %14, %24 join vote (%12, %14, %18, by="text") : Answer
  output %27
}
"""  # noqa: E501


WORDS = [
    *(
        "%0",
        "%1",
        "%2.x",
        "%3[0]",
        "=",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "->",
        "..",
        "...",
        "|",
        "?",
        "$k",
        "@m",
    ),
    *("input", "lm", "select", "cond", "else", "map", "ordered", "python", "await", "pure", "expr", "source", "uses"),
    *(
        "tool",
        "join",
        "vote",
        "record",
        "fallback",
        "race",
        "together",
        "call",
        "opaque",
        "owns",
        "because",
        "after",
        "output",
        "A",
    ),
    *(
        "A",
        "@m",
        "params",
        "computed",
        "scope",
        "prefix",
        "estimate",
        "m:f",
        '"s"',
        "1",
        "0.5",
        "true",
        "null",
        "# b.py:3",
        "\n",
    ),
]


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


@settings(max_examples=120, deadline=None)
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
        ("program p : A -> B {\n  %0 = input : A\n  %0 = input : A\n  output %0\n}", "line 3, column 3", "taken"),
        ("program p : A -> B {\n  %0.x = input : A\n  output %0\n}", "line 2, column 3", "without a path"),
        ("program p : A -> B {\n  output ^\n}", "line 2, column 10", "unexpected '^'"),
        ("program p : A -> B {\n  output 1e999\n}", "line 2, column 10", "out of range"),
        ("program p : A -> B {\n  output 1\n} more", "line 3, column 3", "the end expected"),
        ('program p : A -> B {\n  output "\\q"\n}', "line 2, column 10", "is not a string"),
        ("program p : A -> B {\n  output " + "[" * 100 + "\n}", "line 2, column 74", "nesting"),
        ("program p : A -> B {\n  output " + "9" * 5000 + "\n}", "line 2, column 10", "too long"),
        ("program p : A -> B {\n  %0 = after input : A\n  output %0\n}", "line 2, column 14", "a node such as %1"),
        ("program p : A -> B {\n  %0 = after %9 tool t () : A\n  output 1\n}", "line 2, column 14", "nowhere"),
        ("program p : A -> B {\n  %0 = after %0.x tool t () : A\n  output 1\n}", "line 2, column 14", "a path"),
        ("program p : A -> B {\n  %0 = after %0 input : A\n  output 1\n}", "line 2, column 17", "one of input"),
        ("program p : A -> B {\n  %0 = lm A -> B (1) estimate 3 -> 4\n}", "line 2, column 33", "'..'"),
        ("program p : A -> B {\n  %0 = lm A -> B (1) estimate -3..4\n}", "line 2, column 31", "a count"),
        ("program p : A -> B {\n  %0 = lm A -> B (1) prefix demos\n}", "line 2, column 29", "'['"),
        ("program p : A -> B {\n  %0 = join mix (1) : A\n}", "line 2, column 13", "record, copy"),
        ("program p : A -> B {\n  params k\n  output 1\n}", "line 2, column 10", "a Variable such as $k"),
        ("program p : A -> B {\n  call\n}", "line 2, column 3", "a node such as %1 or 'output'"),
        ("program p : A -> B {\n%0 = " + "race { a: " * 70, "line 2, column 646", "64 nested regions"),
    ],
)
def test_error_names_line_and_column_when_text_is_wrong(text: str, place: str, words: str) -> None:
    with pytest.raises(CompileError) as refused:
        parse(text)
    assert refused.value.code == "DX2080"
    assert refused.value.where == place
    assert words in refused.value.message


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_parse_gives_a_graph_or_a_coded_error_when_text_is_arbitrary(text: str) -> None:
    again = None
    with suppress(CompileError):
        again = parse(f"program p : A -> B {{ {text} }}")
    assert again is None or parse(str(again)) == again


@pytest.mark.parametrize(
    "text",
    [
        "#" + " " * 200_000,
        "# " + ":1 " * 70_000,
        "program p : " + "A | B | " * 30_000,
        "program p : " + "|".join(f"A{n}" for n in range(40_000)),
        "program p : A -> B { output " + "9" * 200_000,
        "program p : A -> B { output " + "[" * 200_000,
        "program p : A -> B { %0 = select $x {" + " a: after %1 call @x A -> B () {" * 50_000,
        "program p : A -> B { output %0" + ".a" * 100_000,
        'program p : A -> B { output "' + '\\"' * 100_000,
        "a" * 300_000,
        "a." * 150_000 + ":",
        "program p : A -> B { " + "\n" * 100_000 + "%0 = input : A " * 20_000,
    ],
    ids=lambda text: text[20:45],
)
@pytest.mark.timeout(5)
def test_parse_ends_soon_when_text_is_hostile(text: str) -> None:
    with pytest.raises(CompileError, match="DX2080") as refused:
        parse(text)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["router", "loops"])
def test_text_of_the_first_format_is_read_when_an_artifact_holds_it(name: str) -> None:
    with zipfile.ZipFile(ARTIFACTS / f"{name}-v1.dspex") as archive:
        text = archive.read("graph.txt").decode()
    graph = parse(text)
    assert violations(graph) == ()
    assert str(graph) == text


def test_tool_without_a_target_is_read_when_text_is_of_the_first_format() -> None:
    text = EXAMPLE.replace("tool notify bot:notify", "tool notify")
    assert [node.target for node in parse(text).nodes if isinstance(node, Tool)] == ["", "", "", ""]
    assert str(parse(text)) == text


def test_hash_is_the_same_when_only_locations_reasons_and_the_name_differ() -> None:
    reasoned = EXAMPLE.replace("$solver.cot.a.demos]", '$solver.cot.a.demos] because "a loop" remedy "dx.map"')
    moved = reasoned.replace(" estimate 120..180 -> 1..512", "")
    moved = moved.replace("bot.py:22", "other.py:99").replace("qabot", "renamed")
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
