"""The workload on dspex; prints one JSON object. The same calls as `theirs.py`."""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import dspex as dx
from dspex import __version__
from dspex.lm.types import FREE, Capabilities, LMRequest, LMResponse, Price, Usage


class Ask(dx.Schema):
    """A question."""

    question: str


class Answer(dx.Schema):
    """Answer the question in a few words."""

    answer: str


class Instant:
    """Answers at once, in process: what remains is the framework."""

    name = "instant/lm"
    fingerprint = "instant"
    capabilities = Capabilities()
    price: Price | None = FREE
    _response = LMResponse("Paris", Usage(40, 2))

    async def complete(self, request: LMRequest, /) -> LMResponse:
        return self._response

    async def aclose(self) -> None:
        """Nothing to close."""


class QA(dx.Program[Ask, Answer]):
    """One call."""

    solve = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--http-calls", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--base-url", required=True)
    args = parser.parse_args()
    result: dict[str, float | str] = {"version": __version__}
    program = QA()

    with dx.using(lm=Instant()):
        for i in range(100):
            assert program.run(Ask(question=f"warm {i}")).answer == "Paris"
        start = time.process_time()
        for i in range(args.calls):
            program.run(Ask(question=f"question {i}"))
        result["sync_us"] = (time.process_time() - start) / args.calls * 1e6

        async def in_turn() -> float:
            for i in range(100):
                await program(Ask(question=f"warm {i}"))
            begun = time.process_time()
            for i in range(args.calls):
                await program(Ask(question=f"question {i}"))
            return (time.process_time() - begun) / args.calls * 1e6

        result["async_us"] = asyncio.run(in_turn())

    lm = dx.LM("openai/gpt-4o-mini", base_url=args.base_url, api_key="x", concurrency=args.in_flight, cache="off")

    async def over_http() -> tuple[float, float]:
        async def one(i: int) -> None:
            assert (await program(Ask(question=f"question {i}"))).answer == "Paris"

        with dx.using(lm=lm):
            await asyncio.gather(*[one(i) for i in range(args.in_flight)])
            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.gather(*[one(i) for i in range(args.http_calls)])
            return time.process_time() - cpu, time.perf_counter() - wall

    cpu, wall = asyncio.run(over_http())
    result["http_us"] = cpu / args.http_calls * 1e6
    result["http_calls_per_s"] = args.http_calls / wall
    print(json.dumps(result))


if __name__ == "__main__":
    main()
