"""Interprets the body of a program symbolically: statements in, nodes out. Nothing is run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import field_types, return_type, schema_named
from dspex.compiler.frontend.expressions import MISSING, ambient, capture, free_name
from dspex.compiler.frontend.source import Body, Unsupported, read_body
from dspex.compiler.frontend.symbols import ANY, Container, Inner, Symbol, Symbolic, class_of, describe
from dspex.compiler.ir.nodes import (
    Argument,
    Constant,
    Join,
    JoinForm,
    Location,
    Node,
    Python,
    Ref,
    Region,
)
from dspex.errors import CompileError

if TYPE_CHECKING:
    from dspex.compiler.frontend.reader import Reader

__all__ = ["Interpreter"]

_STATEMENTS: Final[dict[type[ast.stmt], tuple[str, str]]] = {
    ast.If: ("an `if` on a value", "choose between modules with dx.select, or move the choice into a plain function"),
    ast.For: ("a `for` loop", "write the loop as a comprehension without module calls, or a plain function"),
    ast.AsyncFor: ("an `async for` loop", "collect the items before the program is called"),
    ast.While: ("a `while` loop", "unroll the steps, or keep the loop in a program of its own"),
    ast.Try: ("a `try` statement", "let the error leave the program, and handle it where the program is called"),
    ast.TryStar: ("a `try` statement", "let the error leave the program, and handle it where the program is called"),
    ast.With: ("a `with` statement", "move it into a plain function that returns what the program needs"),
    ast.AsyncWith: ("an `async with` statement", "use asyncio.gather for calls that run together"),
    ast.Match: ("a `match` statement", "choose with dx.select, or move the choice into a plain function"),
    ast.AugAssign: ("an assignment in place", "write `a = a + b` with a plain name"),
    ast.Assert: ("an `assert`", "validate in the schema, or in a plain function"),
    ast.Raise: ("a `raise`", "validate in the schema, or in a plain function"),
    ast.Delete: ("a `del`", "drop it; values need no clean-up"),
    ast.Import: ("an `import` inside the body", "import at the top of the file"),
    ast.ImportFrom: ("an `import` inside the body", "import at the top of the file"),
    ast.Global: ("a `global` statement", "pass the value as a field or keep it in a plain function"),
    ast.Nonlocal: ("a `nonlocal` statement", "pass the value as a field or keep it in a plain function"),
    ast.FunctionDef: ("a function defined inside the body", "define it at the top of the file"),
    ast.AsyncFunctionDef: ("a function defined inside the body", "define it at the top of the file"),
    ast.ClassDef: ("a class defined inside the body", "define it at the top of the file"),
}
_AWAIT_DIRECTLY: Final = "await the module's call directly: `result = await self.module(x)`"
_GATHER: Final = "use plain `await asyncio.gather(self.a(x), self.b(x))`"
_MAX_METHODS: Final = 16


class Interpreter:
    """One body being read: the names in scope and the nodes so far."""

    def __init__(self, reader: Reader, inner: Inner, body: Body, nodes: list[Node], methods: int = 0) -> None:
        self.reader = reader
        self.inner = inner
        self.body = body
        self.nodes = nodes
        self.names: dict[str, Symbol] = {}
        self._methods = methods

    # --- statements -----------------------------------------------------------------------------

    def run(self, given: Symbolic) -> Symbolic:
        """What the body returns for `given`; its nodes are appended.

        Raises:
            Unsupported: The body has a construct that is not understood.
            CompileError: The body is wrong however it is read.
        """
        if not isinstance(self.body.tree, ast.AsyncFunctionDef):
            raise Unsupported("its body is not an `async def`", "write `async def __call__(self, x, /)`")
        self._bind((Inner(self.inner.program, self.inner.path), given), {})
        return self.statements(self.body.tree.body)

    def _bind(self, given: tuple[Symbol, ...], named: dict[str, Symbol]) -> None:
        """Names the arguments as Python would."""
        args = self.body.tree.args
        if args.vararg is not None or args.kwarg is not None:
            raise Unsupported("its body takes *args or **kwargs", "take one schema, positionally")
        positional = [a.arg for a in (*args.posonlyargs, *args.args)]
        by_name = {a.arg for a in (*args.args, *args.kwonlyargs)}
        if len(given) > len(positional) or not named.keys() <= by_name:
            name = self.body.tree.name
            raise Unsupported(f"{name} is called with arguments that it does not take", "correct the call")
        self.names.update(zip(positional, given, strict=False))
        self.names.update(named)
        defaults = dict(zip(reversed(positional), reversed(args.defaults), strict=False))
        defaults.update((a.arg, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None)
        for name in (*positional, *(a.arg for a in args.kwonlyargs)):
            if name not in self.names:
                default = defaults.get(name)
                if not isinstance(default, ast.Constant):
                    raise Unsupported(f"its parameter {name!r} has no plain default", "take one schema, positionally")
                self.names[name] = self._constant(default)

    def statements(self, body: list[ast.stmt]) -> Symbolic:
        for statement in body:
            match statement:
                case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                    continue
                case ast.Return():
                    return self._returned(statement)
                case ast.Assign():
                    value = self.evaluate(statement.value)
                    for target in statement.targets:
                        self._assign(target, value)
                case ast.AnnAssign(value=ast.expr() as given):
                    self._assign(statement.target, self.evaluate(given))
                case ast.Expr(value=ast.Await() as awaited):
                    self.awaited(awaited)
                case ast.Expr():
                    raise self.unsupported(
                        "a statement that only has an effect",
                        "move it into a plain function whose value the program uses",
                        statement,
                    )
                case _:
                    reason, remedy = _STATEMENTS.get(
                        type(statement), (f"a `{type(statement).__name__}` statement", "move it into a plain function")
                    )
                    raise self.unsupported(reason, remedy, statement)
        raise Unsupported("its body does not end with `return`", "return the output schema", self.body.tree.lineno)

    def _returned(self, statement: ast.Return) -> Symbolic:
        if statement.value is None:
            raise self.unsupported("a `return` without a value", "return the output schema", statement)
        value = self.evaluate(statement.value)
        if not isinstance(value, Symbolic):
            raise self.unsupported(f"it returns {describe(value)}", "await it and return the result", statement)
        return value

    def _assign(self, target: ast.expr, value: Symbol) -> None:
        match target:
            case ast.Name():
                self.names[target.id] = _named(value, target.id)
            case ast.Tuple() | ast.List():
                if any(isinstance(item, ast.Starred) for item in target.elts):
                    raise self.unsupported("unpacking with `*`", "unpack to plain names", target)
                if not isinstance(value, Symbolic):
                    raise self.unsupported(f"unpacking of {describe(value)}", "name each module", target)
                parts = value.parts
                if parts is None:
                    raise self.unsupported("unpacking of a value of unknown length", "read its items by index", target)
                if len(parts) != len(target.elts):
                    raise self.unsupported(
                        f"{len(parts)} values are unpacked to {len(target.elts)} names", "name every value", target
                    )
                for item, part in zip(target.elts, parts, strict=True):
                    self._assign(item, part)
            case ast.Attribute():
                raise self.unsupported(
                    "an assignment to an attribute", "programs are immutable: keep the value in a local name", target
                )
            case _:
                remedy = "make a new value with model_copy(update=...)"
                raise self.unsupported("an assignment to an item", remedy, target)

    # --- expressions ----------------------------------------------------------------------------

    def evaluate(self, node: ast.expr) -> Symbol:
        """The value of an expression; what is not understood natively becomes one python node."""
        quiet = self.resolve(node)
        if quiet is not None:
            return quiet
        match node:
            case ast.Await():
                return self.awaited(node)
            case ast.Call():
                return self._called(node)
            case ast.Attribute() | ast.Subscript() if _holds_await(node.value):
                # The base is a call's result: it becomes a node first, then a field or item of it.
                base = self.evaluate(node.value)
                step = self._step(base, node)
                if step is not None:
                    return step
            case ast.Tuple() | ast.List() if not any(isinstance(item, ast.Starred) for item in node.elts):
                items = [self.value(item) for item in node.elts]
                return self._joined("list" if isinstance(node, ast.List) else "tuple", items, node)
            case ast.Dict() if all(isinstance(k, ast.Constant) and isinstance(k.value, str) for k in node.keys):
                keys = [cast("str", cast("ast.Constant", key).value) for key in node.keys]
                if len(set(keys)) == len(keys):
                    args = tuple(Argument(k, self.value(v).value) for k, v in zip(keys, node.values, strict=True))
                    return self.emit(Join(self.reader.fresh(), "dict", args, self.reader.type(dict)), node, dict)
            case _:
                pass
        return capture(self, node)

    def value(self, node: ast.expr) -> Symbolic:
        """`evaluate`, for places where a program or module makes no sense."""
        found = self.evaluate(node)
        if not isinstance(found, Symbolic):
            raise self.unsupported(f"{describe(found)} is used as a value", "call it: `await self.module(x)`", node)
        return found

    def resolve(self, node: ast.expr) -> Symbol | None:
        """The meaning of a name, field, item or constant without making a node; None for anything else."""
        match node:
            case ast.Constant():
                return self._constant(node) if _plain(node.value) else None
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return self._literal(-number)
            case ast.Name():
                return self.names.get(node.id)
            case ast.Attribute() | ast.Subscript():
                base = self.resolve(node.value)
                return None if base is None else self._step(base, node)
            case _:
                return None

    def _step(self, base: Symbol, node: ast.Attribute | ast.Subscript) -> Symbol | None:
        """A field, attribute or item of `base`; None when only Python can say."""
        if isinstance(node, ast.Attribute):
            match base:
                case Inner():
                    return self.reader.attribute(self, base, node.attr, node)
                case Symbolic():
                    return self._field(base, node)
                case Container():
                    return None
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        match base:
            case Container():
                if not isinstance(key, int | str):
                    raise self.unsupported(
                        "a module is chosen by a value", "name the modules, or choose between them with dx.select", node
                    )
                return self.reader.item(self, base, key, node)
            case Symbolic(parts=parts) if parts is not None and isinstance(key, int) and 0 <= key < len(parts):
                return parts[key]
            case _:
                return None

    def _field(self, base: Symbolic, node: ast.Attribute) -> Symbolic | None:
        schema = class_of(base.type)
        if schema is None or not issubclass(schema, BaseModel):
            return None
        fields = field_types(schema)
        if node.attr in fields:
            if isinstance(base.value, Ref):
                return Symbolic(Ref(base.value.node, (*base.value.path, node.attr)), fields[node.attr], name=node.attr)
            return None
        if not hasattr(schema, node.attr) and not _open(schema):
            near = schema_named(node.attr, tuple(fields))
            raise CompileError(
                "DX2002",
                f"{schema.__name__} has no field {node.attr!r}; it has {', '.join(fields) or 'none'}",
                where=f"{self.body.location(node)}  {ast.unparse(node)}",
                fix=f"did you mean {near!r}?" if near else f"use one of its fields, or add {node.attr!r} to the schema",
            )
        return None

    def _constant(self, node: ast.Constant) -> Symbolic:
        if not _plain(node.value):
            raise self.unsupported(f"the constant {ast.unparse(node)}", "use text, a number, True, False or None", node)
        return self._literal(node.value)

    def _literal(self, value: object) -> Symbolic:
        return Symbolic(Constant.of(value), type(value), name="constant")

    def _joined(self, form: JoinForm, items: list[Symbolic], node: ast.AST) -> Symbolic:
        args = tuple(Argument(None, item.value) for item in items)
        kind = list if form == "list" else tuple
        made = self.emit(Join(self.reader.fresh(), form, args, self.reader.type(kind)), node, kind)
        return Symbolic(made.value, made.type, tuple(items))

    # --- calls ----------------------------------------------------------------------------------

    def awaited(self, node: ast.Await) -> Symbolic:
        """The result of an awaited call."""
        call = node.value
        if not isinstance(call, ast.Call):
            raise self.unsupported("it awaits something other than a call", _AWAIT_DIRECTLY, node)
        callee = self.resolve(call.func)
        if isinstance(callee, Inner):
            return self._module_call(callee, call)
        if isinstance(callee, Container):
            raise self.unsupported(f"{describe(callee)} are called at once", _AWAIT_DIRECTLY, node)
        method = self._method(call.func)
        if method is not None:
            return self._method_call(method, call)
        target = free_name(self, call.func)
        if target is asyncio.gather:
            return self._gathered(call)
        return self._python_call(call, target, awaits=True)

    def _module_call(self, callee: Inner, call: ast.Call) -> Symbolic:
        if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
            raise self.unsupported(
                "a module called with anything but one positional value", "pass one schema: `await self.m(x)`", call
            )
        given = self.value(call.args[0])
        return self.reader.call(self, callee, given, self.body.location(call))

    def _gathered(self, call: ast.Call) -> Symbolic:
        if call.keywords:
            raise self.unsupported(
                f"asyncio.gather with {call.keywords[0].arg or '**'}=", f"{_GATHER}; handle errors outside", call
            )
        results: list[Symbolic] = []
        for arg in call.args:
            if isinstance(arg, ast.Starred):
                raise self.unsupported("asyncio.gather over a list of calls", _GATHER, arg)
            # What `gather` awaits is what an `await` of the same expression would give.
            results.append(self.awaited(ast.copy_location(ast.Await(arg), arg)))
        return self._joined("list", results, call)

    def _method(self, func: ast.expr) -> FunctionType | None:
        """The asynchronous method of the program itself that `func` names."""
        if not isinstance(func, ast.Attribute):
            return None
        base = self.resolve_program(func.value)
        if base is None or base.program is not self.inner.program:
            return None
        found = inspect.getattr_static(type(base.program), func.attr, None)
        return found if isinstance(found, FunctionType) and inspect.iscoroutinefunction(found) else None

    def resolve_program(self, node: ast.expr) -> Inner | None:
        found = self.resolve(node) if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else None
        return found if isinstance(found, Inner) else None

    def _method_call(self, method: FunctionType, call: ast.Call) -> Symbolic:
        """Inlines an asynchronous method: its body is read with this program as `self`."""
        if self._methods >= _MAX_METHODS:
            raise self.unsupported(f"{method.__name__} calls itself", "write the steps out", call)
        if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
            raise self.unsupported("a call with * or **", "pass each argument", call)
        body = read_body(method)
        inner = Interpreter(self.reader, self.inner, body, self.nodes, self._methods + 1)
        if not isinstance(body.tree, ast.AsyncFunctionDef):
            raise self.unsupported(f"{method.__name__} is not an `async def`", "write it as one", call)
        given = tuple(self.evaluate(arg) for arg in call.args)
        named = {cast("str", k.arg): self.evaluate(k.value) for k in call.keywords}
        inner._bind((self.inner, *given), named)
        return inner.statements(body.tree.body)

    def _called(self, call: ast.Call) -> Symbol:
        callee = self.resolve(call.func)
        if isinstance(callee, Inner):
            raise self.unsupported(f"{describe(callee)} is called without `await`", _AWAIT_DIRECTLY, call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "model_copy":
            copied = self._copied(call.func, call)
            if copied is not None:
                return copied
        target = free_name(self, call.func)
        made = class_of(target)
        if made is not None and issubclass(made, BaseModel):
            built = self._constructed(made, call)
            if built is not None:
                return built
        return self._python_call(call, target, awaits=False)

    def _constructed(self, schema: type[BaseModel], call: ast.Call) -> Symbolic | None:
        """A schema construction as a record; None when it has ``**``."""
        if any(keyword.arg is None for keyword in call.keywords):
            return None
        names = [cast("str", keyword.arg) for keyword in call.keywords]
        fields = schema.model_fields
        known = [alias for name, info in fields.items() for alias in (name, info.alias, info.validation_alias)]
        where = f"{self.body.location(call)}  {ast.unparse(call)}"
        if call.args:
            raise CompileError(
                "DX2004",
                f"{schema.__name__} takes its fields by name, got {len(call.args)} positional values",
                where=where,
                fix=f"write {schema.__name__}({', '.join(f'{name}=...' for name in fields)})",
            )
        if schema.model_config.get("extra") != "allow":
            for name in names:
                if name not in known:
                    near = schema_named(name, tuple(fields))
                    raise CompileError(
                        "DX2004",
                        f"{schema.__name__} has no field {name!r}; it has {', '.join(fields) or 'none'}",
                        where=where,
                        fix=f"did you mean {near!r}?" if near else f"drop {name!r}, or add it to the schema",
                    )
        aliased = {name for name, info in fields.items() if info.alias in names or info.validation_alias in names}
        absent = [n for n, info in fields.items() if info.is_required() and n not in names and n not in aliased]
        if absent:
            raise CompileError(
                "DX2004",
                f"{schema.__name__} is constructed without its required {', '.join(absent)}",
                where=where,
                fix=f"give {', '.join(f'{name}=...' for name in absent)}, or give the field a default in the schema",
            )
        args = tuple(Argument(n, self.value(k.value).value) for n, k in zip(names, call.keywords, strict=True))
        return self.emit(Join(self.reader.fresh(), "record", args, self.reader.type(schema)), call, schema)

    def _copied(self, func: ast.Attribute, call: ast.Call) -> Symbolic | None:
        """`x.model_copy(update={...})` of a schema; None when only Python can say."""
        base = self.evaluate(func.value)
        if not isinstance(base, Symbolic) or not _is_schema(base.type) or call.args:
            return None
        args = [Argument(None, base.value)]
        for keyword in call.keywords:
            update = keyword.value
            if keyword.arg != "update" or not isinstance(update, ast.Dict):
                return None
            for key, value in zip(update.keys, update.values, strict=True):
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    return None
                schema = cast("type[BaseModel]", base.type)
                if key.value not in schema.model_fields:
                    near = schema_named(key.value, tuple(schema.model_fields))
                    raise CompileError(
                        "DX2004",
                        f"{schema.__name__} has no field {key.value!r}; it has {', '.join(schema.model_fields)}",
                        where=f"{self.body.location(call)}  {ast.unparse(call)}",
                        fix=f"did you mean {near!r}?" if near else f"drop {key.value!r}, or add it to the schema",
                    )
                args.append(Argument(key.value, self.value(value).value))
        if len({a.name for a in args}) != len(args):
            return None
        made = Join(self.reader.fresh(), "copy", tuple(args), self.reader.type(base.type))
        return self.emit(made, call, base.type)

    def _python_call(self, call: ast.Call, target: object, *, awaits: bool) -> Symbolic:
        """A plain function called with plain values, by name; anything else is an expression."""
        reason = ambient(target)
        if reason is not None:
            raise self.unsupported(f"it reads {reason}", "read it before the program is called, and pass it in", call)
        simple = isinstance(target, FunctionType | type) or inspect.isbuiltin(target)
        asynchronous = inspect.iscoroutinefunction(target)
        named = _import_path(target) if simple and asynchronous == awaits else None
        if named is not None and all(k.arg for k in call.keywords):
            given = [(None, arg) for arg in call.args] + [(k.arg, k.value) for k in call.keywords]
            found = [(name, self.resolve(arg)) for name, arg in given]
            args = tuple(Argument(name, item.value) for name, item in found if isinstance(item, Symbolic))
            if len(args) == len(given):
                kind = return_type(target)
                node = Python(self.reader.fresh(), named, args, self.reader.type(kind), awaits=awaits)
                return self.emit(node, call, kind)
        expression = ast.copy_location(ast.Await(call), call) if awaits else call
        return capture(self, expression, outer=call if awaits else None)

    # --- nodes ----------------------------------------------------------------------------------

    def emit(self, node: Node, at: ast.AST, kind: object = ANY) -> Symbolic:
        """Appends `node` and gives its value."""
        self.nodes.append(replace(node, loc=self.body.location(at)))
        return Symbolic(Ref(node.id), kind)

    def location(self, node: ast.AST) -> Location:
        return self.body.location(node)

    def unsupported(self, reason: str, remedy: str, node: ast.AST) -> Unsupported:
        return Unsupported(reason, remedy, getattr(node, "lineno", None))

    def region(self, given: Symbolic, first: Node) -> Region:
        """The whole body as a region that begins with `first`."""
        self.nodes.insert(0, first)
        result = self.run(given)
        return Region(tuple(self.nodes), result.value)


def _named(value: Symbol, name: str) -> Symbol:
    if isinstance(value, Symbolic):
        return Symbolic(value.value, value.type, value.parts, name)
    return value


def _plain(value: object) -> bool:
    if isinstance(value, float):
        return value - value == 0
    return value is None or isinstance(value, str | int | bool)


def _is_schema(kind: object) -> bool:
    found = class_of(kind)
    return found is not None and issubclass(found, BaseModel)


def _open(schema: type[BaseModel]) -> bool:
    """Whether instances may have attributes that the class does not show."""
    own = getattr(schema, "__getattr__", None) is not getattr(BaseModel, "__getattr__", None)
    return own or schema.model_config.get("extra") == "allow"


def _holds_await(node: ast.expr) -> bool:
    """Whether the base of a chain of fields and items is an awaited call."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return isinstance(node, ast.Await)


def _import_path(target: object) -> str | None:
    """``module:qualname`` of something that can be imported by that name and is that very object."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module, MISSING)
    if not isinstance(found, ModuleType):
        return None
    for step in name.split("."):
        found = vars(found).get(step, MISSING) if hasattr(found, "__dict__") else MISSING
    return f"{module}:{name}" if found is target else None
