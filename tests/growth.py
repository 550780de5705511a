"""How much work a call is, counted in steps of the interpreter rather than in seconds.

A count is the same on a slow machine and on a busy one, so a test can compare two sizes of a problem: four times the
size is about four times the steps where the work is linear, and up to 16 times where it is quadratic.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

LINEAR = 6.0
"""More than work that is linear grows when a problem grows fourfold; less than n^1.3 does."""


def steps(work: Callable[[], object]) -> int:
    """The lines and calls of Python that `work` executes in this thread.

    What runs inside C is a single step or none: a search through a list, a copied tuple, joined texts, a comparison of
    texts. Work that is quadratic there alone is not seen. What is cached at first use counts where it happens first.
    """
    taken = 0

    def seen(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        nonlocal taken
        if event in ("call", "line"):
            taken += 1
        return seen

    before, collecting = sys.gettrace(), gc.isenabled()
    # A collection runs callbacks and finalizers of whatever was there before.
    gc.disable()
    sys.settrace(seen)
    try:
        work()
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return taken
