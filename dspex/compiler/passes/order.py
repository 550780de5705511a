"""Writes the parameters into the graph, in the order of the rows of their table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dspex.compiler.ir.nodes import Graph

__all__ = ["OrderParameters"]


@dataclass(frozen=True, slots=True)
class OrderParameters:
    """Names the Variables that are rows, in the order of the rows, and those that follow from them. Idempotent.

    Attributes:
        order: The Variables that are rows of the parameter table.
        computed: The computed Variables, each after those that it depends on.
    """

    order: tuple[str, ...]
    computed: tuple[str, ...] = ()
    name: str = "order"

    def run(self, graph: Graph) -> Graph:
        return replace(graph, params=self.order, computed=self.computed)
