"""Routes a customer's ticket to a team: the program that `dspex demo` compiles and optimizes.

It is written as a newcomer would write it. Everything that makes it better is found by the search.
"""

from __future__ import annotations

from typing import Literal

import dspex as dx

Team = Literal["account", "billing", "delivery", "feedback", "returns", "technical"]
TASK = "Which team should handle this customer's ticket?"


class Ticket(dx.Schema):
    text: str = dx.field(description="what the customer wrote")


class Route(dx.Schema):
    team: Team = dx.field(description="the team that should handle the ticket")


class Router(dx.Program[Ticket, Route]):
    """Route a customer's ticket to the team that should handle it."""

    shown: dx.Var[int] = dx.var(6, lo=1, hi=12)
    warmth: dx.Var[float] = dx.var(0.0, lo=0.0, hi=0.8)
    solver = dx.select(
        direct=dx.Predict(Ticket, Route, instruction=TASK, demos_k=shown),
        reasoned=dx.ChainOfThought(Ticket, Route, instruction=TASK, demos_k=shown, temperature=warmth, max_tokens=64),
    )
    rules = [solver.is_("reasoned").implies(shown <= 2)]

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solver(x)


def accuracy(got: Route, want: Route) -> bool:
    """Whether the ticket went to the right team."""
    return got.team == want.team
