"""Inlines programs inside the program: each `call` becomes the nodes of its body."""

from __future__ import annotations

from dataclasses import dataclass

from dspex.compiler.ir.nodes import (
    Attribute,
    Call,
    Graph,
    Input,
    Node,
    Ref,
    Region,
    Value,
    canonical,
    rebuilt,
)

__all__ = ["Inline"]


@dataclass(frozen=True, slots=True)
class Inline:
    """Dissolves every `call`, at any depth; reads of its input become reads of its argument."""

    name: str = "inline"

    def run(self, graph: Graph) -> Graph:
        replaced: dict[int, Value] = {}

        def value(item: Value) -> Value:
            if not isinstance(item, Ref) or item.node not in replaced:
                return item
            target = replaced[item.node]
            if isinstance(target, Ref):
                return Ref(target.node, target.path + item.path)
            if isinstance(target, Attribute) and item.path:
                return Attribute(".".join((target.name, *(str(step) for step in item.path))))
            return target

        def nodes(region: Region) -> list[Node]:
            result: list[Node] = []
            for node in region.nodes:
                if not isinstance(node, Call):
                    result.append(rebuilt(node, value, rebuild))
                    continue
                first = node.body.nodes[0]
                if isinstance(first, Input):
                    replaced[first.id] = value(node.args[0].value)
                result.extend(nodes(Region(node.body.nodes[1:], node.body.output)))
                replaced[node.id] = value(node.body.output)
            return result

        def rebuild(region: Region) -> Region:
            kept = nodes(region)
            return Region(tuple(kept), value(region.output))

        return canonical(Graph(graph.name, graph.input, graph.output, rebuild(graph.body)))
