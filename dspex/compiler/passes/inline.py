"""Inlines programs inside the program: each `call` becomes the nodes of its body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dspex.compiler.ir.nodes import Call, Graph, Node, Region, Value
from dspex.compiler.passes.dissolve import dissolve

__all__ = ["Inline"]


@dataclass(frozen=True, slots=True)
class Inline:
    """Dissolves every `call`, at any depth; reads of its input become reads of its argument. Idempotent."""

    name: str = "inline"

    def run(self, graph: Graph) -> Graph:
        def chosen(node: Node, _: Callable[[Value], Value]) -> Region | None:
            return node.body if isinstance(node, Call) else None

        return dissolve(graph, chosen)
