"""What a queued call holds of memory, in a process of its own: no other thread allocates anything meanwhile.

    python -m tests.executor.queued_runs CACHE DEADLINE FORM

prints the bytes of a call of a program that waits for admission, and those of a bare task that waits at a semaphore.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import dspex as dx
from dspex.executor.models import gate_for
from dspex.lm.model import LM
from dspex.program.context import bounded, using
from dspex.program.modules import Predict
from dspex.program.program import Program
from dspex.program.schema import Schema


class Question(Schema):
    question: str


class Answer(Schema):
    """Answer the question."""

    answer: str


class Asked(Program[Question, Answer]):
    solve = Predict(Question, Answer)

    async def __call__(self, x: Question, /) -> Answer:
        return await self.solve(x)


async def held(call: Callable[[Question], Awaitable[object]], inputs: list[Question]) -> float:
    """Bytes that each call holds while all of them wait; they are cancelled then."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tasks = [asyncio.ensure_future(call(x)) for x in inputs]
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (now - before) / len(tasks)


async def main(cache: Any, deadline: float | None, form: str) -> tuple[float, float]:
    semaphore = asyncio.Semaphore(0)

    async def bare(x: Question) -> None:
        async with semaphore:
            raise AssertionError("nobody releases it")

    inputs = [Question(question=f"question {number}") for number in range(1000)]
    lm = LM("openai/m", base_url="http://127.0.0.1:1/v1", api_key="x", concurrency=1, cache=cache)
    with using(lm=lm), bounded(deadline=deadline):
        limit = (await gate_for(lm)).routes[0].limit
        assert limit is not None
        assert limit.try_acquire() is not None
        program = dx.compile(Asked()) if form == "compiled" else Asked()
        # The first calls of all make what is made once.
        await held(program, inputs[:10])
        return await held(program, inputs), await held(bare, inputs)


if __name__ == "__main__":
    print(*asyncio.run(main(sys.argv[1], float(sys.argv[2]) or None, sys.argv[3])))
