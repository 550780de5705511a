"""`@program`: a typed function whose signature is the schemas and whose docstring is the instruction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import Any, NoReturn, TypeVar, cast, overload

from dspex.errors import ProgramError
from dspex.program.modules.predict import Predict
from dspex.program.schema import Schema
from dspex.program.variables import Definition, place

__all__ = ["FunctionProgram", "infer", "program"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


def infer() -> NoReturn:
    """The body of a function under `@dx.program`: the language model infers the result. Never runs."""
    raise ProgramError(
        "DX1503",
        "dx.infer() was called; it only marks the body of a function under @dx.program",
        fix="decorate the function with @dx.program and call the program that this gives",
    )


class FunctionProgram(Predict[I, O]):
    """What `@program` makes of a function: one `Predict` with the function's name as its path.

    Attributes:
        source: Module and qualified name of the function.
    """

    source: tuple[str, str]

    def __init__(self, function: FunctionType, input: type[I], output: type[O]) -> None:
        from inspect import cleandoc

        self.function_name = function.__name__
        self.source = (function.__module__, function.__qualname__)
        self.function = function
        instruction = cleandoc(function.__doc__) if function.__doc__ else None
        super().__init__(input, output, instruction=instruction)
        self.at = (function.__code__.co_filename, function.__code__.co_firstlineno)
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__

    def dx_root_path(self) -> str:
        # Asked before __init__ for the root's place; the name is known by the time that it closes.
        return self.__dict__.get("function_name", "function")

    def dx_close(self) -> None:
        self.dx_node.path = self.dx_root_path()
        super().dx_close()

    def __getstate__(self) -> dict[str, object]:
        # A function pickles by name, and under its name stands this program: only its text is kept.
        state = {name: value for name, value in super().__getstate__().items() if name != "function"}
        return {**state, "function_text": self.text()}

    def text(self) -> str:
        """The function's source."""
        known = self.__dict__.get("function_text")
        if isinstance(known, str):
            return known
        from dspex.program.identity import source_text

        return source_text(self.function)

    def __repr__(self) -> str:
        return f"<program {self.function_name}: {self.input_schema.__name__} -> {self.output_schema.__name__}>"


@overload
def program(function: Callable[[I], Coroutine[Any, Any, O]], /) -> FunctionProgram[I, O]: ...
@overload
def program(function: Callable[[I], O], /) -> FunctionProgram[I, O]: ...
def program(function: Callable[[I], Any], /) -> FunctionProgram[I, Any]:
    """A program out of a function: `async def answer(x: Ask) -> Answer` with a docstring and the body `dx.infer()`.

    Raises:
        ProgramError: DX1504, when the function does not have one parameter and a result, both annotated with
            schemas; DX1505, when its body is not `dx.infer()`.
    """
    if not isinstance(function, FunctionType):
        raise ProgramError("DX1504", f"@dx.program stands over a function, got {function!r}")
    code = function.__code__
    at: Definition = (code.co_filename, code.co_firstlineno)

    def wrong(code: str, why: str, fix: str) -> ProgramError:
        return ProgramError(code, f"{function.__name__}: {why}", where=place(at, function.__name__), fix=fix)

    shape = f"async def {function.__name__}(x: Ask) -> Answer"
    if code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & 0x0C:
        raise wrong(
            "DX1504",
            "a program takes one schema",
            f"put the parameters into a dx.Schema and write {shape}",
        )
    if "infer" not in code.co_names:
        raise wrong(
            "DX1505",
            "the body never runs, and is not dx.infer()",
            "make the body `dx.infer()`, or write a class for a program with code of its own",
        )
    parameter = code.co_varnames[0]
    schemas: list[type[Schema]] = []
    for name in (parameter, "return"):
        annotation = _annotation(function, name, at)
        if not (isinstance(annotation, type) and issubclass(annotation, Schema)):
            what = "the result" if name == "return" else f"the parameter {name!r}"
            found = "not annotated" if annotation is None else f"annotated {annotation!r}, which is no dx.Schema"
            raise wrong("DX1504", f"{what} is {found}", f"annotate schemas: {shape}")
        schemas.append(annotation)
    return FunctionProgram(function, cast("type[I]", schemas[0]), schemas[1])


def _annotation(function: FunctionType, name: str, at: Definition) -> object:
    annotation = function.__annotations__.get(name)
    if not isinstance(annotation, str):
        return annotation
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals is not function.__globals__:
        frame = frame.f_back
    around = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
    try:
        return eval(annotation, function.__globals__, around)
    except Exception as error:
        raise ProgramError(
            "DX1504",
            f"{function.__name__}: the annotation {annotation!r} cannot be resolved: {error}",
            where=place(at, function.__name__),
            fix="define the schema before the function, and import it at run time",
        ) from error
