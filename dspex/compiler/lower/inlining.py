"""Computed Variables in rules: arithmetic is written out, because the core's rule machine knows rows only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.compiler.lower.bytecode import check_form
from dspex.errors import CompileError
from dspex.program.computed import Computed
from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule
from dspex.program.variables import Var, place

__all__ = ["Inliner"]


class Inliner:
    """Brings rules into a form over rows alone.

    A rule that mentions a computed Variable mentions what that is computed from: it holds where one of these, or the
    computed Variable itself, is inactive, and a condition fails there.

    Args:
        computed: The computed Variables, each after those that it is computed from.
        variables: Every Variable by name.
    """

    def __init__(self, computed: Sequence[Computed[Any]], variables: Mapping[str, Var[Any]]) -> None:
        self._computed = {variable.name: variable for variable in computed}
        self._variables = variables
        self._values: dict[str, Expr] = {}
        self._gates: dict[str, tuple[Rule, ...]] = {}
        for variable in computed:
            if variable.expr is None:
                continue
            names = check_form(
                Compare("==", variable.expr, Const(0)), variables, Compare("==", Ref(variable), Const(0))
            )
            given = self._mentioned(names)
            if all(name in self._values for name in given):
                self._values[variable.name] = self._expr(variable.expr)
                gates = [] if variable.when is None else [variable.when]
                gates += (gate for name in given for gate in self._gates[name])
                # Branches of a selection share one condition object.
                self._gates[variable.name] = tuple({id(gate): gate for gate in gates}.values())

    def rule(self, rule: Rule, names: set[str]) -> Rule:
        """`rule`, which mentions `names`, over rows alone.

        Raises:
            CompileError: DX2118 when it depends on a function, DX2108 when it grows too large.
        """
        gates = self._opened(rule, names)
        if gates is None:
            return rule
        plain = self._rule(rule)
        return Any_((Not(All(gates)), plain)) if gates else plain

    def condition(self, rule: Rule, names: set[str]) -> Rule:
        """As `rule`, for a condition: it fails where a computed Variable that it mentions is inactive."""
        gates = self._opened(rule, names)
        if gates is None:
            return rule
        return All((*gates, self._rule(rule))) if gates else self._rule(rule)

    def _mentioned(self, names: set[str] | frozenset[str]) -> list[str]:
        return sorted(name for name in names if name in self._computed)

    def _opened(self, rule: Rule, names: set[str]) -> tuple[Rule, ...] | None:
        """The conditions of the computed Variables in `rule`; None when it mentions none."""
        given = self._mentioned(names)
        if not given:
            return None
        for name in given:
            if name not in self._values:
                variable = self._computed[name]
                raise CompileError(
                    "DX2118",
                    f"the rule {rule} mentions {name!r}, which a function computes: the rule machine cannot call it",
                    where=place(variable.at, name),
                    fix="write it as arithmetic, dx.computed(k * 100), or state the rule over "
                    + ", ".join(variable.of),
                )
        # A Variable's condition may mention computed ones again; conditions have no cycles, so this ends.
        gates: list[Rule] = []
        for name in given:
            for gate in self._gates[name]:
                if gate not in gates:
                    gates.append(gate)
        return tuple(self.condition(gate, set(gate.names())) for gate in gates)

    def _rule(self, rule: Rule) -> Rule:
        if isinstance(rule, Compare):
            return Compare(rule.op, self._expr(rule.left), self._expr(rule.right))
        if isinstance(rule, Not):
            return Not(self._rule(rule.item))
        assert isinstance(rule, All | Any_)
        return type(rule)(tuple(self._rule(item) for item in rule.items))

    def _expr(self, expr: Expr) -> Expr:
        if isinstance(expr, Ref):
            return self._values.get(expr.name, expr)
        if isinstance(expr, Arith):
            return Arith(expr.op, self._expr(expr.left), self._expr(expr.right))
        return expr
