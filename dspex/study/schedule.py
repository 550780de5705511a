"""Many evaluations at once, their results in logical order.

Results are handed out in the order of the jobs, never in the order of arrival, so that whatever is
decided from them is the same for every concurrency and every latency. Jobs start in order too: what
has started is always a prefix of the jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Literal, TypeVar

J = TypeVar("J")
R = TypeVar("R")

Admission = Literal["start", "wait", "stop"]


async def in_order(
    jobs: Iterable[J],
    run: Callable[[J], Awaitable[R]],
    *,
    width: Callable[[], int],
    admit: Callable[[J], Admission],
) -> AsyncGenerator[tuple[J, R]]:
    """Run `jobs`, at most `width()` at a time, and yield each with its result in the order of the jobs.

    Args:
        jobs: Taken lazily.
        run: One job; its exception is raised where its result would be yielded.
        width: Jobs running at once; asked whenever one may start, as the limits of models move.
        admit: Asked once a job is next to start: ``wait`` asks again after the next result was taken
            (or stops, when nothing is under way), ``stop`` starts nothing more and lets what runs end.

    Whatever still runs when the caller stops iterating is cancelled and awaited.
    """
    started: deque[tuple[J, asyncio.Task[R]]] = deque()
    progress = asyncio.Event()
    running = 0

    def ended(_: asyncio.Task[R]) -> None:
        nonlocal running
        running -= 1
        progress.set()

    source = iter(jobs)
    job = next(source, None)
    try:
        while True:
            while job is not None and running < width():
                verdict = admit(job)
                if verdict == "stop" or (verdict == "wait" and not started):
                    job = None
                elif verdict == "wait":
                    break
                else:
                    task = asyncio.ensure_future(_run(run, job))
                    running += 1
                    task.add_done_callback(ended)
                    started.append((job, task))
                    job = next(source, None)
            if not started:
                return
            first, task = started[0]
            if task.done():
                started.popleft()
                yield first, task.result()
                continue
            progress.clear()
            await progress.wait()
    finally:
        left = [task for _, task in started]
        for task in left:
            task.cancel()
        if left:
            await asyncio.gather(*left, return_exceptions=True)


async def _run(run: Callable[[J], Awaitable[R]], job: J) -> R:
    return await run(job)
