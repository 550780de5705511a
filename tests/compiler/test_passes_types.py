"""The pass that infers types and checks edges."""

from __future__ import annotations

from functools import cached_property

import pytest
from pydantic import ConfigDict

from dspex.compiler.ir.nodes import Location
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.verify import verify
from dspex.compiler.passes.types import InferTypes
from dspex.errors import CompileError
from dspex.program.schema import Schema


class Doc(Schema):
    title: str
    lines: tuple[str, ...] = ()


class Ask(Schema):
    text: str
    docs: list[Doc]
    pair: tuple[int, Doc] | None = None
    fixed: tuple[int, Doc] = (0, Doc(title=""))
    limit: int = 1

    @property
    def short(self) -> str:
        return self.text[:9]

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()


class Answer(Schema):
    text: str


class Better(Answer):
    score: float


class Loose(Schema):
    model_config = ConfigDict(extra="allow")


SCHEMAS = {cls.__name__: cls for cls in (Doc, Ask, Answer, Better, Loose)}

OPEN = """\
program p : Ask -> Answer {
  %0 = input : ?
  %1 = map %0.docs {
    %2 = input : ?
    %3 = lm Doc -> Answer (%2) @read
    output %3
  } : ?
  %4 = map %1 {
    %5 = input : ?
    output %5.text
  } : list[?]
  %6 = join tuple (%1[0], %0.limit, %0.fixed[1].lines[2], %0.short) : ?
  %7 = join list (%6[2], "a") : ?
  %8 = join dict (a=%7, b=%7) : ?
  %9 = join copy (%1[0], text="b") : ?
  %10 = select $s {
    a: lm Ask -> Answer (%0) @a
    b: lm Ask -> Better (%0) @b
  } : ?
  %13 = join vote (%10, %9, by="text") : ?
  %14 = cond %0.pair.x {
    output %13
  } else {
    output "text"
  } : ?
  %15 = fallback {
    a: call @inner Ask -> Better (%0) {
      %17 = input : ?
      %18 = lm Ask -> Better (%17) @m
      output %18
    }
    b: python bot:f (%8, %0.words) : ?
  } : ?
  %20 = together {
    a: tool a (%0.limit) : Better
    b: tool b (%0.limit) : int
  } : ?
  %23 = together {
    a: tool a (%0.limit) : Answer
  } : list
  %25 = join tuple (%20[0], %20[1], %20[0].text, %23[0]) : ?
  output %13
}
"""

TYPED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = map %0.docs {
    %2 = input : Doc
    %3 = lm Doc -> Answer (%2) @read
    output %3
  } : list[Answer]
  %4 = map %1 {
    %5 = input : Answer
    output %5.text
  } : list[str]
  %6 = join tuple (%1[0], %0.limit, %0.fixed[1].lines[2], %0.short) : tuple[Answer, int, str, ?]
  %7 = join list (%6[2], "a") : list[str]
  %8 = join dict (a=%7, b=%7) : dict[str, list[str]]
  %9 = join copy (%1[0], text="b") : Answer
  %10 = select $s {
    a: lm Ask -> Answer (%0) @a
    b: lm Ask -> Better (%0) @b
  } : Answer
  %13 = join vote (%10, %9, by="text") : Answer
  %14 = cond %0.pair.x {
    output %13
  } else {
    output "text"
  } : ?
  %15 = fallback {
    a: call @inner Ask -> Better (%0) {
      %17 = input : Ask
      %18 = lm Ask -> Better (%17) @m
      output %18
    }
    b: python bot:f (%8, %0.words) : ?
  } : ?
  %20 = together {
    a: tool a (%0.limit) : Better
    b: tool b (%0.limit) : int
  } : list[?]
  %23 = together {
    a: tool a (%0.limit) : Answer
  } : list
  %25 = join tuple (%20[0], %20[1], %20[0].text, %23[0]) : tuple[Better, int, str, Answer]
  output %13
}
"""


def test_types_are_filled_in_when_schemas_say_them() -> None:
    step = InferTypes(SCHEMAS)
    graph = step.run(parse(OPEN))
    assert print_graph(graph) == TYPED
    assert step.run(graph) == graph
    verify(graph)


@pytest.mark.parametrize(
    ("node", "code", "words"),
    [
        ("lm Answer -> Answer (%0) @m.n", "DX2001", "m.n takes Answer, it is given Ask"),
        ("lm Ask -> Answer (%0.docs[0]) @m", "DX2001", "m takes Ask, it is given Doc"),
        ("lm Ask -> Answer (%0.limit) @m", "DX2001", "m takes Ask, it is given int"),
        ("lm Better -> Answer (%1) @m", "DX2001", "m takes Better, it is given Answer"),
        ("python bot:f (%0.txet) : Answer", "DX2002", "Ask has no field 'txet'"),
        ("python bot:f (%0.docs[0].page) : Answer", "DX2002", "Doc has no field 'page'"),
        ("map %0.docs { %3 = input : ? output %3.name } : ?", "DX2002", "Doc has no field 'name'"),
        ("cond %0.deep { output %1 } else { output %1 } : ?", "DX2002", "Ask has no field 'deep'"),
        ("join record (text=%0.text, texd=1) : Answer", "DX2004", "Answer has no field 'texd'"),
        ("join copy (%1, score=1) : ?", "DX2004", "Answer has no field 'score'"),
        ("map %0.limit { %3 = input : ? output %3 } : ?", "DX2083", "a map goes over a value of type int"),
        ("select $s { a: lm Ask -> Doc (%0) @a b: lm Ask -> Answer (%0) @b } : ?", "DX2003", "Doc, another Answer"),
        ("cond %0.limit { output %0 } else { output %1 } : Answer", "DX2003", "gives Ask, Answer is wanted"),
        ("race { a: lm Ask -> Doc (%0) @a } : Answer", "DX2003", "gives Doc, Answer is wanted"),
    ],
)
def test_edge_is_refused_when_types_do_not_fit(node: str, code: str, words: str) -> None:
    text = f"""program p : Ask -> Answer {{
      %0 = input : Ask
      %1 = lm Ask -> Answer (%0) @first
      %2 = {node.replace("{", "{  # bot.py:7", 1) if "{" in node else node + "  # bot.py:7"}
      output %1
    }}"""
    if "{" in node:
        text = text.replace("# bot.py:7", "# bot.py:7\n")
    with pytest.raises(CompileError) as refused:
        InferTypes(SCHEMAS).run(parse(text))
    assert refused.value.code == code
    assert words in refused.value.message
    assert refused.value.where == str(Location("bot.py", 7))
    assert refused.value.fix


def test_output_is_refused_when_it_is_of_another_schema() -> None:
    text = "program p : Ask -> Answer { %0 = input : Ask output %0 }"
    with pytest.raises(CompileError, match="DX2001 p gives Ask, it declares Answer"):
        InferTypes(SCHEMAS).run(parse(text))


@pytest.mark.parametrize(
    "node",
    [
        "lm Answer -> Answer (%1) @takes_a_derived_one",
        "lm Elsewhere -> Answer (%0) @unknown",
        "python bot:f (%0.short, %0.model_fields_set, %0.text.real, %0.pair.first, %0.limit.imag) : ?",
        "python bot:f (%3.anything) : ?",
        "map %0.text { %4 = input : ? output %4 } : ?",
        "cond %0.limit { output %0 } else { output null } : ?",
        "join record (any=1) : Loose",
    ],
)
def test_edge_is_allowed_when_nothing_is_known_to_be_wrong(node: str) -> None:
    text = f"""program p : Ask -> Answer {{
      %0 = input : Ask
      %1 = lm Ask -> Better (%0) @first
      %3 = python bot:f () : Loose
      %2 = {node}
      output %1
    }}"""
    verify(InferTypes(SCHEMAS).run(parse(text)))
