"""NSGA-II, individuals a second: breeding and survival of a generation, its evaluation excluded.

DTLZ2 with 40 floats and 2 or 3 objectives. Everyone crosses by SBX and mutates polynomially, as it comes.
"""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import importlib
import math
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLES = 40
SIZES: dict[str, tuple[int, ...]] = {
    "dspex": (100, 1_000, 10_000, 100_000, 1_000_000),
    "pymoo": (100, 1_000, 10_000),
    "deap": (100, 1_000, 10_000),
}
OBJECTIVES = (2, 3)
LIMIT_S = 60.0
"""A generation that would take longer than this, judged by the size before, is not run."""

Objective = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Step = Callable[[], float]
"""Runs a generation; returns the seconds of the processor without the evaluation."""


def dtlz2(x: NDArray[np.float64], objectives: int) -> NDArray[np.float64]:
    """(N, 40) in [0, 1] → (N, M) losses. Source: Deb, Thiele, Laumanns & Zitzler (2002)."""
    g = ((x[:, objectives - 1 :] - 0.5) ** 2).sum(axis=1)
    angles = x[:, : objectives - 1] * (math.pi / 2)
    columns: list[NDArray[np.float64]] = []
    for m in range(objectives):
        column = 1.0 + g
        for i in range(objectives - 1 - m):
            column = column * np.cos(angles[:, i])
        columns.append(column * np.sin(angles[:, objectives - 1 - m]) if m else column)
    return np.stack(columns, axis=1)


def measure(name: str, objectives: int) -> dict[int, float]:
    """Individuals a second by the size of the population; the median of a few generations."""
    make = {"dspex": _dspex, "pymoo": _pymoo, "deap": _deap}[name]
    found: dict[int, float] = {}
    previous = (0, 0.0)
    for size in SIZES[name]:
        if previous[0] and previous[1] * (size / previous[0]) ** 2 > LIMIT_S:
            break
        step = make(size, objectives)
        # The first generation fills the population, and the second warms up.
        step()
        rounds = 10 if step() < 1.0 else 3
        seconds = [step() for _ in range(rounds)]
        found[size] = size / statistics.median(seconds)
        previous = (size, statistics.median(seconds))
    return found


def _dspex(size: int, objectives: int) -> Step:
    import dspex as dx
    from dspex.compiler.lower.lowering import lower
    from dspex.core import exercise, jit
    from dspex.core.evolution import NSGA2

    # What compiles in the background would count as the processor's time.
    exercise.exercise()
    jit.settle()
    space = dx.Space([dx.Float(f"x{i}", 0.0, 1.0) for i in range(VARIABLES)])
    engine = NSGA2(lower(tuple(space.variables.values()), space.rules).sampler, size, objectives, seed=0)

    def step() -> float:
        start = time.process_time()
        asked = engine.ask()
        seconds = time.process_time() - start
        losses = np.ascontiguousarray(dtlz2(asked.T, objectives).T)
        start = time.process_time()
        engine.tell(losses)
        return seconds + time.process_time() - start

    return step


def _pymoo(size: int, objectives: int) -> Step:
    nsga2: Any = importlib.import_module("pymoo.algorithms.moo.nsga2").NSGA2
    problem: Any = importlib.import_module("pymoo.core.problem").Problem(
        n_var=VARIABLES, n_obj=objectives, xl=0.0, xu=1.0
    )
    algorithm: Any = nsga2(pop_size=size)
    algorithm.setup(problem, termination=("n_gen", 1_000_000), seed=0, verbose=False)

    def step() -> float:
        start = time.process_time()
        asked = algorithm.ask()
        seconds = time.process_time() - start
        asked.set("F", dtlz2(asked.get("X"), objectives))
        start = time.process_time()
        algorithm.tell(infills=asked)
        return seconds + time.process_time() - start

    return step


def _deap(size: int, objectives: int) -> Step:
    base: Any = importlib.import_module("deap.base")
    tools: Any = importlib.import_module("deap.tools")
    fitness: Any = type("Fitness", (base.Fitness,), {"weights": (-1.0,) * objectives})
    individual: Any = type("Individual", (list,), {})
    generator = random.Random(0)
    random.seed(0)

    def made(genes: list[float]) -> Any:
        one = individual(genes)
        one.fitness = fitness()
        return one

    def evaluate(population: list[Any]) -> None:
        for one, losses in zip(population, dtlz2(np.array(population), objectives).tolist(), strict=True):
            one.fitness.values = losses

    population = [made([generator.random() for _ in range(VARIABLES)]) for _ in range(size)]
    evaluate(population)
    population = tools.selNSGA2(population, size)

    # The loop of the library's own example, with its settings.
    def step() -> float:
        nonlocal population
        start = time.process_time()
        children = [made(list(one)) for one in tools.selTournamentDCD(population, size)]
        for first, second in zip(children[::2], children[1::2], strict=True):
            if generator.random() <= 0.9:
                tools.cxSimulatedBinaryBounded(first, second, eta=20.0, low=0.0, up=1.0)
            tools.mutPolynomialBounded(first, eta=20.0, low=0.0, up=1.0, indpb=1.0 / VARIABLES)
            tools.mutPolynomialBounded(second, eta=20.0, low=0.0, up=1.0, indpb=1.0 / VARIABLES)
        seconds = time.process_time() - start
        evaluate(children)
        start = time.process_time()
        population = tools.selNSGA2(population + children, size)
        return seconds + time.process_time() - start

    return step
