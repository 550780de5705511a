"""What global, closed-over and built-in names stand for, looked up without running anything."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Container
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from dspex.compiler.frontend.source import Body

__all__ = ["MISSING", "ambient", "free_name", "import_path", "is_any", "is_asynchronous", "is_standard", "name_of"]

MISSING: Final = object()

# Language-model calls are ordered by data alone, so a clock read beside one would measure nothing.
_CLOCKS: Final = frozenset(
    {
        *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
        *("now", "utcnow", "today"),
    }
)
_COROUTINE: Final = 0x80 | 0x100


def free_name(body: Body, node: ast.expr, taken: Container[str] = ()) -> object:
    """The object that a global, closed-over or built-in name stands for; `MISSING` for anything else.

    Attributes are followed through modules and classes only, where reading one runs no user code.

    Args:
        body: The function in which the name stands.
        node: A name, or attributes of one.
        taken: Names that mean something else.
    """
    if isinstance(node, ast.Name):
        function = body.function
        code = function.__code__
        if node.id in taken:
            return MISSING
        if node.id in code.co_freevars:
            cell = (function.__closure__ or ())[code.co_freevars.index(node.id)]
            try:
                return cell.cell_contents
            except ValueError:
                return MISSING
        return body.names.get(node.id, vars(builtins).get(node.id, MISSING))
    if isinstance(node, ast.Attribute):
        base = free_name(body, node.value, taken)
        if isinstance(base, ModuleType):
            found = vars(base).get(node.attr, MISSING)
            if found is MISSING and base.__name__ == "dspex":
                # Its public names are loaded when they are first read; other modules' own rules are not run.
                found = getattr(base, node.attr, MISSING)
            return found
        if isinstance(base, type):
            for cls in base.__mro__:
                if node.attr in vars(cls):
                    found = vars(cls)[node.attr]
                    if isinstance(found, staticmethod | classmethod):
                        return cast("Any", found).__func__
                    return found
    return MISSING


def is_any(target: object, *known: object) -> bool:
    """Whether `target` is one of the objects `known`; it is not asked what it is equal to."""
    return any(target is item for item in known)


def name_of(target: object) -> str:
    """The name of a function or class; empty for any other object, whose attributes are its own affair."""
    if isinstance(target, FunctionType | BuiltinFunctionType | type | MethodType):
        return target.__name__
    return ""


def _module(target: object) -> str:
    if isinstance(target, FunctionType | BuiltinFunctionType | type):
        module: Any = target.__module__
        return module if isinstance(module, str) else ""
    return ""


def is_asynchronous(target: object) -> bool:
    """Whether a call of `target` gives something to await."""
    return isinstance(target, FunctionType) and bool(target.__code__.co_flags & _COROUTINE)


def is_standard(target: object) -> bool:
    """Whether it is a function or class of Python's own that the front end knows by name."""
    return _module(target).split(".")[0] in ("builtins", "asyncio")


def ambient(target: object) -> str | None:
    """What state of the world a function reads that the order of nodes does not keep."""
    name = name_of(target)
    if name in _CLOCKS and _module(target) in ("time", "datetime"):
        return "the clock"
    # Class methods of `datetime` are bound to, or described by, their class.
    kind: Any = getattr(target, "__objclass__", None) if type(target).__module__ == "builtins" else None
    if kind is None and isinstance(target, BuiltinFunctionType):
        kind = target.__self__
    if isinstance(kind, type) and kind.__module__ == "datetime":
        word: object = getattr(target, "__name__", "")
        return "the clock" if word in _CLOCKS else None
    return None


def import_path(target: object) -> str | None:
    """``module:qualname`` of something that can be imported by that name and is that very object."""
    if not isinstance(target, FunctionType | BuiltinFunctionType | type):
        return None
    module, name = _module(target), target.__qualname__
    found: Any = sys.modules.get(module, MISSING)
    if not isinstance(found, ModuleType):
        return None
    for step in name.split("."):
        if not isinstance(found, ModuleType | type):
            return None
        found = vars(found).get(step, MISSING)
    return f"{module}:{name}" if found is target else None
