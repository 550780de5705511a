"""What a space checks of configurations, prepared once: closures that read a configuration and nothing else.

They decide exactly what `Rule.test` and the conditions of the Variables say, many times faster.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule, same
from dspex.program.variables import Bool, Choice, Float, Int, Var

__all__ = ["Checks", "prepared"]

Config = Mapping[str, object]
Test = Callable[[Config], bool]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_SUMS: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Checks:
    """Conditions and rules of a space, prepared.

    Args:
        variables: The Variables, by name.
        order: Their names, each after those that it depends on.
        needs: For every Variable that may be inactive, or depends on one that may, what it depends on.
        rules: The rules.
    """

    __slots__ = ("_conditional", "_rules", "all")

    def __init__(
        self,
        variables: Mapping[str, Var[Any]],
        order: Sequence[str],
        needs: Mapping[str, Sequence[str]],
        rules: Sequence[Rule],
    ) -> None:
        self.all = frozenset(variables)
        conditional: dict[str, tuple[tuple[str, ...], Test | None]] = {}
        for name in order:
            when = variables[name].when
            inherited = tuple(other for other in needs.get(name, ()) if other in conditional)
            if when is not None or inherited:
                conditional[name] = (inherited, None if when is None else prepared(when, variables))
        self._conditional = tuple((name, *rest) for name, rest in conditional.items())
        self._rules = tuple(
            (rule, frozenset(name for name in rule.names() if name in conditional), prepared(rule, variables))
            for rule in rules
        )

    def inactive(self, config: Config) -> set[str]:
        """Names of the Variables that are inactive under the full configuration `config`."""
        off: set[str] = set()
        for name, needed, test in self._conditional:
            for other in needed:
                if other in off:
                    off.add(name)
                    break
            else:
                if test is not None and not test(config):
                    off.add(name)
        return off

    def broken(self, config: Config) -> list[Rule]:
        """The rules that the full configuration `config` breaks."""
        off: set[str] | None = None
        found: list[Rule] = []
        for rule, conditional, test in self._rules:
            if conditional:
                if off is None:
                    off = self.inactive(config)
                if not off.isdisjoint(conditional):
                    continue
            if not test(config):
                found.append(rule)
        return found


def prepared(rule: Rule, variables: Mapping[str, Var[Any]]) -> Test:
    """`rule.test` for configurations of `variables`, as one closure."""
    if isinstance(rule, Compare):
        return _comparison(rule, variables)
    if isinstance(rule, Not):
        inner = prepared(rule.item, variables)
        return lambda config: not inner(config)
    if isinstance(rule, All | Any_):
        tests = tuple(prepared(item, variables) for item in rule.items)
        if len(tests) == 1:
            return tests[0]
        if isinstance(rule, Any_):
            if len(tests) == 2:
                return _either(rule.items[0], tests[0], tests[1], variables)
            return lambda config: any(test(config) for test in tests)
        if len(tests) == 2:
            first, second = tests
            return lambda config: first(config) and second(config)
        return lambda config: all(test(config) for test in tests)
    return rule.test


def _either(left: Rule, first: Test, second: Test, variables: Mapping[str, Var[Any]]) -> Test:
    if isinstance(left, Not):
        # An implication: without the call that turns the premise around.
        premise = prepared(left.item, variables)
        return lambda config: not premise(config) or second(config)
    return lambda config: first(config) or second(config)


def _comparison(rule: Compare, variables: Mapping[str, Var[Any]]) -> Test:
    left, right = rule.left, rule.right
    if rule.op in ("==", "!="):
        equal = _equality(left, right, variables)
        if rule.op == "==":
            return equal
        return lambda config: not equal(config)
    if not (_numeric(left, variables) and _numeric(right, variables)):
        # Something without an order: the rule itself raises the error.
        return rule.test
    compare = _ORDERS[rule.op]
    if isinstance(left, Ref) and isinstance(right, Const):
        name, constant = left.name, right.constant
        return lambda config: compare(config[name], constant)
    if isinstance(left, Ref) and isinstance(right, Ref):
        name, other = left.name, right.name
        return lambda config: compare(config[name], config[other])
    first, second = _value(left, variables), _value(right, variables)
    return lambda config: compare(first(config), second(config))


def _equality(left: Expr, right: Expr, variables: Mapping[str, Var[Any]]) -> Test:
    if isinstance(left, Ref) and isinstance(right, Const):
        name, constant, variable = left.name, right.constant, variables[left.name]
        if type(constant) is str or _same_kind(constant, variable):
            return lambda config: config[name] == constant
    first, second = _value(left, variables), _value(right, variables)
    return lambda config: same(first(config), second(config))


def _same_kind(constant: object, variable: Var[Any]) -> bool:
    """Whether `variable` is never a bool where `constant` is none, and the reverse."""
    if isinstance(variable, Float | Int):
        return not isinstance(constant, bool)
    return isinstance(variable, Bool) and isinstance(constant, bool)


def _numeric(expr: Expr, variables: Mapping[str, Var[Any]]) -> bool:
    if isinstance(expr, Const):
        return isinstance(expr.constant, int | float) and not isinstance(expr.constant, bool)
    if isinstance(expr, Ref):
        variable = variables[expr.name]
        return isinstance(variable, Float | Int | Choice) and variable.is_numeric()
    return isinstance(expr, Arith) and _numeric(expr.left, variables) and _numeric(expr.right, variables)


def _value(expr: Expr, variables: Mapping[str, Var[Any]]) -> Callable[[Config], Any]:
    if isinstance(expr, Ref):
        return operator.itemgetter(expr.name)
    if isinstance(expr, Const):
        constant = expr.constant
        return lambda config: constant
    if isinstance(expr, Arith) and _numeric(expr, variables):
        compute, left, right = _SUMS[expr.op], _value(expr.left, variables), _value(expr.right, variables)
        return lambda config: compute(left(config), right(config))
    # Something that cannot be computed with: the expression itself raises the error.
    return expr.value
