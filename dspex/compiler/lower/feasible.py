"""What the domains decide about rules before anything is bought.

Interval analysis decides single comparisons, `fold` removes them from a rule, and a small space of the Variables that
rules mention is searched in full. Intervals are computed with the same operations as values are, and these are
monotonic under rounding, so what they decide holds for every configuration exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Final, cast

from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule, same
from dspex.program.variables import Float, Int, Var

SEARCHED: Final = 20_000
"""Largest number of combinations that is searched in full."""

_ENUMERATED: Final = 16
_PAIRED: Final = 4_096

Variables = Mapping[str, Var[Any]]
Interval = tuple[float, float]


# --- one comparison -----------------------------------------------------------------------------


def decided(rule: Compare, variables: Variables) -> bool | None:
    """False when no values inside the domains make the comparison true, True when all do, None when unknown."""
    left, right, op = rule.left, rule.right, rule.op
    equality = op in ("==", "!=")
    answer: bool | None = None
    if left == right and (isinstance(left, Ref) or interval(left, variables) is not None):
        answer = op in ("<=", ">=", "==")
    elif equality:
        equal = _equal(left, right, variables)
        answer = equal if equal is None or op == "==" else not equal
    else:
        one, other = interval(left, variables), interval(right, variables)
        # An infinite bound is a fine limit; inside arithmetic it is not, so `interval` refuses it.
        one, other = one or _limit(left), other or _limit(right)
        if one is not None and other is not None:
            if op in (">=", ">"):
                one, other = other, one
            (a, b), (c, d) = one, other
            if op in ("<=", ">="):
                answer = True if b <= c else False if a > d else None
            else:
                answer = True if b < c else False if a >= d else None
    return answer


def _equal(left: Expr, right: Expr, variables: Variables) -> bool | None:
    """Whether two expressions are always (True) or never (False) equal."""
    choices = _choices(left, variables), _choices(right, variables)
    if choices[0] is not None and choices[1] is not None:
        if len(choices[0]) * len(choices[1]) > _PAIRED:
            return None
        pairs = [same(a, b) for a in choices[0] for b in choices[1]]
        return True if all(pairs) else False if not any(pairs) else None
    one, other = interval(left, variables), interval(right, variables)
    if one is None or other is None:
        # Numbers never equal texts, truth values or None.
        values = choices[0] or choices[1]
        plain = values is not None and all(value is None or isinstance(value, str | bool) for value in values)
        return False if plain and (one is not None or other is not None) else None
    if one[1] < other[0] or other[1] < one[0]:
        return False
    if one[0] == one[1] == other[0] == other[1]:
        return True
    for expr, fixed in ((left, right), (right, left)):
        if isinstance(expr, Ref) and isinstance(fixed, Const):
            variable = variables[expr.name]
            value = cast("float", fixed.constant)
            if isinstance(variable, Int) and (value != int(value) or (int(value) - variable.lo) % (variable.step or 1)):
                return False
    return None


def _choices(expr: Expr, variables: Variables) -> tuple[object, ...] | None:
    if isinstance(expr, Const):
        return (expr.constant,)
    if isinstance(expr, Ref):
        return variables[expr.name].options or None
    return None


def _limit(expr: Expr) -> Interval | None:
    if isinstance(expr, Const) and expr.constant in (math.inf, -math.inf):
        return cast("Interval", (expr.constant, expr.constant))
    return None


def interval(expr: Expr, variables: Variables) -> Interval | None:
    """Bounds of a numeric expression; None when it is no number, or when it may overflow."""
    found: Interval | None = None
    if isinstance(expr, Const):
        number = _number(expr.constant)
        found = None if number is None else (number, number)
    elif isinstance(expr, Ref):
        variable = variables[expr.name]
        if isinstance(variable, Int):
            step = variable.step or 1
            found = (variable.lo, variable.lo + (variable.hi - variable.lo) // step * step)
        elif isinstance(variable, Float):
            found = (variable.lo, variable.hi)
        else:
            numbers = [number for option in variable.options if (number := _number(option)) is not None]
            found = (min(numbers), max(numbers)) if numbers and len(numbers) == len(variable.options) else None
    elif isinstance(expr, Arith):
        one, other = interval(expr.left, variables), interval(expr.right, variables)
        if one is None or other is None:
            return None
        found = _combined(expr.op, one, other)
    return found


def _combined(op: str, one: Interval, other: Interval) -> Interval | None:
    (a, b), (c, d) = one, other
    try:
        if op == "+":
            found = (a + c, b + d)
        elif op == "-":
            found = (a - d, b - c)
        else:
            corners = (a * c, a * d, b * c, b * d)
            found = (min(corners), max(corners))
        return found if math.isfinite(found[0]) and math.isfinite(found[1]) else None
    except OverflowError:
        return None


def _number(value: object) -> float | None:
    """`value` as a finite number, whole ones exactly; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


# --- whole rules --------------------------------------------------------------------------------


def fold(rule: Rule, variables: Variables) -> Rule | bool:
    """`rule` without what the domains decide; True or False when they decide all of it.

    The result says the same about every configuration in which all that `rule` mentions is active.
    """
    if isinstance(rule, Compare):
        answer = decided(rule, variables)
        if answer is not None:
            return answer
        left, right = folded_expr(rule.left, variables), folded_expr(rule.right, variables)
        return rule if left is rule.left and right is rule.right else Compare(rule.op, left, right)
    if isinstance(rule, Not):
        item = fold(rule.item, variables)
        if isinstance(item, bool):
            return not item
        return item.item if isinstance(item, Not) else rule if item is rule.item else Not(item)
    if not isinstance(rule, All | Any_):
        return rule
    # True ends a disjunction, False a conjunction; the other value adds nothing.
    ends = isinstance(rule, Any_)
    items: list[Rule] = []
    for each in rule.items:
        item = fold(each, variables)
        if not isinstance(item, bool):
            items.append(item)
        elif item is ends:
            return ends
    if not items:
        return not ends
    names = items[0].names()
    if len(names) == 1 and all(item.names() == names for item in items[1:]):
        answer = _enumerated(type(rule)(tuple(items)), next(iter(names)), variables)
        if answer is not None:
            return answer
    if len(items) == 1:
        return items[0]
    unchanged = len(items) == len(rule.items) and all(map(_is, items, rule.items))
    return rule if unchanged else type(rule)(tuple(items))


def _is(one: object, other: object) -> bool:
    return one is other


def _enumerated(rule: Rule, name: str, variables: Variables) -> bool | None:
    """Whether a rule over one Variable with few values holds for all or for none of them."""
    values = domain_values(variables[name])
    if values is None or len(values) > _ENUMERATED:
        return None
    answers = {rule.test({name: value}) for value in values}
    return answers.pop() if len(answers) == 1 else None


def folded_expr(expr: Expr, variables: Variables) -> Expr:
    """`expr` with constant parts computed and Variables of a single value replaced by it."""
    if isinstance(expr, Ref):
        variable = variables[expr.name]
        if isinstance(variable, Float | Int):
            return Const(variable.lo) if variable.lo == variable.hi else expr
        return Const(variable.options[0]) if len(variable.options) == 1 else expr
    if not isinstance(expr, Arith):
        return expr
    left, right = folded_expr(expr.left, variables), folded_expr(expr.right, variables)
    if isinstance(left, Const) and isinstance(right, Const):
        found = interval(Arith(expr.op, left, right), {})
        if found is not None:
            return Const(found[0])
    return expr if left is expr.left and right is expr.right else Arith(expr.op, left, right)


def dead_part(rule: Rule, variables: Variables, folded: Rule | bool | None = None) -> Rule | None:
    """A part that can never be true and that the rule cannot do without; None when there is no such part.

    The conclusion of `a.implies(b)` counts: a rule whose conclusion is impossible is a prohibition by mistake, unless
    a Variable of it was fixed to one value.

    Args:
        rule: The rule.
        variables: The Variables by name.
        folded: What `fold` made of the rule, when the caller knows.
    """
    part = _dead(rule, variables)
    if part is None and (fold(rule, variables) if folded is None else folded) is False:
        return rule
    return part


def _dead(rule: Rule, variables: Variables) -> Compare | None:
    if isinstance(rule, Compare):
        return rule if decided(rule, variables) is False else None
    if isinstance(rule, All):
        return next((part for item in rule.items if (part := _dead(item, variables)) is not None), None)
    if isinstance(rule, Any_):
        if len(rule.items) == 2 and isinstance(rule.items[0], Not):
            part = _dead(rule.items[1], variables)
            meant = part is None or all(not single(variables[name]) for name in part.names())
            return part if meant else None
        parts = [_dead(item, variables) for item in rule.items]
        return parts[0] if parts and all(part is not None for part in parts) else None
    return None


def single(variable: Var[Any]) -> bool:
    """Whether one value is left, by a fixed Variable or a domain of one."""
    if isinstance(variable, Float | Int):
        return variable.lo == variable.hi
    return len(variable.options) == 1


# --- whole spaces -------------------------------------------------------------------------------


def domain_values(variable: Var[Any]) -> Sequence[object] | None:
    """Every value of a finite domain, or None when it is not finite or too large."""
    if variable.options:
        return variable.options
    if isinstance(variable, Int):
        values = range(variable.lo, variable.hi + 1, variable.step or 1)
        return values if variable.hi - variable.lo <= SEARCHED * (variable.step or 1) else None
    return None


def active_names(
    config: Mapping[str, object], ordered: Iterable[Var[Any]], conditions: Mapping[str, Rule] | None = None
) -> dict[str, object]:
    """The active part of a full configuration.

    Args:
        config: A value for every Variable.
        ordered: The Variables, each after those in its condition.
        conditions: Their conditions by name, where these are not the Variables' own.
    """
    active: dict[str, object] = {}
    for variable in ordered:
        when = variable.when if conditions is None else conditions.get(variable.name)
        if when is None or (when.names() <= active.keys() and when.test(active)):
            active[variable.name] = config[variable.name]
    return active


def satisfiable(
    rules: Sequence[Rule], ordered: Sequence[Var[Any]], conditions: Mapping[str, Rule] | None = None
) -> bool | None:
    """Whether some configuration obeys all rules; None when the space is too large to search in full."""
    wanted = mentioned(rules, ordered, conditions)
    involved = [variable for variable in ordered if variable.name in wanted]
    domains: list[Sequence[object]] = []
    combinations = 1
    for variable in involved:
        values = domain_values(variable)
        combinations *= 0 if values is None else len(values)
        if values is None or combinations > SEARCHED:
            return None
        domains.append(values)
    names = [variable.name for variable in involved]
    for values in product(*domains):
        active = active_names(dict(zip(names, values, strict=True)), involved, conditions)
        if all(rule.holds(active) for rule in rules):
            return True
    return False


def mentioned(
    rules: Iterable[Rule], ordered: Sequence[Var[Any]], conditions: Mapping[str, Rule] | None = None
) -> set[str]:
    """Names in `rules`, and those that decide whether these are active."""
    wanted: set[str] = set()
    for rule in rules:
        wanted |= rule.names()
    for variable in reversed(ordered):
        when = variable.when if conditions is None else conditions.get(variable.name)
        if when is not None and variable.name in wanted:
            wanted |= when.names()
    return wanted


def related(
    rules: Sequence[Rule],
    broken: Iterable[Rule],
    ordered: Sequence[Var[Any]],
    conditions: Mapping[str, Rule],
) -> tuple[list[Rule], list[Var[Any]]]:
    """The rules and Variables that `broken` ones depend on through shared Variables; others cannot matter."""
    # Union-find over names: a rule joins what it mentions, a condition its Variable with what it mentions.
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while (above := leader.setdefault(name, name)) != name:
            leader[name] = leader[above]
            name = above
        return name

    for names in (*(rule.names() for rule in rules), *({name, *when.names()} for name, when in conditions.items())):
        first = None
        for name in names:
            first = find(name) if first is None else first
            leader[find(name)] = first
    wanted = {find(name) for rule in broken for name in rule.names()}
    return (
        [rule for rule in rules if not wanted.isdisjoint(map(find, rule.names()))],
        [variable for variable in ordered if find(variable.name) in wanted],
    )
