"""Folds what is decided: Variables with one value, and the regions that only one value leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dspex.compiler.ir.nodes import Attempt, Cond, Constant, Graph, Node, Region, Select, Value, Variable
from dspex.compiler.passes.dissolve import dissolve
from dspex.errors import CompileError

__all__ = ["FoldFrozen"]


@dataclass(frozen=True, slots=True)
class FoldFrozen:
    """Puts the one value of a frozen Variable in its place.

    A `select` on one becomes the branch that it names, and so does a `select`, `fallback` or `race` with one branch; a
    `cond` on a constant becomes the region that runs. What the functions of a `python` or `opaque` node read inside is
    left to them. Idempotent.

    Attributes:
        values: The value of every Variable that can have only this one; of a selection, the name of its branch.
    """

    values: Mapping[str, Constant]
    name: str = "fold"

    def run(self, graph: Graph) -> Graph:
        """`graph` with `values` in it.

        Raises:
            CompileError: DX2082 when the value of a selection is none of its branches.
        """

        def operand(item: Value) -> Value:
            return self.values.get(item.name, item) if isinstance(item, Variable) else item

        def chosen(node: Node, value: Callable[[Value], Value]) -> Region | None:
            match node:
                case Select() if node.variable in self.values:
                    return self._branch(node)
                case Select() | Attempt() if len(node.branches) == 1 and not _is_together(node):
                    return node.branches[0].body
                case Cond():
                    test = value(node.test)
                    if isinstance(test, Constant):
                        return node.then if test.value else node.otherwise
                    return None
                case _:
                    return None

        return dissolve(graph, chosen, operand)

    def _branch(self, node: Select) -> Region:
        wanted = self.values[node.variable].value
        for branch in node.branches:
            if branch.name == wanted:
                return branch.body
        raise CompileError(
            "DX2082",
            f"${node.variable} is frozen to {wanted!r}, its branches are {', '.join(b.name for b in node.branches)}",
            where=str(node.loc) if node.loc is not None else None,
            fix="freeze it to the name of a branch",
        )


def _is_together(node: Node) -> bool:
    """Whether it gives a list of its branches' values, of one branch as of many."""
    return isinstance(node, Attempt) and node.form == "together"
