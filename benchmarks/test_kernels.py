"""The works of `benchmarks.kernels` under pytest-benchmark: `pytest benchmarks/test_kernels.py --benchmark-only`.

The ways of one work share a group, so the report shows their ratio. Compilation happens before anything is timed.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.kernels.harness import compiler, discover

Benchmark = Any
WORKS = discover()


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("way", ["ours", "c", "numpy"])
def test_work(benchmark: Benchmark, name: str, way: str) -> None:
    work = WORKS[name]()
    call = {"ours": work.ours, "c": work.c, "numpy": work.numpy}[way]
    if call is None:
        pytest.skip(f"{name} has no form in {way}")
    if way == "c" and compiler() is None:
        pytest.skip("no C compiler was found")
    call()
    benchmark.group = name
    benchmark(call)
