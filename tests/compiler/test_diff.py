"""The difference of two graphs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from dspex.compiler.ir.diff import diff
from dspex.compiler.ir.nodes import Constant, Graph, canonical
from dspex.compiler.ir.parser import parse
from dspex.compiler.passes import pipeline
from dspex.compiler.passes.fold import FoldFrozen
from dspex.compiler.passes.inline import Inline
from tests.compiler.graphs import graphs

BEFORE = """\
program p : Ask -> Answer {
  params $k, $solver, $old
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @draft instruction=$draft.instruction temperature=0.0
  %2 = python bot:tidy (%1.text, $k) : str
  %3 = select $solver {
    cot: lm Ask -> Answer (%0) @solver.cot
    plain: lm Ask -> Answer (%0) @solver.plain instruction=$old
  } : Answer
  %6 = tool notify (%2) : None
  %7 = cond %3.sure {
    output %3
  } else {
    %8 = lm Answer -> Answer (%3) @check
    output %8
  } : Answer
  output %7
}
"""

AFTER = """\
program p : Ask -> Better {
  params $solver, $k, $new
  %0 = input : Ask
  %1 = python bot:start () : None
  %2 = lm Ask -> Draft (%0) @draft instruction=$new temperature=0.0 max_tokens=9
  %3 = python await bot:tidy (%2.text, $k) : str
  %4 = select $solver {
    cot: lm Ask -> Answer (%0) @solver.cot
    long: lm Ask -> Answer (%0) @solver.long
  } : Answer
  %7 = after %1 tool notify (%3) : None
  %8 = lm Answer -> Answer (%4) @check
  %9 = cond %4.certain {
    output %4
  } else {
    output %8
  } : Answer
  output %9
}
"""

TEXT = """\
~ program: result Answer -> Better
~ program: params $k, $solver -> $solver, $k
- lm @solver.plain (%5)
+ python bot:start (%1)
~ lm @draft (%1 -> %2): instruction $draft.instruction -> $new; max_tokens 9 added
~ python bot:tidy (%2 -> %3): awaits no -> yes
~ select $solver (%3 -> %4): branches cot, plain -> cot, long
+ lm @solver.long (%6)
~ tool notify (%6 -> %7): runs after %1 added
~ lm @check (%8 -> %8): region else of %7 -> the program
~ cond (%7 -> %9): test %3.sure -> %4.certain
- Variable $old
- Variable $draft.instruction
+ Variable $new
+ type Better"""


def test_differences_are_told_by_meaning_when_numbers_move() -> None:
    found = diff(parse(BEFORE), parse(AFTER))
    assert str(found) == TEXT
    assert [change.label for change in found.added] == ["python bot:start", "lm @solver.long"]
    assert [change.label for change in found.removed] == ["lm @solver.plain"]
    assert len(found.changed) == 6
    document = json.loads(json.dumps(found.as_json()))
    assert document["variables"] == {"removed": ["old", "draft.instruction"], "added": ["new"]}
    assert document["nodes"][0] == {
        "kind": "removed",
        "label": "lm @solver.plain",
        "before": 5,
        "after": None,
        "details": [],
    }


def test_nodes_are_matched_when_a_selection_is_folded() -> None:
    graph = parse(BEFORE.replace("  params $k, $solver, $old\n", ""))
    found = diff(graph, FoldFrozen({"solver": Constant.of("cot")}).run(graph))
    assert str(found) == (
        "- select $solver (%3)\n"
        "- lm @solver.plain (%5)\n"
        "~ lm @solver.cot (%4 -> %3): region cot of %3 -> the program\n"
        "~ cond (%7 -> %5): test %3.sure (select $solver) -> %3.sure (lm @solver.cot); "
        "output of then %3 (select $solver) -> %3 (lm @solver.cot)\n"
        "~ lm @check (%8 -> %6): value 0 %3 (select $solver) -> %3 (lm @solver.cot)\n"
        "- Variable $solver\n"
        "- Variable $old"
    )


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("temperature=0.0", "temperature=0", "~ lm @draft (%1 -> %1): temperature 0.0 -> 0"),
        ("@check", "@check prefix [demos]", "~ lm @check (%8 -> %8): prefix [demos] added"),
        ("(%2) : None", "(%2) : str", "~ tool notify (%6 -> %6): type None -> str"),
        ("  output %7", "  output %3", "~ program: output %7 -> %3"),
        (
            "instruction=$draft.instruction temperature=0.0",
            "temperature=0.0 instruction=$draft.instruction",
            "order of",
        ),
        ("  params $k, $solver, $old\n", "", "~ program: params $k, $solver, $old removed"),
        ("@check", "@check estimate 1..2 -> 3..", "no difference"),
        ("program p", "program q", "no difference"),
    ],
)
def test_each_part_is_compared(old: str, new: str, wanted: str) -> None:
    assert wanted in str(diff(parse(BEFORE), parse(BEFORE.replace(old, new))))


def test_branches_that_run_together_are_compared() -> None:
    inside = "{ a: tool t (%0) : A b: lm A -> A (%0) @m }"
    one = f"program p : A -> A {{ %0 = input : A %1 = together {inside} : list output %1[0] }}"
    assert str(diff(parse(one), parse(one.replace("@m", "@m k=1")))) == "~ lm @m (%3 -> %3): k 1 added"
    assert "- together (%1)" in str(diff(parse(one), parse(one.replace("together", "race").replace("list", "?"))))


def test_moved_node_is_named_when_the_order_changes() -> None:
    first, second = "  %1 = lm A -> B (%0) @a\n", "  %2 = lm A -> B (%0) @b\n"
    third = "  %3 = lm A -> B (%0) @c\n"
    text = "program p : A -> B {{\n  %0 = input : A\n{}  output %1\n}}\n"
    found = diff(parse(text.format(first + second + third)), parse(text.format(second + third + first)))
    assert str(found) == "~ lm @a (%1 -> %3): place %1 -> %3"


@settings(max_examples=40, deadline=None)
@given(graphs() | graphs(alike=True), graphs(alike=True))
def test_nothing_differs_exactly_if_the_hashes_are_equal(a: Graph, b: Graph) -> None:
    assert not diff(a, a)
    for other in (b, Inline().run(a), canonical(replace(a, params=(), computed=()))):
        found = diff(a, other)
        assert bool(found) == (a.hash != other.hash)
        assert bool(diff(other, a)) == bool(found)
        assert str(found)
        json.dumps(found.as_json())


def test_pipeline_says_what_it_did() -> None:
    graph = parse(BEFORE)
    result = graph
    for step in pipeline(order=("draft.instruction", "k", "solver", "old")):
        result = step.run(result)
    assert "lm @draft (%1 -> %1): prefix [instruction, demos] added" in str(diff(graph, result))
