"""What a name stands for while a body is interpreted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from dspex.compiler.ir.nodes import Value

if TYPE_CHECKING:
    from dspex.program.program import Program

__all__ = ["ANY", "Container", "Inner", "Symbol", "Symbolic", "class_of", "describe"]

ANY: Final = "?"
"""The type of a value about which nothing is known; like any text that was not resolved, no class."""


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A value in the graph.

    Attributes:
        value: The operand.
        type: Its Python annotation, `ANY` when unknown.
        parts: The values inside, when it is a tuple or list that the body itself made.
        name: What to call it inside an expression.
    """

    value: Value
    type: object = ANY
    parts: tuple[Symbolic, ...] | None = None
    name: str = "value"


@dataclass(frozen=True, slots=True)
class Inner:
    """A program or module that the interpreted program owns, or the program itself.

    Attributes:
        program: The object.
        path: Its dotted path from the compiled program.
    """

    program: Program[Any, Any]
    path: str


@dataclass(frozen=True, slots=True)
class Container:
    """A list, tuple or dict attribute that holds programs."""

    items: Sequence[object] | Mapping[object, object]
    path: str


Symbol: TypeAlias = Symbolic | Inner | Container


def describe(symbol: Symbol) -> str:
    """A few words for messages."""
    match symbol:
        case Symbolic():
            return "a value"
        case Inner():
            return f"the program at {symbol.path!r}" if symbol.path else "the program itself"
        case Container():
            return f"the programs in {symbol.path!r}"


def class_of(kind: object) -> type[Any] | None:
    """The class that a type is, None for everything that is no plain class."""
    return cast("type[Any]", kind) if isinstance(kind, type) and kind is not Any else None
