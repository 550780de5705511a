"""The tree of a bound program: paths, owners, values, and the copy that binding makes.

Every program instance carries one `Node`. Binding never changes a program: it copies the tree below it, with
new values at some nodes. Inside one tree a program that is reachable on two ways is one program with one path,
the first on which it is found; its token says so across copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from dspex.errors import ProgramError
from dspex.program.rules import All, Rule, refuse_deep

if TYPE_CHECKING:
    from dspex.program.computed import Computed
    from dspex.program.program import Program
    from dspex.program.space import Space
    from dspex.program.variables import Var

__all__ = ["TRANSIENT", "Changes", "Node", "bound_copy", "join", "rebuilt", "walk"]

AnyProgram = "Program[Any, Any]"
Grown = dict[str, tuple[object, ...]]

TRANSIENT = ("prepared", "settings", "study")
"""Attributes that belong to one very instance: what was prepared for it, and the study that made it."""

_DEEPEST = 16
_DEEPEST_PATH = 100


class Node:
    """A program's place in its tree and the values that are bound there.

    Attributes:
        path: Dotted path from the root; empty for a root that is no module.
        parent: The program that holds this one.
        gate: The rule under which it can run at all (branches of a selection), in full names.
        values: Bound values of its own Variables, by local name.
        grown: Members added to the pools of its own Variables, by local name.
        token: Identity that copies inside one tree share.
        open: Whether `__init__` still runs.
    """

    __slots__ = ("_tables", "gate", "grown", "open", "parent", "path", "token", "values")

    def __init__(
        self,
        path: str,
        parent: Program[Any, Any] | None = None,
        gate: Rule | None = None,
        values: dict[str, object] | None = None,
        grown: Grown | None = None,
        token: object | None = None,
    ) -> None:
        self.path = path
        self.parent = parent
        self.gate = gate
        self.values: dict[str, object] = {} if values is None else values
        self.grown: Grown = {} if grown is None else grown
        self.token = object() if token is None else token
        self.open = False
        self._tables: Tables | None = None

    def tables(self, program: Program[Any, Any]) -> Tables:
        """The Variables of the whole tree below `program`, collected once."""
        if self._tables is None:
            self._tables = Tables(program)
        return self._tables

    def inherit(self, tables: Tables, program: Program[Any, Any], config: dict[str, object]) -> None:
        """Take over what a copy with other values and equal pools shares with its original."""
        self._tables = tables.rebound(program, config)

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "_tables"}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._tables = None


class Tables:
    """Variables, rules and configuration of a tree, by full name."""

    __slots__ = ("_program", "_rules", "_space", "computed", "config", "places", "variables")

    def __init__(self, program: Program[Any, Any] | None) -> None:
        self._program = program
        self._space: Space | None = None
        self._rules: tuple[Rule, ...] | None = None
        self.variables: dict[str, Var[Any]] = {}
        self.config: dict[str, object] = {}
        self.places: dict[str, tuple[Program[Any, Any], str]] = {}
        self.computed: tuple[Computed[Any], ...] = ()
        if program is not None:
            self._collect(program)

    def _collect(self, program: Program[Any, Any]) -> None:
        given: dict[int, tuple[str, object]] = {}
        computed: dict[str, Computed[Any]] = {}
        for owner in walk(program):
            node = owner.dx_node
            for local, variable in owner.dx_variables().items():
                full = join(node.path, local)
                if full in self.variables:
                    from dspex.program.space import same_name

                    raise same_name(full, self.variables[full], variable)
                source = owner.dx_source(local)
                if source is not None:
                    path, known = given.setdefault(id(variable), (full, source))
                    if known != source:
                        raise shared(variable, path, full)
                self.variables[full] = variable.renamed(full, owner.dx_full_name, node.gate)
                self.config[full] = node.values.get(local, variable.default)
                self.places[full] = (owner, local)
                if variable.kind == "computed":
                    computed[full] = cast("Computed[Any]", self.variables[full])
        if computed:
            self._compute(computed)

    def _compute(self, computed: dict[str, Computed[Any]]) -> None:
        from dspex.program.computed import cycle_of_computed, fill, sorted_by_need
        from dspex.program.space import unknown_mention

        for full, variable in computed.items():
            for name in variable.of:
                if name not in self.variables:
                    raise unknown_mention(name, self.variables, f"computed Variable {full!r}", variable.domain)
        order = sorted_by_need(
            {full: variable.of for full, variable in computed.items()},
            lambda cycle: cycle_of_computed(cycle, computed),
        )
        self.computed = tuple(computed[full] for full in order)
        fill(self.computed, self.config)

    def rebound(self, program: Program[Any, Any], config: dict[str, object]) -> Tables:
        other = Tables(None)
        other._program = program
        other.computed = self.computed
        other._space = self._space
        other._rules = self._rules
        other.variables = self.variables
        other.config = config
        for owner in walk(program):
            for local in owner.dx_variables():
                other.places[join(owner.dx_node.path, local)] = (owner, local)
        return other

    @property
    def rules(self) -> tuple[Rule, ...]:
        if self._rules is None:
            found: list[Rule] = []
            for owner in walk(cast("Program[Any, Any]", self._program)):
                for rule in owner.dx_rules():
                    refuse_deep(rule)
                    full = rule.renamed(owner.dx_full_name)
                    for name in sorted(full.names()):
                        if name not in self.variables:
                            from dspex.program.space import mentioned_at
                            from dspex.program.variables import place, written_at

                            local = next((one for one in rule.names() if owner.dx_full_name(one) == name), name)
                            raise ProgramError(
                                "DX1303",
                                f"a rule of {type(owner).__name__} mentions {name!r}, no Variable there: {rule}",
                                where=mentioned_at(rule, local) or place(written_at()),
                                fix=f"Variables are {', '.join(self.variables) or '(none)'}",
                            )
                    found.append(full)
            self._rules = tuple(found)
        return self._rules

    @property
    def space(self) -> Space:
        if self._space is None:
            from dspex.program.space import Space

            self._space = Space(tuple(self.variables.values()), self.rules)
        return self._space


class Changes:
    """New values and pool members for some nodes, by the identity of their program."""

    __slots__ = ("_grown", "_values")

    def __init__(self) -> None:
        self._values: dict[int, dict[str, object]] = {}
        self._grown: dict[int, Grown] = {}

    def set(self, program: Program[Any, Any], local: str, value: object) -> None:
        self._values.setdefault(id(program), {})[local] = value

    def grow(self, program: Program[Any, Any], local: str, members: tuple[object, ...]) -> None:
        grown = self._grown.setdefault(id(program), {})
        grown[local] = (*grown.get(local, ()), *members)

    def values(self, program: Program[Any, Any]) -> dict[str, object]:
        return self._values.get(id(program), {})

    def grown(self, program: Program[Any, Any]) -> Grown:
        return self._grown.get(id(program), {})


NO_CHANGES = Changes()


def shared(variable: Var[Any], one: str, other: str) -> ProgramError:
    """The error for one Variable that two modules of different programs, or of one, were given."""
    from dspex.program.variables import place

    return ProgramError(
        "DX1217",
        f"the Variable {variable.name!r} was given to two modules that own it: {one} and {other} would be two "
        "Variables, each with a value of its own",
        where=place(variable.at, variable.name),
        fix="declare it in the class that holds both modules, or give each module one of its own",
    )


def join(path: str, local: str) -> str:
    """`local` under `path`; either may be empty."""
    return f"{path}.{local}" if path and local else path or local


def both(outer: Rule | None, inner: Rule | None) -> Rule | None:
    """The rule under which both gates are open."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return All((outer, inner))


def bound_copy(
    program: Program[Any, Any],
    path: str,
    parent: Program[Any, Any] | None,
    gate: Rule | None,
    memo: dict[object, Program[Any, Any]],
    *,
    fresh: bool,
    changes: Changes = NO_CHANGES,
) -> Program[Any, Any]:
    """A copy of the tree below `program`, placed at `path` under `parent`.

    Args:
        program: What to copy.
        path: Where the copy stands in its tree.
        parent: The program that holds the copy.
        gate: The rule under which it can run.
        memo: Copies made in this tree so far, by token.
        fresh: Whether the copies are programs of their own (a new instance, a new binding) rather than the
            same programs placed into a larger tree.
        changes: New values and pool members.
    """
    old = program.dx_node
    known = memo.get(old.token)
    if known is not None:
        return known
    if path.count(".") > _DEEPEST_PATH:
        raise ProgramError(
            "DX1535",
            f"programs are nested more than {_DEEPEST_PATH} deep, at {path[:40]}…",
            fix="put programs beside each other: dx.fallback(a, b, c) rather than dx.fallback(a, dx.fallback(b, c))",
        )
    values, grown = old.values, old.grown
    new_values, new_grown = changes.values(program), changes.grown(program)
    if new_values:
        values = {**values, **new_values}
    if new_grown:
        grown = {**grown, **{name: (*grown.get(name, ()), *more) for name, more in new_grown.items()}}
    clone = object.__new__(type(program))
    attributes = vars(clone)
    attributes.update(program.__dict__)
    for name in TRANSIENT:
        attributes.pop(name, None)
    attributes["dx_node"] = Node(path, parent, gate, values, grown, None if fresh else old.token)
    memo[old.token] = clone
    if new_values:
        clone.dx_show(new_values)

    def visit(child: Program[Any, Any], local: str, inner: Rule | None) -> Program[Any, Any]:
        return bound_copy(child, join(path, local), clone, both(gate, inner), memo, fresh=fresh, changes=changes)

    clone.dx_replace_children(visit)
    return clone


def walk(program: Program[Any, Any]) -> Iterator[Program[Any, Any]]:
    """`program` and every program below it, parents first, each once."""
    seen: set[int] = set()

    def down(current: Program[Any, Any]) -> Iterator[Program[Any, Any]]:
        if id(current) in seen:
            return
        seen.add(id(current))
        yield current
        for child in current.children().values():
            yield from down(child)

    return down(program)


def found(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, Program[Any, Any]]]:
    """Programs in `value`: itself, or members of lists, tuples and dicts, with their paths."""
    from dspex.program.program import Program

    if isinstance(value, Program):
        yield path, cast("Program[Any, Any]", value)
    elif depth < _DEEPEST and type(value) in (list, tuple, dict):
        for key, member in _members(value):
            yield from found(member, join(path, key), depth + 1)


def rebuilt(value: object, path: str, visit: Callable[[Program[Any, Any], str], object], depth: int = 0) -> object:
    """`value` with every program in it replaced by `visit(program, path)`; the same object when it holds none."""
    from dspex.program.program import Program

    if isinstance(value, Program):
        return visit(cast("Program[Any, Any]", value), path)
    if depth >= _DEEPEST or type(value) not in (list, tuple, dict):
        return value
    if not any(True for _ in found(value, path, depth)):
        return value
    members = [rebuilt(member, join(path, key), visit, depth + 1) for key, member in _members(value)]
    if isinstance(value, dict):
        return dict(zip(cast("dict[object, object]", value), members, strict=True))
    return members if isinstance(value, list) else tuple(members)


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, member in cast("Mapping[object, object]", value).items():
            name = str(key)
            if not name or "." in name:
                if any(True for _ in found(member, "x")):
                    raise ProgramError(
                        "DX1511", f"a program is held under the key {key!r}, which cannot be part of a dotted path"
                    )
                continue
            yield name, member
    else:
        for index, member in enumerate(cast("tuple[object, ...] | list[object]", value)):
            yield str(index), member
