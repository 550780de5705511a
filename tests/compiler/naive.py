"""The oracle: runs a graph node by node, in the plainest way, against the program that it was compiled from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import dspex as dx
from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Value,
    Variable,
)


def named(target: str) -> Any:
    """What ``module:qualname`` names; None behind ``<locals>``."""
    module, _, path = target.partition(":")
    found: Any = sys.modules[module] if module in sys.modules else __import__(module)
    for step in path.split("."):
        if step == "<locals>":
            return None
        found = getattr(found, step)
    return found


class Naive:
    """Evaluates one graph for one input."""

    def __init__(self, program: dx.Program[Any, Any], schemas: Mapping[str, type[Any]]) -> None:
        self.program = program
        self.schemas = schemas
        self.values: dict[int, Any] = {}

    async def run(self, graph: Graph, x: Any) -> Any:
        self.values = {0: x}
        return await self.region(graph.body)

    async def region(self, region: Region) -> Any:
        for node in region.nodes:
            self.values[node.id] = await self.node(node)
        return self.value(region.output)

    def at(self, path: str) -> Any:
        found: Any = self.program
        for step in path.split(".") if path else ():
            children: dict[str, Any] = found.children() if hasattr(found, "children") else {}
            if step in children:
                found = children[step]
            else:
                found = getattr(found, step, None) or found[step]
        return found

    def value(self, value: Value) -> Any:
        match value:
            case Ref():
                found = self.values[value.node]
                for step in value.path:
                    found = found[step] if isinstance(step, int) else getattr(found, step)
                return found
            case Variable():
                return self.program.config[value.name]
            case Attribute():
                return self.at(value.name)
            case Constant():
                return value.value

    def arguments(self, args: tuple[Argument, ...]) -> tuple[list[Any], dict[str, Any]]:
        return (
            [self.value(a.value) for a in args if a.name is None],
            {a.name: self.value(a.value) for a in args if a.name is not None},
        )

    async def node(self, node: Node) -> Any:
        match node:
            case Input():
                return self.values[node.id]
            case Lm():
                return await self.module(node.module)(self.value(node.args[0].value))
            case Opaque():
                owner = self.program if not node.program else self.at(node.program)
                return await owner(self.value(node.args[0].value))
            case Select():
                chosen = self.program.config[node.variable]
                return await self.region(next(b.body for b in node.branches if b.name == chosen))
            case Python():
                return await self.python(node)
            case Join():
                return self.join(node)
            case _:
                raise AssertionError(node)

    def module(self, path: str) -> Any:
        return self.program.modules()[path]

    async def python(self, node: Python) -> Any:
        given, by_name = self.arguments(node.args)
        if node.expr is None:
            result = named(node.target)(*given, **by_name)
            return await result if node.awaits else result
        # The body's own function supplies the global and closed-over names.
        function = named(node.target) or type(self.program).__call__
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        around = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}, **by_name}
        text = node.expr.removeprefix("await ") if node.awaits else node.expr
        result = eval(text, around)
        return await result if node.awaits else result

    def join(self, node: Join) -> Any:
        given, by_name = self.arguments(node.args)
        match node.form:
            case "record":
                return self.schemas[str(node.type)](**by_name)
            case "copy":
                return given[0].model_copy(update=by_name)
            case "tuple":
                return tuple(given)
            case "list":
                return given
            case "dict":
                return by_name
