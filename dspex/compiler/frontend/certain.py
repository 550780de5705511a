"""Bodies that fail however they are run, told before a call is paid for.

Only what is certain is an error: a statement of the body itself that is reached in every run. Anything else that may
fail is left to the run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import return_type
from dspex.compiler.frontend.names import free_name, is_asynchronous
from dspex.compiler.frontend.source import Body
from dspex.compiler.frontend.structure import call_of, label
from dspex.compiler.frontend.symbols import Deferred, Inner, Symbolic, class_of
from dspex.errors import CompileError
from dspex.program.modules import Module
from dspex.program.program import Program

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["refuse_awaited", "refuse_definition", "refuse_ending", "refuse_pending", "refuse_synchronous"]

_PLAIN: Final = (str, int, float, bool, list, tuple, dict, set, frozenset, bytes, type(None))
_SYNCHRONOUS: Final = frozenset({"run", "batch"})
_GENERATOR: Final = 0x20 | 0x200
_COROUTINE: Final = 0x80 | 0x100


def own(tree: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[ast.AST]:
    """What stands in a function itself, and not in functions or classes inside it."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def refuse_definition(body: Body, program: Program[Any, Any]) -> None:
    """Refuses a body of which no run gives anything, whatever stands in it.

    Raises:
        CompileError: DX2012 for one without `return`, DX2013 for a generator.
    """
    code = body.function.__code__
    if code.co_flags & _GENERATOR and not code.co_flags & _COROUTINE:
        _fail(
            "DX2013",
            f"{label(program)} yields, so a call of it cannot be awaited",
            f"{body.file}:{body.tree.lineno}",
            f"collect what it yields, and return {_wanted(program)}(...)",
        )
    nodes = list(own(body.tree))
    if not any(isinstance(node, ast.Return | ast.Raise | ast.While | ast.Yield | ast.YieldFrom) for node in nodes):
        refuse_ending(body, program)


def refuse_ending(body: Body, program: Program[Any, Any], line: int | None = None) -> NoReturn:
    """Refuses a body whose end is reached without `return`, or a `return` without a value.

    Raises:
        CompileError: DX2012.
    """
    _fail(
        "DX2012",
        f"{label(program)} ends without returning a value; it declares {_wanted(program)}",
        f"{body.file}:{line or body.tree.body[-1].lineno}",
        f"end it with `return`, and an instance of {_wanted(program)}",
    )


def refuse_pending(interpreter: Interpreter, found: object, node: ast.Return) -> None:
    """Refuses a body that returns a call which nobody awaited.

    Raises:
        CompileError: DX2011.
    """
    if isinstance(found, Deferred) and interpreter.certain and _gives_awaitable(interpreter, node.value):
        text = "" if node.value is None else ast.unparse(node.value)
        _fail(
            "DX2011",
            f"{label(interpreter.inner.program)} returns a call that is never awaited",
            f"{interpreter.location(node)}  return {text}",
            f"await it: `return await {text}`",
        )


def refuse_awaited(interpreter: Interpreter, node: ast.Await) -> None:
    """Refuses to await what is surely a value.

    Raises:
        CompileError: DX2014.
    """
    if not interpreter.certain:
        return
    found = _awaited(interpreter, node.value)
    if found is not None:
        _fail(
            "DX2014",
            f"{label(interpreter.inner.program)} awaits {found}, which is no call to be awaited",
            f"{interpreter.location(node)}  {ast.unparse(node)}",
            _fix(node.value),
        )


def refuse_synchronous(interpreter: Interpreter) -> None:
    """Refuses a plain `def __call__` that surely returns something which cannot be awaited.

    Raises:
        CompileError: DX2013.
    """
    body = interpreter.body
    returned = [node for node in own(body.tree) if isinstance(node, ast.Return)]
    found = [None if node.value is None else _awaited(interpreter, node.value) for node in returned]
    if returned and all(found):
        _fail(
            "DX2013",
            f"{label(interpreter.inner.program)} is called with `await`, and its `def __call__` returns {found[0]}",
            f"{body.file}:{body.tree.lineno}",
            "write `async def __call__`, and await the calls of modules in it",
        )


def _fix(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SYNCHRONOUS:
        return f"call the program itself: `await {ast.unparse(node.func.value)}(...)`"
    return f"drop the `await`: `{ast.unparse(node)}`"


def _gives_awaitable(interpreter: Interpreter, node: ast.expr | None) -> bool:
    """Whether a call gives something to await; a program's `def __call__` may give anything."""
    if not isinstance(node, ast.Call):
        return not isinstance(node, ast.ListComp)
    callee = interpreter.resolve(node.func)
    if not isinstance(callee, Inner):
        return True
    call = call_of(type(callee.program))
    return call is call_of(Module) or is_asynchronous(call)


def _awaited(interpreter: Interpreter, node: ast.expr) -> str | None:
    """What `node` is, in words, when it surely cannot be awaited."""
    match node:
        case ast.Constant() | ast.JoinedStr():
            return "a text" if isinstance(node, ast.JoinedStr) else f"{node.value!r:.40}"
        case ast.List() | ast.Tuple() | ast.Dict() | ast.Set() | ast.ListComp() | ast.DictComp() | ast.SetComp():
            return "a container"
        case ast.Name() | ast.Attribute():
            found = interpreter.resolve(node)
            return _described(found.type) if isinstance(found, Symbolic) else None
        case ast.Call():
            return _called(interpreter, node)
        case _:
            return None


def _called(interpreter: Interpreter, node: ast.Call) -> str | None:
    func = node.func
    if isinstance(func, ast.Attribute) and func.attr in _SYNCHRONOUS:
        base = interpreter.resolve(func.value)
        if isinstance(base, Inner):
            mine = inspect.getattr_static(type(base.program), func.attr, None)
            if mine is inspect.getattr_static(Program, func.attr):
                return f"what {ast.unparse(func)} gives"
        return None
    if interpreter.resolve(func) is not None:
        return None
    target = free_name(interpreter.body, func, interpreter.names)
    if is_asynchronous(target):
        return None
    return _described(return_type(target))


def _described(kind: object) -> str | None:
    cls = class_of(kind)
    if cls is None or hasattr(cls, "__await__"):
        return None
    known = issubclass(cls, BaseModel) or cls in _PLAIN
    return f"an instance of {cls.__name__}" if known else None


def _wanted(program: Program[Any, Any]) -> str:
    return program.output_schema.__name__


def _fail(code: str, message: str, where: str, fix: str) -> NoReturn:
    raise CompileError(code, message, where=where, fix=fix)
