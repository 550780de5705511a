"""Waiting calls in the order in which they are served: by priority, then tenants in turn, then first come.

A priority whose calls have been passed over `PASSED` times by those of higher ones is served next, once: urgent work
that never ends slows other work down and does not stop it.

Every operation is O(1), amortised, for any number of waiting calls and tenants (and linear in the number of distinct
priorities, which is small). Not thread-safe by itself: `Limit` calls it under its lock.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.executor.admission import Permit

PASSED = 16
"""Calls of higher priorities that are served while one of a lower priority waits, before that one is."""

_TIDY = 64
"""Abandoned turns that are left where they are, whatever the number of waiting calls."""


class Turn(asyncio.Future[None]):
    """One waiting call: a future of its event loop, done when its turn has come.

    Attributes:
        tokens, priority, tenant: As given to `Limit.acquire`.
        since: When it began to wait, on the limit's clock.
        permit: What it was granted; None while it waits.
        gone: Whether nobody waits for it any more.
    """

    __slots__ = ("gone", "permit", "priority", "since", "tenant", "tokens")

    def __init__(self, loop: asyncio.AbstractEventLoop, tokens: int, priority: int, tenant: Hashable) -> None:
        super().__init__(loop=loop)
        self.tokens = tokens
        self.priority = priority
        self.tenant = tenant
        self.since = 0.0
        self.permit: Permit | None = None
        self.gone = False


class _Tenant:
    """The calls of one tenant; ``credit`` is how many more of them are served until it is the next tenant's turn."""

    __slots__ = ("credit", "key", "size", "turns", "weight")

    def __init__(self, key: Hashable, weight: int) -> None:
        self.key = key
        self.turns: deque[Turn] = deque()
        self.size = 0
        self.weight = self.credit = weight


class _Lane:
    """The tenants of one priority in the order of their turns. One that has nothing waiting is in `ring` alone.

    ``passed`` is how often a call of a higher priority was served while some of these waited, ``gone`` the number of
    turns that still stand here and wait no more.
    """

    __slots__ = ("gone", "passed", "priority", "ring", "tenants")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.passed = 0
        self.gone = 0
        self.tenants: dict[Hashable, _Tenant] = {}
        self.ring: deque[_Tenant] = deque()

    def holds(self, turn: Turn) -> bool:
        """Whether a turn that stands here waits here."""
        return not turn.gone and turn.priority == self.priority


class Line:
    """Waiting calls. Tenants of one priority are served by deficit round robin, every call at a cost of one.

    Attributes:
        loops: Event loops that have calls waiting, with their number.

    Source: Shreedhar & Varghese (1996), "Efficient fair queuing using deficit round-robin", IEEE/ACM ToN 4(3).
    """

    __slots__ = ("_gone", "_lanes", "_size", "loops")

    def __init__(self) -> None:
        # The highest priority first, each of them with calls that wait.
        self._lanes: list[_Lane] = []
        self._size = 0
        # Turns that still stand where nobody waits any more.
        self._gone = 0
        self.loops: dict[asyncio.AbstractEventLoop, int] = {}

    def __len__(self) -> int:
        """Calls that wait, without those that left."""
        return self._size

    def push(self, turn: Turn, weight: int) -> None:
        """Append to its tenant's calls; `weight` is the tenant's from now on."""
        lane = self._lane(turn.priority)
        if lane is None:
            lane = _Lane(turn.priority)
            insort(self._lanes, lane, key=_urgency)
        tenant = lane.tenants.get(turn.tenant)
        if tenant is None:
            tenant = lane.tenants[turn.tenant] = _Tenant(turn.tenant, weight)
            lane.ring.append(tenant)
        tenant.weight = weight
        tenant.turns.append(turn)
        tenant.size += 1
        self._size += 1
        loop = turn.get_loop()
        self.loops[loop] = self.loops.get(loop, 0) + 1

    def head(self) -> Turn | None:
        """The call that is served next; it stays."""
        lane = self._next()
        if lane is None:
            return None
        while True:
            turns = lane.ring[0].turns
            while turns:
                if lane.holds(turns[0]):
                    return turns[0]
                turns.popleft()
                lane.gone -= 1
                self._gone -= 1
            lane.ring.popleft()

    def pop(self) -> None:
        """Take away what `head` has just returned."""
        lane = self._next()
        assert lane is not None
        tenant = lane.ring[0]
        lane.passed = 0
        for other in self._lanes:
            other.passed += other.priority < lane.priority
        self._leave(tenant.turns.popleft(), lane, tenant)
        tenant.credit -= 1
        if tenant.credit <= 0:
            tenant.credit = tenant.weight
            lane.ring.rotate(-1)

    def advance(self, turn: Turn, priority: int) -> None:
        """Let a waiting turn wait as one of a higher priority, as the last one of its tenant there."""
        tenant = self._withdraw(turn)
        turn.priority = priority
        self.push(turn, tenant.weight)

    def abandon(self, turn: Turn) -> None:
        """The caller of a queued turn left."""
        turn.gone = True
        self._withdraw(turn)
        # What left stays where it is until more have left than wait: an O(1) share of the work for each.
        if self._gone > _TIDY + self._size:
            for lane in self._lanes:
                for tenant in lane.ring:
                    tenant.turns = deque(turn for turn in tenant.turns if lane.holds(turn))
                lane.ring = deque(tenant for tenant in lane.ring if tenant.turns)
                lane.gone = 0
            self._gone = 0

    def _withdraw(self, turn: Turn) -> _Tenant:
        """Count a turn out that stays where it is; `head` takes it away."""
        lane = self._lane(turn.priority)
        assert lane is not None
        tenant = lane.tenants[turn.tenant]
        lane.gone += 1
        self._gone += 1
        self._leave(turn, lane, tenant)
        return tenant

    def _lane(self, priority: int) -> _Lane | None:
        for lane in self._lanes:
            if lane.priority == priority:
                return lane
        return None

    def _next(self) -> _Lane | None:
        """The highest priority, unless another one has been passed over too often: of several, the most often."""
        chosen = None
        for lane in self._lanes:
            if chosen is None or lane.passed >= max(PASSED, chosen.passed + 1):
                chosen = lane
        return chosen

    def _leave(self, turn: Turn, lane: _Lane, tenant: _Tenant) -> None:
        self._size -= 1
        tenant.size -= 1
        if not tenant.size:
            # If it comes back, then at the end: its place in the ring is not kept for it.
            del lane.tenants[tenant.key]
            if not lane.tenants:
                self._lanes.remove(lane)
                self._gone -= lane.gone
        loop = turn.get_loop()
        if self.loops[loop] == 1:
            del self.loops[loop]
        else:
            self.loops[loop] -= 1


def _urgency(lane: _Lane) -> int:
    return -lane.priority
