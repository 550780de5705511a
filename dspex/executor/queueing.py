"""Waiting calls in the order in which they are served: by priority, then tenants in turn, then first come.

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

_TIDY = 64
"""Abandoned turns that are left where they are, whatever the number of waiting calls."""


class Turn(asyncio.Future[None]):
    """One waiting call: a future of its event loop, done when its turn has come.

    Attributes:
        tokens, priority, tenant, weight: As given to `Limit.acquire`.
        since: When it began to wait, on the limit's clock.
        permit: What it was granted; None while it waits.
        gone: Whether nobody waits for it any more.
    """

    __slots__ = ("gone", "permit", "priority", "since", "tenant", "tokens", "weight")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tokens: int, priority: int, tenant: Hashable, weight: int
    ) -> None:
        super().__init__(loop=loop)
        self.tokens = tokens
        self.priority = priority
        self.tenant = tenant
        self.weight = weight
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
    """The tenants of one priority in the order of their turns. One that has nothing waiting is in `ring` alone."""

    __slots__ = ("ring", "tenants")

    def __init__(self) -> None:
        self.tenants: dict[Hashable, _Tenant] = {}
        self.ring: deque[_Tenant] = deque()


class Line:
    """Waiting calls. Tenants of one priority are served by deficit round robin, every call at a cost of one.

    Attributes:
        loops: Event loops that have calls waiting, with their number.

    Source: Shreedhar & Varghese (1996), "Efficient fair queuing using deficit round-robin", IEEE/ACM ToN 4(3).
    """

    __slots__ = ("_gone", "_lanes", "_priorities", "_size", "loops")

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._priorities: list[int] = []
        self._size = 0
        self._gone = 0
        self.loops: dict[asyncio.AbstractEventLoop, int] = {}

    def __len__(self) -> int:
        """Calls that wait, without those that left."""
        return self._size

    def push(self, turn: Turn) -> None:
        """Append to its tenant's calls."""
        lane = self._lanes.get(turn.priority)
        if lane is None:
            lane = self._lanes[turn.priority] = _Lane()
            insort(self._priorities, turn.priority)
        tenant = lane.tenants.get(turn.tenant)
        if tenant is None:
            tenant = lane.tenants[turn.tenant] = _Tenant(turn.tenant, turn.weight)
            lane.ring.append(tenant)
        tenant.weight = turn.weight
        tenant.turns.append(turn)
        tenant.size += 1
        self._size += 1
        loop = turn.get_loop()
        self.loops[loop] = self.loops.get(loop, 0) + 1

    def head(self) -> Turn | None:
        """The call that is served next; it stays."""
        while self._priorities:
            ring = self._lanes[self._priorities[-1]].ring
            while ring:
                turns = ring[0].turns
                while turns:
                    if not turns[0].gone:
                        return turns[0]
                    turns.popleft()
                    self._gone -= 1
                ring.popleft()
            del self._lanes[self._priorities.pop()]
        return None

    def pop(self) -> None:
        """Take away what `head` has just returned."""
        lane = self._lanes[self._priorities[-1]]
        tenant = lane.ring[0]
        self._leave(tenant.turns.popleft(), lane, tenant)
        tenant.credit -= 1
        if tenant.credit <= 0:
            tenant.credit = tenant.weight
            lane.ring.rotate(-1)

    def abandon(self, turn: Turn) -> None:
        """The caller of a queued turn left."""
        lane = self._lanes[turn.priority]
        turn.gone = True
        self._leave(turn, lane, lane.tenants[turn.tenant])
        self._gone += 1
        # What left stays where it is until more have left than wait: an O(1) share of the work for each.
        if self._gone > _TIDY + self._size:
            for lane in self._lanes.values():
                for tenant in lane.ring:
                    tenant.turns = deque(turn for turn in tenant.turns if not turn.gone)
                lane.ring = deque(tenant for tenant in lane.ring if tenant.turns)
            self._gone = 0

    def _leave(self, turn: Turn, lane: _Lane, tenant: _Tenant) -> None:
        self._size -= 1
        tenant.size -= 1
        if not tenant.size:
            # If it comes back, then at the end: its place in the ring is not kept for it.
            del lane.tenants[tenant.key]
        loop = turn.get_loop()
        if self.loops[loop] == 1:
            del self.loops[loop]
        else:
            self.loops[loop] -= 1
