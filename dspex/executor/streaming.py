"""A call whose answer is read while it is generated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from dspex.errors import LMError
from dspex.executor.caching import call_key
from dspex.executor.call import TOO_LATE, Adapt, Call, Called, kept
from dspex.lm.types import Delta, LMRequest

if TYPE_CHECKING:
    from dspex.executor.models import Gate
    from dspex.program.context import Context
    from dspex.program.ledger import Tab

T = TypeVar("T")


async def stream(
    gate: Gate, request: LMRequest, context: Context, *, adapt: Adapt | None = None, tab: Tab | None = None
) -> AsyncGenerator[Delta | Called]:
    """Answer one request part by part; the last item is the call as `complete` would have given it.

    The stages are those of `complete`, but a stream goes at its reader's pace: it neither joins nor leads equal calls,
    and is not hedged. Once a part that shows anything was given, a failure is final. A model that cannot stream, and an
    answer that is known, come as one part.

    Close the generator (`contextlib.aclosing`) to end a call early; it then counts as spent, uncertain.

    Args:
        gate, request, context, adapt, tab: As for `complete`.

    Raises:
        LMError: As `complete`.
    """
    call = Call(gate, request, context, adapt, tab)
    if gate.reads or gate.writes or context.journal is not None:
        key = call.key = call_key(gate.fingerprint, request)
        call.known = kept(gate, key)
        if call.known is None:
            call.recall()
    if call.known is None:
        call.ask(gate, request)
    shown = False
    while call.known is None:
        if context.deadline is not None and time.monotonic() >= context.deadline:
            raise call.too_late()
        attempt = call.next()
        try:
            await _in_time(attempt.wait(), call)
            async with aclosing(attempt.parts()) as parts:
                while True:
                    coming = anext(parts, None)
                    part = await (coming if context.deadline is None else _in_time(coming, call))
                    if part is None:
                        break
                    shown = shown or bool(part.text or part.reasoning or part.calls)
                    yield part
            yield call.outcome(attempt.response)
            return
        except LMError as error:
            if shown or error.code == TOO_LATE:
                call.mark(error)
                raise
            pause = await call.pause(attempt, error)
        if pause is None:
            raise call.failure()
        await call.gate.sleep(pause)
    yield Delta.whole(call.known)
    yield call.outcome(call.known, cached=True)


async def _in_time(work: Awaitable[T], call: Call) -> T:
    """`work`, ended at the deadline: a stream's, which no one block can bound because its reader works in between."""
    deadline = call.context.deadline
    if deadline is None:
        return await work
    timer = asyncio.timeout(max(0.0, deadline - time.monotonic()))
    try:
        async with timer:
            return await work
    except TimeoutError:
        if timer.expired():
            raise call.too_late() from None
        raise
