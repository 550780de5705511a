"""From Variables to a table, and between configurations and columns: Python, without a counterpart in C."""

from __future__ import annotations

from typing import Any

from benchmarks.kernels.harness import Work, work
from dspex.compiler.lower.lowering import lower
from dspex.core import abi
from dspex.program.rules import Rule
from dspex.program.variables import Choice, Float, Int, Text, Var


def mixed(rows: int) -> tuple[list[Var[Any]], list[Rule]]:
    """Every second kind, a third conditional, a rule for every fourth row."""
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode]
    for index in range(rows - 1):
        when, name = mode.is_("b") if index % 3 == 2 else None, f"v{index}"
        if index % 4 == 0:
            variables.append(Float(name, 0, 1, when=when))
        elif index % 4 == 1:
            variables.append(Int(name, 1, 64, when=when))
        elif index % 4 == 2:
            variables.append(Choice(name, ("x", "y", "z"), when=when))
        else:
            variables.append(Text(name, ("short", "long"), when=when))
    return variables, [variables[row + 1] + variables[row + 2] <= 60 for row in range(0, rows - 3, 4)]


def _register(rows: int) -> None:
    @work(f"lower {rows:,} Variables")
    def _() -> Work:
        variables, rules = mixed(rows)
        return Work(ours=lambda: lower(variables, rules), units=rows, unit="Variables")

    @work(f"check a table of {rows:,} rows")
    def _() -> Work:
        blob = abi.to_bytes(lower(*mixed(rows)).table)
        return Work(ours=lambda: abi.validate_blob(blob), units=rows, unit="rows")


_register(40)
_register(10_000)


@work("encode one configuration of 40")
def _() -> Work:
    space = lower(*mixed(40))
    return Work(ours=lambda: space.encode(space.defaults), units=1, unit="configurations")


@work("decode one configuration of 40")
def _() -> Work:
    space = lower(*mixed(40))
    return Work(ours=lambda: space.decode(space.default), units=1, unit="configurations")
