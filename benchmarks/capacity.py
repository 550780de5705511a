"""How soon `concurrency="auto"` finds what a server serves at once, and what half of it is, without being told.

    python -m benchmarks.capacity [--capacity 37] [--seconds 10] [--json FILE]

The server, a process of its own, takes 50 ms a call and serves 37 at once; then, from one moment to the next, 18.
``refuses`` answers 429 to every call beyond, without a word on when to come again; ``queues`` lets them wait, so that
only their time tells. What counts is the share of the answers a second that a client gets that is told the number
beforehand, measured in the same run. Goals: 90 % of the capacity within 10 s, 80 % of the halved one within 10 s more,
less than 5 % of the calls failing. Twice as many calls as the server serves are always wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dspex as dx
from benchmarks.peers.dspy.ours import QA, Ask
from dspex.errors import LMError
from dspex.testing import ServerProcess

LATENCY = 0.05
WINDOW = 1.0
STEP = 0.1
TOLD_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ended:
    """One call: when it ended and how long it took, in seconds, and whether it was answered."""

    end: float
    seconds: float
    answered: bool


async def calls(lm: dx.LM, workers: int, seconds: float) -> list[Ended]:
    """Call all the time, for so long; the ends are counted from the beginning."""
    program, numbers = QA(), itertools.count()
    seen: list[Ended] = []
    begun = time.perf_counter()

    async def worker() -> None:
        while (start := time.perf_counter()) < begun + seconds:
            answered = True
            try:
                await program(Ask(question=f"question {next(numbers)}"))
            except LMError:
                answered = False
            end = time.perf_counter()
            seen.append(Ended(end - begun, end - start, answered))

    with dx.using(lm=lm):
        await asyncio.gather(*[worker() for _ in range(workers)])
    return seen


def reached(ends: list[float], begin: float, until: float, rate: float) -> float | None:
    """Seconds from `begin` to the end of the first window in which answers came at `rate` a second or faster."""
    count = int((until - begin - WINDOW) / STEP) + 1
    for start in (begin + STEP * step for step in range(count)):
        if sum(start <= end < start + WINDOW for end in ends) >= rate * WINDOW:
            return start + WINDOW - begin
    return None


def phase(seen: list[Ended], begin: float, seconds: float, capacity: int, told: float, enough: float) -> dict[str, Any]:
    """What the calls that ended within `seconds` from `begin` say; `told` is the rate of a client that is told."""
    until = begin + seconds
    inside = [call for call in seen if begin <= call.end < until]
    ends = [call.end for call in inside if call.answered]
    late = sum(end >= until - seconds / 3 for end in ends)
    return {
        "capacity": capacity,
        "told_calls_per_s": told,
        "seconds_to_enough": reached(ends, begin, until, enough * told),
        "enough": enough,
        "share_at_the_end": late / (seconds / 3) / told,
        "failed": sum(not call.answered for call in inside) / len(inside),
    }


async def search(server: ServerProcess, capacity: int, seconds: float) -> list[dict[str, Any]]:
    """Measure a client that is told each capacity, then one that is not; the capacity is halved after `seconds`."""

    def model(concurrency: int | Literal["auto"]) -> dx.LM:
        return dx.LM("openai/m", base_url=server.url, api_key="x", concurrency=concurrency, cache="off")

    async def halve() -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.change, capacity=capacity // 2)

    told: list[float] = []
    for served in (capacity // 2, capacity):
        await asyncio.to_thread(server.change, capacity=served)
        seen = await calls(model(served), 2 * capacity, TOLD_SECONDS)
        told.append(sum(1.0 <= call.end < TOLD_SECONDS for call in seen) / (TOLD_SECONDS - 1.0))
    halved = asyncio.ensure_future(halve())
    seen = await calls(model("auto"), 2 * capacity, 2 * seconds)
    await halved
    return [
        phase(seen, 0.0, seconds, capacity, told[1], 0.9),
        phase(seen, seconds, seconds, capacity // 2, told[0], 0.8),
    ]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=37, help="calls that the server serves at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="before and after the capacity is halved")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    kinds: dict[str, dict[str, Any]] = {"refuses": {"queue": 0, "overload": 429}, "queues": {}}
    results: dict[str, Any] = {}
    print("| a server that | capacity | told: calls/s | seconds to 90 %, 80 % | share at the end | failed |")
    print("|---|---|---|---|---|---|")
    for name, settings in kinds.items():
        with ServerProcess(latency=LATENCY, capacity=args.capacity, **settings) as server:
            results[name] = asyncio.run(search(server, args.capacity, args.seconds))
        for row in results[name]:
            found = "never" if row["seconds_to_enough"] is None else f"{row['seconds_to_enough']:.1f}"
            share, failed = f"{row['share_at_the_end']:.0%}", f"{row['failed']:.1%}"
            print(f"| {name} | {row['capacity']} | {row['told_calls_per_s']:.0f} | {found} | {share} | {failed} |")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
