"""Binding a configuration to a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dspex.program.program import Program
from dspex.program.variables import Demos, Text

__all__ = ["bound_program", "grown_pools", "same_pools"]

P = TypeVar("P", bound=Program[Any, Any])


def bound_program(program: P, config: Mapping[str, object]) -> P:
    """`program` with `config` bound; names that it lacks keep their values."""
    return program.bind(config) if config else program


def same_pools(before: Program[Any, Any], after: Program[Any, Any]) -> bool:
    """Whether two bindings of one program have the same Text and Demos pools."""
    old, new = before.variables(), after.variables()
    return old.keys() == new.keys() and all(
        variable is new[name] or variable.options == new[name].options
        for name, variable in old.items()
        if isinstance(variable, Text | Demos)
    )


def grown_pools(program: Program[Any, Any], pools: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Those of `pools` that hold members which the program's own pools lack, with the missing members."""
    known = program.variables()
    missing: dict[str, tuple[object, ...]] = {}
    for name, members in pools.items():
        own = known[name].options if name in known else ()
        fresh = tuple(member for member in members if member not in own)
        if fresh:
            missing[name] = fresh
    return missing
