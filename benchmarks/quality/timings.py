"""Figures of speed in a file each, brought up to date row by row."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.quality import collected, evolution, overhead

SCHEMA_VERSION = 1
OVERHEAD = "overhead.json"
EVOLUTION = "evolution.json"

Figures = dict[int, float]


def measure_overhead(results: Path, names: Sequence[str]) -> None:
    """Measure what ask and tell of these optimizers cost."""
    for name in names:
        _update(results / OVERHEAD, "ms of the processor per ask and tell", name, _apart(overhead.measure, name))


def measure_evolution(results: Path, names: Sequence[str]) -> None:
    """Measure NSGA-II of these libraries."""
    for name in names:
        for objectives in evolution.OBJECTIVES:
            figures = _apart(evolution.measure, name, objectives)
            _update(results / EVOLUTION, "individuals per second of the processor", f"{name}, {objectives}", figures)


def read(file: Path) -> dict[str, Figures]:
    """Figures by row and size; empty where nothing was measured."""
    if not file.exists():
        return {}
    rows: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {name: {int(size): figure for size, figure in row.items()} for name, row in rows.items()}


def _apart(measure: Callable[..., Figures], *arguments: object) -> Figures:
    """In a process of its own, so that no other library's garbage is in the way."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _update(file: Path, unit: str, name: str, figures: Figures) -> None:
    rows = read(file)
    rows[name] = {size: float(f"{figure:.4g}") for size, figure in figures.items()}
    print(f"{name}: " + ", ".join(f"{figure:.4g} at {size:,}" for size, figure in figures.items()), flush=True)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "machine": collected.machine(),
        "versions": collected.versions(),
        "unit": unit,
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
