"""Passes: text in, text out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings

from dspex.compiler.ir.nodes import Call, Graph, Ref, variables_of, walk
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.verify import violations
from dspex.compiler.passes import run_passes
from dspex.compiler.passes.dead import RemoveDead
from dspex.compiler.passes.inline import Inline
from dspex.errors import CompileError
from tests.compiler.graphs import graphs

NESTED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = call @inner Ask -> Draft (%0) {
    %2 = input : Ask
    %3 = call @inner.deep Ask -> Draft (%2) {
      %4 = input : Ask
      %5 = lm Ask -> Draft (%4) @inner.deep.m
      output %5
    }
    %6 = python bot:score (%2.question, %3.text) : float
    %7 = join copy (%3, score=%6) : Draft
    output %7
  }
  %8 = select $s {
    a: call @s.a Draft -> Answer (%1) {
      %10 = input : Draft
      %11 = lm Draft -> Answer (%10) @s.a.m
      output %11
    }
    b: lm Draft -> Answer (%1) @s.b
  } : Answer
  output %8
}
"""

INLINED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @inner.deep.m
  %2 = python bot:score (%0.question, %1.text) : float
  %3 = join copy (%1, score=%2) : Draft
  %4 = select $s {
    a: lm Draft -> Answer (%3) @s.a.m
    b: lm Draft -> Answer (%3) @s.b
  } : Answer
  output %4
}
"""

DEAD = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @unread
  %2 = lm Ask -> Draft (%0) @read_by_dead
  %3 = join record (text=%2.text) : Draft
  %4 = python bot:log (%0.question) : None
  %5 = python pure bot:tidy (%0.question) : str
  %6 = select $s {
    a: {
      %7 = lm Ask -> Answer (%0) @s.a
      %8 = lm Ask -> Answer (%0) @s.dead
      output %7
    }
  } : Answer
  %9 = cond %0.deep {
    output %0
  } else {
    %10 = tool notify (%0.question) : Ask
    output %10
  } : Ask
  output %6
}
"""

ALIVE = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = python bot:log (%0.question) : None
  %2 = select $s {
    a: lm Ask -> Answer (%0) @s.a
  } : Answer
  %4 = cond %0.deep {
    output %0
  } else {
    %5 = tool notify (%0.question) : Ask
    output %5
  } : Ask
  output %2
}
"""


def test_calls_become_their_bodies_when_inlined() -> None:
    assert print_graph(Inline().run(parse(NESTED))) == INLINED


def test_unread_nodes_go_when_they_do_nothing_else() -> None:
    assert print_graph(RemoveDead().run(parse(DEAD))) == ALIVE


def test_argument_stands_for_the_input_when_it_is_an_attribute() -> None:
    text = NESTED.replace("Draft (%0) {", "Draft (@default) {")
    assert "python bot:score (@default.question, %1.text)" in print_graph(Inline().run(parse(text)))


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_passes_keep_graphs_sound_and_repeat_to_the_same(graph: Graph) -> None:
    inlined = Inline().run(graph)
    assert violations(inlined) == ()
    assert not any(isinstance(node, Call) for node in walk(inlined.body))
    assert Inline().run(inlined) == inlined
    alive = RemoveDead().run(graph)
    assert violations(alive) == ()
    assert RemoveDead().run(alive) == alive
    before = {name for node in walk(graph.body) for name in variables_of(node)}
    assert {name for node in walk(alive.body) for name in variables_of(node)} <= before


def test_names_and_results_are_seen_when_the_pipeline_runs() -> None:
    seen: list[tuple[str, int]] = []
    run_passes(parse(NESTED), seen=lambda name, graph: seen.append((name, len(graph.nodes))))
    assert seen == [("inline", 7), ("dead", 7)]


@dataclass(frozen=True)
class _Breaks:
    name: str = "breaks"

    def run(self, graph: Graph) -> Graph:
        return replace(graph, body=replace(graph.body, output=Ref(99)))


def test_pipeline_stops_when_a_pass_breaks_the_graph() -> None:
    with pytest.raises(CompileError, match="after the pass 'breaks'"):
        run_passes(parse(NESTED), (Inline(), _Breaks()))
