"""Dissolves nodes: their place is taken by the nodes of one of their regions. Two passes are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
    Call,
    Graph,
    Input,
    Join,
    Node,
    Ref,
    Region,
    Value,
    canonical,
    operands,
    rebuilt,
    regions,
    walk,
)
from dspex.compiler.ir.types import UNKNOWN, Type

__all__ = ["Chosen", "dissolve"]

Chosen = Callable[[Node, Callable[[Value], Value]], Region | None]
"""The region that takes a node's place, or None where the node stays; given what a value stands for by now."""


def dissolve(graph: Graph, chosen: Chosen, operand: Callable[[Value], Value] | None = None) -> Graph:
    """`graph` with the region that `chosen` names in the place of each node that it names one for.

    Reads of such a node become reads of its region's output, and for a `call` those of the body's input reads of the
    argument. What was to run after the node runs after all that took its place.

    Args:
        graph: A sound graph.
        chosen: Says which nodes go, and for what.
        operand: What stands for a value that is no reference; itself when left out.
    """
    nodes_before = list(walk(graph.body))
    fresh = count(max((node.id for node in nodes_before), default=0) + 1)
    opened = _opened(graph)
    awaited = {number for node in nodes_before if not isinstance(node, Input) for number in node.after}
    replaced: dict[int, Value] = {}
    stand_in: dict[int, tuple[int, ...]] = {}

    def value(item: Value) -> Value:
        if not isinstance(item, Ref):
            return operand(item) if operand is not None else item
        if item.node not in replaced:
            return item
        target = replaced[item.node]
        if isinstance(target, Ref):
            return Ref(target.node, target.path + item.path)
        if isinstance(target, Attribute) and item.path:
            return Attribute(".".join((target.name, *(str(step) for step in item.path))))
        return target

    def put(number: int, target: Value, into: list[Node]) -> None:
        """Makes `target` stand for the node `number`; in a tuple where a part is read of what has no parts here."""
        if number in opened and not isinstance(target, Ref | Attribute):
            holder = Join(next(fresh), "tuple", (Argument(None, target),), Type("tuple", (UNKNOWN,)))
            into.append(holder)
            target = Ref(holder.id, (0,))
        replaced[number] = target

    def moved(node: Node, before: tuple[int, ...]) -> Node:
        """`node` after what took the place of what it was after, and after `before`."""
        if isinstance(node, Input) or not (node.after or before):
            return node
        after = [after for number in node.after for after in stand_in.get(number, (number,))]
        return replace(node, after=tuple(dict.fromkeys((*after, *before))))

    def spliced(region: Region, before: tuple[int, ...]) -> list[Node]:
        result: list[Node] = []
        for given in region.nodes:
            node = moved(given, before)
            body = chosen(node, value)
            if body is None:
                result.append(rebuilt(node, value, rebuild))
                continue
            if isinstance(node, Call):
                put(body.nodes[0].id, value(node.args[0].value), result)
                # It is there as soon as the nodes before it are: the argument may stand in a region around this one.
                stand_in[body.nodes[0].id] = ()
                body = Region(body.nodes[1:], body.output)
            after = () if isinstance(node, Input) else node.after
            inner = spliced(body, after)
            result += inner
            put(node.id, value(body.output), result)
            if node.id in awaited:
                stand_in[node.id] = tuple(item.id for item in inner) or after
        return result

    def rebuild(region: Region) -> Region:
        nodes = spliced(region, ())
        return Region(tuple(nodes), value(region.output))

    return canonical(replace(graph, body=rebuild(graph.body)))


def _opened(graph: Graph) -> set[int]:
    """Numbers of the nodes of which a field or an item is read."""
    read = [value for node in walk(graph.body) for value in operands(node)]
    read += [region.output for node in walk(graph.body) for region in regions(node)]
    return {value.node for value in (*read, graph.body.output) if isinstance(value, Ref) and value.path}
