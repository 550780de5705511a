"""Passes: pure functions from a graph to a graph, verified after each run.

A pass never changes what is sent to a model, nor whether a node that acts on the world runs: a program called directly
and its plan give the same outputs. What a pass has to know beyond the graph is a field of its dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from dspex.compiler.ir.nodes import Constant, Graph
from dspex.compiler.ir.verify import verify

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["PASS_NAMES", "Pass", "pipeline", "run_passes"]

PASS_NAMES: Final = ("inline", "types", "fold", "dead", "merge", "schedule", "layout", "order")
"""The passes of `compile`, in order."""


class Pass(Protocol):
    """A pure function from a graph to a graph, with a name."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> Graph: ...


def pipeline(
    *,
    schemas: Mapping[str, type[BaseModel]] | None = None,
    frozen: Mapping[str, Constant] | None = None,
    models: Mapping[str, str] | None = None,
    nearest: Collection[str] = (),
    order: tuple[str, ...] = (),
    computed: tuple[str, ...] = (),
) -> tuple[Pass, ...]:
    """Every pass of `compile`, in the order of `PASS_NAMES`. What is left out is not known, and never guessed.

    Args:
        schemas: The classes behind the graph's names of schemas.
        frozen: The value of every Variable that can have only this one, now and after any growth of a pool; of a
            selection, the name of its branch.
        models: By path of a module, a text that is equal for two modules exactly if they call the same model in the
            same way when their settings agree. Calls of a module that is missing are merged with none of another.
        nearest: Paths of the modules whose demonstrations may depend on the input under some configuration.
        order: Names of the Variables that are rows of the parameter table, in the order of the rows.
        computed: Names of the computed Variables, each after those that it depends on.
    """
    # Checking an artifact that is loaded takes one pass, and no time for the others.
    from dspex.compiler.passes.dead import RemoveDead
    from dspex.compiler.passes.fold import FoldFrozen
    from dspex.compiler.passes.inline import Inline
    from dspex.compiler.passes.layout import LayPrompts
    from dspex.compiler.passes.merge import MergeEqual
    from dspex.compiler.passes.order import OrderParameters
    from dspex.compiler.passes.schedule import Schedule
    from dspex.compiler.passes.types import InferTypes

    return (
        Inline(),
        InferTypes(schemas or {}),
        FoldFrozen(frozen or {}),
        RemoveDead(),
        MergeEqual(models or {}, schemas or {}),
        Schedule(schemas or {}),
        LayPrompts(schemas or {}, frozenset(nearest)),
        OrderParameters(order, computed),
    )


def run_passes(graph: Graph, passes: tuple[Pass, ...], *, seen: Callable[[str, Graph], None] | None = None) -> Graph:
    """`graph` after every pass, verified before the first and after each.

    Args:
        graph: What the front end gave.
        passes: The passes, in order.
        seen: Called with each pass's name and its result.

    Raises:
        CompileError: DX2081 when a pass breaks a rule of the graph; what the passes themselves refuse.
    """
    verify(graph)
    for step in passes:
        graph = verify(step.run(graph), after=step.name)
        if seen is not None:
            seen(step.name, graph)
    return graph
