"""The peers, each behind the same ask, tell and recommend. A peer recommends its best observed trial."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import importlib
import math
from typing import Any, Protocol

from benchmarks.quality.space import Category, Config, Integer, Real, Space


class Searcher(Protocol):
    """What a run needs of an optimizer; it minimises."""

    def ask(self) -> Config: ...
    def tell(self, value: float | None, examples: int | None) -> None:
        """The value of what was asked; None = not evaluated, because it breaks a rule."""
        ...

    def recommend(self) -> Config | None:
        """The best; None = nothing was evaluated yet."""
        ...


class Optuna:
    """Optuna with one of its samplers, everything else as it comes.

    It cannot be told rules beforehand. A configuration that breaks one is a pruned trial; with "tpe-constrained" the
    study also gets by how much each rule is broken or kept.
    """

    def __init__(self, sampler: str, space: Space, seed: int) -> None:
        self._optuna: Any = importlib.import_module("optuna")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        samplers = self._optuna.samplers
        if sampler == "gp":
            importlib.import_module("torch").set_num_threads(1)
        makers = {
            "random": lambda: samplers.RandomSampler(seed=seed),
            "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True, group=False, constant_liar=False),
            "tpe-group": lambda: samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=False),
            "tpe-constrained": lambda: samplers.TPESampler(seed=seed, multivariate=True),
            "gp": lambda: samplers.GPSampler(seed=seed),
        }
        self._space = space
        self._constrained = sampler == "tpe-constrained"
        self.study: Any = self._optuna.create_study(sampler=makers[sampler]())
        self._configs: dict[int, Config] = {}
        self._trial: Any = None
        self._valued = False

    def ask(self) -> Config:
        trial = self._trial = self.study.ask()
        config: Config = {}
        for parameter in self._space.parameters:
            if parameter.when is None or config.get(parameter.when[0]) == parameter.when[1]:
                config[parameter.name] = _suggest(trial, parameter)
        self._configs[trial.number] = config
        return config

    def tell(self, value: float | None, examples: int | None) -> None:
        trial = self._trial
        if self._constrained:
            for i, rule in enumerate(self._space.rules):
                trial.set_constraint(f"rule {i}", rule.excess(self._configs[trial.number]))
        if value is None:
            self.study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._valued = True
            self.study.tell(trial, value)

    def recommend(self) -> Config | None:
        return self._configs[self.study.best_trial.number] if self._valued else None


def _suggest(trial: Any, parameter: Real | Integer | Category) -> float | int | str:
    match parameter:
        case Real():
            return trial.suggest_float(parameter.name, parameter.lo, parameter.hi, log=parameter.log)
        case Integer():
            return trial.suggest_int(parameter.name, parameter.lo, parameter.hi)
        case Category():
            return trial.suggest_categorical(parameter.name, parameter.values)


class CatCMA:
    """CatCMA with margin with the settings that its authors recommend: numbers of two values are categorical."""

    def __init__(self, space: Space, seed: int) -> None:
        self._reals = [p for p in space.parameters if isinstance(p, Real)]
        self._grids = [p for p in space.parameters if isinstance(p, Integer) and p.hi - p.lo > 1]
        self._lists = [(p.name, p.values) for p in space.parameters if isinstance(p, Category)]
        self._lists += [(p.name, (p.lo, p.hi)) for p in space.parameters if isinstance(p, Integer) and p.hi - p.lo == 1]
        self._search: Any = importlib.import_module("cmaes").CatCMAwM(
            x_space=[[p.lo, p.hi] for p in self._reals] or None,
            z_space=[list(range(p.lo, p.hi + 1)) for p in self._grids] or None,
            c_space=[len(values) for _, values in self._lists] or None,
            seed=seed,
        )
        self._solution: Any = None
        self._config: Config = {}
        self._generation: list[tuple[Any, float]] = []
        self._best = (math.inf, self._config)

    def ask(self) -> Config:
        solution = self._solution = self._search.ask()
        config: Config = {}
        if self._reals:
            config |= {p.name: float(x) for p, x in zip(self._reals, solution.x, strict=True)}
        if self._grids:
            config |= {p.name: round(z) for p, z in zip(self._grids, solution.z, strict=True)}
        if self._lists:
            config |= {
                name: values[int(row[: len(values)].argmax())]
                for (name, values), row in zip(self._lists, solution.c, strict=True)
            }
        self._config = config
        return config

    def tell(self, value: float | None, examples: int | None) -> None:
        assert value is not None, "it runs where there are no rules"
        if value < self._best[0]:
            self._best = (value, self._config)
        self._generation.append((self._solution, value))
        if len(self._generation) == self._search.population_size:
            self._search.tell(self._generation)
            self._generation = []

    def recommend(self) -> Config:
        return self._best[1]


def create(name: str, space: Space, seed: int) -> Searcher:
    """The peer of this name: `catcma` or `optuna-` and a sampler."""
    return CatCMA(space, seed) if name == "catcma" else Optuna(name.removeprefix("optuna-"), space, seed)
