"""How long calls take when one in a hundred takes a second, with and without a second attempt for stragglers.

    python -m benchmarks.hedging [--calls 4000] [--json FILE]

The server, a process of its own, takes 50 ms; which calls take a second is drawn by chance. Rounds with and without
``hedge=True`` alternate. A second attempt begins once a call has taken longer than 95 % of the latest, for one call in
twenty at most.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

import dspex as dx
from benchmarks.peers.dspy.ours import QA, Ask

ROOT = Path(__file__).resolve().parents[1]
IN_FLIGHT = 64
QUANTILES = (0.5, 0.99, 0.999)


async def latencies(url: str, hedge: bool, calls: int) -> tuple[list[float], float]:
    """Seconds of each call in ascending order, and attempts a call."""
    program, numbers = QA(), iter(range(calls))
    taken: list[float] = []

    async def worker() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await program(Ask(question=f"question {number}"))
            taken.append(time.perf_counter() - begun)

    lm = dx.LM("openai/m", base_url=url, api_key="x", concurrency=2 * IN_FLIGHT, cache="off", hedge=hedge)
    with dx.using(lm=lm), dx.trace() as seen:
        await asyncio.gather(*[worker() for _ in range(IN_FLIGHT)])
    return sorted(taken), statistics.mean(call.attempts for call in seen.calls)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.01, help="of calls that take long")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "benchmarks.peers.server", "--delay", "0.05", "--straggle", "1"]
    command += ["--stragglers", str(args.share)]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    figures: dict[str, list[list[float]]] = {}
    try:
        url = f"http://127.0.0.1:{cast('IO[str]', server.stdout).readline().strip()}/v1"
        for _, hedge in itertools.product(range(args.rounds), (False, True)):
            taken, attempts = asyncio.run(latencies(url, hedge, args.calls))
            row = [1000 * taken[int(quantile * len(taken))] for quantile in QUANTILES]
            figures.setdefault("hedged" if hedge else "plain", []).append([*row, 1000 * taken[-1], attempts])
    finally:
        server.communicate()
    names = ("p50_ms", "p99_ms", "p999_ms", "max_ms", "attempts")
    results: dict[str, Any] = {}
    print("| | median | 99 % | 99.9 % | longest | attempts a call |\n|---|---|---|---|---|---|")
    for name, rows in figures.items():
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        results[name] = dict(zip(names, middle, strict=True))
        print(f"| {name} | {' | '.join(f'{value:.0f} ms' for value in middle[:-1])} | {middle[-1]:.3f} |")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
