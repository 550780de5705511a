"""The process of one client: ``python -m benchmarks.peers.clients.contender NAME``.

Reads jobs, one JSON object a line, and answers each with a line of JSON. It stays between jobs, so that rounds of all
clients can alternate without importing anything again. ``NAME+uvloop`` runs on uvloop.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peers.clients import peers
from benchmarks.peers.clients.cells import ANSWER, Job


async def measure(job: Job, ask: Callable[[int], Awaitable[str]]) -> dict[str, float]:
    """Call until `job.seconds` have passed, `job.in_flight` at once; connections are open by then."""
    numbers = itertools.count()

    async def once() -> None:
        answer = await ask(next(numbers))
        assert answer.startswith(ANSWER), answer

    async def worker(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            await once()
            done += 1
        return done

    for _ in range(3 if job.in_flight == 1 else 1):
        await asyncio.gather(*[once() for _ in range(job.in_flight)])
    cpu, wall = time.process_time(), time.perf_counter()
    calls = sum(await asyncio.gather(*[worker(wall + job.seconds) for _ in range(job.in_flight)]))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"us": cpu / calls * 1e6, "calls_per_s": calls / wall, "calls": calls}


def main() -> None:
    name, _, loop = sys.argv[1].partition("+")
    factory: Any = importlib.import_module("uvloop").new_event_loop if loop else None
    if name == "dspex":
        from benchmarks.peers.clients import ours

        opened, instant, cached = ours.open_dspex, ours.instant, ours.cached
    else:
        opened, cached = peers.OPEN[name], peers.cached
        instant = peers.handover if name == "raw" else peers.instant

    async def over_http(job: Job) -> dict[str, float]:
        async with opened(job) as ask:
            return await measure(job, ask)

    for line in sys.stdin:
        job = Job(**json.loads(line))
        if job.work == "instant":
            result = instant(job)
        else:
            with asyncio.Runner(loop_factory=factory) as runner:
                result = {"us": runner.run(cached(job))} if job.work == "cached" else runner.run(over_http(job))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
