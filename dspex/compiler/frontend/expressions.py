"""Any Python expression as one node with its captured inputs.

The expression's text is rewritten so that every captured value is a name; awaited module calls inside it
become nodes of their own when they are always evaluated.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
import keyword
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from dspex.compiler.frontend.annotations import return_type
from dspex.compiler.frontend.source import Unsupported
from dspex.compiler.frontend.symbols import ANY, Container, Inner, Symbolic, describe
from dspex.compiler.ir.nodes import Argument, Attribute, Python
from dspex.program.program import Program

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["MISSING", "ambient", "capture", "free_name"]

MISSING: Final = object()

_MUTATORS: Final = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "popitem", "clear", "sort", "reverse", "update"),
        *("setdefault", "add", "discard", "intersection_update", "difference_update", "symmetric_difference_update"),
        *("__setitem__", "__delitem__", "__setattr__"),
    }
)
_PLAIN: Final = "move it into a plain function that takes what it needs and returns the result"
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
# Language-model calls are ordered by data alone, so a clock read beside one would measure nothing.
_CLOCKS: Final = frozenset(
    {
        *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
        *("now", "utcnow", "today"),
    }
)


def free_name(interpreter: Interpreter, node: ast.expr) -> object:
    """The object that a global, closed-over or built-in name stands for; `MISSING` for anything else.

    Attributes are followed through modules and classes only, where reading one runs no user code.
    """
    if isinstance(node, ast.Name):
        if node.id in interpreter.names:
            return MISSING
        function = cast("FunctionType", interpreter.body.function)
        closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        names: dict[str, object] = function.__globals__
        if node.id in closed:
            try:
                return closed[node.id].cell_contents
            except ValueError:
                return MISSING
        return names.get(node.id, vars(builtins).get(node.id, MISSING))
    if isinstance(node, ast.Attribute):
        base = free_name(interpreter, node.value)
        if isinstance(base, ModuleType):
            return getattr(base, node.attr, MISSING)
        if isinstance(base, type):
            for cls in base.__mro__:
                if node.attr in vars(cls):
                    found: Any = vars(cls)[node.attr]
                    return getattr(found, "__func__", found)
    return MISSING


def ambient(target: object) -> str | None:
    """What state of the world a function reads that the order of nodes does not keep."""
    name, module = getattr(target, "__name__", None), getattr(target, "__module__", None)
    if module in ("time", "datetime") and name in _CLOCKS:
        return "the clock"
    owner = getattr(target, "__objclass__", None) or getattr(target, "__self__", None)
    if name in _CLOCKS and getattr(owner, "__module__", None) == "datetime":
        return "the clock"
    return None


def capture(interpreter: Interpreter, node: ast.expr, *, outer: ast.Call | None = None) -> Symbolic:
    """One python node for `node`.

    Args:
        interpreter: Where its names mean something.
        node: The expression; `outer` is the call inside it when the node itself is an ``await``.

    Raises:
        Unsupported: It calls a module, changes something, or reads what cannot be followed.
    """
    rewriter = _Rewriter(interpreter, outer)
    tree = rewriter.visit(copy.deepcopy(node if outer is None else outer))
    text = ast.unparse(tree)
    if outer is not None:
        text = f"await {text}"
    kind = _kind(interpreter, node)
    source = hashlib.sha256(ast.dump(node).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    args = tuple(Argument(name, item.value) for name, item in rewriter.captured.items())
    made = Python(
        interpreter.reader.fresh(),
        interpreter.body.target,
        args,
        interpreter.reader.type(kind),
        text,
        source,
        awaits=outer is not None,
        uses=tuple(dict.fromkeys(rewriter.uses)),
    )
    return interpreter.emit(made, node, kind)


def _kind(interpreter: Interpreter, node: ast.expr) -> object:
    match node:
        case ast.JoinedStr():
            return str
        case ast.Compare(ops=[ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()]) | ast.UnaryOp(op=ast.Not()):
            return bool
        case ast.ListComp():
            return list
        case ast.DictComp():
            return dict
        case ast.SetComp():
            return set
        case ast.Call():
            target = free_name(interpreter, node.func)
            return ANY if target is MISSING else return_type(target)
        case _:
            return ANY


class _Rewriter(ast.NodeTransformer):
    """Replaces captured values by names; refuses what one python node cannot mean."""

    def __init__(self, interpreter: Interpreter, outer: ast.Call | None) -> None:
        self.interpreter = interpreter
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
        stem = item.name if item.name.isidentifier() and not keyword.iskeyword(item.name) else "value"
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
        if isinstance(found, Inner):
            if not found.path:
                raise self._refuse("the program itself is handed to Python", "hand on the values that are needed", node)
            raise self._refuse(
                f"{describe(found)} is used inside an expression", "await its call first, and use the result", node
            )
        if isinstance(found, Container):
            raise self._refuse(
                f"{describe(found)} are used inside an expression", "call each of them by its index or key", node
            )
        return None if found is None else self._hold(found, node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        held = self._resolved(node)
        if held is not None:
            return held
        if self._is_bound(node.id):
            return node
        code = self.interpreter.body.function.__code__
        if node.id in code.co_varnames and node.id not in self.interpreter.names:
            raise self._refuse(f"{node.id!r} is read before it has a value", "assign it first", node)
        self._program(free_name(self.interpreter, node), node)
        return node

    def _program(self, found: object, node: ast.expr) -> None:
        if isinstance(found, Program):
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
        target = free_name(self.interpreter, node)
        if target is not MISSING:
            self._program(target, node)
        base = self.interpreter.resolve_program(node.value) if not self._shadowed(node) else None
        if base is not None and base.path:
            raise self._refuse(
                f"{ast.unparse(node)} of a module is used",
                "call the module: `await self.module(x)`",
                node,
            )
        return self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def _shadowed(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return isinstance(node, ast.Name) and self._is_bound(node.id)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        held = self._resolved(node)
        return held if held is not None else self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not self._shadowed(node.func):
            callee = self.interpreter.resolve_program(node.func)
            if callee is not None:
                raise self._refuse(
                    f"{describe(callee)} is called inside another expression",
                    "await its call first: `result = await self.module(x)`",
                    node,
                )
            target = free_name(self.interpreter, node.func)
            word = getattr(target, "__name__", "")
            if target is not MISSING and word in _REFUSED and _standard(target):
                what, remedy = _REFUSED[word]
                raise self._refuse(f"{word} {what}", remedy, node)
            reason = ambient(target)
            if reason is not None:
                raise self._refuse(f"it reads {reason}", "read it before the program is called, and pass it in", node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            raise self._refuse(
                f".{node.func.attr}() changes a value in place", "make a new value instead of changing one", node
            )
        return self.generic_visit(node)  # pyright: ignore[reportReturnType]

    def visit_Await(self, node: ast.Await) -> ast.expr:
        if self._bound or self._maybe:
            place = "a comprehension" if self._bound else "a part that is evaluated on a condition only"
            raise self._refuse(
                f"an await inside {place}", "await each call in a statement of its own, or with asyncio.gather", node
            )
        return self._hold(self.interpreter.awaited(node), node)

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

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
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


def _standard(target: object) -> bool:
    return isinstance(target, FunctionType | BuiltinFunctionType | type) and str(
        getattr(target, "__module__", "")
    ).split(".")[0] in ("builtins", "asyncio")
