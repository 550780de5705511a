"""The options that cap what a command may spend."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click


def budget_options(calls: str = "Calls at most.") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Four options of a command, which takes them as one ``budget``; `calls` is the help of the first."""
    options = (
        click.option("--budget-calls", type=click.IntRange(min=1), help=calls),
        click.option("--budget-usd", type=click.FloatRange(min=0, min_open=True), help="US dollars at most."),
        click.option("--budget-tokens", type=click.IntRange(min=1), help="Tokens at most."),
        click.option("--budget-wall", help="Wall time at most, for example 90s, 4m or 1h."),
    )

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def with_budget(
            *,
            budget_calls: int | None,
            budget_usd: float | None,
            budget_tokens: int | None,
            budget_wall: str | None,
            **given: Any,
        ) -> int:
            from dspex.lm.spend import Budget

            budget = Budget(calls=budget_calls, usd=budget_usd, tokens=budget_tokens, wall=budget_wall)
            return command(budget=budget, **given)

        made: Callable[..., int] = with_budget
        for option in reversed(options):
            made = option(made)
        return made

    return decorate
