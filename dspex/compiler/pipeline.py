"""What the passes have to know beyond the graph, read from the Variables and the models of a program."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dspex.compiler.ir.nodes import Constant, Graph, Lm, Variable, walk
from dspex.compiler.passes import Pass, pipeline, run_passes
from dspex.lm.model import LM
from dspex.program.demos import DemoSet
from dspex.program.variables import Float, Int, Prior, Text, Var

if TYPE_CHECKING:
    from dspex.compiler.code import Code
    from dspex.lm.model import LMLike
    from dspex.program.space import Space

__all__ = ["nearest_of", "passed", "passes_of"]


def passes_of(
    graph: Graph, schemas: Mapping[str, type[BaseModel]], space: Space, code: Code, order: tuple[str, ...]
) -> tuple[Pass, ...]:
    """Every pass of `compile` for one program.

    Args:
        graph: The program's graph, read or optimized before.
        schemas: The classes behind its names of schemas.
        space: Its Variables.
        code: Its models.
        order: Names of the Variables in the order of the parameter table's rows.
    """
    return pipeline(
        schemas=schemas,
        frozen=_frozen(space),
        models=_identities(graph, code.models),
        nearest=nearest_of(graph, space),
        order=order,
        computed=tuple(variable.name for variable in space.computed),
    )


def passed(
    graph: Graph, schemas: Mapping[str, type[BaseModel]], space: Space, code: Code, order: tuple[str, ...]
) -> Graph:
    """`graph` after every pass; see `passes_of`."""
    return run_passes(graph, passes_of(graph, schemas, space, code, order))


def nearest_of(graph: Graph, space: Space) -> frozenset[str]:
    """Paths of the modules whose demonstrations may depend on the input."""
    found: set[str] = set()
    for node in walk(graph.body):
        if isinstance(node, Lm):
            for setting in node.settings:
                if setting.name == "demos" and isinstance(setting.value, Variable):
                    variable = space.variables.get(setting.value.name)
                    if variable is None or not all(isinstance(source, DemoSet) for source in variable.options):
                        found.add(node.module)
    return frozenset(found)


def _frozen(space: Space) -> dict[str, Constant]:
    """The Variables that can have one value only, and that value."""
    result: dict[str, Constant] = {}
    for name, variable in space.variables.items():
        if _fixed(variable) and type(variable.default) in (str, int, float, bool, NoneType):
            result[name] = Constant.of(variable.default)
    return result


def _fixed(variable: Var[Any]) -> bool:
    if isinstance(variable, Text | Prior) or variable.kind in ("demos", "computed"):
        return False
    if isinstance(variable, Float | Int):
        return variable.lo == variable.hi
    return len(variable.options) == 1


def _identities(graph: Graph, models: Mapping[str, Mapping[str, LMLike]]) -> dict[str, str]:
    """Texts that are equal for modules whose settings mean equal models."""
    seen: list[LMLike] = []

    def number(model: LMLike) -> str:
        for place, other in enumerate(seen):
            if model is other or (isinstance(model, str | LM) and type(model) is type(other) and model == other):
                return str(place)
        seen.append(model)
        return str(len(seen) - 1)

    paths = dict.fromkeys(node.module for node in walk(graph.body) if isinstance(node, Lm))
    return {
        path: " ".join(f"{name}={number(model)}" for name, model in sorted(models.get(path, {}).items()))
        for path in paths
    }
