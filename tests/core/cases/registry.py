"""What a case of a kernel is, and the table of all cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        args: Arguments of the kernel.
        writes: Positions of the arrays that it must fill or change.
        expected: What the oracle says: the written arrays in order, then the result when there is one.
        tolerance: Largest relative difference, 0 for equality.
        part: Narrows the written arrays to what is defined, or None.
    """

    args: tuple[Any, ...]
    writes: tuple[int, ...]
    expected: Callable[[], list[Any]]
    tolerance: float = 0.0
    part: Callable[[list[Any]], list[Any]] | None = None


Builder = Callable[[st.DrawFn], Case]
CASES: dict[str, Builder] = {}


def case(name: str) -> Callable[[Builder], Builder]:
    def add(builder: Builder) -> Builder:
        CASES[name] = builder
        return builder

    return add
