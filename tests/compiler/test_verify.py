"""The verifier: every rule of the table has a graph that breaks it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dspex.compiler.ir.nodes import (
    MAX_DEPTH,
    Argument,
    Attempt,
    Branch,
    Call,
    Cond,
    Constant,
    Estimate,
    Graph,
    Input,
    Join,
    Lm,
    Node,
    Python,
    Ref,
    Region,
    Select,
    Setting,
    Value,
    Variable,
)
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.types import UNKNOWN, Type
from dspex.compiler.ir.verify import RULES, verify, violations
from dspex.errors import CompileError

ASK, ANSWER = Type("Ask"), Type("Answer")
GIVEN = Input(0, ASK)


def graph(*nodes: Node, output: Value | None = None, given: Input = GIVEN) -> Graph:
    body = (given, *nodes)
    return Graph("p", ASK, ANSWER, Region(body, output if output is not None else Ref(body[-1].id)))


def lm(at: int, *values: Value, given: Type = ASK, result: Type = ANSWER) -> Lm:
    return Lm(at, "m", given, result, tuple(Argument(None, value) for value in values))


def one(node: Node) -> Region:
    return Region((node,), Ref(node.id))


def vote(at: int, *args: Argument) -> Join:
    return Join(at, "vote", args, ANSWER)


def nested(depth: int) -> Graph:
    """A sound graph but for its depth: `depth` regions in the program's own."""
    inner: Value = Constant("1")
    region = Region((), inner)
    for at in range(depth, 0, -1):
        region = Region((Select(at, "s", (Branch("a", region),), UNKNOWN),), Ref(at))
    return Graph("p", ASK, UNKNOWN, Region((GIVEN, *region.nodes), region.output))


BROKEN: list[tuple[str, Callable[[], Graph], str]] = [
    ("numbering", lambda: graph(lm(5, Ref(0))), "%5 stands where %1 belongs"),
    ("scope", lambda: graph(lm(1, Ref(2, ("x",))), lm(2, Ref(0))), "%1 reads %2, which is not defined before it"),
    ("scope", lambda: graph(lm(1, Ref(0)), output=Ref(9)), "output reads %9"),
    (
        "scope",
        lambda: graph(Select(1, "s", (Branch("a", one(lm(2, Ref(0)))),), ANSWER), output=Ref(2)),
        "output reads %2, which is not defined",
    ),
    (
        "scope",
        lambda: graph(
            Call(1, "c", ASK, ANSWER, (Argument(None, Ref(0)),), Region((Input(2, ASK), lm(3, Ref(0))), Ref(3)))
        ),
        "%3 reads %0",
    ),
    ("inputs", lambda: graph(Input(1, ANSWER)), "the program begins with exactly one input, found 2"),
    (
        "inputs",
        lambda: graph(Select(1, "s", (Branch("a", one(Input(2, ANSWER))),), ANSWER)),
        "the region of %1 has an input of its own",
    ),
    ("ends", lambda: graph(lm(1, Ref(0, ("x",))), given=Input(0, Type("Other"))), "the program takes Ask"),
    (
        "ends",
        lambda: graph(
            Call(1, "c", ASK, ANSWER, (Argument(None, Ref(0)),), Region((Input(2, UNKNOWN), lm(3, Ref(2))), Ref(3)))
        ),
        "%1 takes Ask, its body's input gives ?",
    ),
    ("edges", lambda: graph(lm(1, Ref(0), given=Type("str"))), "%1 takes str, it is given Ask"),
    ("edges", lambda: graph(lm(1)), "%1 takes exactly one positional argument"),
    ("results", lambda: graph(output=Constant("null")), "the program gives Answer, its output is None"),
    (
        "results",
        lambda: graph(Select(1, "s", (Branch("a", one(lm(2, Ref(0), result=Type("int")))),), ANSWER)),
        "%1 gives Answer, a region of it gives int",
    ),
    (
        "results",
        lambda: graph(Attempt(1, "race", (Branch("a", Region((), Constant("null"))),), ANSWER)),
        "%1 gives Answer, a region of it gives None",
    ),
    (
        "results",
        lambda: graph(Attempt(1, "together", (Branch("a", one(lm(2, Ref(0)))),), ANSWER)),
        "%1 gives a list, its type is Answer",
    ),
    ("branches", lambda: graph(Select(1, "s", (), ANSWER)), "%1 has no branch"),
    ("branches", lambda: graph(Attempt(1, "together", (), UNKNOWN)), "%1 has no branch"),
    ("branches", lambda: graph(Attempt(1, "fallback", (), ANSWER)), "%1 has no branch"),
    (
        "branches",
        lambda: graph(
            Attempt(1, "race", (Branch("a", one(lm(2, Ref(0)))), Branch("a", one(lm(3, Ref(0))))), ANSWER),
        ),
        "two branches of one name",
    ),
    (
        "branches",
        lambda: graph(
            Select(1, "s", (Branch("a", one(lm(2, Ref(0)))), Branch("a", one(lm(3, Ref(0))))), ANSWER),
        ),
        "two branches of one name",
    ),
    (
        "arguments",
        lambda: graph(Join(1, "record", (Argument("a", Ref(0)), Argument("a", Ref(0))), ANSWER)),
        "%1 is given one name twice",
    ),
    (
        "arguments",
        lambda: graph(Python(1, "m:f", (Argument("a", Ref(0)), Argument(None, Ref(0))), ANSWER)),
        "a positional argument after a named one",
    ),
    (
        "arguments",
        lambda: graph(replace(lm(1, Ref(0)), settings=(Setting("k", Variable("a")), Setting("k", Variable("b"))))),
        "%1 has one setting twice",
    ),
    ("joins", lambda: graph(Join(1, "record", (Argument(None, Ref(0)),), ANSWER)), "%1 is a record with 1 positional"),
    ("joins", lambda: graph(Join(1, "copy", (), ANSWER)), "%1 is a copy with 0 positional values"),
    ("joins", lambda: graph(vote(1)), "%1 is a vote without a value"),
    ("joins", lambda: graph(vote(1, Argument(None, Ref(0)), Argument("to", Ref(0)))), "an argument named 'to'"),
    ("joins", lambda: graph(vote(1, Argument(None, Ref(0)), Argument("by", Ref(0)))), "the name of a field"),
    ("joins", lambda: graph(vote(1, Argument(None, Ref(0)), Argument("by", Constant("1")))), "the name of a field"),
    ("after", lambda: graph(replace(lm(1, Ref(0)), after=(1,))), "%1 is after %1, which is no earlier node"),
    ("after", lambda: graph(replace(lm(1, Ref(0)), after=(2,)), lm(2, Ref(0))), "%1 is after %2"),
    ("after", lambda: graph(replace(lm(1, Ref(0)), after=(0, 0))), "%1 is after one node twice"),
    (
        "after",
        lambda: graph(
            lm(1, Ref(0)), Cond(2, Ref(0), one(replace(lm(3, Ref(0)), after=(1,))), one(lm(4, Ref(0))), ANSWER)
        ),
        "%3 is after %1, which is no earlier node of its region",
    ),
    ("params", lambda: replace(graph(lm(1, Ref(0))), params=("a", "a")), "one Variable stands twice"),
    ("params", lambda: replace(graph(lm(1, Ref(0))), params=("a",), computed=("a",)), "one Variable stands twice"),
    (
        "params",
        lambda: replace(graph(replace(lm(1, Ref(0)), settings=(Setting("k", Variable("b")),))), params=("a",)),
        "%1 reads $b, which is not among the parameters",
    ),
    ("params", lambda: replace(graph(output=Variable("b")), params=("a",)), "output reads $b"),
    ("sizes", lambda: graph(replace(lm(1, Ref(0)), prefix=("demos", "demos"))), "one section of its prompt twice"),
    (
        "sizes",
        lambda: graph(replace(lm(1, Ref(0)), estimate=Estimate((2, 1), (0, None)))),
        "%1 has an estimate of 2..1 input tokens",
    ),
    (
        "sizes",
        lambda: graph(replace(lm(1, Ref(0)), estimate=Estimate((0, 1), (-1, None)))),
        "%1 has an estimate of -1..None output tokens",
    ),
    ("depth", lambda: nested(MAX_DEPTH), "regions nested more than 64 deep"),
    ("depth", lambda: graph(lm(1, Constant("[" * 65 + "]" * 65))), "%1 reads a constant nested more than 64 deep"),
    ("paths", lambda: graph(lm(1, Ref(0, (-1,)))), "%1 reads item -1"),
    ("paths", lambda: graph(lm(1, Ref(0)), output=Ref(1, ("a b",))), "output reads a field named 'a b'"),
    (
        "expressions",
        lambda: graph(Python(1, "m:f", (Argument(None, Ref(0)),), ANSWER, "x", "ab")),
        "%1 is an expression with an unnamed input",
    ),
    ("expressions", lambda: graph(Python(1, "m:f", (), ANSWER, "x")), "without its source hash"),
]


@pytest.mark.parametrize(("rule", "build", "words"), BROKEN)
def test_rule_is_reported_when_a_graph_breaks_it(rule: str, build: Callable[[], Graph], words: str) -> None:
    found = violations(build())
    assert [item.rule for item in found] == [rule]
    assert words in found[0].message


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN} == {rule.name for rule in RULES}


def test_error_names_pass_and_rules_when_a_pass_breaks_a_graph() -> None:
    with pytest.raises(CompileError) as refused:
        verify(graph(lm(5, Ref(0))), after="inline")
    assert refused.value.code == "DX2081"
    assert "after the pass 'inline'" in refused.value.message
    assert "numbering" in refused.value.message


def test_graph_is_sound_and_read_again_when_it_is_nested_to_the_limit() -> None:
    graph = nested(MAX_DEPTH - 1)
    assert violations(graph) == ()
    assert parse(str(graph)) == graph
    with pytest.raises(CompileError, match="64 nested regions"):
        parse(str(nested(MAX_DEPTH)))


def test_message_stays_readable_when_very_many_rules_are_broken() -> None:
    with pytest.raises(CompileError, match="and 480 more") as refused:
        verify(graph(*(lm(at, Ref(9999)) for at in range(1, 501)), output=Constant("1")))
    assert len(refused.value.message) < 3000
