"""dspex behind the same ask, tell and recommend as its peers."""

from __future__ import annotations

from typing import Any

import dspex as dx
from dspex.optimizers import Candidate
from dspex.optimizers import create as create_optimizer

from benchmarks.quality.space import Category, Config, Integer, Parameter, Real, Space


class Ours:
    """One of dspex's optimizers as it comes."""

    def __init__(self, name: str, space: Space, seed: int, budget: int) -> None:
        self._space = space
        self._search = create_optimizer(name, convert(space), seed=seed, objectives=("minimize",), budget=budget)
        self._candidate: Candidate | None = None

    def ask(self) -> Config:
        self._candidate = self._search.ask()
        return self._space.active(self._candidate.config)

    def tell(self, value: float, examples: int | None) -> None:
        assert self._candidate is not None
        self._search.tell(self._candidate, value, noise=examples)

    def recommend(self) -> Config:
        return self._space.active(self._search.recommend().config)


def convert(space: Space) -> dx.Space:
    """The neutral space as dspex's own."""
    variables: dict[str, dx.Var[Any]] = {}
    for parameter in space.parameters:
        when = None if parameter.when is None else variables[parameter.when[0]].is_(parameter.when[1])
        variables[parameter.name] = _variable(parameter, when)
    rules: list[dx.Rule] = []
    for rule in space.rules:
        total = sum((variables[name] for name in rule.names[1:]), variables[rule.names[0]])
        holds = total <= rule.bound
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
