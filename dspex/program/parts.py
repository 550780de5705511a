"""What a program's run shows while it goes on."""

from __future__ import annotations

from dataclasses import fields
from typing import Generic, TypeVar, cast

from dspex.lm.record import record
from dspex.program.schema import Schema

__all__ = ["Part"]

O = TypeVar("O", bound=Schema)  # noqa: E741


@record
class Part(Generic[O]):
    """A part of what the modules of a running program write; the last part of a run has its output.

    Attributes:
        module: Path of the module that writes; "" on the last part.
        call: Which call of the run it belongs to, counted from 1: a module may be called often, and several at once.
        field: The output field that is being written, or "reasoning" of a module that reasons; "" on a part that has
            `thinking` alone, and on the last part.
        text: What is appended to the field's text: of a text itself, of any other value its JSON.
        value: The field as far as it is known: a text up to here, lists and records as far as they go, None while
            nothing can be told of it. Not validated before `done`.
        anew: The field begins again: what earlier parts of this call gave of it is void.
        done: The field is complete, and `value` is that of the validated output.
        thinking: What is appended to the hidden reasoning, where the provider shows it.
        output: On the last part alone: the program's output.
    """

    module: str = ""
    call: int = 0
    field: str = ""
    text: str = ""
    value: object = None
    anew: bool = False
    done: bool = False
    thinking: str = ""
    output: O | None = None

    def __repr__(self) -> str:
        given = [(one.name, cast(object, getattr(self, one.name)), one.default) for one in fields(self)]
        return f"Part({', '.join(f'{name}={value!r}' for name, value, default in given if value != default)})"
