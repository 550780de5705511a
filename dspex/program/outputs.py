"""What a program gave back, checked where it leaves dspex: an instance of its output schema."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable
from inspect import isasyncgen, isawaitable, iscoroutine, isgenerator
from typing import Any, TypeVar, cast

from dspex.errors import ProgramError
from dspex.program.schema import Schema
from dspex.program.variables import place

__all__ = ["dropped", "output_of"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


async def output_of(program: Callable[[I], Awaitable[O]], x: I) -> O:
    """The output of `program` for `x`, an instance of the schema that it declares; a plain function declares none.

    Raises:
        ProgramError: DX1543, when its `__call__` gave anything else.
    """
    given: object = program(x)
    if not isawaitable(given):
        raise _wrong(program, given, awaited=False)
    value: object = await given
    schema: object = getattr(program, "output_schema", None)
    if isinstance(schema, type) and not isinstance(value, schema):
        raise _wrong(program, value, awaited=True)
    return value


def dropped(value: object) -> None:
    """End an awaitable that nobody will await, so that it leaves no warning."""
    if iscoroutine(value):
        value.close()
    elif isinstance(value, Future):
        cast("Future[object]", value).cancel()


def _wrong(program: object, value: object, *, awaited: bool) -> ProgramError:
    schema: object = getattr(program, "output_schema", None)
    wanted = schema.__name__ if isinstance(schema, type) else "an output"
    name, where = _named(program)
    fix = f"return an instance of {wanted}"
    if not awaited:
        given, fix = f"{type(value).__name__} at once, and is called with await", "write async def __call__"
        if isgenerator(value) or isasyncgen(value):
            given, fix = "a generator, which cannot be awaited", f"write return rather than yield, in an {fix[6:]}"
    elif isawaitable(value):
        given = f"an awaitable ({type(value).__name__}) that nobody awaited"
        fix = "await it: return await self.answer(x)"
    elif value is None:
        given, fix = "None", f"end every way through __call__ with return, and an instance of {wanted}"
    elif isinstance(value, type):
        given, fix = f"the class {value.__name__}", f"make an instance: return {value.__name__}(…)"
    else:
        given = f"{type(value).__name__}: {value!r:.80}"
        if type(value).__name__ == wanted:
            given = f"an instance of another class {wanted}: the schema was defined again after the program"
            fix = "run the program's definition again too, so that both mean one class"
    dropped(value)
    return ProgramError("DX1543", f"{name}.__call__ gave {given}; it declares {wanted}", where=where, fix=fix)


def _named(program: object) -> tuple[str, str | None]:
    """What wrote the output, and the place of its `__call__`; a compiled program's is that of its source."""
    code: object = getattr(program, "code", None)
    source: Any = getattr(code, "program", None) or program
    cls = cast("type[object]", type(source))
    call = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
    body: object = getattr(call, "__code__", None)
    file, line = getattr(body, "co_filename", None), getattr(body, "co_firstlineno", None)
    name = getattr(source, "__name__", None) or type(source).__name__
    if not isinstance(file, str) or not isinstance(line, int):
        return str(name), None
    return str(name), place((file, line), f"{type(source).__name__}.__call__")
