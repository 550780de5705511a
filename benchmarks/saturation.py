"""Whether a study of 10,000 evaluations keeps a server busy, and what each evaluation costs the process it runs in.

    python -m benchmarks.saturation [--calls 10000] [--in-flight 32,64,256] [--json FILE]

The server, a process of its own, takes 50 ms a call. Each case is a study in a new process, with its event log on
disk, as a user has it. The ideal time is calls x latency / in flight; the share of it is reached by the whole study,
from the first proposal to the report. The same number of calls as one `Program.batch`, which waits for nothing but the
server, shows what the machine and the call path allow at that time. Memory and processor time are those of the first
and of the second half of the evaluations: what grew with the number of evaluations before would show there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import dspex as dx
from benchmarks.queued import resident
from dspex.program.schema import Schema
from dspex.study.loop import optimize
from dspex.study.progress import Progress
from dspex.testing import MockRequest, ServerProcess

ROOT = Path(__file__).resolve().parents[1]
LATENCY = 0.05
ROWS = 2_000
STEP = 500
WORDS = {"billing": "invoice", "delivery": "parcel", "tech": "crash"}


class Message(Schema):
    """A customer writes."""

    text: str


class Team(Schema):
    """The team that handles the message."""

    team: Literal["billing", "delivery", "tech"]


class Router(dx.Program[Message, Team]):
    """Routes a message to a team."""

    tone: dx.Var[int] = dx.var(0, lo=0, hi=30)
    route = dx.Predict(Message, Team, instruction="Name the team that should answer. Tone {tone}.")

    async def __call__(self, x: Message, /) -> Team:
        return await self.route(x)


def accuracy(got: Team, want: Team) -> float:
    return float(got.team == want.team)


def answer(request: MockRequest) -> dict[str, object]:
    """Right the more often the longer the prompt is; a function of the request alone."""
    if "current instruction" in request.text or "current_instruction" in request.text:
        return {"instruction": f"Name the team that should answer. ({len(request.text)})"}
    last = request.text[-200:]
    draw = int(request.digest[:8], 16)
    right = next((team for team, word in WORDS.items() if word in last), "tech")
    known = draw % 100 < min(90, 30 + len(request.text) // 50)
    return {"team": right if known else sorted(WORDS)[draw % 3]}


def study(url: str, calls: int, in_flight: int, cache: Any) -> dict[str, Any]:
    """One study; what it took, and what each part of it took."""
    rows = [{"text": f"my {word} number {n}", "team": team} for n in range(ROWS // 3) for team, word in WORDS.items()]
    lm = dx.LM("openai/mock", base_url=url, api_key="x", concurrency=in_flight, cache=cache)
    points: list[tuple[int, float, float, int]] = []

    def watch(progress: Progress) -> None:
        if progress.done % STEP == 0 and (not points or points[-1][0] != progress.done):
            points.append((progress.done, time.perf_counter(), time.process_time(), resident()))

    data = dx.load(rows, Message, Team)
    begun = time.perf_counter()
    with dx.using(lm=lm):
        Router().batch([Message(text=f"my parcel {n}") for n in range(calls)], concurrency=in_flight)
    batch = time.perf_counter() - begun
    begun, cpu = time.perf_counter(), time.process_time()
    best = optimize(Router, data, accuracy, budget=dx.Budget(calls=calls), lm=lm, progress=watch)
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    report = best.study.report
    return {
        "calls": report.calls,
        "evaluations": points[-1][0],
        "wall_s": wall,
        "batch_s": batch * report.calls / calls,
        "ideal_s": report.calls * LATENCY / in_flight,
        "cpu_us": cpu / report.calls * 1e6,
        "halves": [part(points, 0.1, 0.5), part(points, 0.5, 1.0)],
        "status": report.status,
        "gain": None if report.gain is None else report.gain.mean,
        "points": points,
    }


def part(points: list[tuple[int, float, float, int]], start: float, end: float) -> dict[str, float]:
    """Processor time an evaluation, and growth of memory in 1,000 of them, between two shares of the points."""
    first, last = points[int(start * (len(points) - 1))], points[int(end * (len(points) - 1))]
    count = last[0] - first[0]
    return {"cpu_us": (last[2] - first[2]) / count * 1e6, "bytes_per_1000": (last[3] - first[3]) / count * 1000}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--in-flight", default="32,64,256", help="widths, with commas between them")
    parser.add_argument("--cache", default="off", choices=("off", "on"), help="dx.LM(cache=...) of the study")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--url", help="run one study against this server, in this process")
    args = parser.parse_args(argv)
    widths = [int(width) for width in args.in_flight.split(",")]
    if args.url:
        alone = study(args.url, args.calls, widths[0], args.cache)
        print(json.dumps(alone))
        return alone
    results: dict[str, Any] = {}
    print("| in flight | calls | study | ideal | share | batch | share | CPU a call | halves | memory per 1,000 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with ServerProcess(latency=LATENCY, answer="benchmarks.saturation:answer") as server:
        for width in widths:
            with tempfile.TemporaryDirectory() as home:
                own = [sys.executable, "-m", "benchmarks.saturation", f"--url={server.url}", f"--calls={args.calls}"]
                own += [f"--in-flight={width}", f"--cache={args.cache}"]
                environment = {**os.environ, "DSPEX_HOME": home}
                done = subprocess.run(own, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            one = results[str(width)] = json.loads(done.stdout)
            cpu = ", ".join(f"{half['cpu_us']:.0f}" for half in one["halves"])
            memory = ", ".join(f"{half['bytes_per_1000'] / 1e6:.2f}" for half in one["halves"])
            shares = one["ideal_s"] / one["wall_s"], one["ideal_s"] / one["batch_s"]
            print(
                f"| {width} | {one['calls']} | {one['wall_s']:.2f} s | {one['ideal_s']:.2f} s | {shares[0]:.0%} "
                f"| {one['batch_s']:.2f} s | {shares[1]:.0%} | {one['cpu_us']:.0f} µs | {cpu} µs | {memory} MB |"
            )
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
