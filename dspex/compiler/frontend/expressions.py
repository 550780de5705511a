"""Any Python expression as one node with its captured inputs.

The expression's text is rewritten so that every captured value is a name; awaited module calls inside it
become nodes of their own when they are always evaluated.
"""

from __future__ import annotations

import ast
import hashlib
import keyword
import sys
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from dspex.compiler.frontend.annotations import is_plain
from dspex.compiler.frontend.facts import Fact, Facts
from dspex.compiler.frontend.functions import Expression
from dspex.compiler.frontend.names import MISSING, ambient, free_name, is_asynchronous, is_standard, name_of
from dspex.compiler.frontend.source import Unsupported
from dspex.compiler.frontend.symbols import Container, Deferred, Inner, Several, Symbolic, Tooled, describe
from dspex.compiler.ir.nodes import Argument, Attribute, Python
from dspex.program.program import Program

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["awaits_inside", "capture", "fact_of", "holds_await"]

_MUTATORS: Final = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "popitem", "clear", "sort", "reverse", "update"),
        *("setdefault", "add", "discard", "intersection_update", "difference_update", "symmetric_difference_update"),
        *("__setitem__", "__delitem__", "__setattr__"),
    }
)
_PLAIN: Final = "move it into a function at the top of the file that takes what it needs and returns the result"
_GATHER: Final = "await calls directly, together with `asyncio.gather`"
_TIMEOUT: Final = "await the call directly, and set the time limit outside: `program.run(x, timeout=...)`"
_REFUSED: Final[dict[str, tuple[str, str]]] = {
    "locals": ("reads every local name", _PLAIN),
    "globals": ("reads every global name", _PLAIN),
    "vars": ("reads names that cannot be followed", _PLAIN),
    "exec": ("runs text", _PLAIN),
    "eval": ("runs text", _PLAIN),
    "super": ("calls the parent's method", "inherit the body, or write its steps out"),
    "setattr": ("changes an object", _PLAIN),
    "delattr": ("changes an object", _PLAIN),
    "next": ("advances an iterator", _PLAIN),
    "input": ("waits for a person", "pass the value in as a field"),
    "create_task": ("starts a task", _GATHER),
    "ensure_future": ("starts a task", _GATHER),
    "wait_for": ("wraps a call", _TIMEOUT),
    "timeout": ("wraps calls", _TIMEOUT),
    "wait": ("wraps calls", _GATHER),
    "as_completed": ("wraps calls", _GATHER),
    "shield": ("wraps a call", _GATHER),
    "TaskGroup": ("starts tasks", _GATHER),
}


def holds_await(node: ast.AST) -> bool:
    """Whether something inside `node` is awaited."""
    return any(isinstance(item, ast.Await) for item in ast.walk(node))


def awaits_inside(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> bool:
    """Whether a comprehension awaits anything for its items, rather than for what it iterates over."""
    first, *others = node.generators
    parts: list[ast.AST] = [*first.ifs, *others]
    parts += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    return any(holds_await(part) for part in parts)


def fact_of(symbol: Symbolic) -> Fact:
    """What is known about a captured value."""
    return Fact(symbol.type, symbol.plain or is_plain(symbol.type), True)


def _digest(node: ast.expr) -> str:
    """The digest of an expression, whatever Python reads it: 3.13 began to leave empty lists out of a dump."""
    text = ast.dump(node, show_empty=True) if sys.version_info >= (3, 13) else ast.dump(node)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def capture(interpreter: Interpreter, node: ast.expr, *, outer: ast.Call | None = None) -> Symbolic:
    """One python node for `node`.

    Args:
        interpreter: Where its names mean something.
        node: The expression; `outer` is the call inside it when the node itself is an ``await``.

    Raises:
        Unsupported: It calls a module, changes something, or reads what cannot be followed.
    """
    rewriter = _Rewriter(interpreter, outer)
    tree = rewriter.visit(_copy(node if outer is None else outer))
    text = ast.unparse(tree)
    if outer is not None:
        text = f"await {text}"
    body, reader = interpreter.body, interpreter.reader
    names = {name: fact_of(item) for name, item in rewriter.captured.items()}
    fact = Facts(names, lambda inner: free_name(body, inner)).of(tree)
    made = Python(
        reader.fresh(),
        body.target,
        tuple(Argument(name, item.value) for name, item in rewriter.captured.items()),
        reader.type(fact.type),
        text,
        _digest(node),
        awaits=outer is not None,
        pure=fact.pure and outer is None and not rewriter.uses,
        uses=tuple(dict.fromkeys(rewriter.uses)),
    )
    expression = Expression(body, tree, tuple(rewriter.captured), made.awaits)
    source, count = made.source, 1
    while not reader.functions.keep_expression(made.key, expression):
        # The same text in another closure of the same function.
        count += 1
        made = replace(made, source=f"{source}-{count}")
    if not made.pure:
        interpreter.hand_over(rewriter.captured.values())
    return replace(interpreter.emit(made, node, fact.type), plain=fact.plain)


T = TypeVar("T")


def _copy(node: T) -> T:
    """A syntax tree of its own; several times faster than what knows nothing of syntax trees."""
    if isinstance(node, list):
        return cast("T", [_copy(item) for item in cast("list[object]", node)])
    if not isinstance(node, ast.AST) or isinstance(node, ast.expr_context | ast.operator):
        return node
    made = type(node).__new__(type(node))
    for name, value in vars(node).items():
        setattr(made, name, _copy(cast("object", value)))
    return made


class _Rewriter(ast.NodeTransformer):
    """Replaces captured values by names; refuses what one python node cannot mean."""

    def __init__(self, interpreter: Interpreter, outer: ast.Call | None) -> None:
        self.interpreter = interpreter
        self.outer = outer
        self.captured: dict[str, Symbolic] = {}
        self.uses: list[str] = []
        self._bound: list[frozenset[str]] = []
        self._maybe = 0
        self._taken: set[str] = set()

    def visit(self, node: ast.AST) -> Any:
        if not self._taken:
            # Every name in the expression stays free for its own meaning.
            self._taken = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)} | {"self"}
        return super().visit(node)

    def _refuse(self, reason: str, remedy: str, node: ast.AST) -> Unsupported:
        return self.interpreter.unsupported(reason, remedy, node)

    def _is_bound(self, name: str) -> bool:
        return any(name in scope for scope in self._bound)

    def _hold(self, item: Symbolic, node: ast.expr) -> ast.Name:
        for name, kept in self.captured.items():
            if kept.value == item.value:
                return ast.copy_location(ast.Name(name, ast.Load()), node)
        # A name with two underscores would mean something else inside a class.
        stem = item.name.lstrip("_") if item.name.startswith("__") else item.name
        stem = stem if stem.isidentifier() and not keyword.iskeyword(stem) else "value"
        own = isinstance(node, ast.Name) and node.id == stem
        name, count = stem, 2
        while name in self.captured or (name in self._taken and not own):
            name, own, count = f"{stem}_{count}", False, count + 1
        self.captured[name] = item
        if isinstance(item.value, Attribute):
            self.uses += self.interpreter.reader.reads(item.value.name)
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def _resolved(self, node: ast.expr) -> ast.expr | None:
        """`node` as a captured name, when it is a value of the body."""
        base = node
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if not isinstance(base, ast.Name) or self._is_bound(base.id):
            return None
        found = self.interpreter.resolve(node)
        if isinstance(found, Several):
            found = self.interpreter.settled(found, node)
        if isinstance(found, Inner):
            if not found.path:
                raise self._refuse("the program itself is handed to Python", "hand on the values that are needed", node)
            raise self._refuse(
                f"{describe(found)} is used inside an expression",
                "await its call first, and use the result; a function that calls modules becomes an `async def` method",
                node,
            )
        if isinstance(found, Container):
            raise self._refuse(
                f"{describe(found)} are used inside an expression", "call each of them by its index or key", node
            )
        if isinstance(found, Tooled | Deferred):
            raise self._refuse(
                f"{describe(found)} is used inside an expression", "await the call first, and use its result", node
            )
        return self._hold(found, node) if isinstance(found, Symbolic) else None

    def visit_Name(self, node: ast.Name) -> ast.expr:
        held = self._resolved(node)
        if held is not None:
            return held
        if self._is_bound(node.id):
            return node
        code = self.interpreter.body.function.__code__
        if node.id in code.co_varnames and node.id not in self.interpreter.names:
            raise self._refuse(f"{node.id!r} is read before it has a value", "assign it first", node)
        self._program(free_name(self.interpreter.body, node, self.interpreter.names), node)
        return node

    def _program(self, found: object, node: ast.expr) -> None:
        if issubclass(type(found), Program):
            raise self._refuse(
                f"{ast.unparse(node)} is a program that this one does not own",
                "make it an attribute of the class, so that its Variables are found",
                node,
            )
        if isinstance(found, MethodType):
            self._program(found.__self__, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        held = self._resolved(node)
        if held is not None:
            return held
        target = free_name(self.interpreter.body, node, self.interpreter.names)
        if target is not MISSING:
            self._program(target, node)
        base = self._named_program(node.value) if not self._shadowed(node) else None
        if base is not None and base.path:
            raise self._refuse(
                f"{ast.unparse(node)} of a module is used",
                "call the module: `await self.module(x)`",
                node,
            )
        return self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def _named_program(self, node: ast.expr) -> Inner | None:
        chain = isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
        found = self.interpreter.resolve(node) if chain else None
        return found if isinstance(found, Inner) else None

    def _shadowed(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return isinstance(node, ast.Name) and self._is_bound(node.id)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        held = self._resolved(node)
        return held if held is not None else self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not self._shadowed(node.func):
            callee = self._named_program(node.func)
            if callee is None and self.interpreter.is_own_call(node.func):
                raise self._refuse("a method is called without `await`", "write `await self.method(...)`", node)
            if callee is not None:
                raise self._refuse(
                    f"{describe(callee)} is called inside another expression",
                    "await its call first: `result = await self.module(x)`",
                    node,
                )
            target = free_name(self.interpreter.body, node.func, self.interpreter.names)
            word = name_of(target)
            if word in _REFUSED and is_standard(target):
                what, remedy = _REFUSED[word]
                raise self._refuse(f"{word} {what}", remedy, node)
            if is_asynchronous(target) and self.outer is None:
                raise self._refuse(f"{word} is called without `await`", f"write `await {word}(...)`", node)
            reason = ambient(target)
            if reason is not None:
                raise self._refuse(f"it reads {reason}", "read it before the program is called, and pass it in", node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            raise self._refuse(
                f".{node.func.attr}() changes a value in place",
                "make a new value instead of changing one: `[*xs, x]`, `sorted(xs)`, `{**table, key: value}`",
                node,
            )
        return self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def visit_Await(self, node: ast.Await) -> ast.expr:
        if self._bound or self._maybe:
            place = "a comprehension" if self._bound else "a part that is evaluated on a condition only"
            raise self._refuse(
                f"an await inside {place}",
                "await each call in a statement of its own, or with asyncio.gather; on a condition, write "
                "`await self.a(x) if test else None` in a statement of its own",
                node,
            )
        return self._hold(self.interpreter.value(node), node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        raise self._refuse("an assignment inside an expression (`:=`)", "assign in a statement of its own", node)

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        raise self._refuse("a `yield`", "return the whole result", node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        raise self._refuse("a `yield from`", "return the whole result", node)

    def _conditionally(self, node: ast.expr) -> ast.expr:
        self._maybe += 1
        result = self.visit(node)
        self._maybe -= 1
        return result

    @property
    def _once(self) -> bool:
        """Whether what is visited is evaluated exactly once, so that calls in it can become nodes before it."""
        return not self._bound and not self._maybe

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        if self._once and (holds_await(node.body) or holds_await(node.orelse)):
            return self._hold(self.interpreter.value(node), node)
        node.test = self.visit(node.test)
        node.body, node.orelse = self._conditionally(node.body), self._conditionally(node.orelse)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        node.values = [self.visit(node.values[0]), *(self._conditionally(item) for item in node.values[1:])]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        node.left = self.visit(node.left)
        first, *others = node.comparators
        node.comparators = [self.visit(first), *(self._conditionally(item) for item in others)]
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        args = node.args
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
        args.defaults = [self.visit(item) for item in args.defaults]
        args.kw_defaults = [None if item is None else self.visit(item) for item in args.kw_defaults]
        self._bound.append(frozenset(a.arg for a in every))
        node.body = self.visit(node.body)
        self._bound.pop()
        return node

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ast.expr:
        if not isinstance(node, ast.GeneratorExp) and self._once and awaits_inside(node):
            return self._hold(self.interpreter.value(node), node)
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        targets = [name for item in node.generators for name in ast.walk(item.target) if isinstance(name, ast.Name)]
        self._bound.append(frozenset(name.id for name in targets))
        for at, generator in enumerate(node.generators):
            if generator.is_async:
                raise self._refuse("an `async for`", "collect the items before the program is called", node)
            if at:
                generator.iter = self.visit(generator.iter)
            generator.ifs = [self.visit(item) for item in generator.ifs]
        if isinstance(node, ast.DictComp):
            node.key, node.value = self.visit(node.key), self.visit(node.value)
        else:
            node.elt = self.visit(node.elt)
        self._bound.pop()
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension
