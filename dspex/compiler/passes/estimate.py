"""Writes into the graph how many tokens each call sends and gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dspex.compiler.ir.nodes import Estimate, Graph, Lm, Node, Region, rebuilt

__all__ = ["EstimateTokens"]


@dataclass(frozen=True, slots=True)
class EstimateTokens:
    """Notes what was estimated for one call of each `lm` node; a node without an estimate loses an earlier one.

    The notes are no part of a graph's meaning or hash. Idempotent.

    Attributes:
        calls: Tokens of one call, by the number of the node.
    """

    calls: Mapping[int, Estimate]
    name: str = "estimate"

    def run(self, graph: Graph) -> Graph:
        def region(item: Region) -> Region:
            return Region(tuple(visit(node) for node in item.nodes), item.output)

        def visit(node: Node) -> Node:
            if isinstance(node, Lm):
                return replace(node, estimate=self.calls.get(node.id))
            return rebuilt(node, lambda item: item, region)

        return replace(graph, body=region(graph.body))
