"""Why a default configuration breaks a rule: it was chosen badly, or no configuration obeys the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dspex.compiler.lower import feasible
from dspex.compiler.lower.rows import Form, build_table, some, where_of
from dspex.errors import CompileError, CoreError
from dspex.program.variables import Var

__all__ = ["explain_default"]

SAMPLED: Final = 256
"""Most Variables, and most rules, over which a search by sampling is tried."""
_REDUCED: Final = 32
_SEARCHES: Final = 32


def explain_default(
    rows: Sequence[Var[Any]], conditions: Mapping[str, Form], forms: Sequence[Form], broken: Sequence[Form]
) -> CompileError:
    """The error for rules that the default configuration breaks.

    Only rules and Variables that a broken one depends on are searched: the others cannot matter.

    Args:
        rows: The Variables in row order.
        conditions: Their conditions.
        forms: The rules.
        broken: Those that the default breaks, at least one.

    Returns:
        DX2105 when no configuration obeys the rules, else DX2106.
    """
    effective = {name: form.plain for name, form in conditions.items()}
    plain = [form.plain for form in forms]
    seen: set[int] = set()
    for form in broken[:_SEARCHES]:
        if id(form) in seen:
            continue
        rules, variables = feasible.related(plain, [form.plain], rows, effective)
        wanted = set(map(id, rules))
        group = [other for other in forms if id(other.plain) in wanted]
        seen.update(map(id, group))
        answer = feasible.satisfiable(rules, variables, effective)
        if answer is None and max(len(variables), len(rules)) <= SAMPLED:
            answer = _sampled(variables, conditions, group)
        if answer is False:
            core = _core(group, variables, effective)
            names = frozenset[str]().union(*(other.names for other in core))
            involved = [variable for variable in variables if variable.name in names]
            return CompileError(
                "DX2105",
                f"no configuration obeys these rules together: {some([str(other.shown) for other in core], '; ')}",
                where=where_of(involved),
                fix="drop one of them, or widen the domains of " + some([variable.name for variable in involved]),
            )
    first = broken[0]
    involved = [variable for variable in rows if variable.name in first.names]
    return CompileError(
        "DX2106",
        f"the default configuration breaks the rule {first.shown}: "
        + some([f"{variable.name} = {variable.default!r:.80}" for variable in involved]),
        where=where_of(involved),
        fix="change these defaults so that the rule holds",
    )


def _sampled(variables: Sequence[Var[Any]], conditions: Mapping[str, Form], forms: Sequence[Form]) -> bool | None:
    """False when sampling finds nothing that obeys the rules."""
    from dspex.core.population import Sampler

    table = build_table(variables, conditions, forms)
    try:
        Sampler(table, [str(form.shown) for form in forms]).sample(64, 0)
    except CoreError:
        return False
    return None


def _core(forms: Sequence[Form], variables: Sequence[Var[Any]], conditions: Mapping[str, Any]) -> list[Form]:
    """A smaller set of rules that still cannot hold, where the spaces are small enough to tell."""
    core = list(forms)
    if len(core) > _REDUCED:
        return core
    for form in forms:
        rest = [other for other in core if other is not form]
        if rest and feasible.satisfiable([other.plain for other in rest], variables, conditions) is False:
            core = rest
    return core
