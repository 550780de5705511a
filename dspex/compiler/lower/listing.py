"""The parameter table as text: one row a line, then the rules with their instructions, then what is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dspex.compiler.lower.bytecode import FIRST_TOKEN
from dspex.core.table import Op
from dspex.program.variables import Choice, Demos, Float, Int, Text, Var

if TYPE_CHECKING:
    from dspex.compiler.lower.lowered import Lowered

__all__ = ["listing"]


def listing(lowered: Lowered) -> str:
    """Canonical text of a lowered space; equal spaces have equal texts."""
    table = lowered.table
    programs = list(_programs(lowered))
    starts = {int(pc): row for row, pc in enumerate(table.cond_pc) if pc >= 0}
    lines = [
        f"table {_count(len(lowered.variables), 'row')}, {_count(len(lowered.rules), 'rule')}, "
        f"{_count(int(table.op.size), 'instruction')}"
    ]
    for row, variable in enumerate(lowered.variables):
        lines.append(f"  {row} {_name(variable.name)}: {_domain(variable)}{_activity(lowered, row)}")
    for index, (rule, (_, code)) in enumerate(zip(lowered.rules, programs, strict=False)):
        lines += (f"rule {index}: {_line(str(rule))}", f"  {code}")
    for start, code in programs[len(lowered.rules) :]:
        variable = lowered.variables[starts[start]]
        lines += (f"condition {_name(variable.name)}: {_line(str(variable.when))}", f"  {code}")
    lines += (f"always: {_line(str(rule))}" for rule in lowered.settled)
    for variable in lowered.computed:
        when = "" if variable.when is None else f" when {_line(str(variable.when))}"
        lines.append(f"computed {_name(variable.name)} = {_line(variable.domain)}{when}")
    return "\n".join(lines) + "\n"


def _programs(lowered: Lowered) -> Iterator[tuple[int, str]]:
    """Start and text of each program in the code."""
    table = lowered.table
    start, words = 0, list[str]()
    for pc, (op, arg) in enumerate(zip(table.op.tolist(), table.arg.tolist(), strict=True)):
        if op == Op.END:
            yield start, ", ".join(words)
            start, words = pc + 1, []
            continue
        word = str(Op(op).name).lower()
        if op == Op.CONST:
            word += f" {_number(float(table.const[arg]))}"
        elif op == Op.LOOKUP:
            count = int(table.ncat[table.arg[pc - 1]])
            word += f" {{{', '.join(_number(value) for value in table.const[arg : arg + count].tolist())}}}"
        elif op in (Op.LOAD, Op.ACTIVE):
            word += f" {_name(lowered.names[int(arg)])}"
        words.append(word)


def _domain(variable: Var[Any]) -> str:
    """Kind, bounds in natural units or categories, and default."""
    default = variable.default
    if isinstance(variable, Float | Int):
        text = f"{variable.kind} [{variable.lo!r}, {variable.hi!r}]"
        text += " log" if variable.log else "" if variable.step is None else f" step {variable.step!r}"
        return f"{text} = {default!r}"
    if isinstance(variable, Text | Demos):
        # Pools hold whole prompts and data sets; explain shows them.
        return f"{variable.kind} pool of {len(variable.pool)} = {_index(variable)}"
    options = [_option(option) for option in variable.options]
    if isinstance(variable, Choice) and variable.weights is not None:
        total = math.fsum(variable.weights)
        options = [f"{text}: {weight / total:.6g}" for text, weight in zip(options, variable.weights, strict=True)]
    return f"{variable.kind} {{{', '.join(options)}}} = {_option(default)}"


def _index(variable: Text | Demos) -> int:
    return next(index for index, option in enumerate(variable.pool) if option == variable.default)


def _option(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _activity(lowered: Lowered, row: int) -> str:
    table = lowered.table
    variable = lowered.variables[row]
    if table.parent[row] < 0 and table.cond_pc[row] < 0:
        return ""
    return f" when {_line(str(variable.when))}"


def _number(value: float) -> str:
    if FIRST_TOKEN <= value < math.inf:
        # The number that stands for a text or another value without arithmetic.
        return f"#{round((value / FIRST_TOKEN - 1.0) * 2.0**40)}"
    return f"{value:.0f}" if abs(value) < 1e15 and value == math.floor(value) else repr(value)


def _name(name: str) -> str:
    return name if name.isprintable() and name else repr(name)


def _line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
