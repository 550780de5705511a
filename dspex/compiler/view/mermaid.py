"""A graph as a Mermaid flowchart, for Markdown pages and whatever else draws Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dspex.compiler.ir.nodes import Graph
from dspex.compiler.view.diagram import OUTPUT, Part, boxes, diagram

__all__ = ["mermaid"]

_SHAPES = {
    "input": ('(["', '"])'),
    "output": ('(["', '"])'),
    "lm": ('["', '"]'),
    "python": ('[/"', '"/]'),
    "tool": ('[["', '"]]'),
    "join": ('("', '")'),
    "opaque": ('{{"', '"}}'),
}
_SPECIAL = re.compile(r"[^\w .,:;()$%@=+*→…-]|_{2,}")


def mermaid(graph: Graph, config: Mapping[str, object] | None = None) -> str:
    """The flowchart of `graph`; branches that the configuration `config` does not run are dashed."""
    whole = diagram(graph, config)
    off: list[str] = []
    lines = ["flowchart TD", *_lines(whole, "  ", off)]
    lines.append("  classDef lm stroke-width:2px")
    lines.append("  classDef opaque stroke-dasharray:2 2")
    lines.append("  classDef off stroke-dasharray:4 4,opacity:0.6")
    lm = [_name(box.number) for box in boxes(whole) if box.kind == "lm"]
    opaque = [_name(box.number) for box in boxes(whole) if box.kind == "opaque"]
    lines += [
        f"  class {','.join(names)} {kind}" for kind, names in (("lm", lm), ("opaque", opaque), ("off", off)) if names
    ]
    return "\n".join(lines) + "\n"


def _name(number: int) -> str:
    return "result" if number == OUTPUT else f"n{number}"


def _text(text: str) -> str:
    # Entity codes are the one escape that every label of Mermaid knows.
    return _SPECIAL.sub(lambda match: "".join(f"#{ord(char)};" for char in match[0]), text)


def _lines(part: Part, indent: str, off: list[str]) -> Iterator[str]:
    for box in part.boxes:
        name, label = _name(box.number), "<br/>".join(_text(line) for line in box.lines)
        if not box.parts:
            before, after = _SHAPES.get(box.kind, ('["', '"]'))
            yield f"{indent}{name}{before}{label}{after}"
            continue
        yield f'{indent}subgraph {name} ["{label}"]'
        for place, inner in enumerate(box.parts):
            inside = f"{name}b{place}"
            yield f'{indent}  subgraph {inside} ["{_text(inner.label) or " "}"]'
            yield from _lines(inner, indent + "    ", off)
            if not inner.boxes:
                # A part without a box is no subgraph; it gives a value of the outside.
                yield f'{indent}    {inside}v(("·"))'
            yield f"{indent}  end"
            if inner.chosen is False:
                off.append(inside)
        yield f"{indent}end"
    for arrow in part.arrows:
        line = "-.->" if arrow.order else "-->"
        yield f"{indent}{_name(arrow.source)} {line} {_name(arrow.target)}"
