"""What acts on the world: nodes that run even if nothing reads them, and that keep their source order."""

from __future__ import annotations

from dspex.compiler.ir.nodes import Node, Opaque, Python, Region, Tool, regions

__all__ = ["acting", "acts"]


def acts(node: Node) -> bool:
    """Whether `node` itself may act on the world, whatever its regions hold."""
    return isinstance(node, Tool | Opaque) or (isinstance(node, Python) and not node.pure)


def acting(region: Region) -> frozenset[int]:
    """Numbers of the nodes, at any depth, that act or hold a node that does."""
    found: set[int] = set()

    def visit(inside: Region) -> bool:
        before = len(found)
        for node in inside.nodes:
            holds = False
            for inner in regions(node):
                holds |= visit(inner)
            if holds or acts(node):
                found.add(node.id)
        return len(found) > before

    visit(region)
    return frozenset(found)
