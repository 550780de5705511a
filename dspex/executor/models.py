"""Opened models: one client a configuration and event loop, one limit a configuration, nothing shared over a fork."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from dspex.errors import UsageError
from dspex.executor.caching import TieredCache
from dspex.executor.flight import Flights
from dspex.executor.limits import Limit
from dspex.executor.retry import RetryPolicy
from dspex.lm.model import LM, CacheMode, LanguageModel, LMLike

if TYPE_CHECKING:
    from dspex.executor.call import Called


class Gate:
    """One opened model with everything that the call path keeps for it.

    Args:
        model: Makes the attempts.
        limit: Shared by every loop that calls this configuration; None for no limit.
        timeout: Seconds for one attempt; None for none.
        retry: When to try again.
        mode: Which way the cache is used.
        cache: Where answers are kept; needed unless `mode` is "off".
        sleep: Waits between attempts.
    """

    __slots__ = (
        "cache",
        "capabilities",
        "fingerprint",
        "limit",
        "model",
        "name",
        "price",
        "reads",
        "replaces",
        "retry",
        "sleep",
        "timeout",
        "writes",
    )

    def __init__(
        self,
        model: LanguageModel,
        *,
        limit: Limit | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        mode: CacheMode = "off",
        cache: TieredCache | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.model = model
        self.name = model.name
        self.fingerprint = model.fingerprint
        self.capabilities = model.capabilities
        self.price = model.price
        self.limit = limit
        self.timeout = timeout
        # A seed of its own for each model and process: clients that fail together must not retry together.
        self.retry = retry or RetryPolicy(rng=random.Random(f"{self.fingerprint}:{os.getpid()}"))
        self.cache = cache
        self.reads = cache is not None and mode in ("on", "read")
        self.writes = cache is not None and mode in ("on", "write", "refresh")
        self.replaces = mode != "write"
        self.sleep = sleep


class LoopModels:
    """What belongs to one event loop: its clients and its calls in the air."""

    def __init__(self) -> None:
        self.flights: Flights[Called] = Flights()
        self.gates: dict[LM, Gate] = {}
        self._closing: AsyncGenerator[None] | None = None

    async def open(self, lm: LM) -> Gate:
        """The gate of `lm` on this loop, opened at its first call."""
        gate = self.gates.get(lm)
        if gate is None:
            if self._closing is None:
                # A loop closes its asynchronous generators before it ends (asyncio.run, Runner and ours do), and
                # so this one is woken while clients can still be closed in order.
                self._closing = self._close_with_loop()
                await anext(self._closing)
                gate = self.gates.get(lm)
            if gate is None:
                gate = self.gates[lm] = _open(lm)
        return gate

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
        """Close every client."""
        gates, self.gates = list(self.gates.values()), {}
        for gate in gates:
            await gate.model.aclose()


class _Shared:
    """What the process shares; a forked child begins with a fresh one and the answers that are known."""

    def __init__(self, cache: TieredCache | None = None) -> None:
        self.lock = threading.Lock()
        self.loops: dict[asyncio.AbstractEventLoop, LoopModels] = {}
        self.limits: dict[LM, Limit] = {}
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


async def gate_for(lm: LMLike) -> Gate:
    """The gate of whatever names a model.

    An object that implements `LanguageModel` is called as it is: without cache, limit and timeout, which belong
    to a configuration, but with retries.
    """
    if isinstance(lm, str):
        lm = LM(lm)
    if isinstance(lm, LM):
        return await here().open(lm)
    if isinstance(lm, LanguageModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Gate(lm)
    raise UsageError(
        "DX8106",
        f"lm= is a name, dx.LM(...) or an object that implements LanguageModel, got {type(lm).__name__}",
        fix='for example lm="local/smollm2"',
    )


def _open(lm: LM) -> Gate:
    from dspex.providers.open import open_model

    shared = _shared
    model = open_model(lm)
    useful = model.capabilities.parallel
    with shared.lock:
        limit = shared.limits.get(lm)
        if limit is None:
            limit = shared.limits[lm] = Limit(lm.concurrency if useful is None else min(lm.concurrency, useful))
    return Gate(
        model,
        limit=limit,
        timeout=lm.timeout,
        retry=RetryPolicy(lm.retries, rng=random.Random(f"{model.fingerprint}:{os.getpid()}")),
        mode=lm.cache,
        cache=shared.cache if lm.cache != "off" else None,
    )
