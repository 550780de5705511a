"""Rules and conditions as code of the core's rule machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Final

from dspex.core.table import MAX_STACK, Op
from dspex.errors import CompileError
from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule, same
from dspex.program.variables import Float, Int, Var
from dspex.program.variables import place as place_of

_ARITHMETIC = {"+": Op.ADD, "-": Op.SUB, "*": Op.MUL}
_COMPARISONS = {"<=": Op.LE, "<": Op.LT, ">=": Op.GE, ">": Op.GT, "==": Op.EQ, "!=": Op.NE}
_PUSHES = frozenset({Op.CONST, Op.LOAD, Op.ACTIVE})
_KEEPS = frozenset({Op.NOT, Op.LOOKUP})

FIRST_TOKEN: Final = 2.0**1000
"""Values that are not numbers are told apart by numbers from here on, which no Variable reaches."""

MAX_DEPTH: Final = 300
"""Deepest nesting of a rule that is read; the stack of the machine is smaller still, but sums grow to the left."""
MAX_NODES: Final = 20_000
"""Largest rule that is read, in expressions and comparisons, after computed Variables are written out."""


def check_form(rule: Rule, variables: Mapping[str, Var[Any]], shown: Rule) -> set[str]:
    """Refuse what the machine cannot compute, also where the domains would decide it.

    Args:
        rule: The rule or condition.
        variables: The Variables by name; one that is not there is left to the caller.
        shown: The rule as it was written, for errors.

    Returns:
        The names that the rule mentions.

    Raises:
        CompileError: DX2108 for deep nesting and for size, DX2109 for an unknown form, DX2110 for arithmetic or order
            over categories, DX2115 for a number that is not finite.
    """
    pending: list[tuple[Rule | Expr, int, str]] = [(rule, 1, "rule")]
    names: set[str] = set()
    seen = 0
    while pending:
        node, depth, place = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_NODES:
            size = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"larger than {MAX_NODES} parts"
            raise CompileError(
                "DX2108", f"a rule is {size}", fix="split it into several rules, or add in groups: (a + b) + (c + d)"
            )
        if isinstance(node, Compare):
            ordered = "value" if node.op in ("==", "!=") else "number"
            pending += ((node.left, depth + 1, ordered), (node.right, depth + 1, ordered))
        elif isinstance(node, Not):
            pending.append((node.item, depth + 1, "rule"))
        elif isinstance(node, All | Any_):
            pending += ((item, depth + 1, "rule") for item in node.items)
        elif isinstance(node, Arith):
            pending += ((node.left, depth + 1, "part"), (node.right, depth + 1, "part"))
        elif isinstance(node, Const):
            if place != "value":
                _numeric(node.constant, node, shown, variables)
            number = node.constant
            if isinstance(number, float) and (math.isnan(number) or (place == "part" and math.isinf(number))):
                raise CompileError(
                    "DX2115",
                    f"the rule {_short(str(shown))} computes with {number}",
                    fix="write a finite number, or leave the comparison out",
                )
        elif isinstance(node, Ref):
            name = node.name
            names.add(name)
            if place != "value" and name in variables and not isinstance(variables[name], Float | Int):
                for option in variables[name].options:
                    _numeric(option, node, shown, variables)
        else:
            what = "a rule" if place == "rule" else "an expression"
            raise CompileError(
                "DX2109",
                f"{what} of an unknown form: {type(node).__name__} {_short(str(node))}",
                fix="build rules of comparisons, &, |, ~ and implies over Variables, numbers and + - *",
            )
    return names


class Assembler:
    """Collects the code and constants of one table.

    Args:
        rows: Row of each Variable by name.
        variables: The Variables by name.
        guarded: Names of those that may be inactive.
    """

    def __init__(self, rows: Mapping[str, int], variables: Mapping[str, Var[Any]], guarded: Collection[str]) -> None:
        self._rows = rows
        self._variables = variables
        self._guarded = frozenset(guarded)
        self.op: list[int] = []
        self.arg: list[int] = []
        self.const: list[float] = []
        self._start = 0
        self._numbers: dict[float, int] = {}
        self._tables: dict[tuple[str, bool], int] = {}
        self._tokens: list[object] = []
        self._token_of: dict[tuple[bool, object], int] = {}

    def rule(self, index: int, rule: Rule | bool, names: Iterable[str]) -> None:
        """Append a rule. It holds wherever one of `names`, all that it was written about, is inactive."""
        self._folded(rule)
        for name in sorted(self._guarded.intersection(names)):
            self._emit(Op.ACTIVE, self._rows[name])
            self._emit(Op.NOT)
            self._emit(Op.OR)
        self._end(index)

    def condition(self, row: int, rule: Rule | bool, names: Iterable[str]) -> int:
        """Append the condition of `row` and return its start. It fails where one of `names` is inactive."""
        start = len(self.op)
        needed = sorted(self._guarded.intersection(names))
        # What holds whenever it is asked leaves only the question of who is active.
        if rule is not True or not needed:
            self._folded(rule)
        for name in needed:
            self._emit(Op.ACTIVE, self._rows[name])
            if len(self.op) > start + 1:
                self._emit(Op.AND)
        self._end(-1 - row)
        return start

    def _emit(self, op: Op, arg: int = 0) -> None:
        self.op.append(op)
        self.arg.append(arg)

    def _end(self, arg: int) -> None:
        depth = deepest = 0
        for op in self.op[self._start :]:
            depth += 1 if op in _PUSHES else 0 if op in _KEEPS else -1
            deepest = max(deepest, depth)
        self._emit(Op.END, arg)
        self._start = len(self.op)
        if deepest > MAX_STACK:
            raise CompileError(
                "DX2108",
                f"a rule is nested {deepest} deep, the limit is {MAX_STACK}",
                fix="split it into several rules, or regroup long sums to the left",
            )

    def _folded(self, rule: Rule | bool) -> None:
        if isinstance(rule, bool):
            self._constant(float(rule))
        else:
            self._rule(rule)

    def _rule(self, rule: Rule) -> None:
        if isinstance(rule, Compare):
            self._compare(rule)
        elif isinstance(rule, Not):
            self._rule(rule.item)
            self._emit(Op.NOT)
        else:
            assert isinstance(rule, All | Any_)
            if not rule.items:
                self._constant(1.0 if isinstance(rule, All) else 0.0)
            for index, item in enumerate(rule.items):
                self._rule(item)
                if index:
                    self._emit(Op.AND if isinstance(rule, All) else Op.OR)

    def _compare(self, rule: Compare) -> None:
        equality = rule.op in ("==", "!=")
        for first, second in ((rule.left, rule.right), (rule.right, rule.left)):
            # The common case, a category against a constant, compares indices.
            if equality and isinstance(first, Ref) and isinstance(second, Const):
                index = option_index(self._variables[first.name], second.constant)
                if index is not None:
                    self._emit(Op.LOAD, self._rows[first.name])
                    self._constant(float(index))
                    self._emit(_COMPARISONS[rule.op])
                    return
        self._expr(rule.left, not equality)
        self._expr(rule.right, not equality)
        self._emit(_COMPARISONS[rule.op])

    def _expr(self, expr: Expr, numeric: bool) -> None:
        if isinstance(expr, Arith):
            self._expr(expr.left, True)
            self._expr(expr.right, True)
            self._emit(_ARITHMETIC[expr.op])
        elif isinstance(expr, Ref):
            options = self._variables[expr.name].options
            self._emit(Op.LOAD, self._rows[expr.name])
            if options:
                key = (expr.name, numeric)
                if key not in self._tables:
                    # The values of one Variable stand together, so they are not shared with other constants.
                    self._tables[key] = len(self.const)
                    self.const.extend([self._value(option, numeric, expr) for option in options])
                self._emit(Op.LOOKUP, self._tables[key])
        else:
            assert isinstance(expr, Const)
            self._constant(self._value(expr.constant, numeric, expr))

    def _constant(self, value: float) -> None:
        if value not in self._numbers:
            self._numbers[value] = len(self.const)
            self.const.append(value)
        self._emit(Op.CONST, self._numbers[value])

    def _value(self, value: object, numeric: bool, expr: Expr) -> float:
        """A number for `value`; equal values, and only they, have equal numbers where numbers are not ordered."""
        if numeric:
            return _numeric(value, expr)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < FIRST_TOKEN:
            number = float(value)
            if number == value:
                return number
        return FIRST_TOKEN * (1.0 + self._token(value) * 2.0**-40)

    def _token(self, value: object) -> int:
        try:
            token = self._token_of.setdefault((isinstance(value, bool), value), len(self._tokens))
        except TypeError:  # values that have no hash are few
            token = next((i for i, other in enumerate(self._tokens) if same(other, value)), len(self._tokens))
        if token == len(self._tokens):
            self._tokens.append(value)
        return token


def option_index(variable: Var[Any], value: object) -> int | None:
    """Place of `value` among a Variable's options; None when it is none of them."""
    return next(
        (index for index, option in enumerate(variable.options) if option is value or same(option, value)), None
    )


def _numeric(
    value: object, expr: Expr, shown: Rule | None = None, variables: Mapping[str, Var[Any]] | None = None
) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    raise _no_number(value, expr, shown, variables or {})


def _no_number(value: object, expr: Expr, shown: Rule | None, variables: Mapping[str, Var[Any]]) -> CompileError:
    text = _short(value.name if isinstance(value, Enum) else repr(value))
    there = [variables[name] for name in sorted(shown.names()) if name in variables] if shown is not None else []
    said = _short(str(expr)) if isinstance(expr, Const) else f"{expr}, which may be {text},"
    fix = "compare categories with .is_() and .is_not()"
    number = next((variable for variable in there if isinstance(variable, Float | Int)), None)
    if isinstance(expr, Const) and number is not None:
        fix = f"{number.name} is a number: compare it with one, {number.name} <= {number.default}"
    rule = "" if shown is None else f"in the rule {_short(str(shown))}, "
    at = [variable for variable in there if variable.name == getattr(expr, "name", None)] or there
    where = next((place_of(variable.at, variable.name) for variable in at if variable.at is not None), None)
    return CompileError("DX2110", f"{rule}{said} has no order and no arithmetic", where=where, fix=fix)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
