"""Lays prompts out: finds what stands at the head of each prompt and is the same at every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from dspex.compiler.ir.nodes import Graph, Join, Lm, Node, Python, Ref, Region, Value, rebuilt
from dspex.program.schema import Schema, secret_fields

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["LayPrompts"]


@dataclass(frozen=True, slots=True)
class LayPrompts:
    """Records the static prefix of each prompt, by which providers' caches of prompts are hit.

    A prompt is the instruction, then the demonstrations, then the input's fields in the order of the schema. The
    prefix holds sections as long as each is the same at every call under one configuration: the demonstrations, unless
    they depend on the input, and the leading fields whose values follow from constants, Variables and attributes of the
    program alone. The pass changes nothing that is sent. Idempotent.

    Attributes:
        schemas: The classes behind the graph's names of schemas.
        nearest: Paths of the modules whose demonstrations may depend on the input.
    """

    schemas: Mapping[str, type[BaseModel]]
    nearest: frozenset[str] = frozenset()
    name: str = "layout"

    def run(self, graph: Graph) -> Graph:
        known: dict[int, _Parts] = {}

        def region(item: Region) -> Region:
            return Region(tuple(visit(node) for node in item.nodes), item.output)

        def visit(node: Node) -> Node:
            match node:
                case Lm():
                    return replace(node, prefix=tuple(self._prefix(node, known)))
                case Python() if node.pure:
                    known[node.id] = _Parts({}, all(_static(a.value, known) for a in node.args))
                case Join():
                    known[node.id] = self._join(node, known)
                case _:
                    return rebuilt(node, lambda item: item, region)
            return node

        return replace(graph, body=region(graph.body))

    def _join(self, node: Join, known: Mapping[int, _Parts]) -> _Parts:
        named = {a.name: _static(a.value, known) for a in node.args if a.name is not None}
        if node.form == "copy":
            base = node.args[0].value
            parts = known.get(base.node, _VARYING) if isinstance(base, Ref) and not base.path else _VARYING
            return _Parts({**parts.named, **named}, _static(base, known) or parts.rest)
        if node.form == "record":
            schema = self.schemas.get(str(node.type))
            made = schema is not None and not any(
                info.default_factory for name, info in schema.model_fields.items() if name not in named
            )
            return _Parts(named, made)
        return _Parts({}, all(_static(a.value, known) for a in node.args))

    def _prefix(self, node: Lm, known: Mapping[int, _Parts]) -> list[str]:
        sections = ["instruction"]
        if node.module in self.nearest:
            return sections
        sections.append("demos")
        schema = self.schemas.get(str(node.input))
        if schema is None:
            return sections
        given = node.args[0].value
        parts = _Parts({}, _static(given, known))
        if isinstance(given, Ref) and not given.path:
            parts = known.get(given.node, parts)
        secret = secret_fields(cast("type[Schema]", schema))
        for name in schema.model_fields:
            if name in secret:
                continue
            if not parts.named.get(name, parts.rest):
                break
            sections.append(name)
        return sections


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of a value is the same at every call: fields by name, and all others."""

    named: Mapping[str, bool]
    rest: bool

    @property
    def whole(self) -> bool:
        return self.rest and all(self.named.values())


_VARYING: Final = _Parts({}, False)


def _static(value: Value, known: Mapping[int, _Parts]) -> bool:
    """Whether a value is the same at every call."""
    if not isinstance(value, Ref):
        return True
    parts = known.get(value.node, _VARYING)
    if value.path and isinstance(value.path[0], str):
        return parts.named.get(value.path[0], parts.rest)
    return parts.whole
