"""Types as the graph writes them: names of schemas and of Python types, with arguments.

A graph is read without the source tree, so its types are names, not classes. The front end keeps
the classes beside the graph and checks fields against them.
"""

from __future__ import annotations

import enum
import json
import types as python_types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import TypeAliasType

__all__ = ["ELLIPSIS", "NONE", "UNKNOWN", "LiteralValue", "Type", "type_of", "union"]


@dataclass(frozen=True, slots=True)
class LiteralValue:
    """One member of a ``Literal[...]`` as canonical JSON text."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Type:
    """A type by name.

    Attributes:
        name: ``Ask``, ``list``, ``str``; ``|`` for a union, ``?`` when it is not known.
        args: Arguments between brackets, or the members of a union.
    """

    name: str
    args: tuple[Type | LiteralValue, ...] = ()

    def __str__(self) -> str:
        if self.name == "|":
            return " | ".join(str(arg) for arg in self.args)
        if not self.args:
            return self.name
        return f"{self.name}[{', '.join(str(arg) for arg in self.args)}]"

    @property
    def known(self) -> bool:
        """Whether nothing in it is ``?``."""
        return self.name != "?" and all(not isinstance(arg, Type) or arg.known for arg in self.args)


UNKNOWN = Type("?")
NONE = Type("None")
ELLIPSIS = Type("...")


def union(members: tuple[Type, ...]) -> Type:
    """The union of `members`, flat, without repeats; a single member is itself."""
    flat: dict[Type, None] = {}
    for member in members:
        parts = [arg for arg in member.args if isinstance(arg, Type)] if member.name == "|" else [member]
        flat.update(dict.fromkeys(parts))
    if UNKNOWN in flat or not flat:
        return UNKNOWN
    return next(iter(flat)) if len(flat) == 1 else Type("|", tuple(flat))


def type_of(annotation: object, name_of: Callable[[type[Any]], str]) -> Type:
    """The graph's type of a Python annotation.

    Args:
        annotation: A resolved annotation; a string or a type variable gives ``?``.
        name_of: How a class is called in the graph.
    """
    if annotation is Any:
        return UNKNOWN
    if annotation is None or annotation is type(None):
        return NONE
    if annotation is Ellipsis:
        return ELLIPSIS
    if isinstance(annotation, TypeAliasType):
        return type_of(annotation.__value__, name_of)
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_of(get_args(annotation)[0], name_of)
    if origin is Literal:
        return Type("Literal", tuple(_literal(value) for value in get_args(annotation)))
    if origin is Union or origin is python_types.UnionType:
        return union(tuple(type_of(arg, name_of) for arg in get_args(annotation)))
    if isinstance(origin, type):
        return Type(name_of(origin), tuple(type_of(arg, name_of) for arg in get_args(annotation)))
    if isinstance(annotation, type):
        return Type(name_of(annotation))
    return UNKNOWN


def _literal(value: object) -> LiteralValue:
    if isinstance(value, enum.Enum):
        value = value.value
    plain = value if isinstance(value, str | int | bool | None) else str(value)
    return LiteralValue(json.dumps(plain, ensure_ascii=False))
