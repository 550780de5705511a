"""What annotations say about fields, results and items. Annotations are read, never evaluated."""

from __future__ import annotations

import ast
import builtins
import difflib
import types as python_types
import typing
from collections.abc import Iterator, Mapping
from types import FunctionType, GenericAlias, ModuleType, NoneType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel

from dspex.compiler.frontend.symbols import ANY

__all__ = [
    "ITERATOR",
    "field_types",
    "generic",
    "is_immutable",
    "is_plain",
    "item_type",
    "members",
    "return_type",
    "schema_named",
]

ITERATOR: Final = Iterator
"""The type of what can be read through once only."""

_CONVERSIONS: Final[tuple[type, ...]] = (str, int, float, bool, list, tuple, dict, set, frozenset, bytes)
_GENERATOR: Final = 0x20 | 0x200
_CONTAINERS: Final = cast("tuple[object, ...]", (list, tuple, dict, set, frozenset))
_SCALARS: Final = (str, int, float, bool, NoneType, None)


def field_types(schema: type[BaseModel]) -> dict[str, object]:
    """The annotation of each field of `schema`."""
    return {name: info.annotation for name, info in schema.model_fields.items()}


def return_type(function: object) -> object:
    """What a call of `function` gives, as far as its annotations say; `ANY` otherwise."""
    if isinstance(function, type):
        return function if function in _CONVERSIONS or issubclass(function, BaseModel) else ANY
    if not isinstance(function, FunctionType):
        return ANY
    if function.__code__.co_flags & _GENERATOR:
        return ITERATOR
    given = function.__annotations__.get("return", ANY)
    if not isinstance(given, str):
        return given
    try:
        tree = ast.parse(given, mode="eval").body
    except SyntaxError:
        return ANY
    return _resolved(tree, function.__globals__)


def _resolved(node: ast.expr, names: Mapping[str, object]) -> object:
    """The type that an annotation's text means, looked up and not evaluated; `ANY` where that does not tell."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name():
            found = names.get(node.id, vars(builtins).get(node.id, ANY))
            return found if isinstance(found, type) or get_origin(found) is not None else ANY
        case ast.Attribute(value=ast.Name() as base):
            module = names.get(base.id)
            found = vars(module).get(node.attr, ANY) if isinstance(module, ModuleType) else ANY
            return found if isinstance(found, type) or get_origin(found) is not None else ANY
        case ast.BinOp(op=ast.BitOr()):
            left, right = _resolved(node.left, names), _resolved(node.right, names)
            return ANY if left == ANY or right == ANY else Union[left, right]  # noqa: UP007 - made of values
        case ast.Subscript():
            base = _resolved(node.value, names)
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            inner = [
                ... if isinstance(item, ast.Constant) and item.value is ... else _resolved(item, names)
                for item in items
            ]
            if base in _CONTAINERS and not any(item == ANY for item in inner):
                return GenericAlias(cast("type", base), tuple(inner))
            return base if base in _CONTAINERS else ANY
        case _:
            return ANY


def generic(base: type, *items: object) -> object:
    """``base[items]``, or `base` alone when an item is unknown."""
    if any(isinstance(item, str) or item is Any or item is typing.Any for item in items):
        return base
    return GenericAlias(base, items)


def _bare(kind: object) -> object:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def members(kind: object) -> tuple[object, ...]:
    """The types that a union allows; the type itself for any other."""
    kind = _bare(kind)
    if get_origin(kind) in (Union, python_types.UnionType):
        return tuple(inner for item in get_args(kind) for inner in members(item))
    return (kind,)


def is_plain(kind: object) -> bool:
    """Whether values of this type are surely texts, numbers, None, and lists, tuples and dicts of those."""
    kind = _bare(kind)
    if kind is None or (isinstance(kind, type) and kind in _SCALARS):
        return True
    origin = get_origin(kind)
    if origin is Literal:
        return all(type(value) in (str, int, bool, NoneType) for value in get_args(kind))
    if origin in (list, tuple, dict, Union, python_types.UnionType):
        return all(item is ... or is_plain(item) for item in get_args(kind))
    return False


def is_immutable(kind: object) -> bool:
    """Whether nothing can change a value of this type in place."""
    kind = _bare(kind)
    if kind is None or (isinstance(kind, type) and kind in _SCALARS):
        return True
    origin = get_origin(kind)
    if origin is Literal:
        return True
    return origin in (tuple, Union, python_types.UnionType) and all(
        item is ... or is_immutable(item) for item in get_args(kind)
    )


def item_type(kind: object) -> object:
    """The type of what iterating over a value of this type gives."""
    kind = _bare(kind)
    if kind is str:
        return str
    if kind is range:
        return int
    args = get_args(kind)
    match get_origin(kind):
        case origin if origin in (list, set, frozenset, dict) and args:
            return args[0]
        case origin if origin is tuple and len(args) == 2 and args[1] is ...:
            return args[0]
        case _:
            return ANY


def schema_named(name: str, known: tuple[str, ...]) -> str | None:
    """The one of `known` that `name` was probably meant to be."""
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None
