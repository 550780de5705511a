"""Several servers or keys for one model: which of them the next attempt takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.executor.admission import Limit
    from dspex.executor.breaker import Breaker
    from dspex.lm.model import LanguageModel


class Route:
    """One way to a model: a client of one event loop, and what all loops share of the server behind it.

    Args:
        model: Makes the attempts.
        limit: Shared by every loop that calls this server with this key; None for no limit.
        breaker: Likewise; None for none.
        weight: Share of the calls beside the other routes.
        reopen: Opens the model anew with a fresh key; None where the key stays the same.
    """

    __slots__ = ("_old", "_reopen", "breaker", "limit", "load", "model", "weight")

    def __init__(
        self,
        model: LanguageModel,
        limit: Limit | None = None,
        breaker: Breaker | None = None,
        weight: float = 1.0,
        reopen: Callable[[], LanguageModel] | None = None,
    ) -> None:
        self.model = model
        self.limit = limit
        self.breaker = breaker
        self.weight = weight
        self.load = 0
        """Attempts of this loop that are under way or wait for admission."""
        self._reopen = reopen
        self._old: LanguageModel | None = None

    @property
    def is_sound(self) -> bool:
        """Whether its breaker lets calls through."""
        return self.breaker is None or self.breaker.state != "open"

    @property
    def is_held(self) -> bool:
        """Whether its server has asked to be left alone for now."""
        return self.limit is not None and self.limit.is_held

    async def renew(self, refused: LanguageModel) -> bool:
        """Replace the client whose key was refused, unless that is done already; False where the key stays the same.

        Calls may still be in the air through it, so it is closed when the next one is replaced.
        """
        if self._reopen is None:
            return False
        if self.model is refused:
            old, self._old, self.model = self._old, self.model, self._reopen()
            if old is not None:
                await old.aclose()
        return True

    async def aclose(self) -> None:
        """Close its clients."""
        try:
            await self.model.aclose()
        finally:
            if self._old is not None:
                await self._old.aclose()


def pick(routes: Sequence[Route], rng: random.Random, avoid: Route | None = None) -> Route:
    """The route of the next attempt: of two drawn by weight, the one with less load for its weight.

    Routes whose breaker is open are left out, and so is `avoid`, as long as others are left; and of these, so are those
    whose server wants no calls for now.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001).
    """
    others = [route for route in routes if route is not avoid] or routes
    sound = [route for route in others if route.is_sound] or others
    ready = [route for route in sound if not route.is_held] or sound
    if len(ready) == 1:
        return ready[0]
    one, two = rng.choices(ready, [route.weight for route in ready], k=2)
    return one if one.load * two.weight <= two.load * one.weight else two
