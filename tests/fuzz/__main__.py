"""Runs the coverage-guided fuzzer: `python -m tests.fuzz [SECONDS] [TARGET ...]`.

Every target gets an equal share of the time, in a process of its own. What is found, a crash, a hang or an error
without a code, is written to the folder ``.fuzz`` with the input, and ends the run with a failure.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds

WORK = Path(".fuzz")


def main(arguments: list[str]) -> int:
    seconds = int(arguments[0]) if arguments else 900
    targets = arguments[1:] or list(TARGETS)
    share = max(1, seconds // len(targets))
    failed = 0
    for target in targets:
        corpus, found = WORK / target, WORK / f"{target}-found"
        corpus.mkdir(parents=True, exist_ok=True)
        found.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(target)):
            (corpus / f"seed{number}").write_bytes(seed)
        before = time.monotonic()
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.fuzz.harness",
                target,
                str(corpus),
                f"-max_total_time={share}",
                f"-artifact_prefix={found}/",
                "-max_len=262144",
                "-timeout=20",
                "-rss_limit_mb=4096",
                "-print_final_stats=1",
                "-verbosity=1",
            ],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        (WORK / f"{target}.log").write_text(ended.stderr)
        runs = re.findall(r"stat::number_of_executed_units:\s+(\d+)", ended.stderr)
        covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", ended.stderr)
        edges, features, size = covered[-1] if covered else ("?", "?", "?")
        outcome = "nothing found" if ended.returncode == 0 else f"FOUND, see {found} and {WORK / f'{target}.log'}"
        print(
            f"{target:<9} {time.monotonic() - before:5.0f} s  {runs[-1] if runs else '?':>8} runs  {edges} edges  "
            f"{features} features  {size} inputs kept  {outcome}",
            flush=True,
        )
        failed += ended.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
