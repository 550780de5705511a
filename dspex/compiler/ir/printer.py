"""The canonical text of a graph. `parser.parse` reads it back to an equal graph.

Locations are comments: they are read back too, but neither equality nor the hash sees them. The hash sees no reasons,
remedies and estimates either.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Final

from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    Attribute,
    Branch,
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
    json_text,
)

__all__ = ["NAME", "TARGET", "print_graph", "print_value", "structural_hash"]

NAME: Final = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
TARGET: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d<][\w.<>]*")

_COMMENT_COLUMN: Final = 72


def print_graph(graph: Graph, *, locations: bool = True) -> str:
    """The text of `graph`; without `locations` it depends on the meaning alone.

    Without them, reasons, remedies and estimates are left out too.
    """
    lines = [f"program {_name(graph.name)} : {graph.input} -> {graph.output} {{"]
    for word, names in (("params", graph.params), ("computed", graph.computed)):
        if names:
            lines.append(f"  {word} {', '.join(f'${_name(name)}' for name in names)}")
    _region(graph.body, "  ", lines, locations)
    lines.append("}")
    return "\n".join(lines) + "\n"


def structural_hash(graph: Graph) -> str:
    """SHA-256 of the text without locations, reasons, estimates or the program's own name."""
    nameless = replace(graph, name="p")
    text = print_graph(nameless, locations=False)
    return hashlib.sha256(text.encode()).hexdigest()


def print_value(value: Value) -> str:
    """The text of one operand."""
    match value:
        case Ref():
            return f"%{value.node}" + "".join(
                f"[{step}]" if isinstance(step, int) else f".{step}" for step in value.path
            )
        case Variable():
            return f"${_name(value.name)}"
        case Attribute():
            return f"@{_name(value.name)}"
        case Constant():
            return value.text


def _name(name: str) -> str:
    return name if NAME.fullmatch(name) else json_text(name)


def _target(target: str) -> str:
    return target if TARGET.fullmatch(target) else json_text(target)


def _args(args: tuple[Argument, ...]) -> str:
    parts = [print_value(a.value) if a.name is None else f"{_name(a.name)}={print_value(a.value)}" for a in args]
    return f"({', '.join(parts)})"


def _range(bounds: tuple[int, int | None]) -> str:
    low, high = bounds
    return f"{low}.." if high is None else f"{low}..{high}"


def _variables(names: tuple[str, ...]) -> str:
    return f"[{', '.join(f'${_name(name)}' for name in names)}]"


def _region(region: Region, indent: str, lines: list[str], locations: bool) -> None:
    for node in region.nodes:
        _statement(node, f"{indent}%{node.id} = ", indent, lines, locations)
    lines.append(f"{indent}output {print_value(region.output)}")


def _statement(node: Node, head: str, indent: str, lines: list[str], locations: bool) -> None:
    at = len(lines)
    inner = indent + "  "
    if not isinstance(node, Input) and node.after:
        head += f"after {', '.join(f'%{number}' for number in node.after)} "
    match node:
        case Select():
            lines.append(f"{head}select ${_name(node.variable)} {{")
            _branches(node.branches, inner, lines, locations)
            lines.append(f"{indent}}} : {node.type}")
        case Attempt():
            lines.append(f"{head}{node.form} {{")
            _branches(node.branches, inner, lines, locations)
            lines.append(f"{indent}}} : {node.type}")
        case Cond():
            lines.append(f"{head}cond {print_value(node.test)} {{")
            _region(node.then, inner, lines, locations)
            lines.append(f"{indent}}} else {{")
            _region(node.otherwise, inner, lines, locations)
            lines.append(f"{indent}}} : {node.type}")
        case Map():
            ordered = "ordered " if node.ordered else ""
            lines.append(f"{head}map {ordered}{print_value(node.over)} {{")
            _region(node.body, inner, lines, locations)
            lines.append(f"{indent}}} : {node.type}")
        case Call():
            path = f"@{_name(node.program)} " if node.program else ""
            lines.append(f"{head}call {path}{node.input} -> {node.type} {_args(node.args)} {{")
            _region(node.body, inner, lines, locations)
            lines.append(f"{indent}}}")
        case _:
            lines.append(head + _simple(node, notes=locations))
    if locations and node.loc is not None:
        comment = f"# opaque, {node.loc}" if isinstance(node, Opaque) else f"# {node.loc}"
        lines[at] = f"{lines[at]:<{_COMMENT_COLUMN}}  {comment}"


def _branches(branches: tuple[Branch, ...], indent: str, lines: list[str], locations: bool) -> None:
    for branch in branches:
        only = _only(branch.body)
        if only is not None:
            _statement(only, f"{indent}{_name(branch.name)}: ", indent, lines, locations)
        else:
            lines.append(f"{indent}{_name(branch.name)}: {{")
            _region(branch.body, indent + "  ", lines, locations)
            lines.append(f"{indent}}}")


def _only(region: Region) -> Node | None:
    """The single node of a region that gives exactly its value; written without braces."""
    if len(region.nodes) == 1 and region.output == Ref(region.nodes[0].id):
        return region.nodes[0]
    return None


def _simple(node: Input | Lm | Python | Tool | Join | Opaque, *, notes: bool) -> str:
    match node:
        case Input():
            return f"input : {node.type}"
        case Lm():
            settings = "".join(f" {_name(s.name)}={print_value(s.value)}" for s in node.settings)
            text = f"lm {node.input} -> {node.type} {_args(node.args)}"
            if node.module:
                text += f" @{_name(node.module)}"
            if node.scope:
                text += f" scope @{_name(node.scope)}"
            text += settings
            if node.prefix is not None:
                text += f" prefix [{', '.join(_name(name) for name in node.prefix)}]"
            if notes and node.estimate is not None:
                text += f" estimate {_range(node.estimate.input)} -> {_range(node.estimate.output)}"
            return text
        case Python():
            words = ["python"]
            if node.awaits:
                words.append("await")
            if node.pure:
                words.append("pure")
            words += [_target(node.target), _args(node.args)]
            if node.expr is not None:
                words += ["expr", json_text(node.expr)]
            if node.source is not None:
                words += ["source", json_text(node.source)]
            if node.uses:
                words += ["uses", _variables(node.uses)]
            return f"{' '.join(words)} : {node.type}"
        case Tool():
            target = f" {_target(node.target)}" if node.target else ""
            return f"tool {_name(node.name)}{target} {_args(node.args)} : {node.type}"
        case Join():
            return f"join {node.form} {_args(node.args)} : {node.type}"
        case Opaque():
            text = f"opaque {_target(node.target)} {node.input} -> {node.type} {_args(node.args)}"
            if node.program:
                text += f" @{_name(node.program)}"
            if node.owns:
                text += f" owns [{', '.join(_name(name) for name in node.owns)}]"
            if node.uses:
                text += f" uses {_variables(node.uses)}"
            if notes and node.reason:
                text += f" because {json_text(node.reason)}"
            if notes and node.remedy:
                text += f" remedy {json_text(node.remedy)}"
            return text
