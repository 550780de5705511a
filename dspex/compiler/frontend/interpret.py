"""Interprets the body of a program symbolically: statements in, nodes out. Nothing is run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar, cast, get_origin

from pydantic import BaseModel

from dspex.compiler.frontend import calls, loops, maps
from dspex.compiler.frontend.annotations import field_types, generic, is_immutable, is_plain, schema_named
from dspex.compiler.frontend.certain import refuse_awaited, refuse_ending, refuse_pending, refuse_synchronous
from dspex.compiler.frontend.decide import constant, decided
from dspex.compiler.frontend.expressions import capture, fact_of, holds_await
from dspex.compiler.frontend.facts import union_of
from dspex.compiler.frontend.owned import owned
from dspex.compiler.frontend.source import Body, Unsupported
from dspex.compiler.frontend.symbols import (
    ANY,
    BREAK,
    CONTINUE,
    Container,
    Deferred,
    Growing,
    Inner,
    Jump,
    Several,
    Symbol,
    Symbolic,
    class_of,
    describe,
)
from dspex.compiler.ir.nodes import Argument, Cond, Constant, Join, JoinForm, Location, Node, Ref, Region, Value
from dspex.errors import CompileError

if TYPE_CHECKING:
    from dspex.compiler.frontend.reader import Reader

__all__ = ["Interpreter"]

T = TypeVar("T")

_CHOICE: Final = (
    "write a conditional expression, `await self.a(x) if test else await self.b(x)`, nested for several ways, "
    "or `await dx.cond(test, self.a, self.b, x)`"
)
_OUTSIDE: Final = (
    "let the error leave the program, and handle it where the program is called, or use dx.fallback; "
    "a `try` without calls of modules goes into a function at the top of the file"
)
_STEPS: Final = (
    "run a fixed number of steps, `for _ in range(3)`, and choose in each with a conditional expression: "
    "`d = d if done else await self.step(d)`"
)
_TOP: Final = "define it at the top of the file, or as an `async def` method if it calls modules"
_STATEMENTS: Final[dict[type[ast.stmt], tuple[str, str]]] = {
    ast.AsyncFor: (
        "an `async for` loop",
        "collect the items before the program is called, or in an async function at the top of the file",
    ),
    ast.While: (
        "a `while` loop",
        f"{_STEPS}; a loop without calls of modules goes into a function at the top of the file",
    ),
    ast.Try: ("a `try` statement", _OUTSIDE),
    ast.TryStar: ("a `try` statement", _OUTSIDE),
    ast.With: (
        "a `with` statement",
        "move it into a plain function that returns what the program needs; around calls of modules, "
        "write it where the program is called",
    ),
    ast.AsyncWith: (
        "an `async with` statement",
        "use asyncio.gather for calls that run together, and set limits where the program is called",
    ),
    ast.Match: ("a `match` statement", _CHOICE),
    ast.Assert: ("an `assert`", "validate in the schema, or call a plain function that does"),
    ast.Raise: ("a `raise`", "validate in the schema, or call a plain function that raises"),
    ast.Delete: ("a `del`", "drop it; values need no clean-up"),
    ast.Import: ("an `import` inside the body", "import at the top of the file"),
    ast.ImportFrom: ("an `import` inside the body", "import at the top of the file"),
    ast.Global: ("a `global` statement", "pass the value as a field or keep it in a plain function"),
    ast.Nonlocal: ("a `nonlocal` statement", "pass the value as a field or keep it in a plain function"),
    ast.FunctionDef: ("a function defined inside the body", _TOP),
    ast.AsyncFunctionDef: ("a function defined inside the body", _TOP),
    ast.ClassDef: ("a class defined inside the body", "define it at the top of the file"),
}


class Interpreter:
    """One body being read: the names in scope and the nodes so far.

    Attributes:
        reader: What the whole reading shares.
        inner: The program whose body, or method, it is.
        body: The function.
        nodes: The nodes of the region that is being read.
        names: What local names stand for.
        depth: How many methods were entered on the way.
    """

    def __init__(self, reader: Reader, inner: Inner, body: Body, nodes: list[Node], depth: int = 0) -> None:
        self.reader = reader
        self.inner = inner
        self.body = body
        self.nodes = nodes
        self.names: dict[str, Symbol] = {}
        self.depth = depth
        self.unrolled = 0
        self._whole = nodes
        self._owned: frozenset[str] | None = None
        self._deferred: list[Deferred] = []

    # --- statements -----------------------------------------------------------------------------

    def run(self, given: Symbolic) -> Symbolic:
        """What the body returns for `given`; its nodes are appended.

        Raises:
            Unsupported: The body has a construct that is not understood.
            CompileError: The body is wrong however it is read.
        """
        if not isinstance(self.body.tree, ast.AsyncFunctionDef):
            self.bind((Inner(self.inner.program, self.inner.path), given), {})
            refuse_synchronous(self)
            raise Unsupported("its body is not an `async def`", "write `async def __call__(self, x, /)`")
        self.bind((Inner(self.inner.program, self.inner.path), given), {})
        result = self.whole()
        if result is None:
            refuse_ending(self.body, self.inner.program)
        return result

    @property
    def certain(self) -> bool:
        """Whether what is read now is reached in every run of the program."""
        return self.depth == 0 and self.nodes is self._whole

    def whole(self) -> Symbolic | None:
        """What the function returns; None when it ends without `return`."""
        result = self.statements(self.body.tree.body)
        for call in self._deferred:
            if not call.spent:
                raise Unsupported("a call is never awaited", "await it, or drop it", call.line)
        if isinstance(result, Jump):
            raise Unsupported("a `break` or `continue` outside of a loop", "drop it", self.body.tree.lineno)
        return result

    def bind(self, given: tuple[Symbol, ...], named: dict[str, Symbol]) -> None:
        """Names the arguments as Python would."""
        args = self.body.tree.args
        if args.vararg is not None or args.kwarg is not None:
            raise Unsupported("its body takes *args or **kwargs", "take one schema, positionally")
        positional = [a.arg for a in (*args.posonlyargs, *args.args)]
        by_name = {a.arg for a in (*args.args, *args.kwonlyargs)}
        if len(given) > len(positional) or not named.keys() <= by_name:
            name = self.body.tree.name
            raise Unsupported(f"{name} is called with arguments that it does not take", "correct the call")
        for name, value in (*zip(positional, given, strict=False), *named.items()):
            self.names[name] = _named(value, name)
        defaults = dict(zip(reversed(positional), reversed(args.defaults), strict=False))
        defaults.update((a.arg, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None)
        for name in (*positional, *(a.arg for a in args.kwonlyargs)):
            if name not in self.names:
                default = defaults.get(name)
                if not isinstance(default, ast.Constant):
                    raise Unsupported(f"its parameter {name!r} has no plain default", "take one schema, positionally")
                self.names[name] = _named(self._constant(default), name)

    def statements(self, body: list[ast.stmt]) -> Symbolic | Jump | None:
        """What the statements return, or that they jump; None when the end is reached."""
        for statement in body:
            ended = self._statement(statement)
            if ended is not None:
                return ended
        return None

    def _statement(self, statement: ast.stmt) -> Symbolic | Jump | None:
        match statement:
            case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                return None
            case ast.Return():
                return self._returned(statement)
            case ast.Assign():
                value = self._right_side(statement.targets, statement.value)
                for target in statement.targets:
                    self.assign(target, value)
            case ast.AnnAssign(value=ast.expr() as given):
                self.assign(statement.target, self._right_side([statement.target], given))
            case ast.AugAssign():
                self._augmented(statement)
            case ast.Expr(value=ast.Await() as awaited):
                refuse_awaited(self, awaited)
                calls.awaited(self, awaited)
            case ast.Expr():
                if not loops.appended(self, statement.value):
                    self._effect(statement)
            case ast.If():
                return self._decided(statement)
            case ast.For():
                return loops.unrolled(self, statement)
            case ast.Break():
                return BREAK
            case ast.Continue():
                return CONTINUE
            case _:
                reason, remedy = _STATEMENTS.get(
                    type(statement), (f"a `{type(statement).__name__}` statement", "move it into a plain function")
                )
                raise self.unsupported(reason, remedy, statement)
        return None

    def _right_side(self, targets: list[ast.expr], value: ast.expr) -> Symbol:
        named = len(targets) == 1 and isinstance(targets[0], ast.Name)
        if named and isinstance(value, ast.List) and not any(isinstance(item, ast.Starred) for item in value.elts):
            # A list that may be appended to as long as nothing else has seen it.
            return Growing([self.value(item) for item in value.elts])
        return self.evaluate(value)

    def _effect(self, statement: ast.Expr) -> None:
        call = statement.value
        if not isinstance(call, ast.Call):
            raise self.unsupported("a statement that only has an effect", "drop it", statement)
        found = self.evaluate(call)
        if isinstance(found, Deferred):
            raise self.unsupported("a call is never awaited", "await it: `await self.module(x)`", statement)

    def _decided(self, statement: ast.If) -> Symbolic | Jump | None:
        truth = decided(self, statement.test)
        if truth is None:
            inside = [node for item in statement.body for node in ast.walk(item)]
            if any(isinstance(node, ast.Break | ast.Continue) for node in inside):
                raise self.unsupported(
                    "a loop that ends by a value",
                    _STEPS,
                    statement,
                )
            raise self.unsupported("an `if` on a value", _CHOICE, statement)
        return self.statements(statement.body if truth else statement.orelse)

    def _returned(self, statement: ast.Return) -> Symbolic:
        if statement.value is None:
            if self.certain:
                refuse_ending(self.body, self.inner.program, statement.lineno)
            raise self.unsupported("a `return` without a value", "return the output schema", statement)
        found = self.evaluate(statement.value)
        refuse_pending(self, found, statement)
        return self.settled(found, statement.value)

    def _augmented(self, statement: ast.AugAssign) -> None:
        target = statement.target
        wrong = self.unsupported(
            "an assignment in place", "write `a = a + b`, or `a = [*a, *b]`, with a plain name", statement
        )
        if not isinstance(target, ast.Name):
            raise wrong
        before = self.names.get(target.id)
        if isinstance(before, Growing):
            literal = isinstance(statement.value, ast.List) and not _starred(statement.value)
            if isinstance(statement.op, ast.Add) and literal:
                before.items += [self.value(item) for item in cast("ast.List", statement.value).elts]
                return
        if isinstance(statement.op, ast.Add) and self.grows(target.id, statement.value, statement):
            return
        if isinstance(before, Growing):
            raise self.unsupported("a list that grows in place", "write `a = [*a, *b]`", statement)
        # Of an immutable value, in place means the same as a new one.
        if not isinstance(before, Symbolic) or not is_immutable(before.type):
            raise wrong
        left = ast.copy_location(ast.Name(target.id, ast.Load()), target)
        whole = ast.copy_location(ast.BinOp(left, statement.op, statement.value), statement)
        self.assign(target, self.evaluate(whole))

    def grows(self, name: str, by: ast.expr, at: ast.AST) -> bool:
        """Carries out ``name += by`` on a list that nothing else holds, as a new list; False for any other."""
        if self._owned is None:
            self._owned = owned(self.body)
        if name not in self._owned or not isinstance(self.names.get(name), Symbolic | Growing):
            return False
        mine: ast.expr = ast.Starred(ast.Name(name, ast.Load()), ast.Load())
        more = by.elts if isinstance(by, ast.List) else [ast.Starred(by, ast.Load())]
        whole = ast.copy_location(ast.List([mine, *more], ast.Load()), at)
        for item in (mine, *ast.walk(mine), *more):
            ast.copy_location(item, at)
        self.assign(ast.copy_location(ast.Name(name, ast.Store()), at), self.evaluate(whole))
        return True

    def assign(self, target: ast.expr, value: Symbol) -> None:
        """Gives `target` its meaning."""
        match target:
            case ast.Name():
                self.names[target.id] = _named(value, target.id)
            case ast.Tuple() | ast.List():
                if any(isinstance(item, ast.Starred) for item in target.elts):
                    raise self.unsupported(
                        "unpacking with `*`", "read the items by index and slice: `xs[0]`, `xs[1:]`", target
                    )
                for item, part in zip(target.elts, self._parts(target, value), strict=True):
                    self.assign(item, part)
            case ast.Attribute():
                raise self.unsupported(
                    "an assignment to an attribute", "programs are immutable: keep the value in a local name", target
                )
            case _:
                remedy = "make a new value: `{**table, key: value}`, or model_copy(update=...) of a schema"
                raise self.unsupported("an assignment to an item", remedy, target)

    def _parts(self, target: ast.Tuple | ast.List, value: Symbol) -> tuple[Symbol, ...]:
        """The values that are unpacked to `target`, as many as it has names."""
        match value:
            case Several():
                parts: tuple[Symbol, ...] = value.items
            case Growing():
                parts = tuple(value.items)
            case Container(items=list() | tuple()):
                parts = tuple(self.reader.member(value, at) for at in range(len(value.items)))
            case Symbolic(parts=tuple() as known):
                parts = known
            case Symbolic():
                fixed = maps.fixed_parts(value)
                if fixed is None:
                    raise self.unsupported("unpacking of a value of unknown length", "read its items by index", target)
                parts = fixed
            case _:
                raise self.unsupported(f"unpacking of {describe(value)}", "name each module", target)
        if len(parts) != len(target.elts):
            raise self.unsupported(
                f"{len(parts)} values are unpacked to {len(target.elts)} names", "name every value", target
            )
        return parts

    # --- expressions ----------------------------------------------------------------------------

    def evaluate(self, node: ast.expr) -> Symbol:
        """The value of an expression; what is not understood natively becomes one python node."""
        quiet = self.resolve(node)
        if quiet is not None:
            return quiet
        match node:
            case ast.Await():
                refuse_awaited(self, node)
                return calls.awaited(self, node)
            case ast.Call():
                return calls.called(self, node)
            case ast.Attribute() | ast.Subscript() if holds_await(node.value) and _chain(node.value):
                # The base is a call's result: it becomes a node first, then a field or item of it.
                base = self.evaluate(node.value)
                step = self.step(base, node)
                if step is not None:
                    return step
            case ast.Tuple() | ast.List() if not any(isinstance(item, ast.Starred) for item in node.elts):
                items = [self.evaluate(item) for item in node.elts]
                if not all(isinstance(item, Symbolic) for item in items):
                    return Several(tuple(items))
                return self.joined(
                    "list" if isinstance(node, ast.List) else "tuple", cast("list[Symbolic]", items), node
                )
            case ast.Dict() if all(isinstance(k, ast.Constant) and isinstance(k.value, str) for k in node.keys):
                keys = [cast("str", cast("ast.Constant", key).value) for key in node.keys]
                if len(set(keys)) == len(keys):
                    values = [self.value(value) for value in node.values]
                    args = tuple(Argument(k, v.value) for k, v in zip(keys, values, strict=True))
                    made = self.emit(Join(self.reader.fresh(), "dict", args, self.reader.type(dict)), node, dict)
                    return replace(made, plain=all(fact_of(value).plain for value in values))
            case ast.IfExp():
                truth = decided(self, node.test)
                if truth is not None:
                    return self.evaluate(node.body if truth else node.orelse)
                if holds_await(node.body) or holds_await(node.orelse):
                    return self.choice(
                        self.value(node.test), lambda: self.value(node.body), lambda: self.value(node.orelse), node
                    )
            case ast.ListComp() | ast.SetComp() | ast.DictComp():
                found = maps.comprehension(self, node)
                if found is not None:
                    return found
            case _:
                pass
        return capture(self, node)

    def value(self, node: ast.expr) -> Symbolic:
        """`evaluate`, for places where a program or module makes no sense."""
        return self.settled(self.evaluate(node), node)

    def settled(self, found: Symbol, node: ast.expr) -> Symbolic:
        """`found` as a value of the graph."""
        if isinstance(found, Several) and all(isinstance(item, Symbolic | Several) for item in found.items):
            return self.joined("tuple", [self.settled(item, node) for item in found.items], node)
        if isinstance(found, Growing):
            return self.joined("list", list(found.items), node)
        if isinstance(found, Deferred):
            raise self.unsupported(
                "a call is called without `await`", "await the module's call directly: `await self.module(x)`", node
            )
        if not isinstance(found, Symbolic):
            raise self.unsupported(f"{describe(found)} is used as a value", "call it: `await self.module(x)`", node)
        return found

    def resolve(self, node: ast.expr) -> Symbol | None:
        """The meaning of a name, field, item or constant without making a node; None for anything else."""
        match node:
            case ast.Constant():
                return self._constant(node) if is_constant(node.value) else None
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return self.literal(-number)
            case ast.Name():
                found = self.names.get(node.id)
                if isinstance(found, Growing):
                    # From here on something else may hold the list.
                    found = self.names[node.id] = _named(self.settled(found, node), node.id)
                return found
            case ast.Attribute() | ast.Subscript():
                base = self.resolve(node.value)
                return None if base is None else self.step(base, node)
            case _:
                return None

    def step(self, base: Symbol, node: ast.Attribute | ast.Subscript) -> Symbol | None:
        """A field, attribute or item of `base`; None when only Python can say."""
        if isinstance(node, ast.Attribute):
            match base:
                case Inner():
                    return self.reader.attribute(self, base, node.attr, node)
                case Symbolic():
                    return self._field(base, node)
                case _:
                    return None
        match base:
            case Container():
                if isinstance(node.slice, ast.Slice):
                    return None
                key = constant(self, node.slice)
                if not isinstance(key, int | str):
                    raise self.unsupported(
                        "a module is chosen by a value",
                        "name the modules, and choose with a conditional expression: "
                        "`await self.a(x) if test else await self.b(x)`",
                        node,
                    )
                return self.reader.item(self, base, key, node)
            case Symbolic(parts=tuple() as parts):
                key = constant(self, node.slice)
                return parts[key] if type(key) is int and -len(parts) <= key < len(parts) else None
            case Several(items=items):
                key = constant(self, node.slice)
                return items[key] if type(key) is int and -len(items) <= key < len(items) else None
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
        if inspect.getattr_static(schema, node.attr, None) is None and not _open(schema):
            near = schema_named(node.attr, tuple(fields))
            raise CompileError(
                "DX2002",
                f"{schema.__name__} has no field {node.attr!r}; it has {', '.join(fields) or 'none'}",
                where=f"{self.body.location(node)}  {ast.unparse(node)}",
                fix=f"did you mean {near!r}?" if near else f"use one of its fields, or add {node.attr!r} to the schema",
            )
        return None

    def _constant(self, node: ast.Constant) -> Symbolic:
        if not is_constant(node.value):
            raise self.unsupported(f"the constant {ast.unparse(node)}", "use text, a number, True, False or None", node)
        return self.literal(node.value)

    def literal(self, value: object) -> Symbolic:
        """A constant."""
        return Symbolic(Constant.of(value), type(value), name="constant", plain=True)

    def joined(self, form: JoinForm, items: list[Symbolic], node: ast.AST) -> Symbolic:
        """A tuple or list of `items`."""
        args = tuple(Argument(None, item.value) for item in items)
        kinds = [item.type for item in items]
        kind: object = list if form == "list" else tuple
        made = self.emit(Join(self.reader.fresh(), form, args, self.reader.type(kind)), node, kind)
        if form == "tuple" and all(is_immutable(item) for item in kinds):
            kind = tuple[tuple(kinds)] if kinds else tuple  # type: ignore[misc]
        if form == "list" and kinds and all(item == kinds[0] for item in kinds):
            # The graph's own type stays: what a list holds matters to expressions that go through it.
            kind = generic(list, kinds[0])
        plain = all(item.plain or is_plain(item.type) for item in items)
        return replace(made, type=kind, parts=tuple(items), plain=plain)

    def choice(
        self, test: Symbolic, then: Callable[[], Symbolic], otherwise: Callable[[], Symbolic], node: ast.AST
    ) -> Symbolic:
        """One of two values, whose nodes stand in regions of their own."""
        number = self.reader.fresh()
        one, two = self.apart(then), self.apart(otherwise)
        kind = union_of([one[1].type, two[1].type])
        made = Cond(number, test.value, one[0], two[0], self.reader.type(kind))
        return self.emit(made, node, kind)

    # --- nodes ----------------------------------------------------------------------------------

    def emit(self, node: Node, at: ast.AST, kind: object = ANY) -> Symbolic:
        """Appends `node` and gives its value."""
        self.nodes.append(replace(node, loc=self.body.location(at)))
        self.reader.annotations[node.id] = kind
        return Symbolic(Ref(node.id), kind)

    @contextmanager
    def inside(self) -> Generator[list[Node]]:
        """The nodes of a region of its own; names bound in it end with it."""
        names, nodes = self.snapshot(), self.nodes
        self.nodes = list[Node]()
        try:
            yield self.nodes
        finally:
            self.nodes, self.names = nodes, names

    def apart(self, make: Callable[[], Symbolic]) -> tuple[Region, Symbolic]:
        """A region whose nodes `make` appends, and the value that it gives."""
        with self.inside() as nodes:
            result = make()
        return Region(tuple(nodes), result.value), result

    def snapshot(self) -> dict[str, Symbol]:
        """What names stand for now; lists that grow are complete from here on."""
        for name, known in list(self.names.items()):
            if isinstance(known, Growing):
                self.resolve(ast.Name(name, ast.Load(), lineno=self.body.tree.lineno, col_offset=0))
        return dict(self.names)

    def with_names(self, names: dict[str, Symbol], make: Callable[[], T]) -> T:
        """What `make` gives while local names have the meaning that they had before."""
        now, self.names = self.names, dict(names)
        try:
            return make()
        finally:
            self.names = now

    def defer(self, make: Callable[[], Symbolic], node: ast.expr, *, several: bool = False) -> Deferred:
        """A call that is to be awaited, once, in the region where it was made."""
        call = Deferred(make, self.nodes, node.lineno, several)
        self._deferred.append(call)
        return call

    def hand_over(self, given: Iterable[Symbolic]) -> None:
        """Forgets the items of lists that a function has seen and may have changed."""
        seen: list[Value] = []
        pending = list(given)
        while pending:
            item = pending.pop()
            if item.parts is not None:
                seen.append(item.value)
                pending += item.parts
        for name, known in self.names.items():
            if not isinstance(known, Symbolic) or known.parts is None or known.value not in seen:
                continue
            if known.type is list or get_origin(known.type) is list:
                self.names[name] = replace(known, type=list, parts=None)

    def is_own_call(self, func: ast.expr) -> bool:
        """Whether `func` is an asynchronous method of the program itself."""
        return calls.own_method(self, func) is not None

    def location(self, node: ast.AST) -> Location:
        """The line of `node`."""
        return self.body.location(node)

    def unsupported(self, reason: str, remedy: str, node: ast.AST) -> Unsupported:
        """The refusal of `node`."""
        return Unsupported(reason, remedy, getattr(node, "lineno", None))


def is_constant(value: object) -> bool:
    """Whether the graph can hold `value` as it is."""
    if isinstance(value, float):
        return value - value == 0
    return value is None or isinstance(value, str | int | bool)


def _starred(node: ast.List) -> bool:
    return any(isinstance(item, ast.Starred) for item in node.elts)


def _named(value: Symbol, name: str) -> Symbol:
    return replace(value, name=name) if isinstance(value, Symbolic) else value


def _open(schema: type[BaseModel]) -> bool:
    """Whether instances may have attributes that the class does not show."""
    own = getattr(schema, "__getattr__", None) is not getattr(BaseModel, "__getattr__", None)
    return own or schema.model_config.get("extra") == "allow"


def _chain(node: ast.expr) -> bool:
    """Whether the base of a chain of fields and items is an awaited call."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return isinstance(node, ast.Await)
