"""A graph as boxes and arrows, the same for every way of drawing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dspex.compiler.ir.nodes import (
    Attempt,
    Attribute,
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
    operands,
    regions,
    walk,
)

__all__ = ["OUTPUT", "Arrow", "Box", "Part", "boxes", "diagram"]

OUTPUT = -1
"""Number of the box that stands for the graph's output."""

_LONGEST = 44


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one box to another of the same part.

    Attributes:
        order: It says only what comes first; no value is read.
    """

    source: int
    target: int
    order: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What is drawn together: a region, under the label of its branch.

    Attributes:
        chosen: Whether the bound configuration runs it; None where that is decided by a run.
    """

    label: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    chosen: bool | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        number: Its number in the graph.
        kind: Its kind, ``input`` and ``output`` included.
        lines: What stands in it.
        parts: Its regions.
    """

    number: int
    kind: str
    lines: tuple[str, ...]
    parts: tuple[Part, ...] = ()


def diagram(graph: Graph, config: Mapping[str, object] | None = None) -> Part:
    """The whole graph as one part.

    Args:
        graph: What to draw.
        config: The bound values, by which selections are decided.
    """
    whole = _part(graph.body, "", config or {}, None)
    end = Box(OUTPUT, "output", (f"output : {graph.output}",))
    given = graph.body.output
    arrows = (Arrow(given.node, OUTPUT),) if isinstance(given, Ref) else ()
    return Part(graph.name, (*whole.boxes, end), (*whole.arrows, *arrows))


def boxes(part: Part) -> Iterator[Box]:
    """Every box of `part`, inner ones after theirs."""
    for box in part.boxes:
        yield box
        for inner in box.parts:
            yield from boxes(inner)


def _part(region: Region, label: str, config: Mapping[str, object], chosen: bool | None) -> Part:
    here = {node.id for node in region.nodes}
    arrows: list[Arrow] = []
    for node in region.nodes:
        read = dict.fromkeys(number for number in _reads(node) if number in here and number != node.id)
        arrows += [Arrow(number, node.id) for number in read]
        if not isinstance(node, Input):
            arrows += [Arrow(number, node.id, True) for number in node.after if number in here and number not in read]
    return Part(label, tuple(_box(node, config) for node in region.nodes), tuple(arrows), chosen)


def _reads(node: Node) -> Iterator[int]:
    """Numbers of the nodes whose values `node` reads, in its regions too."""
    for value in operands(node):
        if isinstance(value, Ref):
            yield value.node
    for region in regions(node):
        for inner in walk(region):
            yield from (value.node for value in operands(inner) if isinstance(value, Ref))
        if isinstance(region.output, Ref):
            yield region.output.node


def _box(node: Node, config: Mapping[str, object]) -> Box:
    head = f"%{node.id} {node.kind}"

    def part(region: Region, label: str, chosen: bool | None = None) -> Part:
        return _part(region, label, config, chosen)

    match node:
        case Input():
            return Box(node.id, node.kind, (_cut(f"%{node.id} input : {node.type}"),))
        case Lm():
            return Box(node.id, node.kind, (_cut(f"{head} {node.module}"), _cut(f"{node.input} → {node.type}")))
        case Select():
            bound = config.get(node.variable)
            parts = tuple(part(b.body, b.name, None if bound is None else b.name == bound) for b in node.branches)
            return Box(node.id, node.kind, (_cut(f"{head} ${node.variable}"),), parts)
        case Cond():
            test = f"{head} {_value(node.test)}"
            return Box(node.id, node.kind, (_cut(test),), (part(node.then, "then"), part(node.otherwise, "otherwise")))
        case Map():
            how = "one after another" if node.ordered else "together"
            return Box(node.id, node.kind, (_cut(f"{head} over {_value(node.over)}"),), (part(node.body, how),))
        case Attempt():
            return Box(
                node.id, node.form, (f"%{node.id} {node.form}",), tuple(part(b.body, b.name) for b in node.branches)
            )
        case Call():
            return Box(node.id, node.kind, (_cut(f"{head} {node.program}"),), (part(node.body, ""),))
        case Python():
            what = node.target.rpartition(":")[2] if node.expr is None else node.expr
            return Box(node.id, node.kind, (_cut(f"{head}{' pure' if node.pure else ''}"), _cut(what)))
        case Tool():
            return Box(node.id, node.kind, (_cut(f"{head} {node.name}"),))
        case Join():
            return Box(node.id, node.kind, (_cut(f"%{node.id} {node.form} : {node.type}"),))
        case Opaque():
            where = f"at {node.loc}" if node.loc else node.target
            return Box(node.id, node.kind, (_cut(f"{head} {node.program or node.target}"), _cut(where)))


def _value(value: Value) -> str:
    match value:
        case Ref():
            return f"%{value.node}" + "".join(
                f".{step}" if isinstance(step, str) else f"[{step}]" for step in value.path
            )
        case Constant():
            return value.text
        case Attribute():
            return f"@{value.name}"
        case _:
            return f"${value.name}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
