"""A space: Variables with the rules between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from enum import Enum
from typing import Any, cast

from dspex.errors import ProgramError
from dspex.program.checks import Checks
from dspex.program.computed import Computed, cycle_of_computed, fill, sorted_by_need, spelled
from dspex.program.demos import canonical_json, content_hash
from dspex.program.rules import All, Any_, Arith, Compare, Const, Not, Ref, Rule, is_json_scalar, refuse_deep, same
from dspex.program.variables import Choice, Demos, Float, Int, Var, place, written_at

__all__ = ["Space"]

Config = dict[str, object]

_LISTED = 20


class Space:
    """Variables with their rules: everything that an optimizer searches.

    Attributes:
        variables: The Variables, by name.
        rules: The rules between them.
        order: Names, every one after those that its condition or its computation mentions.
        computed: The computed Variables, in that order.

    Raises:
        ProgramError: DX1405 for two Variables of one name, DX1303 for a rule, a condition or a computed Variable over
            an unknown Variable, DX1306 for conditions that depend on each other in a cycle, DX1216 where computed
            Variables take part in it.
    """

    def __init__(self, variables: Sequence[Var[Any]], rules: Sequence[Rule] = ()) -> None:
        self.variables: dict[str, Var[Any]] = {}
        for variable in variables:
            if not variable.name:
                raise ProgramError("DX1213", "a Variable of a space needs a name", where=place(variable.at))
            if variable.name in self.variables:
                raise same_name(variable.name, self.variables[variable.name], variable)
            self.variables[variable.name] = variable
        for rule in rules:
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _not_a_rule(rule)
            refuse_deep(rule)
            _known(rule.names(), self.variables, "rule", rule)
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._needs = self._needed()
        self.order: tuple[str, ...] = tuple(
            sorted_by_need({name: self._needs.get(name, ()) for name in self.variables}, self._cycle)
        )
        self.computed: tuple[Computed[Any], ...] = tuple(
            cast("Computed[Any]", self.variables[name])
            for name in self.order
            if isinstance(self.variables[name], Computed)
        )
        self._sources = frozenset(name for variable in self.computed for name in variable.of)
        self._checks: Checks | None = None
        self._setters: dict[str, Callable[[object], object]] | None = None

    def _needed(self) -> dict[str, tuple[str, ...]]:
        """For every Variable with a condition or a computation, what that mentions."""
        needs: dict[str, tuple[str, ...]] = {}
        for name, variable in self.variables.items():
            names: tuple[str, ...] = ()
            if variable.when is not None:
                _known(variable.when.names(), self.variables, f"condition of {name!r}", variable.when)
                names = tuple(sorted(variable.when.names()))
            if isinstance(variable, Computed):
                _known(variable.of, self.variables, f"computed Variable {name!r}", variable.domain)
                names += tuple(other for other in variable.of if other not in names)
            if names:
                needs[name] = names
        return needs

    def _cycle(self, cycle: list[str]) -> ProgramError:
        if any(isinstance(self.variables[name], Computed) for name in cycle):
            return cycle_of_computed(cycle, self.variables)
        first = self.variables[cycle[0]]
        return ProgramError(
            "DX1306",
            f"conditions depend on each other in a cycle: {spelled(cycle)}",
            where=place(first.at, cycle[0]),
            fix="drop one of these conditions",
        )

    def __getstate__(self) -> dict[str, object]:
        # Closures and bound methods are made again where they are used.
        return {**self.__dict__, "_checks": None, "_setters": None}

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def default(self) -> Config:
        """Every Variable at its default, computed ones at what follows from that."""
        config = {name: variable.default for name, variable in self.variables.items()}
        fill(self.computed, config)
        return config

    @property
    def checks(self) -> Checks:
        """Conditions and rules, prepared for many configurations; made at the first use."""
        if self._checks is None:
            self._checks = Checks(self.variables, self.order, self._needs, self.rules)
        return self._checks

    def active(self, config: Mapping[str, object]) -> frozenset[str]:
        """Names of the Variables whose condition holds; one that depends on an inactive Variable is inactive.

        Args:
            config: A full configuration.
        """
        return self.checks.all - self.checks.inactive(config)

    def broken(self, config: Mapping[str, object]) -> tuple[Rule, ...]:
        """The rules that the full configuration `config` breaks."""
        return tuple(self.checks.broken(config)) if self.rules else ()

    def validate(self, config: Mapping[str, object]) -> Config:
        """`config` completed with defaults and computed values, in the canonical form of every value.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 for a
                broken rule, DX1406 for a computed Variable with another value than it has.
        """
        return self.rebound(self.default(), config)

    def rebound(self, config: Mapping[str, object], changes: Mapping[str, object]) -> Config:
        """The full canonical configuration `config` with `changes`, validated: the fast path of binding.

        Only `changes` are brought into their canonical form; rules and conditions are decided by prepared closures.

        Raises:
            ProgramError: As `validate` does.
        """
        full = dict(config)
        setters = self._setters
        if setters is None:
            setters = self._setters = {
                name: variable.canonical
                for name, variable in self.variables.items()
                if not isinstance(variable, Computed)
            }
        claimed: Config | None = None
        for name, value in changes.items():
            setter = setters.get(name)
            if setter is None:
                if name not in self.variables:
                    raise unknown_variable(name, self.variables)
                claimed = {} if claimed is None else claimed
                claimed[name] = value
            else:
                full[name] = setter(value)
        if claimed is not None or not self._sources.isdisjoint(changes):
            self.settle(full, claimed or {})
        if self.rules:
            broken = self.checks.broken(full)
            if broken:
                raise broken_rule(broken[0], full)
        return full

    def completed(self, config: Mapping[str, object]) -> Config:
        """The full canonical configuration `config` with the computed values that follow from the others."""
        full = dict(config)
        fill(self.computed, full)
        return full

    def settle(self, config: Config, claimed: Mapping[str, object]) -> None:
        """Put the computed values into `config`, whose other values are canonical.

        Args:
            config: Changed in place.
            claimed: Values that were given for computed Variables: a full configuration may be bound again.

        Raises:
            ProgramError: DX1406, when one of `claimed` is not what follows from `config`.
        """
        fill(self.computed, config)
        for name, value in claimed.items():
            known = config[name]
            if known is not value and not same(known, value):
                raise cast("Computed[Any]", self.variables[name]).refused(value)

    def replaced(self, variables: Mapping[str, Var[Any]]) -> Space:
        """A copy with other Variables of the same names, kinds and conditions: pools that grew, or were narrowed."""
        other = copy(self)
        other.variables = {**self.variables, **variables}
        other._checks = self._checks
        return other

    def identity(self, config: Mapping[str, object]) -> str:
        """Content hash of the active values: equal for configurations that mean the same.

        Computed values follow from the others and do not count.
        """
        active = self.active(config)
        values = {
            name: variable.to_json(config[name]) if variable.kind != "demos" else variable.canonical(config[name]).hash
            for name, variable in self.variables.items()
            if name in active and variable.kind != "computed"
        }
        return content_hash(canonical_json(values))

    def describe(self) -> dict[str, object]:
        """Every Variable and rule as plain JSON data, for people and programs that read it.

        Values that JSON lacks are their repr, and pools of demonstrations their hashes: `Var.to_document` is the form
        that can be read back.
        """
        return {
            "variables": [_described(variable) for variable in self.variables.values()],
            "rules": [str(rule) for rule in self.rules],
        }

    def __str__(self) -> str:
        count = f"{len(self.variables)} Variable{'' if len(self.variables) == 1 else 's'}"
        lines = [f"{count}, {len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"]
        width = min(max(map(len, self.variables), default=0), 40)
        for name, variable in self.variables.items():
            if isinstance(variable, Computed):
                text = f"computed as {variable.domain}"
            else:
                shown = variable.default.hash if isinstance(variable, Demos) else _readable(variable.default)
                text = f"{variable.domain}, by default {_shortened(str(shown))}"
            condition = "" if variable.when is None else f", when {variable.when}"
            lines.append(f"  {name:<{width}}  {_shortened(text, 100)}{condition}")
        lines += [f"  rule {rule}" for rule in self.rules]
        return "\n".join(lines)

    def sample(self, n: int, seed: int) -> list[Config]:
        """`n` configurations that satisfy the rules; a function of the space and the seed."""
        from dspex.program import ports

        return list(ports.sample(self, n, seed))

    def freeze(self, mapping: Mapping[str, object] | None = None, /, **values: object) -> Space:
        """The space with the given Variables fixed: each keeps its name and has one value left.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1406 for a computed
                Variable.
        """
        fixed: dict[str, Var[Any]] = {}
        for name, value in {**(mapping or {}), **values}.items():
            if name not in self.variables:
                raise unknown_variable(name, self.variables)
            variable = self.variables[name]
            fixed[name] = variable.fixed(variable.canonical(value))
        variables: list[Var[Any]] = []
        for name, variable in self.variables.items():
            left = fixed.get(name, variable)
            when = left.when
            if when is not None:
                left = copy(left)
                left.when = _pinned(when, fixed)
            variables.append(left)
        return Space(variables, tuple(_pinned(rule, fixed) for rule in self.rules))

    def __repr__(self) -> str:
        return f"Space({', '.join(self.variables)}; {len(self.rules)} rules)"


def _pinned(rule: Rule, fixed: Mapping[str, Var[Any]]) -> Rule:
    """`rule` with comparisons of a fixed category to a value that is gone turned to its remaining value."""
    if isinstance(rule, All):
        return All(tuple(_pinned(item, fixed) for item in rule.items))
    if isinstance(rule, Any_):
        return Any_(tuple(_pinned(item, fixed) for item in rule.items))
    if isinstance(rule, Not):
        return Not(_pinned(rule.item, fixed))
    if not isinstance(rule, Compare) or rule.op not in ("==", "!="):
        return rule
    left, right = rule.left, rule.right
    if isinstance(left, Ref) and isinstance(right, Const) and left.name in fixed:
        variable = fixed[left.name]
        if variable.options and not same(variable.default, right.constant):
            return Compare("!=" if rule.op == "==" else "==", left, Const(variable.default))
    return rule


def _known(names: Iterable[str], variables: Mapping[str, Var[Any]], what: str, text: object) -> None:
    for name in names:
        if name not in variables:
            raise unknown_mention(name, variables, what, text)


def mentioned_at(rule: Rule, name: str) -> str | None:
    """Where the Variable that `rule` mentions as `name` was defined; None when only the name is known."""
    pending: list[object] = [rule]
    while pending:
        node = pending.pop()
        if isinstance(node, Ref) and node.name == name:
            target = cast(object, node.target)
            if isinstance(target, Var):
                return place(cast("Var[Any]", target).at, name)
        if isinstance(node, All | Any_):
            pending += node.items
        elif isinstance(node, Not):
            pending.append(node.item)
        elif isinstance(node, Compare | Arith):
            pending += (node.left, node.right)
    return None


def unknown_mention(name: str, variables: Mapping[str, Var[Any]], what: str, text: object) -> ProgramError:
    """The error for `what`, which reads `text` and mentions `name`, no Variable."""
    return ProgramError(
        "DX1303",
        f"the {what} mentions {name!r}, which is no Variable here: {text}",
        where=(mentioned_at(text, name) if isinstance(text, Rule) else None) or place(written_at()),
        fix=f"known Variables are {_listed(sorted(variables))}",
    )


def same_name(name: str, one: Var[Any], other: Var[Any]) -> ProgramError:
    """The error for two Variables of one name, with both places."""
    places = [found for found in (place(one.at), place(other.at)) if found is not None]
    return ProgramError(
        "DX1405",
        f"two Variables are named {name!r}" + (f": the first is defined at {places[0]}" if len(places) == 2 else ""),
        where=place(other.at, name),
        fix="rename one of them",
    )


def _described(variable: Var[Any]) -> dict[str, object]:
    data: dict[str, object] = {"name": variable.name, "kind": variable.kind, "domain": variable.domain}
    if isinstance(variable, Computed):
        data["of"] = list(variable.of)
    elif isinstance(variable, Demos):
        data |= {"default": variable.default.hash, "pool": [source.hash for source in variable.pool]}
    else:
        data["default"] = _readable(variable.default)
        if isinstance(variable, Float | Int):
            data |= {"lo": variable.lo, "hi": variable.hi, "log": variable.log, "step": variable.step}
        elif variable.options:
            data["options"] = [_readable(option) for option in variable.options]
        if isinstance(variable, Choice):
            data["weights"] = None if variable.weights is None else list(variable.weights)
    data["when"] = None if variable.when is None else str(variable.when)
    data["at"] = place(variable.at)
    return data


def _readable(value: object) -> object:
    plain = cast(object, value.value) if isinstance(value, Enum) else value
    return plain if is_json_scalar(plain) else repr(plain)


def _shortened(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _not_a_rule(found: object) -> ProgramError:
    return ProgramError(
        "DX1302",
        f"rules holds {found!r}, which is not a rule",
        where=place(written_at()),
        fix="write k.is_(4) rather than k == 4: == compares the Variables themselves",
    )


def broken_rule(rule: Rule, config: Mapping[str, object]) -> ProgramError:
    """The error for a configuration that breaks `rule`."""
    values = ", ".join(f"{name}={config[name]!r}" for name in sorted(rule.names()))
    return ProgramError(
        "DX1403", f"the rule does not hold: {rule}, with {values}", fix="bind other values, or drop the rule"
    )


def unknown_variable(name: str, variables: Mapping[str, Var[Any]]) -> ProgramError:
    """The error for a name that is no Variable, with the nearest ones."""
    from difflib import get_close_matches

    near = get_close_matches(name, variables, n=3, cutoff=0.5)
    near += [known for known in variables if known.endswith("." + name) and known not in near]
    hint = f"did you mean {' or '.join(near[:_LISTED])}?" if near else f"Variables are {_listed(list(variables))}"
    return ProgramError("DX1401", f"no Variable is named {name!r}", where=place(written_at()), fix=hint)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "(none)") + more
