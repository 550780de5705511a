"""Lowering: Variables and rules become the flat parameter table, and configurations its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspex.compiler.lower import feasible
from dspex.compiler.lower.bytecode import check_form
from dspex.compiler.lower.conflicts import explain_default
from dspex.compiler.lower.inlining import Inliner
from dspex.compiler.lower.lowered import Lowered, Note
from dspex.compiler.lower.rows import Form, build_table, domain_text, some, where_of
from dspex.errors import CompileError
from dspex.program.computed import Computed
from dspex.program.rules import Rule
from dspex.program.variables import Demos, Text, Var

__all__ = ["Lowered", "Note", "lower"]


def lower(variables: Sequence[Var[Any]], rules: Sequence[Rule] = ()) -> Lowered:
    """Check a space and bring it into the core's form; none of the user's functions is called.

    Raises:
        CompileError: DX2101 for a name that is not a Variable's, DX2102 for a name given twice, DX2103 and DX2117 for
            a cycle, DX2104 and DX2105 for rules that cannot hold, DX2106 when the default breaks a rule, DX2107 for
            integers beyond 2**53, DX2108 to DX2110, DX2115 and DX2118 for what the rule machine cannot compute.
    """
    by_name = _by_name(variables)
    written = [(rule, check_form(rule, by_name, rule)) for rule in rules]
    for rule, names in written:
        _known(names, by_name, f"the rule {rule}", None)
    ordered = _order(by_name)
    computed = tuple(variable for variable in ordered if isinstance(variable, Computed))
    rows = tuple(variable for variable in ordered if not isinstance(variable, Computed))
    inliner = Inliner(computed, by_name)
    notes: list[Note] = []
    conditions: dict[str, Form] = {}
    for variable in rows:
        if variable.when is not None:
            form = _condition(variable.when, by_name, inliner)
            # A condition that always holds, over what is always active, is none.
            if form.folded is not True or not form.names.isdisjoint(conditions):
                conditions[variable.name] = form
            if form.folded is False:
                notes += _never_active(variable, form, by_name)
    kept: list[Form] = []
    settled: list[Rule] = []
    for rule, names in written:
        plain = inliner.rule(rule, names)
        names = names if plain is rule else check_form(plain, by_name, rule)
        form = Form(rule, plain, feasible.fold(plain, by_name), frozenset(names))
        _check_possible(form, by_name)
        if form.folded is True:
            settled.append(rule)
            notes += _always_holds(form, by_name)
        else:
            kept.append(form)
    table = build_table(rows, conditions, kept)
    effective = {name: form.plain for name, form in conditions.items()}
    _check_default(rows, conditions, effective, kept)
    shown = tuple(form.shown for form in kept)
    return Lowered(table, rows, shown, computed, tuple(settled), effective, tuple(notes))


def _by_name(variables: Sequence[Var[Any]]) -> dict[str, Var[Any]]:
    by_name: dict[str, Var[Any]] = {}
    for variable in variables:
        if variable.name in by_name:
            raise CompileError(
                "DX2102", f"two Variables are named {variable.name!r}", where=where_of([variable]), fix="rename one"
            )
        by_name[variable.name] = variable
    for variable in variables:
        if variable.when is not None:
            names = check_form(variable.when, by_name, variable.when)
            _known(names, by_name, f"the condition of {variable.name!r}, {variable.when},", variable)
        if isinstance(variable, Computed):
            _known(variable.of, by_name, f"the computed Variable {variable.name!r}", variable)
    return by_name


def _known(names: Iterable[str], by_name: Mapping[str, Var[Any]], subject: str, variable: Var[Any] | None) -> None:
    unknown = sorted(name for name in names if name not in by_name)
    if unknown:
        raise CompileError(
            "DX2101",
            f"{subject} mentions {', '.join(unknown)}, which is not a Variable of this space",
            where=where_of([variable] if variable else []),
            fix=f"Variables here: {some(sorted(by_name)) or 'none'}",
        )


def _order(by_name: Mapping[str, Var[Any]]) -> list[Var[Any]]:
    """Every Variable after those that it needs, otherwise in the order given."""
    done: dict[str, Var[Any]] = {}
    for root in by_name:
        # An explicit stack: a chain of conditions may be longer than Python's recursion limit.
        path: dict[str, list[str]] = {}
        pending = [root]
        while True:
            if pending:
                name = pending.pop()
                if name in done:
                    continue
                if name in path:
                    raise _cycle([*path, name], by_name)
                path[name] = pending
                pending = _needs(by_name[name])
            elif path:
                name, pending = path.popitem()
                done[name] = by_name[name]
            else:
                break
    return list(done.values())


def _needs(variable: Var[Any]) -> list[str]:
    """What a Variable's condition and value are made of, last first."""
    names: set[str] = set() if variable.when is None else set(variable.when.names())
    if isinstance(variable, Computed):
        names.update(variable.of)
    return sorted(names, reverse=True)


def _cycle(path: list[str], by_name: Mapping[str, Var[Any]]) -> CompileError:
    cycle = path[path.index(path[-1]) :]
    where = where_of([by_name[cycle[0]]])
    if any(isinstance(by_name[name], Computed) for name in cycle):
        return CompileError(
            "DX2117",
            f"computed Variables and conditions form a cycle: {' -> '.join(cycle)}",
            where=where,
            fix="compute one of these from other Variables, or drop its condition",
        )
    return CompileError(
        "DX2103",
        f"conditions form a cycle: {' -> '.join(cycle)}",
        where=where,
        fix="drop one of these when= conditions",
    )


# --- rules and conditions -----------------------------------------------------------------------


def _condition(when: Rule, by_name: Mapping[str, Var[Any]], inliner: Inliner) -> Form:
    names = check_form(when, by_name, when)
    plain = inliner.condition(when, names)
    names = names if plain is when else check_form(plain, by_name, when)
    return Form(when, plain, feasible.fold(plain, by_name), frozenset(names))


def _check_possible(form: Form, by_name: Mapping[str, Var[Any]]) -> None:
    part = feasible.dead_part(form.plain, by_name, form.folded)
    if part is None:
        return
    names = sorted(part.names())
    inside = "" if part in (form.plain, form.shown) else f", in the rule {form.shown}"
    raise CompileError(
        "DX2104",
        f"rule can never hold: {form.shown if part is form.plain else part} while "
        f"{_domains(names, by_name) or 'both sides are fixed'}{inside}",
        where=where_of([by_name[name] for name in names]),
        fix=f"widen the bounds of {some(names, ' or ')} or drop the rule" if names else "drop the rule",
    )


def _always_holds(form: Form, by_name: Mapping[str, Var[Any]]) -> list[Note]:
    names = sorted(form.names)
    if not _meant(names, by_name):
        return []
    domains = _domains(names, by_name)
    return [
        Note(
            "DX2114",
            f"rule always holds: {form.shown}" + (f" while {domains}" if domains else ""),
            where_of([by_name[name] for name in names]),
            "drop the rule, or tighten it",
        )
    ]


def _never_active(variable: Var[Any], form: Form, by_name: Mapping[str, Var[Any]]) -> list[Note]:
    names = sorted(form.names)
    if not _meant(names, by_name):
        return []
    domains = _domains(names, by_name)
    return [
        Note(
            "DX2116",
            f"Variable {variable.name!r} is never active: its condition {form.shown} never holds"
            + (f" while {domains}" if domains else ""),
            where_of([variable]),
            "correct the condition, or drop the Variable",
        )
    ]


def _meant(names: Iterable[str], by_name: Mapping[str, Var[Any]]) -> bool:
    """Whether the domains say what was meant: a fixed Variable and a pool that may grow decide nothing by mistake."""
    return not any(isinstance(by_name[name], Text | Demos) or feasible.single(by_name[name]) for name in names)


def _check_default(
    rows: Sequence[Var[Any]], conditions: Mapping[str, Form], effective: Mapping[str, Rule], forms: Sequence[Form]
) -> None:
    """The default configuration is asked first, so it must obey the rules; if it does, the rules can hold."""
    if not forms:
        return
    defaults = {variable.name: variable.default for variable in rows}
    active = feasible.active_names(defaults, rows, effective)
    broken = [form for form in forms if form.names <= active.keys() and not form.plain.test(active)]
    if broken:
        raise explain_default(rows, conditions, forms, broken)


# --- words --------------------------------------------------------------------------------------


def _domains(names: Iterable[str], by_name: Mapping[str, Var[Any]]) -> str:
    return some([f"{name} is in {domain_text(by_name[name])}" for name in names], " and ")
