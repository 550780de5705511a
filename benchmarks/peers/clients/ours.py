"""The same calls through a dspex program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import dspex as dx
from benchmarks.peers.clients.cells import QUESTION, Job
from benchmarks.peers.dspy.ours import QA, Answer, Ask, Instant
from dspex.executor.models import response_cache
from dspex.lm.model import CacheMode

PROGRAM = QA()


async def ask(number: int) -> str:
    """One call."""
    return (await PROGRAM(Ask(question=QUESTION.format(number)))).answer


async def ask_streamed(number: int) -> str:
    """One call, read part by part."""
    output: object = None
    async for part in PROGRAM.stream(Ask(question=QUESTION.format(number))):
        output = part.output
    return cast(Answer, output).answer


def lm_of(job: Job, cache: CacheMode = "off") -> dx.LM:
    """The model of a job, whose limit lets all its calls through."""
    return dx.LM("openai/gpt-4o-mini", base_url=job.url, api_key="x", concurrency=job.in_flight, cache=cache)


@asynccontextmanager
async def open_dspex(job: Job) -> AsyncGenerator[Callable[[int], Awaitable[str]]]:
    """A program of one module, awaited."""
    with dx.using(lm=lm_of(job)):
        yield ask_streamed if job.stream else ask


def instant(job: Job) -> dict[str, float]:
    """Microseconds a call with a model in the process, from synchronous and from asynchronous code."""

    async def in_turn() -> float:
        begun = time.process_time()
        for number in range(job.calls):
            await ask(number)
        return (time.process_time() - begun) / job.calls * 1e6

    with dx.using(lm=Instant()):
        asyncio.run(in_turn())
        for number in range(100):
            PROGRAM.run(Ask(question=QUESTION.format(number)))
        begun = time.process_time()
        for number in range(job.calls):
            PROGRAM.run(Ask(question=QUESTION.format(number)))
        return {"sync": (time.process_time() - begun) / job.calls * 1e6, "async": asyncio.run(in_turn())}


async def cached(job: Job) -> float:
    """Microseconds a call that asks the caches first; what is to be written is written within them."""
    with dx.using(lm=lm_of(job, "on")):
        await ask(-1)
        begun = time.process_time()
        for number in range(job.calls):
            await ask(number)
        disk = response_cache().disk
        assert disk is not None
        disk.flush()
        return (time.process_time() - begun) / job.calls * 1e6
