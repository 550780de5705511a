"""The oracle: runs a graph node by node, in the plainest way, against the program that it was compiled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspex as dx
from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    Attribute,
    Call,
    Cond,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Tool,
    Value,
    Variable,
)
from dspex.errors import LMError
from dspex.program.concurrency import majority


class Naive:
    """Evaluates one graph for one input."""

    def __init__(
        self,
        program: dx.Program[Any, Any],
        schemas: Mapping[str, type[Any]],
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.program = program
        self.schemas = schemas
        self.functions = functions
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
            case Call():
                self.values[node.body.nodes[0].id] = self.value(node.args[0].value)
                return await self.region(node.body)
            case Cond():
                return await self.region(node.then if self.value(node.test) else node.otherwise)
            case Map():
                results: list[Any] = []
                for item in self.value(node.over):
                    self.values[node.body.nodes[0].id] = item
                    results.append(await self.region(node.body))
                return results
            case Attempt(form="together"):
                return [await self.region(branch.body) for branch in node.branches]
            case Attempt():
                for branch in node.branches[:-1]:
                    try:
                        return await self.region(branch.body)
                    except LMError:
                        continue
                return await self.region(node.branches[-1].body)
            case Python():
                given, by_name = self.arguments(node.args)
                result = self.functions[node.key](*given, **by_name)
                return await result if node.awaits else result
            case Tool():
                given, by_name = self.arguments(node.args)
                return await self.functions[node.target](*given, **by_name)
            case Join():
                return self.join(node)

    def module(self, path: str) -> Any:
        return self.program.modules()[path]

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
            case "vote":
                return majority(given, by_name.get("by"))
