"""Merges nodes that are sure to give equal values: two equal deterministic calls cost one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dspex.compiler.ir.effects import acting, acts
from dspex.compiler.ir.nodes import (
    Argument,
    Call,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Node,
    Python,
    Ref,
    Region,
    Value,
    canonical,
    rebuilt,
    walk,
)
from dspex.compiler.passes.dead import RemoveDead
from dspex.compiler.passes.sharing import OUTSIDE, Sharing

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["MergeEqual"]


@dataclass(frozen=True, slots=True)
class MergeEqual:
    """Lets one node stand for later equal ones of its region and of the regions inside. Idempotent.

    Equal are `lm` nodes at temperature 0 (the constant) with equal types, arguments, settings, scope and model; pure
    `python` nodes with equal functions and arguments; and `join` nodes with equal arguments. Nothing leaves a region
    that may not run. New lists and dicts are equal but stay two, because a program may change one of them. A value that
    a node that acts may change is equal to nothing else, and who reads it is equal to readers between the same two
    acting nodes only. Nodes with an order of their own (`after`) stay.

    Attributes:
        models: By path of a module, a text that is equal for two modules exactly if they call the same model in the
            same way when their settings agree. Calls of a module that is missing are merged among themselves only.
        schemas: The classes behind the graph's names of schemas; a value of one that is missing can be changed.
    """

    models: Mapping[str, str]
    schemas: Mapping[str, type[BaseModel]] = field(default_factory=dict[str, "type[BaseModel]"])
    name: str = "merge"

    def run(self, graph: Graph) -> Graph:
        nodes = list(walk(graph.body))
        ordered = [node for node in nodes if not isinstance(node, Input) and node.after]
        fixed = {number for node in ordered for number in (node.id, *node.after)}
        sharing = Sharing(graph, self.schemas)
        holders = acting(graph.body)
        exposed, acted = {OUTSIDE}, 0
        # What a node is equal to, and the node that stands for it.
        classes: dict[int, int] = {}
        replaced: dict[int, int] = {}

        def value(item: Value) -> Value:
            return Ref(replaced[item.node], item.path) if isinstance(item, Ref) and item.node in replaced else item

        def meaning(item: Value) -> Hashable:
            return (classes.get(item.node, item.node), item.path) if isinstance(item, Ref) else item

        def merged(region: Region, known: dict[Hashable, int]) -> Region:
            nonlocal acted
            kept: list[Node] = []
            entered: list[Hashable] = []
            for node in region.nodes:
                key = None if node.id in fixed or sharing.may_change(node) else self._key(node, meaning)
                if key is not None and not sharing.reads(node).isdisjoint(exposed):
                    key = key, acted
                first = None if key is None else known.get(key)
                if first is not None:
                    classes[node.id] = classes.get(first, first)
                    if not _new(node):
                        replaced[node.id] = first
                        continue
                elif key is not None:
                    known[key] = node.id
                    entered.append(key)
                if acts(node):
                    exposed.update(sharing.exposes(node))
                    acted += 1
                elif node.id in holders:
                    exposed.update(sharing.exposed_at_once(node))
                    acted += 1
                # A call's body sees its own input only.
                inside: dict[Hashable, int] = {} if isinstance(node, Call) else known
                kept.append(rebuilt(node, value, lambda inner, inside=inside: merged(inner, inside)))
            for key in entered:
                del known[key]
            return Region(tuple(kept), value(region.output))

        body = merged(graph.body, {})
        if not classes:
            return graph
        return RemoveDead().run(canonical(replace(graph, body=body)))

    def _key(self, node: Node, meaning: Callable[[Value], Hashable]) -> Hashable | None:
        """What two nodes have in common exactly if they are equal; None for a node that is equal to no other."""

        def arguments(args: tuple[Argument, ...]) -> Hashable:
            return tuple((a.name, meaning(a.value)) for a in args)

        match node:
            case Lm():
                settings = {s.name: meaning(s.value) for s in node.settings}
                if not _zero(settings.get("temperature")):
                    return None
                model = self.models.get(node.module)
                who = ("module", node.module) if model is None else ("model", model)
                options = frozenset(settings.items())
                return "lm", who, node.input, node.type, arguments(node.args), options, node.scope
            case Python() if node.pure:
                function = node.target, node.expr, node.source, node.awaits, node.uses
                return "python", function, node.type, arguments(node.args)
            case Join():
                return "join", node.form, node.type, arguments(node.args)
            case _:
                return None


def _zero(value: Hashable | None) -> bool:
    return isinstance(value, Constant) and type(value.value) in (int, float) and value.value == 0


def _new(node: Node) -> bool:
    """Whether the value is a container that somebody may change."""
    return isinstance(node, Join) and node.form in ("list", "dict")
