"""Hypothesis strategies for spaces, tables and populations."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspex.compiler.lower import feasible
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core import abi
from dspex.core.kernels import sampling
from dspex.program.rules import All, Any_, Not, Rule
from dspex.program.variables import Bool, Choice, Float, Int, Text, Var

UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
SEEDS = st.integers(0, 2**63 - 1)
STEPS = st.integers(0, 2**40)


@st.composite
def variables(draw: st.DrawFn, name: str, when: Rule | None) -> Var[Any]:
    kind = draw(
        st.sampled_from(["float", "log", "grid", "int", "intlog", "intstep", "bool", "choice", "number", "text"])
    )
    lo = draw(st.integers(-5, 5))
    span = draw(st.integers(0, 12))
    if kind == "float":
        return Float(name, lo / 4, (lo + span) / 4, when=when)
    if kind == "log":
        return Float(name, 10.0 ** (lo - 1), 10.0 ** (lo - 1 + span / 3), log=True, when=when)
    if kind == "grid":
        return Float(name, lo / 4, (lo + span) / 4, step=draw(st.sampled_from([0.1, 0.25, 0.7])), when=when)
    if kind == "int":
        return Int(name, lo, lo + span, when=when)
    if kind == "intlog":
        return Int(name, abs(lo) + 1, abs(lo) + 1 + span**2, log=True, when=when)
    if kind == "intstep":
        return Int(name, lo, lo + span, step=draw(st.integers(1, 4)), when=when)
    if kind == "bool":
        return Bool(name, when=when)
    size = draw(st.integers(1, 4))
    if kind == "choice":
        weights = draw(st.none() | st.lists(st.floats(0.1, 9.0), min_size=size, max_size=size))
        return Choice(name, tuple("abcd"[:size]), weights=weights, when=when)
    if kind == "number":
        return Choice(name, tuple([1, 2, 4.5, -3][:size]), when=when)
    return Text(name, tuple(f"text {index}" for index in range(size)), when=when)


@st.composite
def atoms(draw: st.DrawFn, known: list[Var[Any]]) -> Rule:
    variable = draw(st.sampled_from(known))
    if variable.options and (not variable.is_numeric() or draw(st.booleans())):
        value = draw(st.sampled_from(variable.options))
        return variable.is_(value) if draw(st.booleans()) else variable.is_not(value)
    number = draw(st.integers(-5, 12)) / 2
    others = [other for other in known if other.is_numeric()]
    left = variable + draw(st.sampled_from(others)) * 0.5 if draw(st.booleans()) else variable - number
    right: Any = draw(st.sampled_from([*others, number]))
    op = draw(st.integers(0, 3))
    return left <= right if op == 0 else left < right if op == 1 else left >= right if op == 2 else left > right


@st.composite
def rules(draw: st.DrawFn, known: list[Var[Any]], depth: int = 2) -> Rule:
    form = draw(st.integers(0, 4)) if depth else 0
    if form == 1:
        return Not(draw(rules(known, depth - 1)))
    if form == 2:
        return All(tuple(draw(st.lists(rules(known, depth - 1), min_size=1, max_size=3))))
    if form == 3:
        return Any_(tuple(draw(st.lists(rules(known, depth - 1), min_size=1, max_size=3))))
    if form == 4:
        return draw(rules(known, depth - 1)).implies(draw(rules(known, depth - 1)))
    return draw(atoms(known))


@st.composite
def spaces(draw: st.DrawFn, least: int = 1, most: int = 6) -> Lowered:
    """A space whose default obeys its rules."""
    known: list[Var[Any]] = []
    for index in range(draw(st.integers(least, most))):
        when = draw(rules(known, 1)) if known and draw(st.booleans()) else None
        known.append(draw(variables(f"v{index}", when)))
    kept: list[Rule] = []
    for rule in draw(st.lists(rules(known), max_size=3)) if known else []:
        names = {variable.name: variable for variable in known}
        active = feasible.active_names({variable.name: variable.default for variable in known}, known)
        if rule.holds(active) and feasible.dead_part(rule, names) is None:
            kept.append(rule)
    return lower(known, kept)


def drawn(lowered: Lowered, count: int, seed: int) -> NDArray[np.float64]:
    """A population from the prior; conditions hold, rules need not."""
    population = abi.empty_population(len(lowered.variables), count)
    sampler = lowered.sampler
    sampling.sample(lowered.table, sampler.origin, sampler.width, seed, 0, sampler.stack, population)
    return population


def stack() -> NDArray[np.float64]:
    return np.full((abi.MAX_STACK, abi.BLOCK), 7.0)
