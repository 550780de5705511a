from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.quality import problems, runs


def seeds_of(text: str) -> list[int]:
    """`0-9` or `0,2,4`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(seed) for seed in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--optimizer", default="peers")
    run.add_argument("--problems", default=",".join(problems.NAMES))
    run.add_argument("--seeds", default="0-9")
    run.add_argument("--evaluations", type=int, default=200)
    run.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    optimizers = list(runs.PEERS) if args.optimizer == "peers" else args.optimizer.split(",")
    for optimizer, name, seed in runs.plan(optimizers, args.problems.split(","), seeds_of(args.seeds)):
        if not runs.path(args.out, optimizer, name, seed).exists():
            result = runs.measure(optimizer, name, seed, args.evaluations)
            runs.keep(args.out, result)
            print(f"{optimizer} {name} {seed}: {result.truth[-1]:.6g} in {result.cpu_s:.1f} s", flush=True)


if __name__ == "__main__":
    main()
