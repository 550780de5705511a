"""`@tool`: a function that programs and language models can call, with a schema of its arguments."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from inspect import Parameter, cleandoc, isawaitable, isfunction, signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from dspex.errors import ProgramError
from dspex.program.variables import Definition, definition, place

if TYPE_CHECKING:
    from pydantic import JsonValue, TypeAdapter

__all__ = ["Tool", "tool"]

P = ParamSpec("P")
R = TypeVar("R")

_NAME_LENGTH = 64


class Tool(Generic[P, R]):
    """A function with a name, a description and a schema of its arguments. Built by `tool`.

    A tool is called as `await search(query="…")`; the arguments are validated, and a synchronous function is called
    like an asynchronous one. It may be a module-level name or an attribute of a program.

    Attributes:
        name: What a model calls it by.
        description: What a model reads about it; the function's docstring by default.
        parameters: JSON Schema of the arguments.
        function: The function itself.
    """

    name: str
    description: str
    parameters: Mapping[str, JsonValue]
    function: Callable[P, R] | Callable[P, Awaitable[R]]

    def __init__(
        self,
        function: Callable[P, R] | Callable[P, Awaitable[R]],
        *,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        target = cast(FunctionType, function)
        self.function = function
        self.name = target.__name__ if name is None else name
        self.description = cleandoc(target.__doc__ or "") if description is None else description
        self._adapter = _adapter(target)
        self.parameters = cast("Mapping[str, JsonValue]", self._adapter.json_schema())
        self.__doc__ = target.__doc__
        self.__name__ = target.__name__
        self.__qualname__ = target.__qualname__
        self.__module__ = target.__module__

    @property
    def target(self) -> str:
        """Where the function stands: ``module:qualname``."""
        return f"{self.function.__module__}:{cast(FunctionType, self.function).__qualname__}"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result for the validated arguments.

        Raises:
            ProgramError: DX1542, when an argument is missing, unknown or not of its type.
        """
        positional, named = self.arguments(args, kwargs)
        # The validator gives back the parameters of the very signature, which no checker can see.
        result = cast("Callable[..., R | Awaitable[R]]", self.function)(*positional, **named)
        return await cast("Awaitable[R]", result) if isawaitable(result) else cast(R, result)

    def arguments(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The validated arguments of a call, completed with the defaults.

        Raises:
            ProgramError: DX1542, when an argument is missing, unknown or not of its type.
        """
        from pydantic import ValidationError
        from pydantic_core import ArgsKwargs

        try:
            return cast(
                "tuple[tuple[Any, ...], dict[str, Any]]",
                self._adapter.validator.validate_python(ArgsKwargs(args, dict(kwargs))),
            )
        except ValidationError as error:
            names = list(signature(self.function).parameters)
            # An argument under a wrong name is missing under its own: the first says both.
            found = sorted(error.errors(include_url=False), key=lambda entry: entry["type"] == "missing_argument")
            reasons = "; ".join(
                _reason(entry["type"], entry["loc"], entry["msg"], entry["input"], names) for entry in found
            )
            raise ProgramError(
                "DX1542",
                f"the tool {self.name!r} cannot take these arguments: {reasons}",
                where=self.target,
                fix=f"its parameters are {', '.join(signature(self.function).parameters) or '(none)'}",
            ) from None

    def __reduce__(self) -> str:
        # Under the function's name stands this tool: it pickles by reference, as the function would.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<Tool {self.name}{signature(self.function)}>"


@overload
def tool(function: Callable[P, Awaitable[R]], /) -> Tool[P, R]: ...
@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(*, name: str | None = None, description: str | None = None) -> _Decorator: ...
def tool(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Tool[..., Any] | _Decorator:
    """Makes a tool of a function, synchronous or not: `@dx.tool`, or `@dx.tool(name=…, description=…)`.

    Args:
        function: A plain function whose parameters are all named and annotated.
        name: What a model calls it by; the function's name by default. Letters, digits, ``_`` and ``-``, at most 64.
        description: What a model reads about it; the function's docstring by default.

    Raises:
        ProgramError: DX1541, when the function, its signature or the name does not fit.
    """
    decorator = _Decorator(name, description)
    return decorator if function is None else decorator(function)


class _Decorator:
    """`tool` with its options."""

    def __init__(self, name: str | None, description: str | None) -> None:
        self._name = name
        self._description = description

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Tool[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Tool[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Tool[..., Any]:
        if not isfunction(function):
            raise ProgramError(
                "DX1541",
                f"@dx.tool stands over a function, got {function!r:.100}",
                where=place(definition()),
                fix="write a def or an async def around it",
            )
        name = self._name
        sound = name is None or (
            isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
            and 0 < len(name) <= _NAME_LENGTH
            and name.isascii()
            and name.replace("_", "a").replace("-", "a").isalnum()
        )
        if not sound:
            raise _unfit(function, f"its name is {name!r}", "use letters, digits, _ and -, at most 64 of them")
        return Tool(function, name=name, description=self._description)


def _reason(kind: str, loc: tuple[int | str, ...], message: str, given: object, names: list[str]) -> str:
    """What is wrong with one argument, in words of a call."""
    spoken = _spoken(loc, names)
    if len(loc) == 1 and kind.startswith("missing_") and kind.endswith("argument"):
        return f"{spoken} is missing"
    if kind == "unexpected_keyword_argument":
        from difflib import get_close_matches

        near = get_close_matches(spoken, names, n=1)
        return f"there is no {spoken!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    if kind == "unexpected_positional_argument":
        return f"there is no parameter for {given!r:.80}"
    if kind == "multiple_argument_values":
        return f"{spoken} is given twice"
    return f"{spoken}: {message}, got {given!r:.80}"


def _spoken(loc: tuple[int | str, ...], names: list[str]) -> str:
    """Which part of which argument; pydantic counts positional ones."""
    first, *rest = loc or ("arguments",)
    if isinstance(first, int) and first < len(names):
        first = names[first]
    return ".".join(map(str, (first, *rest)))


def _unfit(function: FunctionType, why: str, fix: str) -> ProgramError:
    code = function.__code__
    at: Definition = (code.co_filename, code.co_firstlineno)
    return ProgramError("DX1541", f"the tool {function.__name__}: {why}", where=place(at, function.__name__), fix=fix)


def _adapter(function: FunctionType) -> TypeAdapter[Any]:
    """What validates the arguments of `function` and describes them; it calls nothing."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    shape = signature(function)
    hints = _hints(function)
    parameters: list[Parameter] = []
    for name, parameter in shape.parameters.items():
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise _unfit(
                function, f"the parameter {parameter} has no name that a caller could give", f"name it: {name}"
            )
        if name not in hints:
            why = f"the parameter {name!r} has no annotation"
            if name in ("self", "cls"):
                raise _unfit(function, why, "a tool is a plain function; make it one, outside the class")
            raise _unfit(function, why, f"annotate it: {name}: str")
        parameters.append(parameter.replace(annotation=hints[name]))

    def capture(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, kwargs

    capture.__name__ = function.__name__
    capture.__module__ = function.__module__
    capture.__annotations__ = {name: hint for name, hint in hints.items() if name != "return"}
    setattr(capture, "__signature__", shape.replace(parameters=parameters, return_annotation=Parameter.empty))  # noqa: B010
    try:
        adapter = TypeAdapter[Any](cast(Any, capture))
        adapter.json_schema()
    except PydanticUserError:
        named = [f"{p.name!r} ({_type_name(p.annotation)})" for p in parameters if not _has_schema(p.annotation)]
        what = f"of the parameter {named[0]}" if named else "of its parameters together"
        raise _unfit(
            function,
            f"the type {what} has no JSON Schema",
            "use types that JSON can carry: str, int, float, bool, lists, dicts, dx.Schema",
        ) from None
    return adapter


def _has_schema(annotation: Any) -> bool:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        TypeAdapter[Any](annotation).json_schema()
    except PydanticUserError:
        return False
    return True


def _type_name(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _hints(function: FunctionType) -> dict[str, Any]:
    from typing import get_type_hints

    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals is not function.__globals__:
        frame = frame.f_back
    around = None if frame.f_locals is frame.f_globals else dict(frame.f_locals)
    try:
        return get_type_hints(function, localns=around, include_extras=True)
    except Exception as error:
        written = cast("Mapping[str, object]", function.__annotations__)
        missing = getattr(error, "name", None)
        at = [name for name, text in written.items() if isinstance(missing, str) and missing in str(text)]
        what = (
            "an annotation"
            if not at
            else "its result's annotation"
            if at[0] == "return"
            else f"the annotation of {at[0]!r}"
        )
        raise _unfit(
            function, f"{what} cannot be resolved: {error}", "define the type before the tool, at run time"
        ) from error
