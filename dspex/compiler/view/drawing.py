"""A graph as SVG: boxes in layers, each below what it reads, regions inside the box of their node.

Layers are longest paths; an arrow over several layers keeps a lane free in each of them; within a layer boxes stand by
the mean place of what they read. Source: Sugiyama, Tagawa & Toda (1981), with one sweep of the barycentre method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from dspex.compiler.ir.nodes import Graph
from dspex.compiler.view.diagram import Box, Part, diagram

__all__ = ["LARGEST", "drawing"]

LARGEST = 400
"""Nodes of the largest graph that is drawn; nobody can read a larger drawing."""

_CHAR, _LINE = 7.3, 17.0
_PAD, _GAP, _LAYER, _LANE = 10.0, 22.0, 34.0, 16.0
_HEAD = 30.0


@dataclass
class _Placed:
    """Something with a place: a box, or a lane that an arrow takes through a layer."""

    width: float
    height: float
    box: Box | None = None
    inner: list[_Panel] = field(default_factory=list["_Panel"])
    x: float = 0.0
    y: float = 0.0


@dataclass
class _Panel:
    """A part laid out: its items and arrows, relative to its own corner."""

    part: Part
    items: list[_Placed]
    paths: list[tuple[list[_Placed], bool]]
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0


def drawing(graph: Graph, config: Mapping[str, object] | None = None) -> str:
    """The ``<svg>`` of `graph`; it takes its colours from the page's style (`PALETTE` in `page`)."""
    panel = _laid(diagram(graph, config))
    width, height = panel.width + 2 * _PAD, panel.height + 2 * _PAD
    out: list[str] = []
    _draw(panel, _PAD, _PAD, out)
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="graph of {escape(graph.name)}">'
        '<defs><marker id="dx-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>' + "".join(out) + "</svg>"
    )


# --- placing ------------------------------------------------------------------------------------


def _laid(part: Part) -> _Panel:
    places = {box.number: _sized(box) for box in part.boxes}
    layer: dict[int, int] = {}
    before: dict[int, list[int]] = {}
    for arrow in part.arrows:
        before.setdefault(arrow.target, []).append(arrow.source)
    for box in part.boxes:
        # Boxes stand in source order, so that what one reads has its layer already.
        layer[box.number] = max(
            (layer[source] + 1 for source in before.get(box.number, ()) if source in layer), default=0
        )
    layers: list[list[_Placed]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for box in part.boxes:
        layers[layer[box.number]].append(places[box.number])
    paths: list[tuple[list[_Placed], bool]] = []
    above: dict[int, list[_Placed]] = {}
    for arrow in part.arrows:
        if arrow.source not in layer or arrow.target not in layer:
            continue
        path = [places[arrow.source]]
        for number in range(layer[arrow.source] + 1, layer[arrow.target]):
            lane = _Placed(_LANE, 0.0)
            above[id(lane)] = [path[-1]]
            layers[number].append(lane)
            path.append(lane)
        target = places[arrow.target]
        above.setdefault(id(target), []).append(path[-1])
        paths.append(([*path, target], arrow.order))
    height = 0.0
    for row in layers:
        _line_up(row, above)
        tall = max((item.height for item in row), default=0.0)
        for item in row:
            item.y = height
            if item.box is None:
                item.height = tall
        height += tall + _LAYER
    items = [item for row in layers for item in row]
    left = min((item.x for item in items), default=0.0)
    for item in items:
        item.x -= left
    width = max((item.x + item.width for item in items), default=0.0)
    return _Panel(part, items, paths, width, max(0.0, height - _LAYER))


def _line_up(row: list[_Placed], above: Mapping[int, list[_Placed]]) -> None:
    """Give the items of a layer their places, each near the middle of what it reads."""

    def wanted(item: _Placed) -> float:
        sources = above.get(id(item))
        if not sources:
            return 0.0
        return sum(source.x + source.width / 2 for source in sources) / len(sources)

    goals = {id(item): wanted(item) for item in row}
    row.sort(key=lambda item: goals[id(item)])
    edge = float("-inf")
    for item in row:
        item.x = max(goals[id(item)] - item.width / 2, edge)
        edge = item.x + item.width + _GAP
    if row:
        # Pushed to the right only, the layer as a whole goes back to where it wants to be.
        shift = sum(item.x + item.width / 2 - goals[id(item)] for item in row) / len(row)
        for item in row:
            item.x -= shift


def _sized(box: Box) -> _Placed:
    width = max(len(line) for line in box.lines) * _CHAR + 2 * _PAD
    height = len(box.lines) * _LINE + _PAD
    if not box.parts:
        return _Placed(width, height, box)
    panels = [_laid(part) for part in box.parts]
    x, tall = _PAD, 0.0
    for panel in panels:
        panel.x, panel.y = x + _PAD, height + _HEAD
        panel.width = max(panel.width, len(panel.part.label) * _CHAR + _PAD)
        tall = max(tall, panel.height)
        x += panel.width + 3 * _PAD
    return _Placed(max(width, x), height + _HEAD + tall + 2 * _PAD, box, panels)


# --- drawing ------------------------------------------------------------------------------------


def _draw(panel: _Panel, x: float, y: float, out: list[str]) -> None:
    for path, order in panel.paths:
        out.append(_arrow(path, order, x, y))
    for item in panel.items:
        if item.box is not None:
            _draw_box(item, item.box, x + item.x, y + item.y, out)


def _arrow(path: list[_Placed], order: bool, x: float, y: float) -> str:
    first, last = path[0], path[-1]
    at_x, at_y = x + first.x + first.width / 2, y + first.y + first.height
    steps = [f"M{at_x:.1f} {at_y:.1f}"]
    for item in path[1:]:
        to_x, to_y = x + item.x + item.width / 2, y + item.y - (2 if item is last else 0)
        middle = (at_y + to_y) / 2
        steps.append(f"C{at_x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        at_x, at_y = to_x, to_y
        if item is not last:
            at_y += item.height
            steps.append(f"L{at_x:.1f} {at_y:.1f}")
    return f'<path class="arrow{" order" if order else ""}" d="{"".join(steps)}" marker-end="url(#dx-tip)"/>'


def _draw_box(item: _Placed, box: Box, x: float, y: float, out: list[str]) -> None:
    round_corner = 14 if box.kind in ("input", "output") else 5
    out.append(
        f'<rect class="box {box.kind}" x="{x:.1f}" y="{y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}" '
        f'rx="{round_corner}"/>'
    )
    for number, line in enumerate(box.lines):
        style = "name" if number == 0 else "more"
        out.append(f'<text class="{style}" x="{x + _PAD:.1f}" y="{y + _LINE * (number + 1):.1f}">{escape(line)}</text>')
    for panel in item.inner:
        left, top = x + panel.x - _PAD, y + panel.y - _HEAD + _PAD / 2
        off = " off" if panel.part.chosen is False else ""
        tall = item.height - panel.y + _HEAD - 1.5 * _PAD
        out.append(f'<g class="part{off}">')
        out.append(
            f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{panel.width + 2 * _PAD:.1f}" '
            f'height="{tall:.1f}" rx="4"/>'
        )
        out.append(f'<text class="label" x="{left + 6:.1f}" y="{top + 14:.1f}">{escape(panel.part.label)}</text>')
        _draw(panel, x + panel.x, y + panel.y, out)
        out.append("</g>")
