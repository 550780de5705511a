"""A few tables with every kind of row, condition and instruction."""

from __future__ import annotations

from typing import Any

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.abi import ParamTable
from dspex.core.exercise import tiny_table
from dspex.program.demos import Demo, DemoSet
from dspex.program.rules import Compare, Ref, Rule, one_of
from dspex.program.variables import Bool, Branch, Choice, Demos, Float, Int, Text, Var


def everything() -> tuple[list[Var[Any]], list[Rule]]:
    """Every kind, conditions of both forms, and rules with every instruction."""
    solver = Branch("solver", ("predict", "cot"))
    style = Choice("style", ("plain", "terse", None), weights=(3, 1, 1))
    k = Int("k", 1, 8, default=2)
    wide = Int("wide", 1, 1000, log=True, default=10, when=solver.is_("cot"))
    rate = Float("rate", 1e-3, 1.0, log=True, default=0.1)
    share = Float("share", 0.0, 1.0, step=0.25, default=0.25, when=(k >= 2) & style.is_not("terse"))
    number = Choice("number", (1, 2, 8))
    other = Choice("other", ("terse", "plain"), default="plain")
    flag = Bool("flag", when=wide <= 100)
    text = Text("text", ("one", "two"), when=solver.is_("predict"))
    demos = Demos("demos", (DemoSet(()), DemoSet((Demo({"q": 1}, {"a": 2}),))))
    variables: list[Var[Any]] = [solver, style, k, wide, rate, share, number, other, flag, text, demos]
    rules = [
        k * number <= 16,
        style.is_("terse").implies(k < 4),
        share + rate >= 0.1,
        Compare("==", Ref("style"), Ref("other")) | (k > 1),
        one_of(flag.is_(True), wide < 900),
        ~(rate - share > 0.9),
    ]
    return variables, rules


def lowered() -> Lowered:
    return lower(*everything())


def tables() -> list[ParamTable]:
    return [tiny_table(), lowered().table]
