"""Rules that cannot hold, found before anything is bought.

Interval analysis answers for one rule at a time; a small space of the Variables that the rules mention is searched in
full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final

from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule, same
from dspex.program.variables import Float, Int, Var

SEARCHED: Final = 20_000
"""Largest number of combinations that is searched in full."""

Interval = tuple[float, float]
_ANY: Final[Interval] = (-math.inf, math.inf)


def dead_part(rule: Rule, variables: Mapping[str, Var[object]]) -> Compare | None:
    """A comparison that can never be true and that the rule cannot do without.

    The conclusion of `a.implies(b)` counts: a rule whose conclusion is impossible is a prohibition by mistake.
    """
    if isinstance(rule, Compare):
        return rule if possible(rule, variables) is False else None
    if isinstance(rule, All):
        return next((part for item in rule.items if (part := dead_part(item, variables)) is not None), None)
    if isinstance(rule, Any_):
        if len(rule.items) == 2 and isinstance(rule.items[0], Not):
            return dead_part(rule.items[1], variables)
        parts = [dead_part(item, variables) for item in rule.items]
        return parts[0] if parts and all(part is not None for part in parts) else None
    return None


def possible(rule: Compare, variables: Mapping[str, Var[object]]) -> bool | None:
    """False when no values inside the domains make the comparison true, True when all do, None when unknown."""
    if rule.op in ("==", "!="):
        choices = _choices(rule.left, variables), _choices(rule.right, variables)
        if choices[0] is not None and choices[1] is not None and _categorical(rule, variables):
            equal = [same(a, b) for a in choices[0] for b in choices[1]]
            if rule.op == "!=":
                equal = [not each for each in equal]
            return True if all(equal) else False if not any(equal) else None
    (a, b), (c, d) = _interval(rule.left, variables), _interval(rule.right, variables)
    op = rule.op
    if op in (">=", ">"):
        (a, b), (c, d), op = (c, d), (a, b), "<=" if op == ">=" else "<"
    if op == "<=":
        return True if b <= c else False if a > d else None
    if op == "<":
        return True if b < c else False if a >= d else None
    apart = b < c or d < a
    point = a == b == c == d
    if op == "==":
        return False if apart else True if point else None
    return True if apart else False if point else None


def _categorical(rule: Compare, variables: Mapping[str, Var[object]]) -> bool:
    sides = (rule.left, rule.right)
    return any(isinstance(side, Ref) and bool(variables[side.name].options) for side in sides)


def _choices(expr: Expr, variables: Mapping[str, Var[object]]) -> tuple[object, ...] | None:
    if isinstance(expr, Const):
        return (expr.constant,)
    if isinstance(expr, Ref):
        return variables[expr.name].options or None
    return None


def _interval(expr: Expr, variables: Mapping[str, Var[object]]) -> Interval:
    if isinstance(expr, Const):
        number = _number(expr.constant)
        return _ANY if number is None else (number, number)
    if isinstance(expr, Ref):
        variable = variables[expr.name]
        if isinstance(variable, Float | Int):
            return (float(variable.lo), float(variable.hi))
        numbers = [number for option in variable.options if (number := _number(option)) is not None]
        return (min(numbers), max(numbers)) if numbers and len(numbers) == len(variable.options) else _ANY
    if not isinstance(expr, Arith):
        return _ANY
    (a, b), (c, d) = _interval(expr.left, variables), _interval(expr.right, variables)
    if expr.op == "+":
        return (a + c, b + d)
    if expr.op == "-":
        return (a - d, b - c)
    corners = [x * y if x and y else 0.0 for x in (a, b) for y in (c, d)]
    return (min(corners), max(corners))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def domain_values(variable: Var[object]) -> Sequence[object] | None:
    """Every value of a finite domain, or None when it is not finite or too large."""
    if variable.options:
        return variable.options
    if isinstance(variable, Int):
        values = range(variable.lo, variable.hi + 1, variable.step or 1)
        return values if len(values) <= SEARCHED else None
    return None


def active_names(config: Mapping[str, object], ordered: Sequence[Var[object]]) -> dict[str, object]:
    """The active part of a full configuration; `ordered` has every Variable after those in its condition."""
    active: dict[str, object] = {}
    for variable in ordered:
        when = variable.when
        if when is None or (when.names() <= active.keys() and when.test(active)):
            active[variable.name] = config[variable.name]
    return active


def satisfiable(rules: Sequence[Rule], ordered: Sequence[Var[object]]) -> bool | None:
    """Whether some configuration obeys all rules; None when the space is too large to search in full."""
    by_name = {variable.name: variable for variable in ordered}
    wanted: set[str] = {name for rule in rules for name in rule.names()}
    for variable in reversed(ordered):
        if variable.name in wanted and variable.when is not None:
            wanted |= variable.when.names()
    involved = [variable for variable in ordered if variable.name in wanted]
    domains: list[Sequence[object]] = []
    for variable in involved:
        values = domain_values(by_name[variable.name])
        if values is None:
            return None
        domains.append(values)
    if math.prod(map(len, domains)) > SEARCHED:
        return None
    names = [variable.name for variable in involved]
    for values in product(*domains):
        active = active_names(dict(zip(names, values, strict=True)), involved)
        if all(rule.holds(active) for rule in rules):
            return True
    return False
