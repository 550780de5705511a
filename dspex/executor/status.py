"""How the models of this process stand: what every stage of the call path has counted, read while calls go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dspex.executor import models
from dspex.executor.breaker import BreakerState

if TYPE_CHECKING:
    from dspex.executor.caching import TieredCache
    from dspex.executor.models import Habits, Server
    from dspex.lm.model import LM
    from dspex.telemetry.events import Json

__all__ = ["CacheStatus", "ModelStatus", "ServerStatus", "Status", "status"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What calls of one `LM` did, a configuration with settings of its own.

    Attributes:
        model: Its name.
        servers: Where it is asked, as `ServerStatus.server` has it.
        calls: Calls that it was to answer with an attempt, also in place of another model.
        hits: Calls that were answered without one: from the cache, a study's log or an equal call in the air.
        joined: Those of the hits whose equal call was in the air.
        retried: Attempts that were tried again.
        given_up: Attempts that were not, because all calls of the model together had used up their retries.
        hedged: Second attempts for stragglers.
        overtaken: Stragglers whose second attempt was answered first.
        fell_back: Times that a fallback was asked after it had failed for good.
        stood_in: Times that it was itself asked as a fallback.
    """

    model: str
    servers: tuple[str, ...]
    calls: int
    hits: int
    joined: int
    retried: int
    given_up: int
    hedged: int
    overtaken: int
    fell_back: int
    stood_in: int


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server with one key and one set of limits, shared by every `LM` that names the same.

    Attributes:
        model: Name of the model.
        server: Address without query and user; empty for the provider's own.
        in_flight: Attempts under way.
        most_in_flight: The most that were.
        limit: Attempts that may be under way now, as configured or as found.
        waiting: Calls that wait for admission.
        queued: Calls that were admitted after they had waited.
        waited: Seconds that these waited in all.
        held: Whether nothing is sent for now because the server asked for that, or took nothing.
        requests_left: Requests that the rates allow now; None where no rate is configured or told.
        tokens_left: Tokens, likewise.
        answered: Attempts that were answered.
        rejected: Attempts refused for the request's own sake, or for that of its key or account.
        limited: Attempts answered 429.
        overloaded: Attempts that timed out, or were answered 503 or 529.
        failed: Attempts that failed in another way: no connection, one that broke, another 5xx, an unreadable answer.
        abandoned: Attempts whose caller went away, or whose second attempt was faster.
        median: Seconds of an answered attempt, of the 256 latest; None before the first.
        p95: The 95th percentile of the same.
        breaker: Its state; None where it is switched off.
        opened: How often it opened.
        refused: Attempts that it did not let through.
    """

    model: str
    server: str
    in_flight: int
    most_in_flight: int
    limit: int
    waiting: int
    queued: int
    waited: float
    held: bool
    requests_left: float | None
    tokens_left: float | None
    answered: int
    rejected: int
    limited: int
    overloaded: int
    failed: int
    abandoned: int
    median: float | None
    p95: float | None
    breaker: BreakerState | None
    opened: int
    refused: int

    @property
    def attempts(self) -> int:
        """Attempts that were sent, or may have been, and have ended."""
        return self.answered + self.rejected + self.limited + self.overloaded + self.failed + self.abandoned


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the cache of answers did for all models of this process.

    Attributes:
        memory_hits: Lookups answered from memory.
        disk_hits: Lookups answered from disk.
        misses: Lookups that found nothing.
        stores: Answers that were kept.
        entries: Answers in memory now.
        bytes: Their estimated size.
    """

    memory_hits: int
    disk_hits: int
    misses: int
    stores: int
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """How the models of this process stand, each in the order in which it was first asked."""

    models: tuple[ModelStatus, ...]
    servers: tuple[ServerStatus, ...]
    cache: CacheStatus

    def as_dict(self) -> dict[str, Json]:
        """The same as values of JSON."""
        return {
            "models": [{**asdict(one), "servers": list(one.servers)} for one in self.models],
            "servers": [asdict(one) for one in self.servers],
            "cache": asdict(self.cache),
        }

    def as_text(self) -> str:
        """The same as tables for a terminal; a dash stands for what there is none of."""
        cache = ", ".join(f"{value} {_title(name)}" for name, value in asdict(self.cache).items())
        servers = [asdict(one) for one in self.servers]
        return "\n\n".join(
            (
                _table((asdict(one) for one in self.models), ("model", *_COUNTS)),
                _table(servers, ("model", "server", *_ADMISSION)),
                _table(servers, ("model", "server", *_ATTEMPTS)),
                f"cache  {cache}",
            )
        )


_COUNTS = ("calls", "hits", "joined", "retried", "given_up", "hedged", "overtaken", "fell_back", "stood_in")
_ADMISSION = ("in_flight", "most_in_flight", "limit", "waiting", "queued", "waited", "breaker", "opened", "refused")
_ATTEMPTS = ("answered", "rejected", "limited", "overloaded", "failed", "abandoned", "median", "p95")


def status() -> Status:
    """What the stages of the call path have counted since this process first asked each model.

    It covers every `LM` that is open on some event loop, and the latest ones that were. A model that is given as an
    object has no stages but retries, and does not appear. Safe to call from any thread; calls go on meanwhile, so
    figures may be a call apart.
    """
    configurations, servers, cache = models.known()
    return Status(
        tuple(_model(lm, habits) for lm, habits in configurations),
        tuple(_server(server) for server in servers),
        _cache(cache),
    )


def _model(lm: LM, habits: Habits) -> ModelStatus:
    stragglers, tally = habits.stragglers, habits.tally
    ways = [models.at_endpoint(lm, endpoint) for endpoint in lm.endpoints] or [lm]
    return ModelStatus(
        model=lm.model,
        servers=tuple(_place(way.base_url) for way in ways),
        calls=habits.allowance.calls,
        hits=tally["hits"],
        joined=tally["joined"],
        retried=tally["retried"],
        given_up=habits.allowance.refused,
        hedged=0 if stragglers is None else stragglers.allowance.taken,
        overtaken=0 if stragglers is None else stragglers.overtaken,
        fell_back=tally["fell_back"],
        stood_in=tally["stood_in"],
    )


def _server(server: Server) -> ServerStatus:
    limit, breaker = server.limit, server.breaker
    requests_left, tokens_left = limit.left
    ended = limit.ended
    latest = sorted(limit.latest)
    return ServerStatus(
        model=server.model,
        server=_place(server.base_url),
        in_flight=limit.active,
        most_in_flight=limit.most_active,
        limit=limit.limit,
        waiting=limit.waiting,
        queued=limit.queued,
        waited=limit.waited,
        held=limit.is_held,
        requests_left=requests_left,
        tokens_left=tokens_left,
        answered=ended["ok"],
        rejected=ended["rejected"],
        limited=ended["limited"],
        overloaded=ended["overloaded"],
        failed=ended["failed"],
        abandoned=ended["unknown"],
        median=latest[len(latest) // 2] if latest else None,
        p95=latest[int(0.95 * len(latest))] if latest else None,
        breaker=None if breaker is None else breaker.state,
        opened=0 if breaker is None else breaker.opened,
        refused=0 if breaker is None else breaker.refused,
    )


def _cache(cache: TieredCache) -> CacheStatus:
    memory, disk_hits = cache.memory, cache.disk_hits
    return CacheStatus(
        memory_hits=memory.hits,
        disk_hits=disk_hits,
        misses=memory.misses - disk_hits,
        stores=cache.stores,
        entries=len(memory),
        bytes=memory.bytes,
    )


def _place(base_url: str | None) -> str:
    if base_url is None:
        return ""
    # Loaded here because it brings the whole transport along, which a local model does without.
    from dspex.providers.transport import place

    return place(base_url)


def _table(rows: Iterable[Mapping[str, object]], names: Sequence[str]) -> str:
    """Aligned columns under their titles: what is text to the left, figures to the right."""
    lines = [[_title(name) for name in names], *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    labels = ("model", "server", "breaker")
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in labels else cell.rjust(width)
            for name, cell, width in zip(names, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
