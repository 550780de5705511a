"""What a running study tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dspex.lm.spend import NOTHING, Spend

Phase = Literal["split", "propose", "search", "final", "held-out"]


@dataclass(frozen=True, slots=True)
class Left:
    """What the budget still allows; None where there is no cap."""

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a study.

    Attributes:
        study: Its id.
        phase: What it is at.
        done, total: Evaluations settled, and expected in all as far as known.
        best: Best validation mean so far.
        spent, left: Of the budget.
        eta: Seconds to the end, when they can be estimated.
        cache_hits: Calls answered without being sent.
        message: What happened last, for a person.
    """

    study: str
    phase: Phase
    done: int = 0
    total: int | None = None
    best: float | None = None
    spent: Spend = NOTHING
    left: Left = Left()
    eta: float | None = None
    cache_hits: int = 0
    message: str = ""


Watcher = Callable[[Progress], None]
