"""A space: Variables with the rules between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from dspex.errors import ProgramError
from dspex.program.demos import canonical_json, content_hash
from dspex.program.rules import All, Any_, Compare, Const, Not, Ref, Rule, same
from dspex.program.variables import Var, place

__all__ = ["Space"]

Config = dict[str, object]


class Space:
    """Variables with their rules: everything that an optimizer searches.

    Raises:
        ProgramError: DX1405 for two Variables of one name, DX1303 for a rule or condition over an unknown
            Variable, DX1306 for conditions that depend on each other in a cycle.
    """

    def __init__(self, variables: Sequence[Var[Any]], rules: Sequence[Rule] = ()) -> None:
        self.variables: dict[str, Var[Any]] = {}
        for variable in variables:
            if not variable.name:
                raise ProgramError("DX1213", "a Variable of a space needs a name", where=place(variable.at))
            if variable.name in self.variables:
                raise ProgramError(
                    "DX1405", f"two Variables are named {variable.name!r}", where=place(variable.at, variable.name)
                )
            self.variables[variable.name] = variable
        for rule in rules:
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _not_a_rule(rule)
            _known(rule, self.variables, "rule")
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.order: tuple[str, ...] = self._ordered()

    def _ordered(self) -> tuple[str, ...]:
        """Names with every Variable after those that its condition mentions."""
        done: dict[str, None] = {}
        open_: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in open_:
                cycle = " -> ".join([*open_[open_.index(name) :], name])
                raise ProgramError("DX1306", f"conditions depend on each other in a cycle: {cycle}")
            open_.append(name)
            when = self.variables[name].when
            if when is not None:
                _known(when, self.variables, f"condition of {name!r}")
                for other in sorted(when.names()):
                    visit(other)
            open_.pop()
            done[name] = None

        for name in self.variables:
            visit(name)
        return tuple(done)

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def default(self) -> Config:
        """Every Variable at its default."""
        return {name: variable.default for name, variable in self.variables.items()}

    def active(self, config: Mapping[str, object]) -> frozenset[str]:
        """Names of the Variables whose condition holds; one that depends on an inactive Variable is inactive."""
        active: Config = {}
        for name in self.order:
            when = self.variables[name].when
            if when is None or (when.names() <= active.keys() and when.test(active)):
                active[name] = config[name]
        return frozenset(active)

    def broken(self, config: Mapping[str, object]) -> tuple[Rule, ...]:
        """The rules that the full configuration `config` breaks."""
        if not self.rules:
            return ()
        active = self.active(config)
        values = {name: value for name, value in config.items() if name in active}
        return tuple(rule for rule in self.rules if not rule.holds(values))

    def validate(self, config: Mapping[str, object]) -> Config:
        """`config` completed with defaults, in the canonical form of every value.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 for a
                broken rule.
        """
        unknown = [name for name in config if name not in self.variables]
        if unknown:
            raise unknown_variable(unknown[0], self.variables)
        full = {
            name: variable.canonical(config[name]) if name in config else variable.default
            for name, variable in self.variables.items()
        }
        broken = self.broken(full)
        if broken:
            raise broken_rule(broken[0], full)
        return full

    def identity(self, config: Mapping[str, object]) -> str:
        """Content hash of the active values: equal for configurations that mean the same."""
        active = self.active(config)
        values = {
            name: variable.to_json(config[name]) if variable.kind != "demos" else variable.canonical(config[name]).hash
            for name, variable in self.variables.items()
            if name in active
        }
        return content_hash(canonical_json(values))

    def sample(self, n: int, seed: int) -> list[Config]:
        """`n` configurations that satisfy the rules; a function of the space and the seed."""
        from dspex.program import ports

        return list(ports.sample(self, n, seed))

    def freeze(self, mapping: Mapping[str, object] | None = None, /, **values: object) -> Space:
        """The space with the given Variables fixed: each keeps its name and has one value left.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain.
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


def _known(rule: Rule, variables: Mapping[str, Var[Any]], what: str) -> None:
    for name in sorted(rule.names()):
        if name not in variables:
            raise ProgramError(
                "DX1303",
                f"the {what} mentions {name!r}, which is no Variable here: {rule}",
                fix=f"known Variables are {', '.join(sorted(variables)) or '(none)'}",
            )


def _not_a_rule(found: object) -> ProgramError:
    return ProgramError(
        "DX1302",
        f"rules holds {found!r}, which is not a rule",
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
    hint = f"did you mean {' or '.join(near)}?" if near else f"Variables are {', '.join(variables) or '(none)'}"
    return ProgramError("DX1401", f"no Variable is named {name!r}", fix=hint)
