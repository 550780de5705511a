"""Rules and conditions as code of the core's rule machine."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from dspex.core.abi import MAX_STACK, Op
from dspex.errors import CompileError
from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule, same
from dspex.program.variables import Var

_ARITHMETIC = {"+": Op.ADD, "-": Op.SUB, "*": Op.MUL}
_COMPARISONS = {"<=": Op.LE, "<": Op.LT, ">=": Op.GE, ">": Op.GT, "==": Op.EQ, "!=": Op.NE}

# Values that are not numbers are told apart by numbers that no Variable reaches.
_FIRST_TOKEN = 2.0**1000


class Assembler:
    """Collects the code and constants of one table.

    Args:
        rows: Row of each Variable by name.
        variables: The Variables by name.
    """

    def __init__(self, rows: Mapping[str, int], variables: Mapping[str, Var[object]]) -> None:
        self._rows = rows
        self._variables = variables
        self.op: list[int] = []
        self.arg: list[int] = []
        self.const: list[float] = []
        self._numbers: dict[float, int] = {}
        self._tables: dict[str, int] = {}
        self._tokens: list[object] = []

    def rule(self, index: int, rule: Rule, guarded: frozenset[str]) -> None:
        """Append a rule. It holds wherever a Variable in `guarded`, those that may be inactive, is inactive."""
        self._rule(rule)
        for name in sorted(guarded & rule.names()):
            self._emit(Op.ACTIVE, self._rows[name])
            self._emit(Op.NOT)
            self._emit(Op.OR)
        self._end(index, rule)

    def condition(self, row: int, rule: Rule, guarded: frozenset[str]) -> int:
        """Append the condition of `row` and return its start. It fails where a Variable in `guarded` is inactive."""
        start = len(self.op)
        self._rule(rule)
        for name in sorted(guarded & rule.names()):
            self._emit(Op.ACTIVE, self._rows[name])
            self._emit(Op.AND)
        self._end(-1 - row, rule)
        return start

    def _emit(self, op: Op, arg: int = 0) -> None:
        self.op.append(int(op))
        self.arg.append(arg)

    def _end(self, arg: int, rule: Rule) -> None:
        self._emit(Op.END, arg)
        depth = deepest = 0
        start = max((pc for pc in range(len(self.op) - 1) if self.op[pc] == Op.END), default=-1) + 1
        for op in self.op[start:-1]:
            depth += 1 if op in (Op.CONST, Op.LOAD, Op.ACTIVE) else -1 if op not in (Op.NOT, Op.LOOKUP) else 0
            deepest = max(deepest, depth)
        if deepest > MAX_STACK:
            raise CompileError(
                "DX2108",
                f"a rule is nested {deepest} deep, the limit is {MAX_STACK}: {_short(str(rule))}",
                fix="split it into several rules, or regroup long sums to the left",
            )

    def _rule(self, rule: Rule) -> None:
        if isinstance(rule, Compare):
            self._compare(rule)
        elif isinstance(rule, Not):
            self._rule(rule.item)
            self._emit(Op.NOT)
        elif isinstance(rule, All | Any_):
            if not rule.items:
                self._constant(1.0 if isinstance(rule, All) else 0.0)
            for index, item in enumerate(rule.items):
                self._rule(item)
                if index:
                    self._emit(Op.AND if isinstance(rule, All) else Op.OR)
        else:
            raise CompileError("DX2109", f"a rule of an unknown form: {type(rule).__name__} {_short(str(rule))}")

    def _compare(self, rule: Compare) -> None:
        for first, second in ((rule.left, rule.right), (rule.right, rule.left)):
            # The common case, a category against a constant, compares indices.
            if isinstance(first, Ref) and isinstance(second, Const) and rule.op in ("==", "!="):
                options = self._variables[first.name].options
                index = next((i for i, option in enumerate(options) if same(option, second.constant)), None)
                if index is not None:
                    self._emit(Op.LOAD, self._rows[first.name])
                    self._constant(float(index))
                    self._emit(_COMPARISONS[rule.op])
                    return
        ordered = rule.op not in ("==", "!=")
        self._expr(rule.left, ordered)
        self._expr(rule.right, ordered)
        self._emit(_COMPARISONS[rule.op])

    def _expr(self, expr: Expr, numeric: bool) -> None:
        if isinstance(expr, Arith):
            self._expr(expr.left, True)
            self._expr(expr.right, True)
            self._emit(_ARITHMETIC[expr.op])
        elif isinstance(expr, Ref):
            variable = self._variables[expr.name]
            self._emit(Op.LOAD, self._rows[expr.name])
            if variable.options:
                if expr.name not in self._tables:
                    # The values of one Variable stand together, so they are not shared with other constants.
                    values = [self._value(option, numeric, expr) for option in variable.options]
                    self._tables[expr.name] = len(self.const)
                    self.const.extend(values)
                elif numeric:
                    for option in variable.options:
                        self._value(option, numeric, expr)
                self._emit(Op.LOOKUP, self._tables[expr.name])
        elif isinstance(expr, Const):
            self._constant(self._value(expr.constant, numeric, expr))
        else:
            raise CompileError("DX2109", f"an expression of an unknown form: {type(expr).__name__} {expr}")

    def _constant(self, value: float) -> None:
        if value not in self._numbers:
            self._numbers[value] = len(self.const)
            self.const.append(value)
        self._emit(Op.CONST, self._numbers[value])

    def _value(self, value: object, numeric: bool, expr: Expr) -> float:
        """A number for `value`; equal values, and only they, have equal numbers."""
        if isinstance(value, int | float) and not isinstance(value, bool | Enum) and abs(value) < _FIRST_TOKEN:
            return float(value)
        if numeric:
            raise CompileError(
                "DX2110",
                f"{expr} is {_short(repr(value))}, which has no order and no arithmetic",
                fix="compare categories with .is_() and .is_not()",
            )
        for index, token in enumerate(self._tokens):
            if same(token, value):
                return _FIRST_TOKEN * (1.0 + index * 2.0**-40)
        self._tokens.append(value)
        return _FIRST_TOKEN * (1.0 + (len(self._tokens) - 1) * 2.0**-40)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
