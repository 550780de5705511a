"""A program's run, read while it goes on: `Stream` for the reader, `Channel` and `Showing` for the modules that write.

The run is a task of its own. What its modules write goes through a channel that holds few parts, so that a model is
read no faster than the reader takes the parts.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from dspex.compiler.answers.parser import answer_text
from dspex.compiler.render.values import value_text
from dspex.executor.admission import borrowing
from dspex.executor.call import Adapt, Called, complete
from dspex.executor.loops import running_loop
from dspex.executor.runner import iterated, run_async
from dspex.executor.streaming import stream
from dspex.program.concurrency import stopped
from dspex.program.context import current, within
from dspex.program.parts import Part
from dspex.program.schema import Schema

if TYPE_CHECKING:
    from dspex.compiler.answers.partial import PartialReader
    from dspex.compiler.render.prepared import PreparedModule
    from dspex.executor.models import Gate
    from dspex.lm.spend import Budget
    from dspex.lm.types import LMRequest
    from dspex.program.context import Context
    from dspex.program.ledger import Tab

O = TypeVar("O", bound=Schema)  # noqa: E741
I = TypeVar("I", bound=Schema)  # noqa: E741

_ROOM = 32
"""Parts that may wait for the reader."""


class Channel:
    """Parts on their way from the modules of one run to its reader; belongs to the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: deque[Part[Any]] = deque()
        # It lets those that wait in by turns, so that no call goes silent while others are shown.
        self._room = asyncio.Semaphore(_ROOM)
        self._news = asyncio.Event()
        self._ended = False
        self._calls = 0

    def begin(self, prepared: PreparedModule) -> Showing | None:
        """For one call of a module; None on another loop, where a program was run inside of the one that is read."""
        if asyncio.get_running_loop() is not self._loop:
            return None
        self._calls += 1
        return Showing(self, prepared, self._calls)

    async def put(self, part: Part[Any]) -> None:
        """Hand over a part, once there is room for it."""
        await self._room.acquire()
        self._parts.append(part)
        self._news.set()

    def end(self, _: object = None) -> None:
        """There will be no further parts."""
        self._ended = True
        self._news.set()

    async def get(self) -> Part[Any] | None:
        """The next part; None when there is none any more."""
        while not self._parts:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        self._room.release()
        return self._parts.popleft()


class Showing:
    """One call of a module, shown while its answer is written."""

    def __init__(self, channel: Channel, prepared: PreparedModule, number: int) -> None:
        self._channel = channel
        self._prepared = prepared
        self._place = prepared.settings.path, number
        self._shown: dict[str, list[str]] = {}

    async def call(
        self, gate: Gate, request: LMRequest, context: Context, *, adapt: Adapt | None, tab: Tab | None
    ) -> Called:
        """`complete`, with every part of the answer shown; after the first of them a failure is final."""
        if request.score_choices:
            return await complete(gate, request, context, adapt=adapt, tab=tab)
        # After a repair: what was shown is not the answer.
        reader = await self._begin()
        written = called = False
        async with aclosing(stream(gate, request, context, adapt=adapt, tab=tab)) as items:
            async for item in items:
                if isinstance(item, Called):
                    return item
                if item.reasoning:
                    await self._put(thinking=item.reasoning)
                text = item.text
                if item.calls:
                    if not called:
                        # The answer is what the tool is given, whatever was said before.
                        called, reader = True, await self._begin()
                    text = "".join(part.arguments for part in item.calls if part.index == 0)
                elif called:
                    text = ""
                elif item.response is not None and not (written or text):
                    text = answer_text(item.response)
                if text:
                    written = True
                    await self._read(reader, text)
        raise AssertionError("a stream ends with its call")

    async def end(self, output: Schema, reasoning: str | None) -> None:
        """Show what is missing, and the validated value of every field."""
        values: dict[str, object] = {} if reasoning is None else {"reasoning": reasoning}
        shape = self._prepared.shape
        values.update({name: getattr(output, name) for name in shape.names})
        for name, value in values.items():
            shown = "".join(self._shown.get(name, ()))
            if isinstance(value, str):
                text = value_text(value)
                anew = not text.startswith(shown)
                await self._put(
                    field=name, text=text if anew else text[len(shown) :], value=value, anew=anew, done=True
                )
            else:
                await self._put(field=name, text="" if shown else value_text(value), value=value, done=True)

    async def _begin(self) -> PartialReader:
        """The answer begins, again where something was shown of another one."""
        for name, shown in self._shown.items():
            if shown:
                shown.clear()
                await self._put(field=name, anew=True)
        return self._prepared.partial()

    async def _read(self, reader: PartialReader, text: str) -> None:
        for name, new, value in reader.feed(text):
            self._shown.setdefault(name, []).append(new)
            await self._channel.put(Part(*self._place, name, new, value))

    async def _put(self, **fields: Any) -> None:
        await self._channel.put(Part(*self._place, **fields))


class Stream(Generic[O]):
    """A run of a program, read while it goes on: an iterator of `Part`, asynchronous or not.

    Close it to end the run early: leave its ``async with`` or ``with`` block, or call `aclose` or `close`. The request
    in the air is then cancelled and its connection freed; it counts as spent, uncertain.

    Raises:
        DspexError: From the iterator, what the program's call would have raised.
    """

    def __init__(
        self, program: Callable[[I], Awaitable[O]], x: I, timeout: float | None, budget: Budget | None
    ) -> None:
        self._context = contextvars.copy_context()
        self._parts = _parts(partial(run_async, program, x, timeout, budget), self._context)
        self._items: Generator[Part[O]] | None = None

    # --- asynchronous code ----------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Part[O]:
        return await anext(self._parts)

    async def aclose(self) -> None:
        """End the run, if it still goes on, and wait until it has ended."""
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- synchronous code -----------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Part[O]:
        if self._items is None:
            if running_loop() is not None:
                self._context.run(borrowing.set, True)
            self._items = iterated(self._parts)
        return next(self._items)

    def close(self) -> None:
        """`aclose`, from synchronous code."""
        if self._items is not None:
            self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _parts(run: Callable[[], Awaitable[O]], context: contextvars.Context) -> AsyncGenerator[Part[O]]:
    """The parts of one run, which is a task in `context`."""
    channel = Channel()

    async def work() -> O:
        with within(current().replace(parts=channel)):
            return await run()

    task = asyncio.get_running_loop().create_task(work(), context=context)
    task.add_done_callback(channel.end)
    try:
        while (part := await channel.get()) is not None:
            yield part
        yield Part(output=task.result())
    finally:
        await stopped((task,))
        # The traceback of the run's error holds this frame.
        del task
