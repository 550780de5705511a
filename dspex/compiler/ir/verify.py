"""What every graph obeys, as a table of rules. Passes are verified after each run.

A rule sees the whole graph and yields what breaks it. The table is the definition: documentation
and tests walk it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dspex.compiler.ir.nodes import (
    MAX_DEPTH,
    Argument,
    Attempt,
    Call,
    Cond,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Tool,
    Value,
    Variable,
    operands,
    regions,
    variables_of,
    walk,
)
from dspex.compiler.ir.types import NONE, UNKNOWN, Type
from dspex.errors import CompileError

__all__ = ["RULES", "GraphRule", "Violation", "verify", "violations"]

_MAX_SHOWN: Final = 20
_FIELD: Final = re.compile(r"\w+")
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_PLAIN: Final = frozenset({"None", "str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set"})


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} {self.message}"


@dataclass(frozen=True, slots=True)
class GraphRule:
    """A rule that every graph obeys."""

    name: str
    text: str
    check: Callable[[Graph], Iterator[str]]


def verify(graph: Graph, *, after: str | None = None) -> Graph:
    """`graph` itself, when it obeys every rule.

    Args:
        graph: What is checked.
        after: The pass that made it, for the message.

    Raises:
        CompileError: DX2081 with the first broken rules.
    """
    found = violations(graph)
    if found:
        by = f" after the pass {after!r}" if after else ""
        shown = "; ".join(str(item) for item in found[:_MAX_SHOWN])
        more = f"; and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else ""
        raise CompileError(
            "DX2081",
            f"the graph {graph.name!r} is not sound{by}: {shown}{more}",
            fix="correct the graph's text; when dspex itself made it, report it with the program",
        )
    return graph


def violations(graph: Graph) -> tuple[Violation, ...]:
    """Every broken rule, in the order of the table."""
    deep = tuple(Violation(_DEPTH.name, message) for message in _DEPTH.check(graph))
    # The other rules walk regions recursively.
    return deep or tuple(Violation(rule.name, message) for rule in RULES[1:] for message in rule.check(graph))


def _depth(graph: Graph) -> Iterator[str]:
    level = [graph.body]
    for _ in range(MAX_DEPTH):
        level = [inner for region in level for node in region.nodes for inner in regions(node)]
    if level:
        yield f"the program has regions nested more than {MAX_DEPTH} deep"
    for node in walk(graph.body):
        for value in operands(node):
            if isinstance(value, Constant) and _nesting(value.text) > MAX_DEPTH:
                yield f"%{node.id} reads a constant nested more than {MAX_DEPTH} deep"


def _nesting(text: str) -> int:
    """How deep lists and objects are nested in a JSON text."""
    if text[:1] not in ("[", "{") or text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for mark in _BRACKETS.findall(text):
        if mark in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in ("]", "}"):
            depth -= 1
    return deepest


def _numbering(graph: Graph) -> Iterator[str]:
    for number, node in enumerate(walk(graph.body)):
        if node.id != number:
            yield f"%{node.id} stands where %{number} belongs"


def _scope(graph: Graph) -> Iterator[str]:
    def region(item: Region, seen: set[int]) -> Iterator[str]:
        for node in item.nodes:
            for value in operands(node):
                if isinstance(value, Ref) and value.node not in seen:
                    yield f"%{node.id} reads %{value.node}, which is not defined before it"
            if isinstance(node, Call):
                # A call's body sees its own input only, so that it can move and be shared.
                yield from region(node.body, set())
            else:
                for inner in regions(node):
                    yield from region(inner, seen)
            seen.add(node.id)
        if isinstance(item.output, Ref) and item.output.node not in seen:
            yield f"output reads %{item.output.node}, which is not defined"
        # What a region defines is not seen outside; taking it back keeps the check linear.
        seen.difference_update(node.id for node in item.nodes)

    yield from region(graph.body, set())


def _inputs(graph: Graph) -> Iterator[str]:
    def region(item: Region, wanted: bool, place: str) -> Iterator[str]:
        found = [at for at, node in enumerate(item.nodes) if isinstance(node, Input)]
        if wanted and found != [0]:
            yield f"{place} begins with exactly one input, found {len(found)}"
        if not wanted and found:
            yield f"{place} has an input of its own"
        for node in item.nodes:
            for inner in regions(node):
                yield from region(inner, isinstance(node, Map | Call), f"the region of %{node.id}")

    yield from region(graph.body, True, "the program")


def _ends(graph: Graph) -> Iterator[str]:
    first = graph.body.nodes[0] if graph.body.nodes else None
    if isinstance(first, Input) and first.type != graph.input:
        yield f"the program takes {graph.input}, its input node gives {first.type}"
    for node in walk(graph.body):
        if isinstance(node, Call):
            inner = node.body.nodes[0] if node.body.nodes else None
            if isinstance(inner, Input) and inner.type != node.input:
                yield f"%{node.id} takes {node.input}, its body's input gives {inner.type}"


def _types(graph: Graph) -> dict[int, Type]:
    return {node.id: node.type for node in walk(graph.body)}


def _gives(value: Value, types: dict[int, Type]) -> Type:
    if isinstance(value, Ref) and not value.path:
        return types.get(value.node, UNKNOWN)
    return NONE if value == Constant("null") else UNKNOWN


def _fits(given: Type, wanted: Type) -> bool:
    """Whether a value of type `given` may stand for `wanted`.

    A schema may be derived from another, which names do not tell, so that two schemas fit here; the pass `types`
    compares their classes.
    """
    if not given.known or not wanted.known or given.args or wanted.args or given == wanted:
        return True
    return given.name not in _PLAIN and wanted.name not in _PLAIN


def _edges(graph: Graph) -> Iterator[str]:
    types = _types(graph)

    def single(node: Node, args: tuple[Argument, ...], wanted: Type) -> Iterator[str]:
        if len(args) != 1 or args[0].name is not None:
            yield f"%{node.id} takes exactly one positional argument"
        elif not _fits(_gives(args[0].value, types), wanted):
            yield f"%{node.id} takes {wanted}, it is given {_gives(args[0].value, types)}"

    for node in walk(graph.body):
        if isinstance(node, Lm | Call | Opaque):
            yield from single(node, node.args, node.input)


def _results(graph: Graph) -> Iterator[str]:
    types = _types(graph)
    if not _fits(_gives(graph.body.output, types), graph.output):
        yield f"the program gives {graph.output}, its output is {_gives(graph.body.output, types)}"
    for node in walk(graph.body):
        if isinstance(node, Attempt) and node.form == "together":
            if not _fits(node.type, Type("list")):
                yield f"%{node.id} gives a list, its type is {node.type}"
        elif isinstance(node, Select | Attempt | Cond | Call):
            for inner in regions(node):
                given = _gives(inner.output, types)
                if not _fits(given, node.type):
                    yield f"%{node.id} gives {node.type}, a region of it gives {given}"


def _branches(graph: Graph) -> Iterator[str]:
    for node in walk(graph.body):
        if isinstance(node, Select | Attempt):
            names = [branch.name for branch in node.branches]
            if not names:
                yield f"%{node.id} has no branch"
            if len(set(names)) != len(names):
                yield f"%{node.id} has two branches of one name"


def _arguments(graph: Graph) -> Iterator[str]:
    for node in walk(graph.body):
        if not isinstance(node, Lm | Python | Tool | Join | Call | Opaque):
            continue
        names = [a.name for a in node.args]
        named = [name for name in names if name is not None]
        if len(set(named)) != len(named):
            yield f"%{node.id} is given one name twice"
        if names != [None] * (len(names) - len(named)) + named:
            yield f"%{node.id} has a positional argument after a named one"
        if isinstance(node, Lm) and len({s.name for s in node.settings}) != len(node.settings):
            yield f"%{node.id} has one setting twice"


def _joins(graph: Graph) -> Iterator[str]:
    for node in walk(graph.body):
        if not isinstance(node, Join):
            continue
        positional = sum(1 for a in node.args if a.name is None)
        if node.form == "vote":
            yield from _vote(node, positional)
            continue
        wanted = {"record": 0, "dict": 0, "copy": 1}.get(node.form, len(node.args))
        if positional != wanted:
            yield f"%{node.id} is a {node.form} with {positional} positional values, {wanted} belong there"


def _vote(node: Join, positional: int) -> Iterator[str]:
    if not positional:
        yield f"%{node.id} is a vote without a value"
    for argument in node.args[positional:]:
        value = argument.value
        if argument.name != "by":
            yield f"%{node.id} is a vote with an argument named {argument.name!r}"
        elif not isinstance(value, Constant) or not isinstance(value.value, str):
            yield f"%{node.id} is a vote by something other than the name of a field"


def _after(graph: Graph) -> Iterator[str]:
    def region(item: Region) -> Iterator[str]:
        seen: set[int] = set()
        for node in item.nodes:
            if not isinstance(node, Input):
                for number in node.after:
                    if number not in seen:
                        yield f"%{node.id} is after %{number}, which is no earlier node of its region"
                if len(set(node.after)) != len(node.after):
                    yield f"%{node.id} is after one node twice"
            for inner in regions(node):
                yield from region(inner)
            seen.add(node.id)

    yield from region(graph.body)


def _params(graph: Graph) -> Iterator[str]:
    known = set(graph.params) | set(graph.computed)
    if len(known) != len(graph.params) + len(graph.computed):
        yield "one Variable stands twice among the parameters"
    if not graph.params:
        return
    for node in walk(graph.body):
        for name in variables_of(node):
            if name not in known:
                yield f"%{node.id} reads ${name}, which is not among the parameters"
    for region in _all_regions(graph):
        if isinstance(region.output, Variable) and region.output.name not in known:
            yield f"output reads ${region.output.name}, which is not among the parameters"


def _all_regions(graph: Graph) -> Iterator[Region]:
    yield graph.body
    for node in walk(graph.body):
        yield from regions(node)


def _sizes(graph: Graph) -> Iterator[str]:
    for node in walk(graph.body):
        if not isinstance(node, Lm):
            continue
        if node.prefix is not None and len(set(node.prefix)) != len(node.prefix):
            yield f"%{node.id} has one section of its prompt twice in the prefix"
        if node.estimate is not None:
            for what, (low, high) in (("input", node.estimate.input), ("output", node.estimate.output)):
                if low < 0 or (high is not None and high < low):
                    yield f"%{node.id} has an estimate of {low}..{high} {what} tokens"


def _paths(graph: Graph) -> Iterator[str]:
    def values(region: Region) -> Iterator[tuple[str, Value]]:
        for node in region.nodes:
            for value in operands(node):
                yield f"%{node.id}", value
            for inner in regions(node):
                yield from values(inner)
        yield "output", region.output

    for place, value in values(graph.body):
        if isinstance(value, Ref):
            for step in value.path:
                if isinstance(step, int) and step < 0:
                    yield f"{place} reads item {step}"
                if isinstance(step, str) and not _FIELD.fullmatch(step):
                    yield f"{place} reads a field named {step!r}"


def _expressions(graph: Graph) -> Iterator[str]:
    for node in walk(graph.body):
        if isinstance(node, Python):
            if node.expr is not None and any(a.name is None for a in node.args):
                yield f"%{node.id} is an expression with an unnamed input"
            if (node.expr is None) != (node.source is None):
                yield f"%{node.id} has an expression without its source hash, or the reverse"


_DEPTH: Final = GraphRule("depth", f"regions and constants are nested at most {MAX_DEPTH} deep", _depth)

RULES: Final[tuple[GraphRule, ...]] = (
    _DEPTH,
    GraphRule("numbering", "nodes are numbered 0, 1, 2 … in reading order", _numbering),
    GraphRule("scope", "a value is defined before it is read; a call's body sees its own input only", _scope),
    GraphRule("inputs", "a program, call and map begin with their one input; other regions have none", _inputs),
    GraphRule("ends", "an input has the type that its program or call declares", _ends),
    GraphRule("edges", "lm, call and opaque take one positional argument of their input's type", _edges),
    GraphRule("results", "a region gives the type of the node that holds it", _results),
    GraphRule("branches", "a select, fallback, race or together has branches, each of its own name", _branches),
    GraphRule("arguments", "names of arguments and settings are unique; positional ones come first", _arguments),
    GraphRule("joins", "record and dict have named values only; copy has one positional value, vote some", _joins),
    GraphRule("after", "a node is after earlier nodes of its own region, each named once", _after),
    GraphRule("params", "parameters are unique; once there are some, a node reads no other Variable", _params),
    GraphRule("sizes", "a prefix names each section once; an estimate goes from a lower to a higher count", _sizes),
    GraphRule("paths", "a path is made of identifiers and of indices from 0", _paths),
    GraphRule("expressions", "an expression names its inputs and carries its source's hash", _expressions),
)
