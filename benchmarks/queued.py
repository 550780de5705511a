"""What 100,000 queued calls hold of memory, with 32 of them in flight.

    python -m benchmarks.queued [--calls 100000] [--json FILE]

Each case runs in a new process; the figure is what its resident memory grows by from one call to all of them, whose
inputs were there before. ``batch`` is `Program.batch`, which begins no more calls than are worth it; ``calls`` is one
task a request in the call path, all waiting for admission; ``programs`` one task a call of a program; ``compiled`` the
same of the compiled program; ``cached`` of the program with the cache on, as it is by default; ``semaphore`` one bare
task a call before an `asyncio.Semaphore`: what such a queue costs without any client. Goal: 200 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

import dspex as dx
from benchmarks.peers.dspy.ours import QA, Ask
from dspex.executor.call import complete
from dspex.executor.models import gate_for
from dspex.executor.runner import batch_async
from dspex.lm.model import CacheMode
from dspex.lm.types import LMRequest, Message
from dspex.program.context import current

ROOT = Path(__file__).resolve().parents[1]
IN_FLIGHT = 32
CASES = ("batch", "calls", "programs", "compiled", "cached", "semaphore")


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def held(case: str, url: str, calls: int) -> tuple[int, float]:
    """Bytes that `calls` queued calls hold, and processor seconds to queue and to cancel them."""
    program = dx.compile(QA()) if case == "compiled" else QA()
    semaphore = asyncio.Semaphore(IN_FLIGHT)

    async def waiting() -> None:
        async with semaphore:
            await asyncio.Event().wait()

    inputs = [Ask(question=f"question {number}") for number in range(calls)]
    requests = [LMRequest((Message("user", x.question),)) for x in inputs]
    cache: CacheMode = "on" if case == "cached" else "off"
    lm = dx.LM("openai/m", base_url=url, api_key="x", concurrency=IN_FLIGHT, cache=cache)
    with dx.using(lm=lm):
        first = asyncio.ensure_future(program(Ask(question="first")))
        await asyncio.sleep(0.2)
        before, cpu = resident(), time.process_time()
        if case == "batch":
            tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(batch_async(program, inputs))]
        elif case == "calls":
            gate, context = await gate_for(lm), current()
            tasks = [asyncio.ensure_future(complete(gate, request, context)) for request in requests]
        elif case in ("programs", "compiled", "cached"):
            tasks = [asyncio.ensure_future(program(x)) for x in inputs]
        else:
            tasks = [asyncio.ensure_future(waiting()) for _ in inputs]
        await asyncio.sleep(1.0)
        grown = resident() - before
        for task in [first, *tasks]:
            task.cancel()
        await asyncio.gather(first, *tasks, return_exceptions=True)
    return grown, time.process_time() - cpu


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", choices=CASES, help="this one alone, in this process, against --url")
    parser.add_argument("--url", default="")
    args = parser.parse_args(argv)
    if args.case:
        grown, cpu = asyncio.run(held(args.case, args.url, args.calls))
        results: dict[str, Any] = {"bytes": grown, "cpu_s": cpu}
        print(json.dumps(results))
        return results
    results = {}
    command = [sys.executable, "-m", "benchmarks.peers.server", "--delay", "1000"]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print("| | memory | a call | processor time a call, to queue and cancel |\n|---|---|---|---|")
    try:
        url = f"http://127.0.0.1:{cast('IO[str]', server.stdout).readline().strip()}/v1"
        for case in CASES:
            own = [sys.executable, "-m", "benchmarks.queued", f"--case={case}", f"--url={url}", f"--calls={args.calls}"]
            with TemporaryDirectory() as cache:
                env = {**os.environ, "DSPEX_CACHE_DIR": cache}
                done = subprocess.run(own, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=env)
            one = results[case] = json.loads(done.stdout)
            size, cpu = one["bytes"], one["cpu_s"] / args.calls * 1e6
            print(f"| {case} | {size / 1e6:.0f} MB | {size / args.calls:.0f} B | {cpu:.0f} µs |")
    finally:
        server.communicate()
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
