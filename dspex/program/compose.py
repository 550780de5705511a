"""Composition: `a >> b` runs `a`, then `b` on its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from dspex.errors import CompileError, ProgramError
from dspex.program.program import Program, Step
from dspex.program.rules import Rule
from dspex.program.schema import Schema
from dspex.program.variables import Var, definition, place

__all__ = ["Pipe", "pipe"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741
P = TypeVar("P", bound=Schema)


class Pipe(Program[I, O]):
    """Runs its steps in order, each on the output of the one before. Built by `>>`.

    Attributes:
        steps: The programs, in order; their paths are ``step1``, ``step2``, …
    """

    _scope = False
    steps: tuple[Program[Any, Any], ...]

    def __init__(self, steps: tuple[Program[Any, Any], ...]) -> None:
        self.input_schema = steps[0].input_schema
        self.output_schema = steps[-1].output_schema
        self.steps = steps

    async def __call__(self, x: I, /) -> O:
        """The output of the last step."""
        value: Any = x
        for step in self.steps:
            value = await step(value)
        return cast(O, value)

    def children(self) -> dict[str, Program[Any, Any]]:
        return {f"step{number}": step for number, step in enumerate(self.steps, 1)}

    def dx_replace_children(self, visit: Callable[[Program[Any, Any], str, Rule | None], Program[Any, Any]]) -> None:
        vars(self)["steps"] = tuple(visit(step, f"step{number}", None) for number, step in enumerate(self.steps, 1))

    def dx_variables(self) -> dict[str, Var[Any]]:
        return {}


def pipe(left: Program[I, O], right: Step[O, P]) -> Pipe[I, P]:
    """`left`, then `right` on its output.

    Raises:
        CompileError: DX2001, when `right` does not take what `left` gives.
    """
    if not isinstance(right, Program):
        raise ProgramError(
            "DX1508", f">> joins programs, got {right!r}", where=place(definition()), fix="write a dx.Program around it"
        )
    second = cast("Program[Any, Any]", right)
    if not issubclass(left.output_schema, second.input_schema):
        raise CompileError(
            "DX2001",
            f"{type(left).__name__} gives {left.output_schema.__name__}, "
            f"{type(second).__name__} takes {second.input_schema.__name__}",
            where=place(definition()),
            fix="put a program between them that makes the one out of the other",
        )
    steps: list[Program[Any, Any]] = []
    for part in (cast("Program[Any, Any]", left), second):
        steps += part.steps if isinstance(part, Pipe) else (part,)
    joined: Pipe[I, P] = Pipe(tuple(steps))
    return joined
