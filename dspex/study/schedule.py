"""Many evaluations at once, their results in logical order.

Results are handed out in the order of the jobs, never in the order of arrival, so that whatever is
decided from them is the same for every concurrency and every latency. Jobs start in order too: what
has started is always a prefix of the jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Literal, TypeVar

J = TypeVar("J")
R = TypeVar("R")

Admission = Literal["start", "wait", "stop"]


async def in_order(
    jobs: deque[J],
    run: Callable[[J], Awaitable[R]],
    *,
    width: Callable[[], int],
    admit: Callable[[J], Admission],
) -> AsyncGenerator[tuple[J, R]]:
    """Run `jobs`, at most `width()` at a time, and yield each with its result in the order of the jobs.

    Args:
        jobs: Taken from the left as they start; the caller may append more whenever it was given a result.
        run: One job; its exception is raised where its result would be yielded.
        width: Jobs running at once; asked whenever one may start, as the limits of models move.
        admit: Asked once a job is next to start: ``wait`` asks again after the next result was taken
            (or stops, when nothing is under way), ``stop`` starts nothing more and lets what runs end.

    Whatever still runs when the caller stops iterating is cancelled and awaited.
    """
    started: deque[tuple[J, asyncio.Task[R]]] = deque()
    progress = asyncio.Event()
    running, stopped = 0, False

    async def work(job: J) -> R:
        nonlocal running
        try:
            return await run(job)
        finally:
            running -= 1
            progress.set()

    try:
        while True:
            while jobs and not stopped and running < width():
                verdict = admit(jobs[0])
                if verdict == "stop" or (verdict == "wait" and not started):
                    stopped = True
                elif verdict == "wait":
                    break
                else:
                    job = jobs.popleft()
                    started.append((job, asyncio.create_task(work(job))))
                    running += 1
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
