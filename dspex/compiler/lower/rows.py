"""Variables as rows of the parameter table, with the code of their conditions and of the rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dspex.compiler.lower.bytecode import Assembler, option_index
from dspex.core.table import Kind, ParamTable
from dspex.errors import CompileError
from dspex.program.rules import All, Compare, Const, Ref, Rule
from dspex.program.variables import Choice, Float, Int, Var, place

__all__ = ["Form", "build_table", "domain_text", "some", "where_of"]

_EXACT: Final = 2**53
_SHOWN: Final = 20
_KINDS: Final = {kind.name.lower(): int(kind) for kind in Kind}


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A rule or a condition on its way into code.

    Attributes:
        shown: As it was written.
        plain: Over rows alone: computed Variables are written out.
        folded: Without what the domains decide.
        names: The rows that it speaks about; where one of them is inactive, a rule holds and a condition fails.
    """

    shown: Rule
    plain: Rule
    folded: Rule | bool
    names: frozenset[str]


def build_table(rows: Sequence[Var[Any]], conditions: Mapping[str, Form], rules: Sequence[Form]) -> ParamTable:
    """The validated table of Variables in row order.

    Args:
        rows: The Variables, each after those in its condition.
        conditions: The conditions that have an effect, by name.
        rules: The rules in order.
    """
    import numpy as np

    from dspex.core import abi

    by_name = {variable.name: variable for variable in rows}
    row_of = {name: row for row, name in enumerate(by_name)}
    code = Assembler(row_of, by_name, conditions.keys())
    for index, form in enumerate(rules):
        code.rule(index, form.folded, form.names)
    kind: list[int] = []
    numeric: list[tuple[int, float, float, float]] = []
    categories: list[tuple[int, int]] = []
    activity: list[tuple[int, int, int]] = []
    weights: list[float] = []
    for row, variable in enumerate(rows):
        kind.append(_KINDS[variable.kind])
        count = len(variable.options)
        categories.append((count, len(weights)))
        if count:
            numeric.append((0, 0.0, count - 1.0, 0.0))
            weights += _log_weights(variable)
        else:
            numeric.append(_bounds(variable))
        form = conditions.get(variable.name)
        gate = None if form is None else _gate(form, by_name)
        if form is None:
            activity.append((-1, 0, -1))
        elif gate is None:
            activity.append((-1, 0, code.condition(row, form.folded, form.names)))
        else:
            activity.append((row_of[gate[0]], gate[1], -1))
    log_flag, lo, hi, step = zip(*numeric, strict=True) if rows else ((), (), (), ())
    ncat, cat_off = zip(*categories, strict=True) if rows else ((), ())
    parent, parent_val, cond_pc = zip(*activity, strict=True) if rows else ((), (), ())
    table = ParamTable(
        kind=np.array(kind, dtype=np.uint8),
        log_flag=np.array(log_flag, dtype=np.uint8),
        lo=np.array(lo, dtype=np.float64),
        hi=np.array(hi, dtype=np.float64),
        step=np.array(step, dtype=np.float64),
        ncat=np.array(ncat, dtype=np.int32),
        cat_off=np.array(cat_off, dtype=np.int32),
        parent=np.array(parent, dtype=np.int32),
        parent_val=np.array(parent_val, dtype=np.int32),
        cond_pc=np.array(cond_pc, dtype=np.int32),
        cat_logp=np.array(weights, dtype=np.float64),
        op=np.array(code.op, dtype=np.uint8),
        arg=np.array(code.arg, dtype=np.int32),
        const=np.array(code.const, dtype=np.float64),
    )
    abi.validate(table)
    return table


def _gate(form: Form, by_name: Mapping[str, Var[Any]]) -> tuple[str, int] | None:
    """Name and category when the condition is one `is_` on a categorical Variable."""
    when = form.plain
    while isinstance(when, All) and len(when.items) == 1:
        when = when.items[0]
    if not isinstance(when, Compare) or when.op != "==":
        return None
    if not isinstance(when.left, Ref) or not isinstance(when.right, Const):
        return None
    index = option_index(by_name[when.left.name], when.right.constant)
    return None if index is None else (when.left.name, index)


def _bounds(variable: Var[Any]) -> tuple[int, float, float, float]:
    """log_flag, lo, hi (transformed) and step of a numeric Variable."""
    if isinstance(variable, Int):
        lo, hi, step, log = variable.lo, variable.hi, variable.step or 1, variable.log
        if max(abs(lo), abs(hi), hi - lo, step) > _EXACT:
            raise CompileError(
                "DX2107",
                f"integer Variable {variable.name!r} reaches beyond ±2**53: [{lo}, {hi}] step {step}",
                where=where_of([variable]),
                fix="narrow the bounds, or use a Float with log=True",
            )
    elif isinstance(variable, Float):
        lo, hi, step, log = variable.lo, variable.hi, variable.step or 0.0, variable.log
        # The logarithm of a tiny or huge bound, and sums of huge ones, must stay inside what kernels compute with.
        if (log and not (lo >= 1e-304 and hi <= 1e304)) or max(-lo, hi, step) > 1e300:
            raise CompileError(
                "DX2107",
                f"Float Variable {variable.name!r} reaches beyond what candidates can hold: [{lo!r}, {hi!r}]",
                where=where_of([variable]),
                fix="narrow the bounds to ±1e300, and to 1e-304 from zero on a logarithmic scale",
            )
    else:
        raise CompileError(
            "DX2112",
            f"Variable {variable.name!r} of kind {variable.kind} has an empty domain",
            where=where_of([variable]),
            fix="give it at least one option",
        )
    if log:
        return 1, math.log(lo), math.log(hi), float(step)
    return 0, float(lo), float(hi), float(step)


def _log_weights(variable: Var[Any]) -> list[float]:
    count = len(variable.options)
    given = variable.weights if isinstance(variable, Choice) else None
    if given is None:
        return [-math.log(count)] * count
    # Huge weights would overflow their sum.
    highest = max(given)
    scaled = [weight / highest for weight in given]
    total = math.fsum(scaled)
    return [math.log(weight / total) if weight > 0.0 else -math.inf for weight in scaled]


def domain_text(variable: Var[Any]) -> str:
    """A domain as errors print it: an interval, or the first options."""
    if isinstance(variable, Float | Int):
        return f"[{variable.lo}, {variable.hi}]"
    shown = ", ".join(f"{option!r:.60}" for option in variable.options[:8])
    return f"{{{shown}{', ...' if len(variable.options) > 8 else ''}}}"


def some(texts: Sequence[str], separator: str = ", ") -> str:
    """The first of many texts, and how many more there are."""
    more = len(texts) - _SHOWN
    return separator.join(texts[:_SHOWN]) + (f"{separator}{more} others" if more > 0 else "")


def where_of(variables: Iterable[Var[Any]]) -> str | None:
    return next((place(variable.at, variable.name) for variable in variables if variable.at is not None), None)
