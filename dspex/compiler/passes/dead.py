"""Removes nodes that nothing reads and that do nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dspex.compiler.ir.effects import acting
from dspex.compiler.ir.nodes import Graph, Input, Node, Ref, Region, canonical, operands, rebuilt

__all__ = ["RemoveDead"]


@dataclass(frozen=True, slots=True)
class RemoveDead:
    """Drops `lm`, `join`, pure `python` and structured nodes whose value is not read.

    Impure `python`, `tool` and `opaque` nodes stay, and so does whatever holds one, because they may act
    on the world. What was to run after a dropped node runs after what that was to run after. Idempotent.
    """

    name: str = "dead"

    def run(self, graph: Graph) -> Graph:
        acts = acting(graph.body)
        live: set[int] = set()

        def sweep(region: Region) -> Region:
            """Keeps what is read, from the end backwards; `live` collects what the region reads outside too."""
            if isinstance(region.output, Ref):
                live.add(region.output.node)
            kept: list[Node] = []
            for node in reversed(region.nodes):
                if node.id not in live and node.id not in acts and not isinstance(node, Input):
                    continue
                kept.append(rebuilt(node, lambda item: item, sweep))
                live.update(value.node for value in operands(node) if isinstance(value, Ref))
            return Region(_ordered(region.nodes, kept[::-1]), region.output)

        return canonical(replace(graph, body=sweep(graph.body)))


def _ordered(before: tuple[Node, ...], kept: list[Node]) -> tuple[Node, ...]:
    """`kept` without `after` a node that is not kept."""
    if len(before) == len(kept) or not any(not isinstance(node, Input) and node.after for node in before):
        return tuple(kept)
    stays = {node.id: node for node in kept}
    gone: dict[int, tuple[int, ...]] = {}
    result: list[Node] = []
    for node in before:
        if isinstance(node, Input):
            result.append(node)
            continue
        after = tuple(dict.fromkeys(item for number in node.after for item in gone.get(number, (number,))))
        if node.id in stays:
            result.append(replace(stays[node.id], after=after))
        else:
            gone[node.id] = after
    return tuple(result)
