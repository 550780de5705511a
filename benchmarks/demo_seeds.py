"""Runs the demo once a seed, each with stores and caches of its own, and keeps every report, failures included.

    python -m benchmarks.demo_seeds                 # seeds 0 to 10: about half an hour on two cores
    python -m benchmarks.demo_seeds --table         # the table of docs/demo.md, from the reports that are kept

The model's file is found where `dspex model pull` put it, so that nothing is fetched while time is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dspex.providers.local_files import pull

REPORTS = Path(__file__).resolve().parents[1] / "examples" / "support_tickets" / "reports"


def run(seed: int) -> dict[str, Any]:
    """One demo in an empty home; its report, or what it said instead."""
    model = pull("smollm2").parent
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {
            **os.environ,
            "DSPEX_HOME": str(home / "home"),
            "DSPEX_CACHE_DIR": str(home / "cache"),
            "DSPEX_MODEL_DIR": str(model),
        }
        command = [sys.executable, "-m", "dspex", "demo", "--seed", str(seed), "--json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    return {**report, "exit_code": done.returncode}


def reports() -> list[dict[str, Any]]:
    """Every report that is kept, by seed."""
    found: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in REPORTS.glob("seed-*.json")]
    return sorted(found, key=lambda report: report["seed"])


def cell(value: dict[str, float] | None, signed: bool = False) -> str:
    """``mean [low, high]``."""
    if value is None:
        return "–"
    numbers = (f"{value[name]:+.3f}" if signed else f"{value[name]:.3f}" for name in ("mean", "low", "high"))
    mean, low, high = numbers
    return f"{mean} [{low}, {high}]"


def table(found: Sequence[dict[str, Any]]) -> str:
    """The reports as a Markdown table, one row a seed."""
    lines = [
        "| seed | before | best zero-shot format | after | gain, paired | 1-NN | majority | calls | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for report in found:
        scores: dict[str, Any] = report.get("held_out") or {}
        base: dict[str, Any] = report.get("baselines") or {}
        means = [f"{base[name]['mean']:.3f}" if name in base else "–" for name in ("nearest_neighbour", "majority")]
        lines.append(
            f"| {report['seed']} | {cell(scores.get('before'))} | {cell(scores.get('zero_shot'))} | "
            f"{cell(scores.get('after'))} | {cell(report.get('gain'), signed=True)} | {means[0]} | {means[1]} | "
            f"{report.get('calls', 0)} | {report.get('seconds', 0):.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(11)))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        REPORTS.mkdir(exist_ok=True)
        for seed in options.seeds:
            report = run(seed)
            file = REPORTS / f"seed-{seed}.json"
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"seed {seed}: {report['status']}, gain {cell(report.get('gain'), signed=True)}", flush=True)
    print(table(reports()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
