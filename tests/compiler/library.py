"""Programs that artifacts name by import path."""

from __future__ import annotations

from typing import Literal

import dspex as dx


class Ticket(dx.Schema):
    """A message from a customer."""

    text: str


class Route(dx.Schema):
    """Where it goes."""

    queue: Literal["billing", "delivery"]


class Router(dx.Program[Ticket, Route]):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    heat: dx.Var[float] = dx.var(0.5, lo=0.25, hi=1.0)
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    rules = [style.is_("terse").implies(k <= 4)]
    solver = dx.select(
        predict=dx.Predict(Ticket, Route, instruction="Route in a {style} way.", demos_k=k),
        cot=dx.ChainOfThought(Ticket, Route, temperature=heat),
    )

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solver(x)


class Loops(dx.Program[Ticket, Route]):
    solve = dx.Predict(Ticket, Route)

    async def __call__(self, x: Ticket, /) -> Route:
        while x.text != x.text.strip():
            x = Ticket(text=x.text.strip())
        return await self.solve(x)


class Needy(dx.Program[Ticket, Route]):
    solve = dx.Predict(Ticket, Route)

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solve(Ticket(text=self.prefix + x.text))


class Ünï(dx.Program[Ticket, Route]):
    lösung = dx.Predict(Ticket, Route)

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.lösung(x)


@dx.program
async def route(x: Ticket) -> Route:
    """Route the message."""
    dx.infer()


needy = Needy("re: ")
chain = dx.Predict(Ticket, Ticket) >> dx.Predict(Ticket, Route)

FRIENDLY = dx.DemoSet(
    [
        dx.Demo({"text": "My card was charged twice ✓"}, {"queue": "billing"}),
        dx.Demo({"text": "Where is my parcel?"}, {"queue": "delivery"}),
    ],
    name="friendly",
)
NEAREST = dx.Nearest(FRIENDLY.demos, 1, name="nearest")
