"""`ChainOfThought`: one call that reasons before it answers."""

from __future__ import annotations

from typing import TypeVar

from dspex.program.modules.module import Module
from dspex.program.schema import Schema

__all__ = ["ChainOfThought"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class ChainOfThought(Module[I, O]):
    """One call of a language model that writes its reasoning, then the output's fields.

    The program gets the output alone; the reasoning is in the call's record in `dx.trace()`.

    Source: Wei et al. (2022).
    """

    reasons = True
