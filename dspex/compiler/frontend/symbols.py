"""What a name stands for while a body is interpreted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from dspex.compiler.ir.nodes import Node, Value

if TYPE_CHECKING:
    from dspex.program.program import Program

__all__ = [
    "ANY",
    "BREAK",
    "CONTINUE",
    "Container",
    "Deferred",
    "Growing",
    "Inner",
    "Jump",
    "Several",
    "Symbol",
    "Symbolic",
    "Tooled",
    "class_of",
    "describe",
]

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
        plain: It is made of texts, numbers and plain containers only, whatever its type.
    """

    value: Value
    type: object = ANY
    parts: tuple[Symbolic, ...] | None = None
    name: str = "value"
    plain: bool = False


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


@dataclass(frozen=True, slots=True)
class Tooled:
    """A tool, which may be called."""

    tool: Any


@dataclass(slots=True)
class Deferred:
    """A call that was made and not awaited yet; its arguments have their values.

    Attributes:
        make: Appends the call's nodes and gives its result.
        nodes: Where the call was made; it is awaited there too.
        line: Where in the source.
        several: It is a list of calls, to be unpacked into `asyncio.gather`.
        spent: It was awaited.
    """

    make: Callable[[], Symbolic]
    nodes: list[Node]
    line: int
    several: bool = False
    spent: bool = False


@dataclass(slots=True)
class Growing:
    """A list that the body made and only appended to so far."""

    items: list[Symbolic] = field(default_factory=list[Symbolic])


@dataclass(frozen=True, slots=True)
class Several:
    """A fixed number of things that are only unpacked, such as a pair of `enumerate`."""

    items: tuple[Symbol, ...]


class Jump:
    """`break` or `continue`, where it is known at compile time that it is reached."""


BREAK: Final = Jump()
CONTINUE: Final = Jump()

Symbol: TypeAlias = Symbolic | Inner | Container | Tooled | Deferred | Growing | Several


def describe(symbol: Symbol) -> str:
    """A few words for messages."""
    match symbol:
        case Symbolic() | Growing() | Several():
            return "a value"
        case Inner():
            return f"the program at {symbol.path!r}" if symbol.path else "the program itself"
        case Container():
            return f"the programs in {symbol.path!r}"
        case Tooled():
            return f"the tool {symbol.tool.name!r}"
        case Deferred():
            return "a call without `await`"


def class_of(kind: object) -> type[Any] | None:
    """The class that a type is, None for everything that is no plain class."""
    return cast("type[Any]", kind) if isinstance(kind, type) and kind is not Any else None
