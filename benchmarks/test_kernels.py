"""Kernels against NumPy on the same work, in one run: `pytest benchmarks/test_kernels.py --benchmark-only`.

Each pair shares a group, so the report shows the ratio. Compilation happens before anything is timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core import abi
from dspex.core.exercise import exercise
from dspex.core.kernels import bootstrap, encode
from dspex.core.rng import fill_uniform
from dspex.core.statistics import mean_interval
from dspex.program.rules import Rule
from dspex.program.variables import Choice, Float, Int, Text, Var

Benchmark = Any


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:  # pyright: ignore[reportUnusedFunction]
    exercise()


def genes(rows: int, conditional: bool = True) -> Lowered:
    """Floats, logarithmic floats and integers in equal parts; a third active under a choice."""
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode]
    for index in range(rows - 1):
        when = mode.is_("b") if conditional and index % 3 == 2 else None
        name = f"v{index}"
        if index % 3 == 0:
            variables.append(Float(name, -5, 5, when=when))
        elif index % 3 == 1:
            variables.append(Float(name, 1e-5, 1e-1, log=True, when=when))
        else:
            variables.append(Int(name, 1, 64, when=when))
    return lower(variables)


def ruled() -> Lowered:
    x = [Float(f"x{index}", 0, 1, default=0.5) for index in range(10)]
    return lower(x, [x[index] + x[(index + 1) % 10] <= 1.8 for index in range(10)])


def mixed(rows: int) -> tuple[list[Var[Any]], list[Rule]]:
    """Every second kind, a third conditional, a rule for every fourth row."""
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode]
    for index in range(rows - 1):
        when, name = mode.is_("b") if index % 3 == 2 else None, f"v{index}"
        if index % 4 == 0:
            variables.append(Float(name, 0, 1, when=when))
        elif index % 4 == 1:
            variables.append(Int(name, 1, 64, when=when))
        elif index % 4 == 2:
            variables.append(Choice(name, ("x", "y", "z"), when=when))
        else:
            variables.append(Text(name, ("short", "long"), when=when))
    return variables, [variables[row + 1] + variables[row + 2] <= 60 for row in range(0, rows - 3, 4)]


@pytest.mark.parametrize("rows", [40, 10_000])
def test_lower(benchmark: Benchmark, rows: int) -> None:
    benchmark.group = f"lower {rows} Variables"
    assert len(benchmark(lower, *mixed(rows)).variables) == rows


@pytest.mark.parametrize("rows", [40, 10_000])
def test_check_of_a_table(benchmark: Benchmark, rows: int) -> None:
    benchmark.group = f"check a table of {rows} rows"
    blob = abi.to_bytes(lower(*mixed(rows)).table)
    assert len(benchmark(abi.validate_blob, blob).kinds) == rows


@pytest.mark.parametrize("form", ["encode", "decode"])
def test_configuration_of_40(benchmark: Benchmark, form: str) -> None:
    benchmark.group = "one configuration of 40 Variables"
    space = lower(*mixed(40))
    if form == "encode":
        benchmark(space.encode, space.defaults)
    else:
        benchmark(space.decode, space.default)


@pytest.mark.benchmark(group="sample 10,000 x 64")
def test_sample(benchmark: Benchmark) -> None:
    space = genes(64)
    benchmark(space.sampler.sample, 10_000, 0)


@pytest.mark.benchmark(group="sample 10,000 x 64")
def test_sample_numpy(benchmark: Benchmark) -> None:
    generator = np.random.default_rng(0)

    def sample() -> NDArray[np.float64]:
        out = np.empty((64, 10_000))
        out[0] = generator.integers(0, 2, 10_000)
        for row in range(63):
            if row % 3 == 0:
                out[row + 1] = generator.uniform(-5, 5, 10_000)
            elif row % 3 == 1:
                out[row + 1] = np.log(np.exp(generator.uniform(np.log(1e-5), np.log(1e-1), 10_000)))
            else:
                out[row + 1] = np.where(out[0] == 1, generator.integers(1, 65, 10_000), np.nan)
        return out

    benchmark(sample)


@pytest.mark.benchmark(group="decode 10,000 x 64")
def test_decode(benchmark: Benchmark) -> None:
    space = genes(64)
    population = space.sampler.sample(10_000, 0)
    out = np.empty_like(population)
    benchmark(encode.decode, space.table, population, out)


@pytest.mark.benchmark(group="decode 10,000 x 64")
def test_decode_numpy(benchmark: Benchmark) -> None:
    space = genes(64)
    population = space.sampler.sample(10_000, 0)
    logarithmic = space.table.log_flag == 1

    def decode() -> NDArray[np.float64]:
        out = population.copy()
        out[logarithmic] = np.exp(out[logarithmic])
        return out

    benchmark(decode)


@pytest.mark.parametrize("candidates", [24, 10_000])
def test_rules(benchmark: Benchmark, candidates: int) -> None:
    benchmark.group = f"10 rules, {candidates} candidates"
    space = ruled()
    population = space.sampler.sample(candidates, 0)
    held = benchmark(space.sampler.holds, population)
    assert held.all()


@pytest.mark.parametrize("candidates", [24, 10_000])
def test_rules_numpy(benchmark: Benchmark, candidates: int) -> None:
    benchmark.group = f"10 rules, {candidates} candidates"
    space = ruled()
    x = space.sampler.sample(candidates, 0)
    benchmark(lambda: np.stack([x[index] + x[(index + 1) % 10] <= 1.8 for index in range(10)]))


@pytest.mark.benchmark(group="bootstrap means, 10,000 resamples of 200")
def test_bootstrap(benchmark: Benchmark) -> None:
    values, out = np.linspace(0, 1, 200), np.empty(10_000)
    benchmark(bootstrap.resampled_means, values, 0, 0, out)


@pytest.mark.benchmark(group="bootstrap means, 10,000 resamples of 200")
def test_bootstrap_numpy(benchmark: Benchmark) -> None:
    values, generator = np.linspace(0, 1, 200), np.random.default_rng(0)
    benchmark(lambda: values[generator.integers(0, 200, (10_000, 200))].mean(axis=1))


@pytest.mark.benchmark(group="whole interval, 10,000 resamples of 200")
def test_interval(benchmark: Benchmark) -> None:
    values = np.linspace(0, 1, 200)
    benchmark(mean_interval, values)


@pytest.mark.benchmark(group="1,000,000 uniform numbers")
def test_uniform(benchmark: Benchmark) -> None:
    benchmark(fill_uniform, 0, 0, 0, 0, np.empty(1_000_000))


@pytest.mark.benchmark(group="1,000,000 uniform numbers")
def test_uniform_numpy(benchmark: Benchmark) -> None:
    generator = np.random.default_rng(0)
    benchmark(generator.random, 1_000_000)
