"""The optimizers' benchmark: ``python -m benchmarks.peers.optimizers --peer-python PATH [--parts quality,report]``.

All of it takes hours on two cores, most of them Optuna's Gaussian process. Runs are kept in a folder, so that it goes
on where it was stopped; `python -m benchmarks.quality --help` has each part by itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from benchmarks.quality.groups import GROUPS

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("quality", "overhead", "evolution", "report")
OURS = {
    "mixed": "auto,gp,tpe,cmaes,genetic,random",
    "conditional": "auto,gp,tpe,random",
    "rules": "auto,gp,tpe,random",
    "noisy": "auto,gp,tpe,random",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with all peers and dspex")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--groups", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the part quality")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / ".benchmarks" / "quality", help="folder that keeps the runs"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()

    def quality(command: str, *options: str) -> None:
        # One thread each: runs in parallel would otherwise fight for the cores, and times would mean nothing.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [args.peer_python, "-m", "benchmarks.quality", command, *options]
        subprocess.run(arguments, cwd=ROOT, check=True, env=environment)

    parts, results = args.parts.split(","), ["--results", str(args.results)]
    if "quality" in parts:
        for group in args.groups.split(","):
            options = ["--group", group, "--seeds", args.seeds, "--jobs", str(args.jobs), "--out", str(args.runs)]
            quality("run", "--optimizer", OURS[group], *options)
            quality("run", "--optimizer", "peers", *options)
        quality("collect", "--runs", str(args.runs), *results)
    for part in ("overhead", "evolution", "report"):
        if part in parts:
            quality(part, *results)


if __name__ == "__main__":
    main()
