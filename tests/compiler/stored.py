"""Programs of stored artifacts, exactly as they stood when the artifacts were written."""

from __future__ import annotations

import dspex as dx
from tests.compiler.library import Route, Ticket

__all__ = ["Loops"]


class Loops(dx.Program[Ticket, Route]):
    solve = dx.Predict(Ticket, Route)

    async def __call__(self, x: Ticket, /) -> Route:
        for _ in range(2):
            x = Ticket(text=x.text.strip())
        return await self.solve(x)
