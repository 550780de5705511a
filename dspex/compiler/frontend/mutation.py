"""Which pure nodes are not, because something that acts has the list that they read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import field_types, is_immutable, item_type
from dspex.compiler.frontend.symbols import ANY, class_of
from dspex.compiler.ir.effects import acts
from dspex.compiler.ir.nodes import (
    Attempt,
    Call,
    Cond,
    Input,
    Lm,
    Map,
    Node,
    Python,
    Ref,
    Region,
    Select,
    Value,
    operands,
    rebuilt,
    walk,
)

__all__ = ["settled"]


def settled(nodes: list[Node], annotations: Mapping[int, object]) -> list[Node]:
    """`nodes`, where an expression keeps its place in the order if a function that acts may change what it reads.

    Args:
        nodes: A program's nodes in source order.
        annotations: The Python type of each node's value, by its number.
    """
    every = list(walk(Region(tuple(nodes), Ref(0))))
    acting = [node for node in every if _acts(node)]
    if not acting or not any(isinstance(node, Python) and node.pure for node in every):
        return nodes
    groups = _Groups()
    for node in every:
        if isinstance(node, Lm | Input):
            continue
        if isinstance(node, Map | Call) and node.body.nodes:
            for root in _changeable(operands(node), annotations):
                groups.join(node.body.nodes[0].id, root)
        # What it gives may be, or hold, what it was given.
        for root in _changeable(_read(node), annotations):
            if not is_immutable(annotations.get(node.id, ANY)):
                groups.join(node.id, root)
    touched = {groups.of(root) for node in acting for root in _changeable(operands(node), annotations)}
    touched |= {groups.of(node.id) for node in acting}

    def kept(node: Node) -> Node:
        new = rebuilt(node, lambda value: value, region)
        if isinstance(new, Python) and new.pure:
            roots = _changeable(operands(new), annotations)
            if any(groups.of(root) in touched for root in roots):
                new = replace(new, pure=False)
        return new

    def region(item: Region) -> Region:
        return Region(tuple(kept(node) for node in item.nodes), item.output)

    return [kept(node) for node in nodes]


def _acts(node: Node) -> bool:
    # The walk reaches the calls inside; going into each of them again would double the work at every level.
    return any(acts(inner) for inner in walk(node.body)) if isinstance(node, Call) else acts(node)


def _read(node: Node) -> Iterator[Value]:
    yield from operands(node)
    match node:
        case Cond():
            yield from (node.then.output, node.otherwise.output)
        case Map() | Call():
            yield node.body.output
        case Select() | Attempt():
            yield from (branch.body.output for branch in node.branches)
        case _:
            pass


def _changeable(values: Iterable[Value], annotations: Mapping[int, object]) -> Iterator[int]:
    """The nodes behind those of `values` that something could change in place."""
    for value in values:
        if isinstance(value, Ref) and not is_immutable(_type_at(value, annotations)):
            yield value.node


def _type_at(ref: Ref, annotations: Mapping[int, object]) -> object:
    kind = annotations.get(ref.node, ANY)
    for step in ref.path:
        schema = class_of(kind)
        if isinstance(step, str) and schema is not None and issubclass(schema, BaseModel):
            kind = field_types(schema).get(step, ANY)
        else:
            kind = item_type(kind) if isinstance(step, int) else ANY
    return kind


class _Groups:
    """Nodes whose values may be, or hold, one and the same object."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def of(self, node: int) -> int:
        root = node
        while root in self._above:
            root = self._above[root]
        while node != root:
            self._above[node], node = root, self._above[node]
        return root

    def join(self, one: int, two: int) -> None:
        first, second = self.of(one), self.of(two)
        if first != second:
            self._above[first] = second
