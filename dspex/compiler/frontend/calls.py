"""Calls in a body: of modules and programs, methods, tools, `asyncio.gather`, `dx.cond`, `dx.map`, plain functions."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from dspex.compiler.frontend import maps
from dspex.compiler.frontend.annotations import return_type
from dspex.compiler.frontend.decide import decided
from dspex.compiler.frontend.expressions import capture, fact_of
from dspex.compiler.frontend.facts import Facts
from dspex.compiler.frontend.names import MISSING, ambient, free_name, import_path, is_any, is_asynchronous, name_of
from dspex.compiler.frontend.records import constructed, copied
from dspex.compiler.frontend.source import read_body
from dspex.compiler.frontend.symbols import (
    ANY,
    Container,
    Deferred,
    Inner,
    Symbol,
    Symbolic,
    Tooled,
    class_of,
    describe,
)
from dspex.compiler.ir.nodes import Argument, Python, Ref, Tool
from dspex.program import flow
from dspex.program.operations import operation_of
from dspex.program.program import Program
from dspex.program.tools import Tool as ToolObject

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["MAP", "awaited", "called", "deferred", "own_method", "program_of", "spend"]

_AWAIT_DIRECTLY: Final = "await the module's call directly: `result = await self.module(x)`"
_GATHER: Final = "use plain `await asyncio.gather(self.a(x), self.b(x))`"
_COND: Final = "write `await dx.cond(test, self.a, self.b, x)` with two programs that this one owns"
MAP: Final = "write `await dx.map(self.module, xs)` with a program that this one owns and a list of inputs"
_MOST_METHODS: Final = 16


def awaited(body: Interpreter, node: ast.Await) -> Symbolic:
    """The result of an awaited call."""
    call = node.value
    if isinstance(call, ast.Name):
        known = body.names.get(call.id)
        if isinstance(known, Deferred) and not known.several:
            return spend(body, known, node)
    if not isinstance(call, ast.Call):
        raise body.unsupported("it awaits something other than a call", _AWAIT_DIRECTLY, node)
    return spend(body, deferred(body, call), node)


def spend(body: Interpreter, call: Deferred, node: ast.AST) -> Symbolic:
    """Awaits a call that was made before."""
    if call.spent:
        raise body.unsupported("a call is awaited twice", "keep its result in a name", node)
    if call.nodes is not body.nodes:
        raise body.unsupported("a call is awaited on a condition", "make the call where it is awaited", node)
    call.spent = True
    return call.make()


def deferred(body: Interpreter, call: ast.Call) -> Deferred:
    """The call with its arguments evaluated, before it is awaited."""
    callee = body.resolve(call.func)
    if isinstance(callee, Inner):
        return _module(body, callee, call)
    if isinstance(callee, Tooled):
        return _tool(body, callee.tool, call)
    if isinstance(callee, Container):
        raise body.unsupported(f"{describe(callee)} are called at once", _AWAIT_DIRECTLY, call)
    method = own_method(body, call.func)
    if method is not None:
        return _method(body, method, call)
    target = free_name(body.body, call.func, body.names)
    if target is asyncio.gather:
        return _gather(body, call)
    if target is flow.cond:
        return _cond(body, call)
    if target is flow.map:
        return maps.mapped(body, call)
    if type(target) is ToolObject:
        return _tool(body, target, call)
    names = body.snapshot()
    return body.defer(lambda: body.with_names(names, lambda: _python(body, call, target, awaits=True)), call)


def called(body: Interpreter, call: ast.Call) -> Symbol:
    """The value of a call without `await`; one that has to be awaited is deferred."""
    callee = body.resolve(call.func)
    if isinstance(callee, Inner | Tooled | Container) or own_method(body, call.func) is not None:
        return deferred(body, call)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "model_copy":
        copy = copied(body, call.func, call)
        if copy is not None:
            return copy
    target = free_name(body.body, call.func, body.names)
    if is_asynchronous(target) and not is_any(target, flow.cond, flow.map):
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        if any(isinstance(item, ast.Call) for value in values for item in ast.walk(value)):
            # They would run before the function that is called here begins.
            raise body.unsupported(
                f"{name_of(target)} is called without `await`", "await it, or compute its arguments first", call
            )
        return deferred(body, call)
    if is_any(target, asyncio.gather, flow.cond, flow.map) or type(target) is ToolObject:
        return deferred(body, call)
    made = class_of(target)
    if made is not None and issubclass(made, BaseModel):
        built = constructed(body, made, call)
        if built is not None:
            return built
    return _python(body, call, target, awaits=False)


def _involves_programs(body: Interpreter, node: ast.AST) -> bool:
    """Whether a program, module, tool or pending call stands somewhere in `node`."""
    for item in ast.walk(node):
        if isinstance(item, ast.Call):
            if own_method(body, item.func) is not None:
                return True
            target = free_name(body.body, item.func, body.names)
            if is_any(target, flow.cond, flow.map) or type(target) is ToolObject:
                return True
        if isinstance(item, ast.Name | ast.Attribute):
            found = body.resolve(item)
            if isinstance(found, Container | Tooled | Deferred) or (isinstance(found, Inner) and found.path):
                return True
            if isinstance(found, Inner) and found.program is not body.inner.program:
                return True
    return False


def _given(body: Interpreter, call: ast.Call) -> list[tuple[str | None, Symbolic]]:
    """The arguments of a call, each a value."""
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        raise body.unsupported("a call with * or **", "pass each argument", call)
    positional: list[tuple[str | None, Symbolic]] = [(None, body.value(arg)) for arg in call.args]
    return positional + [(keyword.arg, body.value(keyword.value)) for keyword in call.keywords]


def _module(body: Interpreter, callee: Inner, call: ast.Call) -> Deferred:
    if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
        raise body.unsupported(
            "a module called with anything but one positional value", "pass one schema: `await self.m(x)`", call
        )
    given = body.value(call.args[0])
    return body.defer(lambda: body.reader.call(body, callee, given, body.location(call)), call)


def _tool(body: Interpreter, tool: Any, call: ast.Call) -> Deferred:
    given = _given(body, call)

    def make() -> Symbolic:
        reader = body.reader
        kind = return_type(tool.function)
        args = tuple(Argument(name, item.value) for name, item in given)
        node = Tool(reader.fresh(), tool.name, tool.target, args, reader.type(kind))
        if not reader.functions.keep(node.target, tool):
            raise body.unsupported(f"two tools are named {node.target}", "define each at the top of a file", call)
        body.hand_over(item for _, item in given)
        return body.emit(node, call, kind)

    return body.defer(make, call)


def own_method(body: Interpreter, func: ast.expr) -> FunctionType | None:
    """The asynchronous method of the program itself, or of a class that it inherits from, that `func` names."""
    if not isinstance(func, ast.Attribute):
        return None
    if isinstance(func.value, ast.Call):
        return _inherited(body, func.value, func.attr)
    base = body.resolve(func.value) if isinstance(func.value, ast.Name | ast.Attribute | ast.Subscript) else None
    if not isinstance(base, Inner) or base.program is not body.inner.program or func.attr in vars(base.program):
        return None
    name = body.reader.mangled(body, func.attr)
    found = inspect.getattr_static(type(base.program), name, None)
    return found if isinstance(found, FunctionType) and is_asynchronous(found) else None


def _inherited(body: Interpreter, base: ast.Call, name: str) -> FunctionType | None:
    """The asynchronous method that ``super().name`` is."""
    if base.args or base.keywords or free_name(body.body, base.func, body.names) is not super:
        return None
    function = body.body.function
    closed: dict[str, CellType] = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    here = closed["__class__"].cell_contents if "__class__" in closed else None
    mro = type(body.inner.program).__mro__
    if here not in mro:
        return None
    for cls in mro[mro.index(cast("type[Any]", here)) + 1 :]:
        found = vars(cls).get(name)
        if found is not None:
            theirs = cls.__module__.partition(".")[0] == "dspex"
            return found if isinstance(found, FunctionType) and is_asynchronous(found) and not theirs else None
    return None


def _method(body: Interpreter, method: FunctionType, call: ast.Call) -> Deferred:
    """Inlines an asynchronous method: its body is read with this program as `self`."""
    if body.depth >= _MOST_METHODS:
        raise body.unsupported(f"{method.__name__} calls itself", "write the steps out", call)
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        raise body.unsupported("a call with * or **", "pass each argument", call)
    source = read_body(method)
    given = tuple(_argument(body, arg) for arg in call.args)
    named = {cast("str", k.arg): _argument(body, k.value) for k in call.keywords}

    def make() -> Symbolic:
        inner = type(body)(body.reader, body.inner, source, body.nodes, body.depth + 1)
        if not isinstance(source.tree, ast.AsyncFunctionDef):
            raise body.unsupported(f"{method.__name__} is not an `async def`", "write it as one", call)
        inner.bind((body.inner, *given), named)
        return inner.whole() or body.literal(None)

    return body.defer(make, call)


def _argument(body: Interpreter, node: ast.expr) -> Symbol:
    """What a method is given: a value, or one of the programs."""
    found = body.evaluate(node)
    return found if isinstance(found, Inner | Container | Tooled) else body.settled(found, node)


# --- combinators ----------------------------------------------------------------------------------


def _gather(body: Interpreter, call: ast.Call) -> Deferred:
    if not _involves_programs(body, call):
        names = body.snapshot()
        return body.defer(lambda: body.with_names(names, lambda: _gathered_plainly(body, call)), call)
    if call.keywords:
        raise body.unsupported(
            f"asyncio.gather with {call.keywords[0].arg or '**'}=",
            f"{_GATHER}; handle errors outside, or use dx.fallback",
            call,
        )
    if len(call.args) == 1 and isinstance(call.args[0], ast.Starred):
        return maps.gathered(body, call.args[0].value, call)
    pending: list[Deferred] = []
    for arg in call.args:
        if isinstance(arg, ast.Starred):
            raise body.unsupported(
                "asyncio.gather over a list of calls beside others", f"{_GATHER}, or gather the list alone", arg
            )
        known = body.names.get(arg.id) if isinstance(arg, ast.Name) else None
        if isinstance(known, Deferred) and not known.several:
            pending.append(known)
        elif isinstance(arg, ast.Call):
            pending.append(deferred(body, arg))
        else:
            raise body.unsupported("asyncio.gather of something other than calls", _GATHER, arg)

    def make() -> Symbolic:
        return maps.together(body, [lambda item=item: spend(body, item, call) for item in pending], call)

    return body.defer(make, call)


def _gathered_plainly(body: Interpreter, call: ast.Call) -> Symbolic:
    """Plain asynchronous functions that run together stay together: one node."""
    made = capture(body, ast.copy_location(ast.Await(call), call), outer=call)
    if call.keywords or any(isinstance(arg, ast.Starred) for arg in call.args) or not isinstance(made.value, Ref):
        return made
    kinds: list[object] = []
    for arg in call.args:
        target = free_name(body.body, arg.func, body.names) if isinstance(arg, ast.Call) else MISSING
        kinds.append(ANY if target is MISSING else return_type(target))
    number = made.value.node
    parts = tuple(Symbolic(Ref(number, (at,)), kind, name="result") for at, kind in enumerate(kinds))
    return replace(made, parts=parts, type=list)


def program_of(body: Interpreter, node: ast.expr, remedy: str) -> Inner:
    """The program that an argument names."""
    found = body.evaluate(node)
    if not isinstance(found, Inner):
        raise body.unsupported("a program is chosen by a value", remedy, node)
    return found


def _cond(body: Interpreter, call: ast.Call) -> Deferred:
    if len(call.args) != 4 or call.keywords or any(isinstance(arg, ast.Starred) for arg in call.args):
        raise body.unsupported("dx.cond with other arguments than four", _COND, call)
    truth = decided(body, call.args[0])
    test = None if truth is not None else body.value(call.args[0])
    then, otherwise = (program_of(body, arg, _COND) for arg in call.args[1:3])
    given = body.value(call.args[3])
    at = body.location(call)

    def run(program: Inner) -> Callable[[], Symbolic]:
        return lambda: body.reader.call(body, program, given, at)

    def make() -> Symbolic:
        if test is None:
            return run(then if truth else otherwise)()
        return body.choice(test, run(then), run(otherwise), call)

    return body.defer(make, call)


# --- plain Python ---------------------------------------------------------------------------------


def _python(body: Interpreter, call: ast.Call, target: object, *, awaits: bool) -> Symbolic:
    """A plain function called with plain values, by name; anything else is an expression."""
    reason = ambient(target)
    if reason is not None:
        raise body.unsupported(f"it reads {reason}", "read it before the program is called, and pass it in", call)
    named = import_path(target) if is_asynchronous(target) == awaits and not issubclass(type(target), Program) else None
    operation = operation_of(target) if isinstance(target, FunctionType) else None
    starred = any(isinstance(arg, ast.Starred) for arg in call.args)
    if named is not None and all(k.arg for k in call.keywords) and not starred and name_of(target) not in _BY_NAME:
        given = [(None, arg) for arg in call.args] + [(k.arg, k.value) for k in call.keywords]
        # What @dx.op marks is a step of its own, so its arguments are computed in others.
        found = [(name, body.evaluate(arg) if operation else body.resolve(arg)) for name, arg in given]
        settled = [(name, body.settled(item, call)) for name, item in found if item is not None and _is_value(item)]
        if len(settled) == len(given):
            return _direct(body, call, target, named, settled, awaits=awaits)
    expression = ast.copy_location(ast.Await(call), call) if awaits else call
    return capture(body, expression, outer=call if awaits else None)


_BY_NAME: Final = frozenset(
    {"super", "locals", "globals", "vars", "exec", "eval", "next", "setattr", "delattr", "input"}
)
"""Built-in functions about which expressions have rules of their own."""


def _is_value(item: Symbol) -> bool:
    return not isinstance(item, Inner | Container | Tooled | Deferred)


def _direct(
    body: Interpreter,
    call: ast.Call,
    target: object,
    named: str,
    given: list[tuple[str | None, Symbolic]],
    *,
    awaits: bool,
) -> Symbolic:
    reader = body.reader
    # The same question that is asked of an expression, with the arguments as its captured names.
    names = {f"a{at}": fact_of(item) for at, (_, item) in enumerate(given)}
    tree = ast.Call(
        call.func,
        [ast.Name(f"a{at}", ast.Load()) for at, (name, _) in enumerate(given) if name is None],
        [ast.keyword(name, ast.Name(f"a{at}", ast.Load())) for at, (name, _) in enumerate(given) if name is not None],
    )
    fact = Facts(names, lambda node: free_name(body.body, node, body.names)).of(tree)
    operation = operation_of(target) if isinstance(target, FunctionType) else None
    pure = operation.pure if operation is not None else fact.pure and not awaits
    args = tuple(Argument(name, item.value) for name, item in given)
    node = Python(reader.fresh(), named, args, reader.type(fact.type), awaits=awaits, pure=pure)
    reader.functions.keep(node.key, target)
    if not pure:
        body.hand_over(item for _, item in given)
    return replace(body.emit(node, call, fact.type), plain=fact.plain)
