"""A part of a larger program, compiled by itself: what it reads of the program around it is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from types import NoneType
from typing import Any

from dspex.compiler.ir.nodes import (
    Constant,
    Graph,
    Lm,
    Node,
    Opaque,
    Python,
    Region,
    Setting,
    Value,
    Variable,
    rebuilt,
    variables_of,
    walk,
)
from dspex.errors import CompileError
from dspex.program.program import Program

__all__ = ["closed"]


def closed(graph: Graph, program: Program[Any, Any]) -> Graph:
    """`graph` with the values that Variables of the programs around `program` have now; itself when it reads none.

    Raises:
        CompileError: DX2305 when such a value cannot stand in a graph.
    """
    own = program.space.variables
    if all(name in own for node in walk(graph.body) for name in variables_of(node)):
        return graph
    root = program
    while root.dx_node.parent is not None:
        root = root.dx_node.parent
    return _Closing(graph, own, root.config).graph()


class _Closing:
    def __init__(self, graph: Graph, own: Mapping[str, object], around: Mapping[str, object]) -> None:
        self._graph = graph
        self._own = own
        self._around = around

    def graph(self) -> Graph:
        return replace(self._graph, body=self._region(self._graph.body))

    def _region(self, region: Region) -> Region:
        return Region(tuple(self._node(node) for node in region.nodes), self._value(region.output))

    def _node(self, node: Node) -> Node:
        if isinstance(node, Lm):
            settings = tuple(Setting(s.name, self._value(s.value, setting=s.name)) for s in node.settings)
            node = replace(node, settings=settings)
        elif isinstance(node, Python | Opaque):
            node = replace(node, uses=tuple(name for name in node.uses if name in self._own))
        return rebuilt(node, self._value, self._region)

    def _value(self, value: Value, setting: str | None = None) -> Value:
        if not isinstance(value, Variable) or value.name in self._own:
            return value
        found: object = self._around.get(value.name)
        if setting is not None and isinstance(found, Enum):
            # A module is sent what the member stands for.
            plain: object = found.value
            found = plain if type(plain) in _PLAIN else str(plain)
        if value.name not in self._around or type(found) not in _PLAIN:
            raise CompileError(
                "DX2305",
                f"{self._graph.name} reads the Variable {value.name!r} of the program around it, whose value {found!r} "
                "cannot stand in a graph of its own",
                where=self._graph.name,
                fix="compile the program around it, or give the part a Variable of its own",
            )
        return Constant.of(found)


_PLAIN = (str, int, float, bool, NoneType)
