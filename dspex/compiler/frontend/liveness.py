"""Which names a step of a loop hands on: those that something reads before they get another value."""

from __future__ import annotations

import ast
from collections.abc import Iterable

__all__ = ["read_after"]


def read_after(tree: ast.AST, loop: ast.For) -> frozenset[str]:
    """Names whose values at the end of a step of `loop` may be read: by a later step, or after the loop."""
    inside = {id(node) for node in ast.walk(loop)}
    outside = [node for node in ast.walk(tree) if id(node) not in inside]
    around = [node for node in outside if isinstance(node, ast.For) and any(item is loop for item in ast.walk(node))]
    # A loop around this one comes back to what stands before it.
    first = min((node.lineno for node in around), default=loop.end_lineno or loop.lineno)
    later = (node for node in outside if isinstance(node, ast.Name | ast.AugAssign) and node.lineno >= first)
    return frozenset(_reads(later) | _first(loop.body))


def _reads(nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _first(statements: list[ast.stmt]) -> set[str]:
    """Names that `statements` may read before they give them a value."""
    found: set[str] = set()
    given: set[str] = set()
    for statement in statements:
        found |= _reads(ast.walk(statement)) - given
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                given.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                given.add(name)
            case ast.Continue() | ast.Break():
                break
            case _:
                pass
    return found
