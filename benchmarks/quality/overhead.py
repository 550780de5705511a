"""What an ask and a tell cost, by the number of trials told before.

The space is that of benchmarks/test_optimizers.py: 42 variables of four kinds, half of them under one of three
branches. dspex runs through all its trials and is timed on the way. A peer's history is filled at once with random
trials, and then a few asks and tells are timed; that its own trials would be more alike makes no difference to it.
"""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.quality import theirs
from benchmarks.quality.space import Category, Config, Integer, Parameter, Real, Space

OURS: dict[str, tuple[int, ...]] = {
    "dspex-random": (100, 1_000, 10_000, 100_000),
    "dspex-tpe": (100, 1_000, 10_000, 100_000),
    "dspex-gp": (100, 500),
    "dspex-auto": (100, 1_000, 10_000),
}
PEERS: dict[str, tuple[int, ...]] = {
    "optuna-random": (100, 1_000, 10_000),
    "optuna-tpe": (100, 1_000, 10_000),
    "optuna-gp": (100, 500),
    "hyperopt-tpe": (100, 1_000, 10_000),
}
BRANCHES = "abc"
WINDOW = 50
"""Trials of dspex that a figure is the median of."""


def conditional(rows: int = 42) -> Space:
    """A branch and `rows` - 1 parameters, every second one under one of the branches."""
    parameters: list[Parameter] = [Category("branch", tuple(BRANCHES))]
    for i in range(rows - 1):
        name, when = f"v{i}", ("branch", BRANCHES[i % 3]) if i % 2 else None
        kinds: tuple[Parameter, ...] = (
            Real(name, -5.0, 5.0, when=when),
            Real(name, 1e-5, 1e-1, log=True, when=when),
            Integer(name, 1, 64, when),
            Category(name, tuple("01234"), when),
        )
        parameters.append(kinds[i % 4])
    return Space(tuple(parameters))


def value(config: Config) -> float:
    """Something to minimise."""
    return sum(abs(float(v)) for name, v in config.items() if name != "branch")


def measure(name: str) -> dict[int, float]:
    """Milliseconds of the processor per ask and tell, the median, by the number of trials before."""
    if name in OURS:
        return _ours(name)
    make = _hyperopt if name == "hyperopt-tpe" else _optuna
    found: dict[int, float] = {}
    for told in PEERS[name]:
        step = make(name, told)
        step()
        # Few where one takes seconds; the first one above filled the peer's own caches.
        rounds = 5 if told > 100 else 20
        found[told] = statistics.median(_timed(step) for _ in range(rounds)) * 1e3
    return found


def exponent(figures: dict[int, float]) -> float:
    """Slope of the logarithm of the cost over that of the number of trials."""
    x, y = np.log(list(figures)), np.log(list(figures.values()))
    return float(np.polyfit(x, y, 1)[0]) if len(figures) > 1 else math.nan


def _timed(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _ours(name: str) -> dict[int, float]:
    from benchmarks.quality.ours import Ours
    from dspex.core import jit
    from dspex.optimizers.warm import warm

    wanted = OURS[name]
    search = Ours(name.removeprefix("dspex-"), conditional(), 0, wanted[-1] + WINDOW)
    # What compiles in the background would count as the processor's time.
    if thread := warm(type(search.optimizer)):
        thread.join()

    def step() -> None:
        search.tell(value(search.ask()), None)

    found: dict[int, float] = {}
    told = 0
    for target in wanted:
        for _ in range(target - told):
            step()
        jit.settle()
        found[target] = statistics.median(_timed(step) for _ in range(WINDOW)) * 1e3
        told = target + WINDOW
    return found


def _random_configs(space: Space, count: int) -> Iterator[Config]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        config: Config = {}
        for p in space.parameters:
            match p:
                case Real(log=True):
                    config[p.name] = float(np.exp(generator.uniform(math.log(p.lo), math.log(p.hi))))
                case Real():
                    config[p.name] = float(generator.uniform(p.lo, p.hi))
                case Integer():
                    config[p.name] = int(generator.integers(p.lo, p.hi + 1))
                case Category():
                    config[p.name] = p.values[int(generator.integers(len(p.values)))]
        yield space.active(config)


def _optuna(name: str, told: int) -> Callable[[], None]:
    optuna: Any = importlib.import_module("optuna")
    space = conditional()
    search = theirs.Optuna(name.removeprefix("optuna-"), space, 0)
    kinds = optuna.distributions
    distributions = {}
    for p in space.parameters:
        match p:
            case Real():
                distributions[p.name] = kinds.FloatDistribution(p.lo, p.hi, log=p.log)
            case Integer():
                distributions[p.name] = kinds.IntDistribution(p.lo, p.hi)
            case Category():
                distributions[p.name] = kinds.CategoricalDistribution(p.values)
    search.study.add_trials(
        optuna.trial.create_trial(
            params=config, distributions={key: distributions[key] for key in config}, value=value(config)
        )
        for config in _random_configs(space, told)
    )

    def step() -> None:
        search.tell(value(search.ask()), None)

    return step


def _hyperopt(name: str, told: int) -> Callable[[], None]:
    hyperopt: Any = importlib.import_module("hyperopt")
    hp, base = hyperopt.hp, importlib.import_module("hyperopt.base")
    parameters = conditional().parameters

    def expression(p: Parameter) -> Any:
        match p:
            case Real(log=True):
                return hp.loguniform(p.name, math.log(p.lo), math.log(p.hi))
            case Real():
                return hp.uniform(p.name, p.lo, p.hi)
            case Integer():
                return hp.randint(p.name, p.lo, p.hi + 1)
            case Category():
                return hp.choice(p.name, p.values)

    space = {p.name: expression(p) for p in parameters[1:] if p.when is None}
    space["branch"] = hp.choice(
        "branch", [{p.name: expression(p) for p in parameters if p.when == ("branch", key)} for key in BRANCHES]
    )
    domain = base.Domain(lambda config: 0.0, space)
    trials = base.Trials()

    def tell(docs: list[Any]) -> None:
        for doc in docs:
            values = [v[0] for key, v in doc["misc"]["vals"].items() if v and key != "branch"]
            doc["state"] = base.JOB_STATE_DONE
            doc["result"] = {"status": "ok", "loss": float(sum(abs(float(v)) for v in values))}
        trials.insert_trial_docs(docs)
        trials.refresh()

    tell(hyperopt.rand.suggest(trials.new_trial_ids(told), domain, trials, 0))
    numbers = iter(range(1, 1_000_000))

    def step() -> None:
        tell(hyperopt.tpe.suggest(trials.new_trial_ids(1), domain, trials, next(numbers)))

    return step
