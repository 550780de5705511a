"""Conditions and numbers that are known when the program is compiled, because nothing can change them."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from dspex.compiler.frontend.names import MISSING, free_name
from dspex.compiler.frontend.symbols import Container, Inner, Symbolic
from dspex.compiler.ir.nodes import Constant

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["constant", "decided"]

_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: operator.mod,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def decided(body: Interpreter, node: ast.expr) -> bool | None:
    """The truth of a condition; None when only a run can tell."""
    found = constant(body, node)
    if found is MISSING:
        return None
    if isinstance(found, Container):
        return len(found.items) > 0
    if isinstance(found, Inner):
        kind = type(found.program)
        plain = all(inspect.getattr_static(kind, name, None) is None for name in ("__bool__", "__len__"))
        return True if plain else None
    return bool(found)


def constant(body: Interpreter, node: ast.expr) -> object:
    """The plain value of an expression, or the program that it names; `MISSING` when only a run can tell."""
    match node:
        case ast.Constant():
            return node.value if isinstance(node.value, str | int | float | None) else MISSING
        case ast.Name() | ast.Attribute() | ast.Subscript():
            found = body.resolve(node)
            if isinstance(found, Symbolic) and isinstance(found.value, Constant):
                return found.value.value
            return found if isinstance(found, Inner | Container) else MISSING
        case ast.UnaryOp(op=ast.Not()):
            truth = decided(body, node.operand)
            return MISSING if truth is None else not truth
        case ast.UnaryOp(op=ast.USub()):
            number = constant(body, node.operand)
            return -number if type(number) in (int, float) else MISSING  # type: ignore[operator]
        case ast.BoolOp():
            return _logic(body, node)
        case ast.Compare():
            return _compared(body, node)
        case ast.BinOp():
            left, right = constant(body, node.left), constant(body, node.right)
            operation = _ARITHMETIC.get(type(node.op))
            if operation is None or type(left) is not int or type(right) is not int:
                return MISSING
            return MISSING if right == 0 and isinstance(node.op, ast.FloorDiv | ast.Mod) else operation(left, right)
        case ast.Call(func=ast.Name(id="len"), args=[arg], keywords=[]):
            if free_name(body.body, node.func, body.names) is not len:
                return MISSING
            found = body.resolve(arg)
            if isinstance(found, Container):
                return len(found.items)
            return len(found.parts) if isinstance(found, Symbolic) and found.parts is not None else MISSING
        case _:
            return MISSING


def _logic(body: Interpreter, node: ast.BoolOp) -> object:
    wanted = isinstance(node.op, ast.Or)
    for value in node.values:
        truth = decided(body, value)
        if truth is None:
            return MISSING
        if truth is wanted:
            return constant(body, value)
    return constant(body, node.values[-1])


def _compared(body: Interpreter, node: ast.Compare) -> object:
    left = constant(body, node.left)
    for operation, comparator in zip(node.ops, node.comparators, strict=True):
        right = constant(body, comparator)
        if left is MISSING or right is MISSING:
            return MISSING
        by_identity = isinstance(operation, ast.Is | ast.IsNot)
        if by_identity and not any(right is item for item in (None, True, False)):
            return MISSING
        if not by_identity and (isinstance(left, Inner | Container) or isinstance(right, Inner | Container)):
            return MISSING
        compare = _COMPARISONS.get(type(operation))
        if compare is None:
            return MISSING
        try:
            holds = compare(left, cast("Any", right))
        except TypeError:
            return MISSING
        if not holds:
            return False
        left = right
    return True
