"""Binding: other values for a compiled program, new texts and demonstrations added to their pools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from dspex.compiler.ir.nodes import Graph, Lm, Node, Region, Setting, Value, Variable, rebuilt, walk
from dspex.compiler.settings import PLACEHOLDER, named
from dspex.program.demos import is_demo_source
from dspex.program.modules.module import unknown_placeholder
from dspex.program.program import Program
from dspex.program.rules import same
from dspex.program.space import Space
from dspex.program.variables import Demos, Text, Var

__all__ = ["bound_program", "grown_pools", "named_by_new_texts", "rebound", "refuse_unknown_names"]

P = TypeVar("P", bound=Program[Any, Any])


def rebound(
    space: Space, config: Mapping[str, object], changes: Mapping[str, object]
) -> tuple[Space, dict[str, object]]:
    """The space, with pools grown by what is new, and the whole configuration after `changes`.

    Raises:
        ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 when the result
            would break a rule, DX1406 for a computed Variable with another value than it has.
    """
    known = space.variables
    grown: dict[str, Var[Any]] = {}
    for name, value in changes.items():
        larger = _grown(known.get(name), value)
        if larger is not None:
            grown[name] = larger
    if grown:
        space = Space([grown.get(name, variable) for name, variable in known.items()], space.rules)
    return space, space.rebound(config, changes)


def _grown(variable: Var[Any] | None, value: object) -> Var[Any] | None:
    """`variable` with `value` in its pool; None when it has no pool or holds it already."""
    if isinstance(variable, Text):
        return variable.grown(value) if isinstance(value, str) and value not in variable.pool else None
    if isinstance(variable, Demos) and is_demo_source(value):
        return None if any(member.hash == value.hash for member in variable.pool) else variable.grown(value)
    return None


def named_by_new_texts(graph: Graph, before: Space, after: Space) -> Graph:
    """`graph` whose calls also read the Variables that texts of grown pools name; the same one when there are none."""
    new: dict[str, tuple[str, ...]] = {}
    for name, variable in after.variables.items():
        known = before.variables.get(name)
        if isinstance(variable, Text) and variable is not known:
            # Nothing is renumbered: what is new stands behind what the graph was made for.
            fresh = variable.pool[len(known.pool) :] if isinstance(known, Text) else variable.pool
            new[name] = tuple(text for text in fresh if "{" in text)
    if not any(new.values()):
        return graph
    changed = False

    def kept(value: Value) -> Value:
        return value

    def node(item: Node) -> Node:
        nonlocal changed
        if not isinstance(item, Lm):
            return rebuilt(item, kept, region)
        more = _more(item, new, after)
        if not more:
            return item
        changed = True
        last = max(i for i, s in enumerate(item.settings) if s.name.partition(".")[0] == "instruction")
        return replace(item, settings=(*item.settings[: last + 1], *more, *item.settings[last + 1 :]))

    def region(item: Region) -> Region:
        return Region(tuple(node(inner) for inner in item.nodes), item.output)

    body = region(graph.body)
    return replace(graph, body=body) if changed else graph


def refuse_unknown_names(
    graph: Graph, before: Space, after: Space, changes: Mapping[str, object], program: Program[Any, Any] | None
) -> None:
    """Refuses new texts among `changes` that name what is no Variable; what proposers add to pools is not checked.

    Args:
        graph: The calls whose instructions may be changed.
        before: The Variables as they were.
        after: The same with grown pools.
        changes: The new values.
        program: The program, when its source is here: it also knows what its opaque parts call.

    Raises:
        ProgramError: DX1506.
    """
    texts = {
        name: value
        for name, value in changes.items()
        if isinstance(value, str) and "{" in value and after.variables[name] is not before.variables[name]
    }
    if not texts:
        return
    if program is not None:
        for module in program.modules().values():
            module.check_instruction(texts)
        return
    for item in walk(graph.body):
        if not isinstance(item, Lm):
            continue
        source = next((setting.value for setting in item.settings if setting.name == "instruction"), None)
        text = texts.get(source.name) if isinstance(source, Variable) else None
        for match in PLACEHOLDER.finditer(text or ""):
            name = match.group(2)
            if name is not None and named(item, name, after) is None:
                known = [one for one in _named_in(item, after) if named(item, one, after) is not None]
                raise unknown_placeholder(name, item.module, known, None if item.loc is None else str(item.loc))


def _named_in(item: Lm, space: Space) -> Iterator[str]:
    """Names that an instruction of `item` may hold, its settings' among them."""
    for full in space.variables:
        for around in (item.module, item.scope):
            local = full.removeprefix(f"{around}.") if around else full
            if "." not in local:
                yield local


def _more(item: Lm, new: Mapping[str, tuple[str, ...]], space: Space) -> tuple[Setting, ...]:
    """The settings that the new texts of its instruction add to `item`."""
    known = {setting.name: setting.value for setting in item.settings}
    source = known.get("instruction")
    if not isinstance(source, Variable):
        return ()
    found: dict[str, Setting] = {}
    for text in new.get(source.name, ()):
        for match in PLACEHOLDER.finditer(text):
            name = match.group(2)
            full = None if name is None else named(item, name, space)
            if full is not None and f"instruction.{name}" not in known:
                found[full] = Setting(f"instruction.{name}", Variable(full))
    return tuple(found.values())


def bound_program(program: P, space: Space, config: Mapping[str, object]) -> P:
    """`program` with the pools of `space` and with `config` bound; itself when it has both already."""
    pools = {name: v.options for name, v in space.variables.items() if isinstance(v, Text | Demos)}
    missing = grown_pools(program, pools)
    if missing:
        program = program.with_pools(missing)
    own = program.config
    changes = {
        name: value
        for name, value in config.items()
        if space.variables[name].kind != "computed" and not same(own[name], value)
    }
    return program.bind(changes) if changes else program


def grown_pools(program: Program[Any, Any], pools: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Those of `pools` that hold members which the program's own pools lack, with the missing members."""
    known = program.variables()
    missing: dict[str, tuple[object, ...]] = {}
    for name, members in pools.items():
        own = known[name].options if name in known else ()
        fresh = tuple(member for member in members if member not in own)
        if fresh:
            missing[name] = fresh
    return missing
