"""Whether the parts of an artifact fit each other: graph, Variables and schemas that came from a file.

A program that was compiled here fits by construction. Parts from a file are checked before the first call, so that a
crafted one is an error when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dspex.compiler.compiled import Compiled
from dspex.compiler.ir.nodes import (
    Attribute,
    Constant,
    Graph,
    Lm,
    Node,
    Opaque,
    Python,
    Select,
    Tool,
    Variable,
    operands,
    variables_of,
    walk,
)
from dspex.compiler.passes.types import InferTypes
from dspex.errors import CompileError
from dspex.program.schema import Schema

__all__ = ["check_fit", "code_needs", "needs_of_graph"]

_SETTINGS: Final = frozenset(
    {
        "instruction",
        "demos",
        "demos_k",
        "temperature",
        "max_tokens",
        "format",
        "scoring",
        "lm",
        "prior",
        "answers",
        "repairs",
        "reasoning",
    }
)


def needs_of_graph(graph: Graph) -> list[tuple[str, str, str]]:
    """What of a graph is code: kind, what it is, why it is needed."""
    found: dict[tuple[str, str], str] = {}
    for node in walk(graph.body):
        where = "" if node.loc is None else f" at {node.loc}"
        match node:
            case Python():
                what = node.target if node.expr is None else f"{node.target} {node.source}"
                found.setdefault(("python", what), f"calls {node.expr or node.target}{where}")
            case Tool():
                found.setdefault(("tool", node.target), f"calls the tool {node.name}{where}")
            case Opaque():
                found.setdefault(("opaque", node.target), f"{node.reason or 'it is not understood'}{where}")
            case _:
                pass
        for value in operands(node):
            if isinstance(value, Attribute):
                found.setdefault(("attribute", value.name), f"reads an attribute of the program{where}")
    return [(kind, what, why) for (kind, what), why in found.items()]


def code_needs(graph: Graph) -> frozenset[str]:
    """What of a graph is code, as ``kind what``."""
    return frozenset(f"{kind} {what}" for kind, what, _ in needs_of_graph(graph))


def check_fit(compiled: Compiled[Any, Any]) -> None:
    """Checks that graph, Variables, schemas and configuration belong together.

    Raises:
        CompileError: DX2216, or what the types say.
        ProgramError: DX1509 when a setting is not what modules take.
    """
    graph, space = compiled.graph, compiled.space
    if set(graph.params) - set(space.variables):
        raise _unfit(
            f"the graph has parameters that are no Variables: {sorted(set(graph.params) - set(space.variables))[0]}"
        )
    for kind in (graph.input, graph.output):
        _schema(compiled, str(kind))
    for node in walk(graph.body):
        for name in variables_of(node):
            if name not in space.variables:
                raise _unfit(f"the graph reads ${name}, which is no Variable")
        for problem in _problems(compiled, node):
            raise _unfit(problem)
        if isinstance(node, Lm):
            first = compiled.plan.calls[node.module]
            # What a module sends is prepared once, for all of its calls.
            if (node.input, node.type, node.scope, node.settings) != (
                first.input,
                first.type,
                first.scope,
                first.settings,
            ):
                raise _unfit(f"two calls of {node.module:.100} differ in what the module is")
            compiled.binding.settings(node)
    InferTypes(compiled.schemas).run(graph)


def _problems(compiled: Compiled[Any, Any], node: Node) -> Iterator[str]:
    if isinstance(node, Select):
        options = compiled.space.variables[node.variable].options
        names = {branch.name for branch in node.branches}
        if not set(options) <= names:
            yield f"${node.variable} names branches that its select does not have"
    if not isinstance(node, Lm):
        return
    given = _schema(compiled, str(node.input))
    _schema(compiled, str(node.type))
    for argument in node.args:
        if argument.name is not None and argument.name not in given.model_fields:
            yield f"{node.module} is given {argument.name!r:.100}, which is no field of {given.__name__}"
    for setting in node.settings:
        head, _, rest = setting.name.partition(".")
        known = head in _SETTINGS and (not rest or head == "instruction")
        if not known and not (head == "input" and rest in given.model_fields):
            yield f"{node.module} has the setting {setting.name!r:.100}, which modules do not have"
        if not isinstance(setting.value, Variable | Constant):
            yield f"{node.module} has a setting that is neither a Variable nor a constant"
        variable = compiled.space.variables.get(setting.value.name) if isinstance(setting.value, Variable) else None
        if head == "demos" and (variable is None or variable.kind != "demos"):
            yield f"{node.module} has demonstrations that are none"


def _schema(compiled: Compiled[Any, Any], name: str) -> type[Schema]:
    found = compiled.schemas.get(name)
    if found is None or not issubclass(found, Schema):
        raise _unfit(f"the graph names the schema {name:.100}, which is not there")
    return found


def _unfit(why: str) -> CompileError:
    return CompileError("DX2216", f"the parts of the artifact do not fit each other: {why}", fix="compile it again")
