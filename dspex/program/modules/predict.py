"""`Predict`: one call that answers with the output's fields."""

from __future__ import annotations

from typing import TypeVar

from dspex.program.modules.module import Module
from dspex.program.schema import Schema

__all__ = ["Predict"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class Predict(Module[I, O]):
    """One call of a language model that answers with the output's fields and nothing else."""
