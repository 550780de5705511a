"""Many requests through a provider's batch endpoint: answered at leisure, for less, and resumable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dspex.errors import BudgetExceeded, LMError, StudyError, UsageError
from dspex.executor.batch_record import BatchRecord
from dspex.executor.call import Called, complete, store
from dspex.executor.deferral import INTERVAL, MOST_REQUESTS, QUIET, Deferral, batch_model, deferring
from dspex.lm.types import LMRequest
from dspex.program.context import current, within
from dspex.program.ledger import Tab

if TYPE_CHECKING:
    from dspex.executor.models import Gate
    from dspex.program.context import Context
    from dspex.stores.protocol import EventStore

_IN_USE = "DX6105"


@dataclass(frozen=True, slots=True)
class Batches:
    """Where the batches of a piece of work are written down, and how they are waited for.

    Args:
        folder: Of this piece of work alone; made where it is missing. It holds the batches' ids and no content.
        interval: Seconds between two looks at a batch.
        quiet: Seconds without a further call after which what waits is handed in.
        size: Requests of one batch at most; the provider's own limits hold as well.
        tell: Called with a line for people when a batch was handed in, is taken up, or has ended.

    Raises:
        UsageError: DX4716: a setting is out of range.
    """

    folder: str | Path
    interval: float = INTERVAL
    quiet: float = QUIET
    size: int = MOST_REQUESTS
    tell: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        for name in ("interval", "quiet"):
            seconds: object = getattr(self, name)
            if not (isinstance(seconds, (int, float)) and 0 <= seconds < inf):
                raise UsageError("DX4716", f"{name} is a number of seconds, at least 0, got {seconds!r}")
        folder, size, tell = cast("tuple[object, ...]", (self.folder, self.size, self.tell))
        if not isinstance(folder, (str, Path)):
            raise UsageError("DX4716", f"the folder of batches is a path, got {folder!r:.80}")
        if not (isinstance(size, int) and size >= 1):
            raise UsageError("DX4716", f"size is a whole number, at least 1, got {size!r}")
        if not (tell is None or callable(tell)):
            raise UsageError("DX4716", f"tell is a function of a text, got {tell!r:.80}")

    @asynccontextmanager
    async def deferring(self) -> AsyncGenerator[Deferral]:
        """`deferral.deferring` with these settings."""
        from dspex.stores.sqlite import SqliteEventStore

        async with AsyncExitStack() as opened:
            try:
                store = opened.enter_context(SqliteEventStore(Path(self.folder) / "batches.db"))
                begun = deferring(store, interval=self.interval, quiet=self.quiet, size=self.size, tell=self.tell)
                deferral = await opened.enter_async_context(begun)
            except StudyError as error:
                # The log of studies is another one: its folder and its settings would only mislead.
                error.where = str(self.folder)
                if error.code != _IN_USE:
                    error.fix = "name another folder, on a local disk"
                raise
            yield deferral


async def complete_batch(
    gate: Gate,
    requests: Sequence[LMRequest],
    context: Context,
    *,
    record: EventStore,
    name: str,
    interval: float = INTERVAL,
    quiet: float = 0.0,
    size: int = MOST_REQUESTS,
) -> list[Called | LMError]:
    """Answer `requests` by batches; the outcome of each, in order.

    Args:
        gate: A model whose provider has a batch endpoint.
        requests: What to ask.
        context: Whose budget, journal and deadline bind the work.
        record: Where the batches' ids are kept.
        name, interval, quiet, size: As for `deferring`. The requests are all there already.

    Raises:
        UsageError: DX4711 the model has no batch endpoint.
        BudgetExceeded: The requests can cost more than is left; nothing was handed in.
        StudyError: The record cannot be written, or another process works under `name`.
    """
    with within(context):
        async with deferring(record, name, interval=interval, quiet=quiet, size=size) as deferral:
            through, inner = deferral.gate(gate), current()

            async def answered(request: LMRequest) -> Called | LMError:
                tab = Tab(inner.ledgers, (inner.tenant, "", "", ""), gate.name)
                try:
                    called = await complete(through, request, inner, tab=tab)
                except BudgetExceeded:
                    raise
                except LMError as error:
                    return error
                store(through, called)
                return called

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(answered(request)) for request in requests]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            return [task.result() for task in tasks]


async def cancel_batch(gate: Gate, *, record: EventStore, name: str = "evaluation") -> int:
    """Ask the provider to end every batch of this model that was handed in under `name`; how many there were.

    What is answered by then is charged, and whoever asks again reads it.

    Raises:
        UsageError: DX4711, as `complete_batch`.
        LMError: What the provider raises.
    """
    model, kept = batch_model(gate), BatchRecord(record, name)
    with kept.lock():
        live = [one for one in kept.read() if one.model == gate.fingerprint and one.id and not one.ended]
        for batch in live:
            await model.cancel(batch.id)
    return len(live)
