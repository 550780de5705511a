"""Removes nodes that nothing reads and that do nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from dspex.compiler.ir.nodes import (
    Graph,
    Input,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Tool,
    canonical,
    operands,
    rebuilt,
    regions,
)

__all__ = ["RemoveDead"]


@dataclass(frozen=True, slots=True)
class RemoveDead:
    """Drops `lm`, `join`, pure `python` and structured nodes whose value is not read.

    Impure `python`, `tool` and `opaque` nodes stay, and so does whatever holds one, because they may act
    on the world.
    """

    name: str = "dead"

    def run(self, graph: Graph) -> Graph:
        def sweep(region: Region, live: set[int]) -> Region:
            """Keeps what is read, from the end backwards; `live` collects what the region reads outside."""
            if isinstance(region.output, Ref):
                live.add(region.output.node)
            kept: list[Node] = []
            for node in reversed(region.nodes):
                if node.id not in live and not acts(node):
                    continue
                kept.append(rebuilt(node, lambda item: item, lambda inner: sweep(inner, live)))
                live.update(value.node for value in operands(node) if isinstance(value, Ref))
            return Region(tuple(reversed(kept)), region.output)

        return canonical(Graph(graph.name, graph.input, graph.output, sweep(graph.body, set())))


def acts(node: Node) -> bool:
    """Whether `node` stays even when nothing reads it."""
    match node:
        case Python():
            return not node.pure
        case Input() | Tool() | Opaque():
            return True
        case _:
            inner = [item for region in regions(node) for item in region.nodes]
            return any(acts(item) for item in inner if not isinstance(item, Input))
