"""COCO's bbob-mixint (package coco-experiment), instance 1: four in five variables are integers, the rest floats."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.problem import Problem
from benchmarks.quality.space import Category, Config, Integer, Parameter, Real, Space, When

# Names of problems: function and dimension.
FUNCTIONS = {
    "bbob-f03-d5": (3, 5),
    "bbob-f06-d10": (6, 10),
    "bbob-f08-d10": (8, 10),
    "bbob-f13-d20": (13, 20),
    "bbob-f15-d10": (15, 10),
    "bbob-f20-d5": (20, 5),
    "bbob-f21-d10": (21, 10),
}
# A category chooses one of three functions, each of variables of its own.
BRANCHES = {
    "branches-f03-f08-f20": ((3, 5), (8, 5), (20, 5)),
    "branches-f15-f06-f21": ((15, 5), (6, 5), (21, 5)),
    "branches-f13-f01-f17": ((13, 10), (1, 5), (17, 5)),
    "branches-f08-f15-f03": ((8, 10), (15, 10), (3, 10)),
}
# Added to each branch, in units of the median of random draws: the optimum is in the first, the others end near it.
OFFSETS = (0.0, 0.1, 0.2)
SCALE_DRAWS = 1000

# The suite's own best parameter, evaluated; of instance 1 it is the same in every dimension.
OPTIMUM = {1: 79.48, 3: -46.209, 6: 0.359, 8: 1.4915, 13: 2.997, 15: 100.0, 17: -169.4, 20: -54.65, 21: 40.78}


def mixed(name: str) -> Problem:
    """One function of the suite."""
    function, dimension = FUNCTIONS[name]
    parameters, value = _function(function, dimension)

    def truth(config: Config) -> float:
        return value([float(config[parameter.name]) for parameter in parameters])

    return Problem(Space(parameters), OPTIMUM[function], truth, lambda config, seed, number: truth(config))


def conditional(name: str) -> Problem:
    """Three functions of the suite, shifted and scaled to [0, about 1], under a category."""
    keys = "abc"
    parameters: list[Parameter] = [Category("branch", tuple(keys))]
    branches: dict[str, Callable[[Config], float]] = {}
    for key, (function, dimension), offset in zip(keys, BRANCHES[name], OFFSETS, strict=True):
        own, value = _function(function, dimension, prefix=key, when=("branch", key))
        parameters += own
        branches[key] = _scaled(own, value, OPTIMUM[function], offset)

    def truth(config: Config) -> float:
        return branches[str(config["branch"])](config)

    return Problem(Space(tuple(parameters)), OFFSETS[0], truth, lambda config, seed, number: truth(config))


def _scaled(
    parameters: Sequence[Integer | Real], value: Callable[[list[float]], float], best: float, offset: float
) -> Callable[[Config], float]:
    generator = np.random.default_rng(0)
    draws = [
        value(
            [
                float(generator.integers(p.lo, p.hi + 1)) if isinstance(p, Integer) else generator.uniform(p.lo, p.hi)
                for p in parameters
            ]
        )
        for _ in range(SCALE_DRAWS)
    ]
    width = float(np.median(draws)) - best
    return lambda config: (value([float(config[p.name]) for p in parameters]) - best) / width + offset


def _function(
    function: int, dimension: int, *, prefix: str = "x", when: When | None = None
) -> tuple[tuple[Integer | Real, ...], Callable[[list[float]], float]]:
    suite: Any = importlib.import_module("cocoex").Suite("bbob-mixint", "instances:1", "")
    problem: Any = suite.get_problem_by_function_dimension_instance(function, dimension, 1)
    integers = int(problem.number_of_integer_variables)
    parameters = tuple(
        Integer(f"{prefix}{i}", int(lo), int(hi), when) if i < integers else Real(f"{prefix}{i}", lo, hi, when=when)
        for i, (lo, hi) in enumerate(zip(problem.lower_bounds.tolist(), problem.upper_bounds.tolist(), strict=True))
    )

    # A problem's memory is its suite's, so the suite has to live as long.
    def value(x: list[float], *, _owner: object = suite) -> float:
        return float(problem(x))

    return parameters, value
