"""Passes: pure functions from a graph to a graph, verified after each run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dspex.compiler.ir.nodes import Graph
from dspex.compiler.ir.verify import verify
from dspex.compiler.passes.dead import RemoveDead
from dspex.compiler.passes.inline import Inline

__all__ = ["PIPELINE", "Pass", "run_passes"]


class Pass(Protocol):
    """A pure function from a graph to a graph, with a name."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> Graph: ...


PIPELINE: Final[tuple[Pass, ...]] = (Inline(), RemoveDead())
"""Every pass of `compile`, in order."""


def run_passes(
    graph: Graph, pipeline: tuple[Pass, ...] = PIPELINE, *, seen: Callable[[str, Graph], None] | None = None
) -> Graph:
    """`graph` after every pass, verified before the first and after each.

    Args:
        graph: What the front end gave.
        pipeline: The passes, in order.
        seen: Called with each pass's name and its result.

    Raises:
        CompileError: DX2081 when a pass breaks a rule of the graph.
    """
    verify(graph)
    for step in pipeline:
        graph = verify(step.run(graph), after=step.name)
        if seen is not None:
            seen(step.name, graph)
    return graph
