"""dspex behind the same ask, tell and recommend as its peers."""

from __future__ import annotations

from typing import Any

import dspex as dx
from benchmarks.quality.space import Category, Config, Integer, Parameter, Real, Space
from dspex.optimizers import Candidate
from dspex.optimizers import create as create_optimizer


class Ours:
    """One of dspex's optimizers as it comes."""

    def __init__(self, name: str, space: Space, seed: int, budget: int) -> None:
        self._space = space
        self.optimizer = create_optimizer(name, convert(space), seed=seed, objectives=("minimize",), budget=budget)
        self._candidate: Candidate | None = None

    def ask(self) -> Config:
        self._candidate = self.optimizer.ask()
        return self._space.active(self._candidate.config)

    def tell(self, value: float | None, examples: int | None) -> None:
        assert self._candidate is not None
        assert value is not None, f"{self._candidate.config} breaks a rule"
        self.optimizer.tell(self._candidate, value, noise=examples)

    def recommend(self) -> Config:
        return self._space.active(self.optimizer.recommend().config)


def convert(space: Space) -> dx.Space:
    """The neutral space as dspex's own."""
    variables: dict[str, dx.Var[Any]] = {}
    for parameter in space.parameters:
        when = None if parameter.when is None else variables[parameter.when[0]].is_(parameter.when[1])
        variables[parameter.name] = _variable(parameter, when)
    rules: list[dx.Rule] = []
    for rule in space.rules:
        first, *rest = (variables[name] * weight for name, weight in rule.terms)
        holds = sum(rest, first) <= rule.bound
        rules.append(holds if rule.when is None else variables[rule.when[0]].is_(rule.when[1]).implies(holds))
    return dx.Space(list(variables.values()), rules=rules)


def _variable(parameter: Parameter, when: dx.Rule | None) -> dx.Var[Any]:
    match parameter:
        case Real():
            return dx.Float(parameter.name, parameter.lo, parameter.hi, log=parameter.log, when=when)
        case Integer():
            return dx.Int(parameter.name, parameter.lo, parameter.hi, when=when)
        case Category():
            return dx.Choice(parameter.name, parameter.values, when=when)
