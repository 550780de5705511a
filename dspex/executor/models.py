"""Opened models: one client a configuration and event loop, one breaker a server and key, and one limit of it for each
word that users give about how much it takes.

Nothing is shared over a fork.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from dspex.errors import CallTimeout, UsageError
from dspex.executor.adaptive import Adaptive
from dspex.executor.admission import Limit
from dspex.executor.alarms import Alarms
from dspex.executor.breaker import Breaker
from dspex.executor.caching import TieredCache
from dspex.executor.flight import Flights
from dspex.executor.hedge import Stragglers
from dspex.executor.rates import Rates
from dspex.executor.retry import Allowance, RetryPolicy
from dspex.executor.routes import Route
from dspex.executor.tally import Tally
from dspex.lm.model import LM, CacheMode, Endpoint, Hedge, LanguageModel, LMLike

if TYPE_CHECKING:
    from dspex.executor.call import Called

RETRY_RATIO = 0.5
"""Retries that a call earns for all calls of its model: a server that fails gets at most half as much again."""

RETRY_BURST = 100.0
"""Retries that are allowed beforehand, so that an incident of seconds fails no call."""

GRACE = 1.0
"""Seconds after its timeout in which a model may end an attempt itself: it knows how far the request got."""

MOST_GATES = 256
"""Configurations that are kept open on one loop: beyond it, those that are idle are closed, the oldest first."""

MOST_SERVERS = 4096
"""Servers and configurations whose limits and habits are remembered while no loop has them open."""

ServerKey: TypeAlias = tuple[Hashable, ...]

Opener: TypeAlias = Callable[[LM], LanguageModel]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gate:
    """One opened model with everything that the call path keeps for it.

    Args:
        model: Makes the attempts.
        limit: Shared by every loop that calls this configuration; None for no limit.
        breaker: Likewise; None for none.
        routes: Several ways to `model`, whose answers count as its own; `limit` and `breaker` are then theirs.
        timeout: Seconds for one attempt; None for none.
        retry: When to try again.
        allowance: Retries that all calls together may make.
        stragglers: Which calls are late and get a second attempt; None for no hedging.
        fallback: Models that are asked in turn when a call has failed for good.
        mode: Which way the cache is used.
        cache: Where answers are kept; needed unless `mode` is "off".
        shares: What it has in common with other gates, kept as long as it is.
        tally: Counts what its calls do.
        width: Calls in flight at most, where that is fixed.
        sleep: Waits between attempts.
    """

    __slots__ = (
        "_width",
        "alarms",
        "allowance",
        "cache",
        "capabilities",
        "fallback",
        "fingerprint",
        "model",
        "name",
        "price",
        "reads",
        "replaces",
        "retry",
        "route",
        "routes",
        "shares",
        "sleep",
        "stragglers",
        "tally",
        "writes",
    )

    def __init__(
        self,
        model: LanguageModel,
        *,
        limit: Limit | None = None,
        breaker: Breaker | None = None,
        routes: tuple[Route, ...] = (),
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        allowance: Allowance | None = None,
        stragglers: Stragglers | None = None,
        fallback: tuple[Gate, ...] = (),
        mode: CacheMode = "off",
        cache: TieredCache | None = None,
        shares: tuple[object, ...] = (),
        tally: Tally | None = None,
        width: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.model = model
        self.name = model.name
        self.fingerprint = model.fingerprint
        self.capabilities = model.capabilities
        self.price = model.price
        self.routes = routes or (Route(model, limit, breaker),)
        self.route = self.routes[0] if len(self.routes) == 1 else None
        """The only route, which needs no choice."""
        self.alarms = None if timeout is None else Alarms(timeout, partial(overdue, model.name, timeout))
        # A seed of its own for each model and process: clients that fail together must not retry together.
        self.retry = retry or RetryPolicy(rng=random.Random(f"{self.fingerprint}:{os.getpid()}"))
        self.allowance = allowance or Allowance(RETRY_RATIO, RETRY_BURST)
        self.stragglers = stragglers
        self.fallback = fallback
        self.cache = cache
        self.reads = cache is not None and mode in ("on", "read")
        self.writes = cache is not None and mode in ("on", "write", "refresh")
        self.replaces = mode != "write"
        self.shares = shares
        self.tally = tally or Tally()
        self.sleep = sleep
        self._width = width

    @property
    def width(self) -> int | None:
        """Calls that are worth beginning at once; None where nothing limits them.

        Where the limits are being found, it is more than they are now: they rise only while calls wait for them.
        """
        if self._width is not None:
            return self._width
        limits = [route.limit.limit for route in self.routes if route.limit is not None]
        return 2 * sum(limits) if limits else None

    @property
    def is_idle(self) -> bool:
        """Whether no attempt is under way through it."""
        return not any(route.load for route in self.routes)

    async def aclose(self) -> None:
        """Close its clients, each of them even when another one fails to close."""
        async with AsyncExitStack() as clients:
            for route in self.routes:
                clients.push_async_callback(route.aclose)


def overdue(name: str, seconds: float) -> CallTimeout:
    """The error of an attempt that took longer than its timeout."""
    return CallTimeout(
        "DX4701",
        f"{name} did not answer within {seconds:g} s",
        fix="raise timeout on dx.LM(...), or see whether the server hangs",
        retryable=True,
        sent="maybe",
    )


class LoopModels:
    """What belongs to one event loop: its clients, its calls in the air, and the deadlines of these."""

    def __init__(self) -> None:
        self.flights: Flights[Called] = Flights()
        self.deadlines = Alarms(math.inf, TimeoutError)
        self.gates: OrderedDict[tuple[LM, Opener], Gate] = OrderedDict()
        self._closing: AsyncGenerator[None] | None = None

    async def open(self, lm: LM, opener: Opener) -> Gate:
        """The gate of `lm` on this loop, opened at its first call and kept while it is used."""
        place = (lm, opener)
        gate = self.gates.get(place)
        if gate is None:
            # Fallbacks are opened with it: a missing key is told now and not in the middle of an outage.
            fallback = tuple([await gate_for(other) for other in lm.fallback])
            if self._closing is None:
                # A loop closes its asynchronous generators before it ends (asyncio.run, Runner and ours do), and
                # so this one is woken while clients can still be closed in order.
                self._closing = self._close_with_loop()
                await anext(self._closing)
            gate = self.gates.get(place)
            if gate is None:
                gate = self.gates[place] = _open(lm, fallback, opener)
                await self._close_idle(gate)
        else:
            self.gates.move_to_end(place)
        return gate

    async def _close_idle(self, newest: Gate) -> None:
        """Close what is not used where too much is open. Whoever still holds such a gate may use it: it connects anew.

        Raises:
            Exception: What a client raised that would not close.
        """
        surplus = len(self.gates) - MOST_GATES
        if surplus <= 0:
            return
        idle = [place for place, gate in self.gates.items() if gate.is_idle and gate is not newest]
        for gate in [self.gates.pop(place) for place in idle[:surplus]]:
            # A module that holds it may have begun a call since.
            for route in gate.routes:
                if not route.load:
                    await route.aclose()

    async def _close_with_loop(self) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            _shared.loops.pop(loop, None)
            # A loop closes all its generators at once, and a model's client may have one of its own: it goes first.
            await asyncio.sleep(0)
            await self.aclose()

    async def aclose(self) -> None:
        """Close every client, also when one of them fails to close."""
        gates = list(self.gates.values())
        self.gates.clear()
        async with AsyncExitStack() as clients:
            for gate in gates:
                clients.push_async_callback(gate.aclose)


@dataclass(frozen=True, eq=False)
class Server:
    """What calls of one server with one key have in common, as long as they are to keep to the same limits."""

    model: str
    base_url: str | None
    limit: Limit
    breaker: Breaker | None


@dataclass(frozen=True, eq=False)
class Habits:
    """What calls of one configuration have in common."""

    allowance: Allowance
    stragglers: Stragglers | None
    tally: Tally


class Remembered(Generic[K, V]):
    """Values by key, made when first asked for: those that something else holds, and the `most` latest ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: weakref.WeakValueDictionary[K, V] = weakref.WeakValueDictionary()
        self._latest: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`."""
        value = self._held.get(key)
        if value is None:
            value = self._held[key] = make()
        self._latest[key] = value
        self._latest.move_to_end(key)
        if len(self._latest) > self._most:
            self._latest.popitem(last=False)
        return value

    def items(self) -> list[tuple[K, V]]:
        """All that is remembered, the first made first."""
        return list(self._held.items())


class _Shared:
    """What the process shares; a forked child begins with a fresh one and the answers that are known."""

    def __init__(self, cache: TieredCache | None = None) -> None:
        self.lock = threading.Lock()
        self.loops: dict[asyncio.AbstractEventLoop, LoopModels] = {}
        self.servers: Remembered[ServerKey, Server] = Remembered(MOST_SERVERS)
        self.breakers: Remembered[ServerKey, Breaker] = Remembered(MOST_SERVERS)
        self.habits: Remembered[LM, Habits] = Remembered(MOST_SERVERS)
        self.cache = cache if cache is not None else TieredCache()
        self.last: tuple[asyncio.AbstractEventLoop, LoopModels] | None = None


_shared = _Shared()
_abandoned: list[_Shared] = []


def _before_fork() -> None:
    _shared.cache.memory.before_fork()


def _after_fork_in_parent() -> None:
    _shared.cache.memory.after_fork()


def _after_fork_in_child() -> None:
    global _shared
    cache = _shared.cache
    cache.memory.after_fork()
    cache.after_fork_in_child()
    # The parent's clients are kept and never touched again: closing one, even by garbage collection, would take
    # its sockets out of an epoll set that parent and child share.
    _abandoned.append(_shared)
    _shared = _Shared(cache)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def here() -> LoopModels:
    """The state of the running event loop."""
    loop = asyncio.get_running_loop()
    shared = _shared
    last = shared.last
    if last is not None and last[0] is loop:
        return last[1]
    models = shared.loops.get(loop)
    if models is None:
        with shared.lock:
            for old in [old for old in shared.loops if old.is_closed()]:
                del shared.loops[old]
            models = shared.loops[loop] = LoopModels()
    shared.last = (loop, models)
    return models


def response_cache() -> TieredCache:
    """The cache that every configured model of this process uses."""
    return _shared.cache


def known() -> tuple[list[tuple[LM, Habits]], list[Server], TieredCache]:
    """What the process shares: the configurations and servers that it remembers, and the cache."""
    shared = _shared
    with shared.lock:
        return shared.habits.items(), [server for _, server in shared.servers.items()], shared.cache


async def gate_for(lm: LMLike) -> Gate:
    """The gate of whatever names a model.

    An object that implements `LanguageModel` is called as it is: without cache, limit and timeout, which belong
    to a configuration, but with retries.
    """
    if isinstance(lm, str):
        lm = LM(lm)
    if isinstance(lm, LM):
        return await here().open(lm, _completions)
    if isinstance(lm, LanguageModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Gate(lm)
    raise UsageError(
        "DX8106",
        f"lm= is a name, dx.LM(...) or an object that implements LanguageModel, got {type(lm).__name__}",
        fix='for example lm="local/smollm2"',
    )


def _completions(lm: LM) -> LanguageModel:
    from dspex.providers.open import open_model

    return open_model(lm)


def _open(lm: LM, fallback: tuple[Gate, ...], opener: Opener) -> Gate:
    shared = _shared
    ways = [(lm, 1.0)]
    if lm.endpoints:
        ways = [(at_endpoint(lm, endpoint), endpoint.weight) for endpoint in lm.endpoints]
    models = [opener(way) for way, _ in ways]
    useful = models[0].capabilities.parallel
    with shared.lock:
        servers = [
            shared.servers.get(_server_key(way), partial(_server, way, model))
            for model, (way, _) in zip(models, ways, strict=True)
        ]
        habits = shared.habits.get(lm, partial(_habits, lm))
    routes = [
        Route(model, server.limit, server.breaker, weight, partial(opener, way) if callable(way.api_key) else None)
        for model, server, (way, weight) in zip(models, servers, ways, strict=True)
    ]
    return Gate(
        models[0],
        routes=tuple(routes),
        shares=(*servers, habits),
        tally=habits.tally,
        timeout=lm.timeout + GRACE,
        retry=RetryPolicy(
            lm.retries, rng=random.Random(f"{models[0].fingerprint}:{os.getpid()}"), ambiguous=lm.retry_ambiguous
        ),
        allowance=habits.allowance,
        stragglers=habits.stragglers,
        fallback=fallback,
        mode=lm.cache,
        cache=shared.cache if lm.cache != "off" else None,
        width=None if lm.concurrency == "auto" else len(ways) * min(lm.concurrency, useful or lm.concurrency),
    )


def at_endpoint(lm: LM, endpoint: Endpoint) -> LM:
    """`lm` as it is at one of its endpoints. The key of `lm` goes to no address but its own."""
    base_url, api_key = endpoint.base_url, endpoint.api_key
    if base_url is None:
        base_url = lm.base_url
        api_key = lm.api_key if api_key is None else api_key
    return replace(lm, base_url=base_url, api_key=api_key, endpoints=())


def _place(lm: LM) -> ServerKey:
    """What a server and key are known by."""
    return (lm.model, lm.base_url, lm.api_key)


def _server_key(lm: LM) -> ServerKey:
    """What calls have in common that count against the same limits.

    Limits are the user's word about some calls: a few for what runs by night, many for what people wait for. One word
    must not bind the calls of another. Where they are too many together, each finds out from the server.
    """
    return (*_place(lm), lm.concurrency, lm.rpm, lm.tpm, lm.breaker)


def _habits(lm: LM) -> Habits:
    hedge = Hedge() if lm.hedge is True else lm.hedge
    return Habits(Allowance(RETRY_RATIO, RETRY_BURST), Stragglers(hedge) if hedge else None, Tally())


def _server(lm: LM, model: LanguageModel) -> Server:
    useful = model.capabilities.parallel
    most = lm.connections if useful is None else min(lm.connections, useful)
    capacity = Adaptive(most) if lm.concurrency == "auto" else Adaptive(most, start=most, latency=False)
    rates = None if lm.rpm is None and lm.tpm is None else Rates(lm.rpm, lm.tpm)
    breaker = None
    if lm.breaker:
        # Whether a server works does not depend on how much of it is used.
        name = model.name if lm.base_url is None else f"{model.name} at {lm.base_url}"
        breaker = _shared.breakers.get(_place(lm), partial(Breaker, name))
    return Server(lm.model, lm.base_url, Limit(capacity, rates), breaker)
