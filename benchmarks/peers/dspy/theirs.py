"""The workload on DSPy. Runs in DSPy's own environment: imports nothing of dspex; prints one JSON object.

python theirs.py --calls 2000 --base-url http://127.0.0.1:PORT/v1 --http-calls 1000 --in-flight 256
"""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import time
from typing import Any

# By name, because a type checker would take the folder of this file for the package.
dspy: Any = importlib.import_module("dspy")
lm15: Any = importlib.import_module("dspy.lm15")


MARKED = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"


class Question(dspy.Signature):
    """Answer the question in a few words."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


ANSWER = lm15.Response(
    id=None,
    model="instant",
    message=lm15.Message.assistant([lm15.TextPart(MARKED)]),
    finish_reason="stop",
    usage=lm15.Usage(input_tokens=40, output_tokens=2, total_tokens=42),
)


class Instant:
    """Answers at once, in process, by DSPy's own interface for models: what remains is the framework."""

    def complete(self, request):
        return ANSWER


class AsyncInstant:
    """`Instant`, awaited."""

    async def complete(self, request):
        return ANSWER


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--http-calls", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--base-url", required=True)
    args = parser.parse_args()
    result: dict[str, float | str] = {"version": dspy.__version__}

    dspy.configure(lm=dspy.LM("openai/instant", cache=False, engine=Instant(), async_engine=AsyncInstant()))
    predict = dspy.Predict(Question)
    for i in range(100):
        assert predict(question=f"warm {i}").answer == "Paris"
    start = time.process_time()
    for i in range(args.calls):
        predict(question=f"question {i}")
    result["sync_us"] = (time.process_time() - start) / args.calls * 1e6

    async def in_turn() -> float:
        for i in range(100):
            await predict.acall(question=f"warm {i}")
        begun = time.process_time()
        for i in range(args.calls):
            await predict.acall(question=f"question {i}")
        return (time.process_time() - begun) / args.calls * 1e6

    result["async_us"] = asyncio.run(in_turn())

    lm = dspy.LM("openai/gpt-4o-mini", api_base=args.base_url, api_key="x", cache=False, num_retries=0)

    async def over_http() -> tuple[float, float]:
        gate = asyncio.Semaphore(args.in_flight)

        async def one(i: int) -> None:
            async with gate:
                assert (await predict.acall(question=f"question {i}")).answer == "Paris"

        with dspy.context(lm=lm):
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
