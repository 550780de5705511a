"""dspex beside DSPy, in one run: ``python -m benchmarks.peers.dspy --peer-python PATH [--json FILE]``.

Each side runs in a process and an environment of its own, in turn, and over HTTP against one server in a third
process. Rounds alternate, and medians are compared, so that another load on the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import cast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

ROWS = (
    ("CPU µs a call, instant model, sync", "sync_us", False),
    ("CPU µs a call, instant model, async", "async_us", False),
    ("CPU µs a call over HTTP", "http_us", False),
    ("calls/s over HTTP", "http_calls_per_s", True),
)


def measure(command: list[str]) -> dict[str, float | str]:
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return cast("dict[str, float | str]", json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with DSPy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2000, help="calls in turn with the instant model")
    parser.add_argument("--http-calls", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the server takes")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()

    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.server", "--delay", str(args.delay)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        common = ["--calls", str(args.calls), "--http-calls", str(args.http_calls), "--in-flight", str(args.in_flight)]
        common += ["--base-url", url]
        ours: list[dict[str, float | str]] = []
        theirs: list[dict[str, float | str]] = []
        for _ in range(args.rounds):
            ours.append(measure([sys.executable, "-m", "benchmarks.peers.dspy.ours", *common]))
            theirs.append(measure([args.peer_python, str(HERE / "theirs.py"), *common]))
    finally:
        server.stdin.close()
        server.wait(10)

    rows: dict[str, dict[str, float]] = {}
    print(f"dspex {ours[0]['version']}, DSPy {theirs[0]['version']}; medians of {args.rounds} rounds")
    print(f"{args.http_calls} calls over HTTP, {args.delay * 1000:g} ms a request, {args.in_flight} in flight\n")
    print(f"{'':38}{'dspex':>10}{'DSPy':>10}{'ratio':>8}")
    for title, key, higher in ROWS:
        mine = statistics.median(float(run[key]) for run in ours)
        peer = statistics.median(float(run[key]) for run in theirs)
        ratio = mine / peer if higher else peer / mine
        rows[key] = {"dspex": mine, "dspy": peer, "ratio": ratio}
        print(f"{title:38}{mine:>10.1f}{peer:>10.1f}{ratio:>7.1f}x")
    result = {"schema_version": 1, "rounds": args.rounds, "ours": ours, "theirs": theirs, "rows": rows}
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n" + json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
