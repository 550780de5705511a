"""Curves as SVG, by matplotlib."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Curve = tuple[list[float], list[float]]
"""x and y."""

COLOURS = ("#d62728", "#7f7f7f", "#2ca02c", "#1f77b4", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any, Any]:
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    # The same curves give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "dspex", "svg.fonttype": "none", "font.size": 8})
    plt: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return plt, figure, axes


def lines(
    file: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    across: str,
    up: str,
    log: str = "",
    columns: int = 2,
    size: tuple[float, float] = (4.2, 3.0),
) -> None:
    """One panel for each title, one line for each name; `log` holds "x", "y" or both."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    plt, figure, axes = _figure(rows, columns, (size[0] * columns, size[1] * rows + 0.4))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.set_axis_off()
            continue
        title, panel = list(panels.items())[place]
        for name, (x, y) in panel.items():
            marker = "o" if len(x) < 8 else None
            width = 2.0 if name == names[0] else 1.2
            axis.plot(x, y, label=name, color=colours[name], linewidth=width, marker=marker, markersize=3)
        axis.set_title(title)
        axis.set_xlabel(across)
        axis.set_ylabel(up)
        axis.grid(alpha=0.3)
        if "x" in log:
            axis.set_xscale("log")
        if "y" in log:
            axis.set_yscale("log")
    handles = [plt.Line2D([], [], color=colours[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(names), 6), frameon=False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
