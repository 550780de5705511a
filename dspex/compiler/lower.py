"""Lowering: Variables and rules become the flat parameter table, and configurations its columns."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dspex.compiler import feasible
from dspex.compiler.bytecode import Assembler
from dspex.errors import CompileError
from dspex.program.rules import All, Compare, Const, Ref, Rule, same
from dspex.program.variables import Choice, Float, Int, Var

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dspex.core.abi import ParamTable
    from dspex.core.population import Sampler

__all__ = ["Lowered", "lower"]

_EXACT = 2**53


@dataclass(frozen=True, eq=False)
class Lowered:
    """A space in the core's form.

    Attributes:
        table: The validated parameter table; row i is Variable `names[i]`.
        variables: The Variables in row order, parents before children.
        rules: The rules in the order of the table's code.
    """

    table: ParamTable
    variables: tuple[Var[Any], ...]
    rules: tuple[Rule, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each row."""
        return tuple(variable.name for variable in self.variables)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each name."""
        return {variable.name: row for row, variable in enumerate(self.variables)}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default configuration, inactive Variables included."""
        return {variable.name: variable.default for variable in self.variables}

    @cached_property
    def default(self) -> NDArray[np.float64]:
        """The default configuration as a column."""
        return self.encode({})

    @cached_property
    def sampler(self) -> Sampler:
        """Draws candidates under the rules."""
        from dspex.core.population import Sampler

        return Sampler(self.table, [str(rule) for rule in self.rules], self.default)

    def active(self, config: Mapping[str, object]) -> frozenset[str]:
        """Names of the Variables that are active under `config`; what it lacks is at its default."""
        return frozenset(feasible.active_names({**self.defaults, **config}, self.variables))

    def encode(self, config: Mapping[str, object]) -> NDArray[np.float64]:
        """The column of a configuration, (D,) float64; what it lacks is at its default, inactive rows are NaN.

        Raises:
            ProgramError: for a value outside its domain.
            CompileError: DX2111 for an unknown name.
        """
        import numpy as np

        from dspex.core.kernels import encode

        unknown = sorted(config.keys() - self.rows.keys())
        if unknown:
            raise CompileError("DX2111", f"no Variable is named {', '.join(unknown)}", fix="see space.variables")
        active = feasible.active_names({**self.defaults, **config}, self.variables)
        values = np.full((len(self.variables), 1), np.nan)
        for row, variable in enumerate(self.variables):
            if variable.name in active:
                value = variable.canonical(active[variable.name])
                values[row, 0] = _index(variable, value) if variable.options else value
        column = np.empty_like(values)
        encode.encode(self.table, values, column)
        return column[:, 0]

    def decode(self, column: NDArray[np.float64]) -> dict[str, Any]:
        """The full configuration of a column: Python values by name, inactive Variables at their defaults."""
        import numpy as np

        from dspex.core import checks
        from dspex.core.kernels import encode

        population = checks.population(self.table, np.ascontiguousarray(column, dtype=np.float64).reshape(-1, 1))
        values = np.empty_like(population)
        encode.decode(self.table, population, values)
        config: dict[str, Any] = {}
        for row, variable in enumerate(self.variables):
            value = float(values[row, 0])
            if math.isnan(value):
                config[variable.name] = variable.default
            elif variable.options:
                config[variable.name] = variable.options[int(value)]
            elif isinstance(variable, Int):
                config[variable.name] = min(max(int(value), variable.lo), variable.hi)
            else:
                config[variable.name] = _float(variable, value)
        return config

    def sample(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Random configurations that obey the rules.

        Raises:
            CoreError: DX3010 when none was found, naming the rules.
        """
        population = self.sampler.sample(n, seed & (2**63 - 1))
        return [self.decode(population[:, index]) for index in range(n)]


def lower(variables: Sequence[Var[Any]], rules: Sequence[Rule] = ()) -> Lowered:
    """Check a space and bring it into the core's form.

    Raises:
        CompileError: DX2101 for a name that is not a Variable's, DX2102 for a name given twice, DX2103 for a cycle of
            conditions, DX2104 and DX2105 for rules that cannot hold, DX2106 when the default breaks a rule, DX2107 for
            integers beyond 2**53.
    """
    import numpy as np

    from dspex.core import abi

    by_name = _by_name(variables, rules)
    ordered = _order(by_name)
    _check_rules(rules, ordered)
    rows = {variable.name: row for row, variable in enumerate(ordered)}
    guarded = frozenset(variable.name for variable in ordered if variable.when is not None)
    code = Assembler(rows, by_name)
    for index, rule in enumerate(rules):
        code.rule(index, rule, guarded)

    count = len(ordered)
    integers = {name: np.zeros(count, dtype=np.int32) for name in ("ncat", "cat_off", "parent_val")}
    parent, cond_pc = np.full(count, -1, dtype=np.int32), np.full(count, -1, dtype=np.int32)
    kind, log_flag = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.uint8)
    lo, hi, step = np.zeros(count), np.zeros(count), np.zeros(count)
    weights: list[NDArray[np.float64]] = []
    offset = 0
    for row, variable in enumerate(ordered):
        kind[row] = abi.Kind[variable.kind.upper()]
        integers["cat_off"][row] = offset
        if variable.options:
            hi[row] = len(variable.options) - 1.0
            integers["ncat"][row] = len(variable.options)
            weights.append(_log_weights(variable))
            offset += len(variable.options)
        else:
            log_flag[row], lo[row], hi[row], step[row] = _bounds(variable)
        if variable.when is not None:
            gate = _gate(variable.when, by_name)
            if gate is None:
                cond_pc[row] = code.condition(row, variable.when, guarded)
            else:
                parent[row], integers["parent_val"][row] = rows[gate[0]], gate[1]
    table = abi.ParamTable(
        kind=kind,
        log_flag=log_flag,
        lo=lo,
        hi=hi,
        step=step,
        parent=parent,
        cond_pc=cond_pc,
        cat_logp=np.concatenate(weights) if weights else np.zeros(0),
        op=np.array(code.op, dtype=np.uint8),
        arg=np.array(code.arg, dtype=np.int32),
        const=np.array(code.const, dtype=np.float64),
        **integers,
    )
    abi.validate(table)
    lowered = Lowered(table, tuple(ordered), tuple(rules))
    _check_default(lowered)
    return lowered


def _by_name(variables: Sequence[Var[Any]], rules: Sequence[Rule]) -> dict[str, Var[Any]]:
    by_name: dict[str, Var[Any]] = {}
    for variable in variables:
        if variable.name in by_name:
            raise CompileError(
                "DX2102", f"two Variables are named {variable.name!r}", where=_where([variable]), fix="rename one"
            )
        by_name[variable.name] = variable
    for rule in rules:
        _known(rule, by_name, f"the rule {rule}", None)
    for variable in variables:
        if variable.when is not None:
            _known(variable.when, by_name, f"the condition of {variable.name!r}, {variable.when},", variable)
    return by_name


def _known(rule: Rule, by_name: Mapping[str, Var[Any]], subject: str, variable: Var[Any] | None) -> None:
    unknown = sorted(rule.names() - by_name.keys())
    if unknown:
        raise CompileError(
            "DX2101",
            f"{subject} mentions {', '.join(unknown)}, which is not a Variable of this space",
            where=_where([variable] if variable else []),
            fix=f"Variables here: {', '.join(sorted(by_name)) or 'none'}",
        )


def _order(by_name: Mapping[str, Var[Any]]) -> list[Var[Any]]:
    """Every Variable after those that its condition mentions, otherwise in the order given."""
    ordered: list[Var[Any]] = []
    done: set[str] = set()
    for root in by_name:
        # An explicit stack: a chain of conditions may be longer than Python's recursion limit.
        path: list[tuple[str, list[str]]] = []
        pending: list[str] = [root]
        while True:
            if pending:
                name = pending.pop()
                if name in done:
                    continue
                trail = [entry[0] for entry in path]
                if name in trail:
                    cycle = [*trail[trail.index(name) :], name]
                    raise CompileError(
                        "DX2103",
                        f"conditions form a cycle: {' -> '.join(cycle)}",
                        where=_where([by_name[each] for each in cycle[:1]]),
                        fix="drop one of these when= conditions",
                    )
                path.append((name, pending))
                when = by_name[name].when
                pending = sorted(when.names(), reverse=True) if when is not None else []
            elif path:
                name, pending = path.pop()
                done.add(name)
                ordered.append(by_name[name])
            else:
                break
    return ordered


def _check_rules(rules: Sequence[Rule], ordered: Sequence[Var[Any]]) -> None:
    by_name = {variable.name: variable for variable in ordered}
    for rule in rules:
        part = feasible.dead_part(rule, by_name)
        if part is None:
            continue
        names = sorted(part.names())
        domains = " and ".join(f"{name} is in {_domain(by_name[name])}" for name in names)
        inside = "" if part == rule else f", in the rule {rule}"
        raise CompileError(
            "DX2104",
            f"rule can never hold: {part} while {domains or 'both sides are fixed'}{inside}",
            where=_where([by_name[name] for name in names]),
            fix=f"widen the bounds of {' or '.join(names)} or drop the rule" if names else "drop the rule",
        )


def _check_default(lowered: Lowered) -> None:
    """The default configuration is asked first, so it must obey the rules; if it does, the rules can hold."""
    rules, ordered = lowered.rules, lowered.variables
    active = feasible.active_names(lowered.defaults, ordered)
    broken = [rule for rule in rules if not rule.holds(active)]
    if not broken:
        return
    answer = feasible.satisfiable(rules, ordered)
    if answer is None:
        from dspex.errors import CoreError

        try:
            lowered.sampler.sample(64, 0)
        except CoreError:
            answer = False
    involved = [variable for variable in ordered if any(variable.name in rule.names() for rule in broken)]
    if answer is False:
        raise CompileError(
            "DX2105",
            f"no configuration obeys these rules together: {'; '.join(map(str, _core(rules, ordered)))}",
            where=_where(involved),
            fix="drop one of them, or widen the domains of " + ", ".join(variable.name for variable in involved),
        )
    values = ", ".join(f"{variable.name} = {variable.default!r}" for variable in involved)
    raise CompileError(
        "DX2106",
        f"the default configuration breaks the rule {broken[0]}: {values}",
        where=_where(involved),
        fix="change these defaults so that the rule holds",
    )


def _core(rules: Sequence[Rule], ordered: Sequence[Var[Any]]) -> list[Rule]:
    """A smaller set of rules that still cannot hold, where the spaces are small enough to tell."""
    core = list(rules)
    for rule in rules:
        rest = [other for other in core if other is not rule]
        if rest and feasible.satisfiable(rest, ordered) is False:
            core = rest
    return core


def _gate(when: Rule, by_name: Mapping[str, Var[Any]]) -> tuple[str, int] | None:
    """Name and category when the condition is one `is_` on a categorical Variable."""
    if isinstance(when, All) and len(when.items) == 1:
        return _gate(when.items[0], by_name)
    if not isinstance(when, Compare) or when.op != "==":
        return None
    if not isinstance(when.left, Ref) or not isinstance(when.right, Const):
        return None
    wanted = when.right.constant
    for index, option in enumerate(by_name[when.left.name].options):
        if same(option, wanted):
            return when.left.name, index
    return None


def _bounds(variable: Var[Any]) -> tuple[int, float, float, float]:
    """log_flag, lo, hi (transformed) and step of a numeric Variable."""
    if isinstance(variable, Int):
        lo, hi, step, log = variable.lo, variable.hi, variable.step or 1, variable.log
        if max(abs(lo), abs(hi), hi - lo, step) > _EXACT:
            raise CompileError(
                "DX2107",
                f"integer Variable {variable.name!r} reaches beyond ±2**53: [{lo}, {hi}] step {step}",
                where=_where([variable]),
                fix="narrow the bounds, or use a Float with log=True",
            )
    elif isinstance(variable, Float):
        lo, hi, step, log = variable.lo, variable.hi, variable.step or 0.0, variable.log
    else:
        raise CompileError(
            "DX2112",
            f"Variable {variable.name!r} of kind {variable.kind} has an empty domain",
            where=_where([variable]),
            fix="give it at least one option",
        )
    if log:
        return 1, math.log(lo), math.log(hi), float(step)
    return 0, float(lo), float(hi), float(step)


def _log_weights(variable: Var[Any]) -> NDArray[np.float64]:
    import numpy as np

    given = variable.weights if isinstance(variable, Choice) else None
    weights = np.array(given if given is not None else np.ones(len(variable.options)), dtype=np.float64)
    weights /= weights.max()
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum())


def _index(variable: Var[Any], value: object) -> float:
    for index, option in enumerate(variable.options):
        if option is value or same(option, value):
            return float(index)
    raise CompileError("DX2113", f"{value!r} is not one of the options of {variable.name!r}")


def _float(variable: Var[Any], value: float) -> float:
    if not isinstance(variable, Float):
        return value
    # A default, or a bound, with more digits than a decoded value has must come back as it was written.
    if variable.log:
        for exact in (variable.default, variable.lo, variable.hi):
            if float(f"{exact:.12g}") == value:
                return exact
    return min(max(value, variable.lo), variable.hi)


def _domain(variable: Var[Any]) -> str:
    if isinstance(variable, Float | Int):
        return f"[{variable.lo}, {variable.hi}]"
    shown = ", ".join(repr(option) for option in variable.options[:8])
    return f"{{{shown}{', ...' if len(variable.options) > 8 else ''}}}"


def _where(variables: Iterable[Var[Any]]) -> str | None:
    for variable in variables:
        at = variable.at
        if at is not None:
            file = os.path.relpath(at[0]) if at[0].startswith(os.getcwd() + os.sep) else at[0]
            return f"{file}:{at[1]}  {variable.name}"
    return None
