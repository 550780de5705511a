"""Lists that a body makes and that nothing else ever holds: growing one in place means the same as a new list."""

from __future__ import annotations

import ast
import builtins
from typing import Final, get_args, get_origin

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import is_plain
from dspex.compiler.frontend.names import free_name
from dspex.compiler.frontend.source import Body
from dspex.compiler.frontend.symbols import class_of
from dspex.program.schema import Schema

__all__ = ["owned"]

_MAKERS: Final = frozenset({"list", "sorted"})
_READERS: Final = frozenset({"len", "str", "repr", "list", "tuple", "sorted", "sum", "any", "all", "bool"})
_GROWING: Final = frozenset({"append", "extend"})
_SCOPES: Final = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.GeneratorExp)


def owned(body: Body) -> frozenset[str]:
    """Names that stand for a list which nobody else holds, wherever in the body they are read."""
    grown = {name for node in ast.walk(body.tree) if (name := _grown(node)) is not None}
    if not grown:
        return frozenset()
    above = {id(child): node for node in ast.walk(body.tree) for child in ast.iter_child_nodes(node)}
    taken = {argument.arg for argument in ast.walk(body.tree.args) if isinstance(argument, ast.arg)}
    names = [node for node in ast.walk(body.tree) if isinstance(node, ast.Name) and node.id in grown]
    return frozenset(
        name
        for name in grown - taken
        if all(_keeps(body, node, above) for node in names if node.id == name)
        # A list that is named again would be another one for the steps before.
        and not any(isinstance(node, ast.Global | ast.Nonlocal) and name in node.names for node in ast.walk(body.tree))
    )


def _grown(node: ast.AST) -> str | None:
    match node:
        case ast.AugAssign(target=ast.Name(id=name), op=ast.Add()):
            return name
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr))) if attr in _GROWING:
            return name
        case _:
            return None


def _keeps(body: Body, node: ast.Name, above: dict[int, ast.AST]) -> bool:
    """Whether nothing holds the list after this use of its name."""
    outer: ast.AST | None = above.get(id(node))
    holder = outer
    while holder is not None and holder is not body.tree:
        if isinstance(holder, _SCOPES):
            return False
        holder = above.get(id(holder))
    match outer:
        case ast.Assign(targets=[target], value=value) if target is node:
            return _fresh(body, value)
        case ast.AnnAssign(target=target, value=value) if target is node:
            return value is None or _fresh(body, value)
        case ast.AugAssign(target=target):
            return target is node and isinstance(outer.op, ast.Add)
        case ast.Attribute(attr=attr):
            call = above.get(id(outer))
            statement = None if call is None else above.get(id(call))
            return attr in _GROWING and isinstance(call, ast.Call) and isinstance(statement, ast.Expr)
        case ast.keyword(arg=str(name)):
            call = above.get(id(outer))
            return isinstance(call, ast.Call) and _copies(_free(body, call.func), name)
        case ast.Call(args=args):
            return any(item is node for item in args) and (_reads(body, outer) or _joins(outer))
        case ast.comprehension(iter=over):
            return over is node
        case ast.Subscript(value=base, ctx=ast.Load()):
            return base is node
        case ast.Starred():
            return isinstance(above.get(id(outer)), ast.List | ast.Tuple)
        case ast.UnaryOp(op=ast.Not()) | ast.FormattedValue():
            return True
        case ast.Compare(ops=[ast.In() | ast.NotIn()]):
            return True
        case _:
            return False


def _fresh(body: Body, value: ast.expr) -> bool:
    """Whether an expression gives a list that was made for it."""
    match value:
        case ast.List() | ast.ListComp():
            return True
        case ast.Call(func=ast.Name(id=name) as func):
            return name in _MAKERS and _free(body, func) is vars(builtins)[name]
        case _:
            return False


def _reads(body: Body, call: ast.Call) -> bool:
    func = call.func
    if not isinstance(func, ast.Name) or func.id not in _READERS or call.keywords:
        return False
    return _free(body, func) is vars(builtins)[func.id]


def _joins(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Constant(value=str()), attr="join"):
            return True
        case _:
            return False


def _copies(target: object, name: str) -> bool:
    """Whether constructing a schema copies what this field is given: a plain list without a validator."""
    schema = class_of(target)
    if schema is None or not issubclass(schema, BaseModel) or name not in schema.model_fields:
        return False
    own = [cls for cls in schema.__mro__ if cls not in Schema.__mro__]
    if any("__init__" in vars(cls) or "__new__" in vars(cls) for cls in own):
        return False
    made = schema.__pydantic_decorators__
    if made.field_validators or made.model_validators or made.validators or made.root_validators:
        return False
    info = schema.model_fields[name]
    kind = info.annotation
    return not info.metadata and get_origin(kind) is list and all(is_plain(item) for item in get_args(kind))


def _free(body: Body, node: ast.expr) -> object:
    """What a name stands for that the body itself does not give another meaning."""
    code = body.function.__code__
    return free_name(body, node, (*code.co_varnames, *code.co_cellvars))
