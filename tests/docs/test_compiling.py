"""docs/compiling.md says what the compiler does: its grammar, its passes and its remedies are checked."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings

import dspex as dx
from dspex.compiler import compile, parse
from dspex.compiler.ir import nodes
from dspex.compiler.ir.nodes import Constant, Graph
from dspex.compiler.ir.parser import _READERS  # pyright: ignore[reportPrivateUsage]
from dspex.compiler.ir.verify import verify
from dspex.compiler.passes import PASS_NAMES, Pass, pipeline
from dspex.errors import CompileError
from tests.compiler import bodies_flow, bodies_plain
from tests.compiler.bodies import OPAQUE
from tests.compiler.graphs import graphs
from tests.docs.pages import ROOT, Block, blocks

CORPUS = bodies_flow, bodies_plain
"""Imported for what they add to `OPAQUE`."""
PAGE = ROOT / "docs" / "compiling.md"
TEXT = PAGE.read_text(encoding="utf-8")
(GRAMMAR,) = [block.text for block in blocks(PAGE) if block.language == "ebnf"]
GRAPHS = [block for block in blocks(PAGE) if block.language == "graph"]

SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
Rule = Callable[[str, int], "int | None"]
"""A position after what was recognised, or None."""


@dataclass
class Grammar:
    """A recogniser made of EBNF in which the first alternative that fits is taken."""

    rules: dict[str, Rule]
    words: set[str]
    found: dict[tuple[str, int], int | None]

    def reads(self, text: str) -> bool:
        self.found.clear()
        end = self.named("graph", text, 0)
        return end is not None and skipped(text, end) == len(text)

    def named(self, name: str, text: str, start: int) -> int | None:
        """What the rule `name` recognises at `start`; each is tried once at each place."""
        key = name, start
        if key not in self.found:
            self.found[key] = self.rules[name](text, start)
        return self.found[key]


def skipped(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return at if found is None else found.end()


def grammar(source: str) -> Grammar:
    """Reads `name = alternatives ;` rules."""
    tokens = re.findall(r'"[^"]*"|/(?:[^/\\]|\\.)+/|\w+|[=;|\[\]{}()]', source)
    at = 0
    made = Grammar({}, set(), {})

    def choice(end: str) -> Rule:
        nonlocal at
        options = [sequence()]
        while tokens[at] == "|":
            at += 1
            options.append(sequence())
        assert tokens[at] == end, tokens[at - 5 : at + 5]
        at += 1

        def rule(text: str, start: int) -> int | None:
            for option in options:
                found = option(text, start)
                if found is not None:
                    return found
            return None

        return rule

    def sequence() -> Rule:
        nonlocal at
        items: list[Rule] = []
        while tokens[at] not in ("|", ";", "]", "}", ")"):
            items.append(item())

        def rule(text: str, start: int) -> int | None:
            for part in items:
                found = part(text, start)
                if found is None:
                    return None
                start = found
            return start

        return rule

    def item() -> Rule:
        nonlocal at
        token = tokens[at]
        at += 1
        if token == "(":
            return choice(")")
        if token == "[":
            inner = choice("]")
            return lambda text, start: found if (found := inner(text, start)) is not None else start
        if token == "{":
            repeated = choice("}")

            def many(text: str, start: int) -> int | None:
                while (found := repeated(text, start)) is not None:
                    start = found
                return start

            return many
        if token.startswith(('"', "/")):
            word = token[1:-1]
            made.words.add(word)
            exact = re.escape(word) + (r"(?!\w)" if word[-1:].isalpha() else "")
            pattern = re.compile(exact if token[0] == '"' else word)

            def terminal(text: str, start: int) -> int | None:
                found = pattern.match(text, skipped(text, start))
                return None if found is None else found.end()

            return terminal
        return lambda text, start: made.named(token, text, start)

    while at < len(tokens):
        name = tokens[at]
        at += 2
        made.rules[name] = choice(";")
    return made


DOCUMENTED = grammar(GRAMMAR)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=graphs())
def test_grammar_reads_whatever_is_printed(graph: Graph) -> None:
    text = str(graph)
    assert DOCUMENTED.reads(text), text


@pytest.mark.parametrize("block", GRAPHS, ids=lambda block: f"line {block.line}")
def test_grammar_and_parser_read_the_graphs_of_the_page(block: Block) -> None:
    assert DOCUMENTED.reads(block.text)
    parse(block.text)


@pytest.mark.parametrize(
    "text",
    [
        "program p : A -> B { output %0",
        "program p : A -> B { %0 = input A output %0 }",
        "program p : A -> B { %0 = input : A %1 = after %0 input : A output %0 }",
        "program p : A -> B { %0 = input : A %1 = lmx A -> B (%0) output %1 }",
        "program p : A -> B { %0 = input : A %1 = cond %0 { output 1 } : int output %1 }",
        "program p : A -> B { %0 = input : A %1 = race { a output %0 } : int output %1 }",
    ],
)
def test_grammar_refuses_what_the_parser_refuses(text: str) -> None:
    with pytest.raises(CompileError):
        parse(text)
    if "after %0 input" not in text:
        assert not DOCUMENTED.reads(text)


def test_every_kind_of_node_is_in_the_grammar_and_in_the_table() -> None:
    kinds = {cls.kind for cls in get_args(nodes.Node)}
    assert kinds <= {*DOCUMENTED.rules}
    assert {*_READERS} <= DOCUMENTED.words
    for word in _READERS:
        assert f"\n| `{word}` |" in TEXT, word
    for form in get_args(nodes.JoinForm):
        assert form in DOCUMENTED.words


def section(heading: str) -> str:
    """The part under ``### `heading` ``."""
    start = TEXT.index(f"\n### `{heading}`")
    ends = [found.start() for found in re.finditer(r"^##+ ", TEXT, re.M) if found.start() > start + 5]
    return TEXT[start : ends[0] if ends else len(TEXT)]


class Ask(dx.Schema):
    question: str
    hints: list[str] = []


class Draft(dx.Schema):
    text: str


class Answer(dx.Schema):
    text: str


PASSES = pipeline(
    schemas={"Ask": Ask, "Draft": Draft, "Answer": Answer},
    frozen={"solver": Constant.of("direct"), "heat": Constant.of(0.2)},
    models=dict.fromkeys(("draft", "warm", "finish", "answer"), ""),
    order=("heat", "solver", "solver.direct.instruction", "solver.reasoned.instruction"),
)


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_pass_does_what_its_section_shows(step: Pass) -> None:
    before, after = re.findall(r"^```graph\n(.*?)^```$", section(step.name), re.M | re.S)
    assert str(parse(before)) == before
    assert str(verify(step.run(parse(before)))) == after
    assert before != after


def test_tutorial_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(block for block in blocks(PAGE) if block.file == "bot.py")
    (tmp_path / "bot.py").write_text(source.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("bot", None)
    try:
        compiled = compile(importlib.import_module("bot").QABot())
    finally:
        sys.modules.pop("bot", None)
    assert GRAPHS[0].text == str(compiled.graph)
    (table,) = [block.text for block in blocks(PAGE) if block.text.startswith("table ")]
    assert table == str(compiled.params)


@pytest.mark.parametrize(("cls", "reason"), [(item[0], item[1]) for item in OPAQUE], ids=lambda item: str(item)[-24:])
def test_every_reason_of_the_corpus_has_a_remedy_on_the_page(cls: type[object], reason: str) -> None:
    start = TEXT.index("### What makes a body opaque")
    table = TEXT[start : TEXT.index("\n## ", start)]
    assert reason in table, cls.__name__


def test_passes_have_their_sections_in_order() -> None:
    headings = re.findall(r"^### `(\w+)`", TEXT[TEXT.index("\n## The passes") :], re.M)
    assert headings == [*PASS_NAMES, "lower", "estimate"]
