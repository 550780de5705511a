"""`@op`: a plain function that the compiler keeps as one step of its own, and may treat as pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from dspex.errors import ProgramError
from dspex.program.variables import definition, place

__all__ = ["Operation", "op", "operation_of"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operation:
    """What the author says about a function.

    Attributes:
        pure: Equal arguments give equal values, and nothing else happens: calls may be merged, moved or left out.
    """

    pure: bool = False


@overload
def op(function: F, /) -> F: ...
@overload
def op(*, pure: bool = False) -> Callable[[F], F]: ...
def op(function: F | None = None, /, *, pure: bool = False) -> F | Callable[[F], F]:
    """Marks a function, synchronous or not, as one step of the programs that call it; the function stays what it is.

    Args:
        function: The function, when the decorator is used without parentheses.
        pure: Equal arguments give equal values, and nothing else happens.

    Raises:
        ProgramError: DX1540, when it does not stand over a function.
    """

    def mark(target: F) -> F:
        from inspect import isfunction

        given: object = target
        if not isfunction(given):
            raise ProgramError(
                "DX1540",
                f"@dx.op stands over a function, got {target!r:.100}",
                where=place(definition()),
                fix="decorate a def or an async def",
            )
        setattr(target, "__dspex_op__", Operation(pure))  # noqa: B010 - a function has no such attribute to a checker
        return target

    return mark if function is None else mark(function)


def operation_of(function: object) -> Operation | None:
    """What `op` said about `function`; None when nothing was said."""
    found = getattr(function, "__dspex_op__", None)
    return found if isinstance(found, Operation) else None
