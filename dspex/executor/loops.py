"""Event loops for synchronous callers, each run by a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_CLOSING_SECONDS = 5.0
_here = threading.local()


class LoopThread:
    """An event loop that runs in a daemon thread until `close`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._closing = False
        self._door = threading.Lock()
        self._shut = False
        self._thread = threading.Thread(target=self._work, name="dspex-loop", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can take work."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end in a copy of the caller's context, and return or raise what it does.

        A KeyboardInterrupt in the caller cancels the work and is raised once the work has ended.

        Raises:
            CancelledError: The loop was closed.
        """
        run = _Run(self.loop, work)
        try:
            self._hand_over(run)
            run.ended.acquire()
        except KeyboardInterrupt:
            if not run.outcome:
                self.loop.call_soon_threadsafe(run.cancel)
                # The second interrupt leaves at once.
                run.ended.acquire()
            raise
        value, error = run.outcome.pop()
        if error is None:
            return value
        try:
            raise error
        finally:
            # Its traceback holds this frame.
            del error

    def close(self) -> None:
        """Cancel what runs, close clients, end the thread."""
        self._closing = True
        if self._thread.is_alive() and not self.loop.is_closed():
            with suppress(RuntimeError):  # It may have closed this instant.
                self.loop.call_soon_threadsafe(self.loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(_CLOSING_SECONDS)

    def _hand_over(self, run: _Run[Any]) -> None:
        with self._door:
            if self._shut:
                run.give_up()
                raise asyncio.CancelledError
            self.loop.call_soon_threadsafe(run.start)

    def _work(self) -> None:
        _here.stands = True
        asyncio.set_event_loop(self.loop)
        try:
            self._serve()
        finally:
            try:
                self._drain()
            finally:
                asyncio.set_event_loop(None)
                self.loop.close()

    def _serve(self) -> None:
        while not self._closing:
            # A task raised it, whose outcome it is already. asyncio lets it end the loop, and all others with it.
            with suppress(KeyboardInterrupt, SystemExit):
                self.loop.run_forever()

    def _drain(self) -> None:
        with self._door:
            self._shut = True
        # What was handed over by now begins first: a task that is cancelled before that has no outcome to hand back.
        self.loop.run_until_complete(asyncio.sleep(0))
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())


class _Run(Generic[T]):
    """One coroutine on its way through a loop, and its outcome."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self.outcome: list[tuple[Any, BaseException | None]] = []
        # A bare lock: what a future does besides is a sixth of the whole way there and back.
        self.ended = threading.Lock()
        self.ended.acquire()
        self._loop = loop
        self._work = work
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._carry(), context=self._context)

    def cancel(self) -> None:
        if self._task is None:
            # The interrupt came before the work was handed over.
            self.give_up()
        else:
            # Behind its first step, for the reason in `_drain`.
            self._loop.call_soon(self._task.cancel)

    def give_up(self) -> None:
        self._work.close()
        self.ended.release()

    async def _carry(self) -> None:
        try:
            value = await self._work
        except BaseException as error:  # noqa: BLE001  supervision boundary: hands the outcome over
            # Every outcome is the caller's, an exit included: it must not end the loop of all others.
            self.outcome.append((None, error))
        else:
            self.outcome.append((value, None))
        self.ended.release()


def inside_any() -> bool:
    """Whether the caller runs in the thread of some `LoopThread`, which stands still while the caller waits."""
    return getattr(_here, "stands", False)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that the caller stands inside of, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
