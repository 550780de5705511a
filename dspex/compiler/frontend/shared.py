"""Variables that are given to two modules and would silently become two."""

from __future__ import annotations

from typing import Any, cast

from dspex.errors import CompileError
from dspex.program.modules import Module
from dspex.program.program import Program
from dspex.program.tree import join
from dspex.program.variables import Var, place

__all__ = ["refuse_shared"]


def refuse_shared(program: Program[Any, Any]) -> None:
    """Refuses one Variable object in two modules when no program around them declares it.

    Raises:
        CompileError: DX2009.
    """
    seen: dict[int, tuple[int, str]] = {}
    for module in program.modules().values():
        for variable in _undeclared(module):
            # Copies of one module share its arguments.
            home, full = id(module.arguments), join(module.dx_node.path, variable.name)
            first = seen.setdefault(id(variable), (home, full))
            if first[0] != home:
                raise CompileError(
                    "DX2009",
                    f"one Variable is given to two modules and would become two: {first[1]} and {full}",
                    where=place(variable.at, variable.name),
                    fix="declare it in the class of the program that holds both modules, or write a second Variable",
                )


def _undeclared(module: Module[Any, Any]) -> list[Var[Any]]:
    owner = module.owner()
    declared = {} if owner is None else owner.dx_node.values
    given = [cast("Var[Any]", value) for value in module.arguments.values() if isinstance(value, Var)]
    return [variable for variable in given if variable.name and variable.name not in declared]
