"""A neutral description of a search space, which every optimizer's own is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Config = dict[str, float | int | str]
When = tuple[str, str]
"""A Category's name and the value under which a parameter exists."""


@dataclass(frozen=True)
class Real:
    """A float in [lo, hi]."""

    name: str
    lo: float
    hi: float
    log: bool = False
    when: When | None = None


@dataclass(frozen=True)
class Integer:
    """A whole number in [lo, hi]; also an ordered grid, by index."""

    name: str
    lo: int
    hi: int
    when: When | None = None


@dataclass(frozen=True)
class Category:
    """One of several values without an order."""

    name: str
    values: tuple[str, ...]
    when: When | None = None


Parameter = Real | Integer | Category


@dataclass(frozen=True)
class AtMost:
    """A rule: the weighted sum of parameters is at most `bound`; where `when` is given, only under it."""

    terms: tuple[tuple[str, int], ...]
    bound: int
    when: When | None = None

    def excess(self, config: Mapping[str, float | int | str]) -> float:
        """By how much a configuration breaks the rule; 0 or less where it holds."""
        if self.when is not None and config[self.when[0]] != self.when[1]:
            return 0.0
        return sum(weight * float(config[name]) for name, weight in self.terms) - self.bound


@dataclass(frozen=True)
class Space:
    """Parameters, each after the Category that it depends on, and rules."""

    parameters: tuple[Parameter, ...]
    rules: tuple[AtMost, ...] = ()

    def active(self, config: Mapping[str, float | int | str]) -> Config:
        """The values of those parameters that exist in this configuration."""
        kept: Config = {}
        for parameter in self.parameters:
            when = parameter.when
            if when is None or kept.get(when[0]) == when[1]:
                kept[parameter.name] = config[parameter.name]
        return kept

    def obeys(self, config: Mapping[str, float | int | str]) -> bool:
        """Whether a configuration breaks no rule."""
        return all(rule.excess(config) <= 0.0 for rule in self.rules)
