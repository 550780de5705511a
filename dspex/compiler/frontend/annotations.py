"""What annotations say about fields and results."""

from __future__ import annotations

import difflib
import typing
from types import FunctionType
from typing import Any, Final

from pydantic import BaseModel

from dspex.compiler.frontend.symbols import ANY

__all__ = ["field_types", "return_type", "schema_named"]

_CONVERSIONS: Final[tuple[type, ...]] = (str, int, float, bool, list, tuple, dict, set, frozenset, bytes)
_BUILTINS: Final[dict[object, type]] = {
    len: int,
    repr: str,
    sorted: list,
    any: bool,
    all: bool,
    isinstance: bool,
    callable: bool,
    hash: int,
    ord: int,
    chr: str,
    format: str,
}


def field_types(schema: type[BaseModel]) -> dict[str, object]:
    """The annotation of each field of `schema`."""
    return {name: info.annotation for name, info in schema.model_fields.items()}


def return_type(function: object) -> object:
    """What a call of `function` gives, as far as its annotations say; `ANY` otherwise."""
    if isinstance(function, type):
        return function if function in _CONVERSIONS or issubclass(function, BaseModel) else ANY
    if not isinstance(function, FunctionType):
        # Methods of built-in types are not hashable by intent; only named built-ins are looked up.
        return _BUILTINS.get(function, ANY) if type(function) is type(len) else ANY
    given = function.__annotations__.get("return", ANY)
    if not isinstance(given, str):
        return given
    try:
        hints: dict[str, Any] = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return ANY
    return hints.get("return", ANY)


def schema_named(name: str, known: tuple[str, ...]) -> str | None:
    """The one of `known` that `name` was probably meant to be."""
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None
