"""What calls cost, and the caps on it: the units that budgets, traces and reports share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from dspex.errors import UsageError
from dspex.lm.record import record

Unpriced = Literal["refuse", "allow"]

PICO = 1_000_000_000_000
"""Units of a US dollar in which amounts are added up, so that sums neither drift nor depend on their order."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


@record
class Spend:
    """An amount of calls, tokens and US dollars. ``usd`` is None when a part of it has no known price.

    Unknown is contagious in ``usd`` only: the sum of a priced and an unpriced amount is unpriced, never
    the priced part alone.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
        )

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


NOTHING = Spend()
"""The cost of a cache hit."""


def pico(usd: float) -> int:
    """Dollars in whole units of 10^-12."""
    return math.ceil(usd * PICO - 0.5)


@dataclass(frozen=True, slots=True)
class Budget:
    """Caps on what a piece of work may spend; a cap that is None does not bind.

    Args:
        calls: Attempts sent to a model.
        tokens: Input and output tokens together.
        usd: US dollars.
        wall: Seconds, or a text such as ``"90s"``, ``"4m"``, ``"1h30m"``.
        unpriced: With a cap on dollars, whether calls of models without a known price are refused, or allowed and
            not counted against that cap.

    Raises:
        UsageError: DX4501, when a cap is zero, negative or not a number, or ``wall`` cannot be read; DX4505, when
            ``unpriced`` is neither.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    wall: float | str | None = None
    unpriced: Unpriced = "refuse"
    wall_seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name, value in (("calls", self.calls), ("tokens", self.tokens)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _refused(name, f"a whole number, got {value!r}")
            if value < 1:
                raise _refused(name, f"at least 1, got {value!r}")
        if self.usd is not None:
            _check_positive("usd", self.usd)
        if self.wall is not None:
            seconds = _seconds(self.wall) if isinstance(self.wall, str) else self.wall
            _check_positive("wall", seconds)
            object.__setattr__(self, "wall_seconds", float(seconds))
        if self.unpriced not in get_args(Unpriced):
            raise UsageError(
                "DX4505",
                f"unpriced is 'refuse' or 'allow', got {self.unpriced!r}",
                where="Budget(unpriced=...)",
                fix="leave it out to refuse calls that a cap on dollars could not count",
            )

    def __bool__(self) -> bool:
        """Whether any cap is set."""
        return any(cap is not None for cap in (self.calls, self.tokens, self.usd, self.wall_seconds))


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused(name, f"a number, got {value!r}")
    if not value > 0 or math.isinf(value):
        raise _refused(name, f"positive and finite, got {value!r}")


def _refused(name: str, rule: str) -> UsageError:
    return UsageError(
        "DX4501",
        f"a budget's {name} must be {rule}",
        where=f"Budget({name}=...)",
        fix=f"leave {name} out for no cap, or give a positive one",
    )


def check_budget(budget: object) -> None:
    """Raise DX4501 for something that is neither a `Budget` nor None."""
    if budget is not None and not isinstance(budget, Budget):
        raise UsageError(
            "DX4501",
            f"a budget is a dx.Budget, got {budget!r:.80}",
            where="budget",
            fix="say what is capped, for example dx.Budget(calls=500)",
        )


def _seconds(text: str) -> float:
    compact = text.strip().lower()
    position, total = 0, 0.0
    while position < len(compact):
        part = _PART.match(compact, position)
        if part is None:
            raise _refused("wall", f"seconds or a text like '90s', '4m' or '1h30m', got {text!r}")
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
        while position < len(compact) and compact[position] == " ":
            position += 1
    return total
