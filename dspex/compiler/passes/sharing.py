"""Which values something that acts may change in place, so that who reads them has to keep its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from dspex.compiler.ir.effects import acts
from dspex.compiler.ir.nodes import (
    Attempt,
    Attribute,
    Call,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Python,
    Ref,
    Value,
    operands,
    regions,
    walk,
)
from dspex.compiler.ir.types import Type
from dspex.compiler.passes.types import Types

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["OUTSIDE", "Sharing"]

OUTSIDE: Final = -1
"""The group of what the program holds: attributes, which any function may know."""

_IMMUTABLE: Final = frozenset({"str", "int", "float", "bool", "None", "Literal", "bytes", "..."})
_HOLDERS: Final = frozenset({"|", "tuple", "frozenset"})
_COPIED: Final = frozenset({"list", "dict", "set", "tuple", "frozenset", "|"})


class Sharing:
    """Values of a graph in groups: those of one group may be, or hold, one and the same object.

    A value and what it was taken from, put into or worked out of are of one group, unless its type says that nothing
    can change it. What a model gives is new; so is a list that a schema validates.

    Args:
        graph: A sound graph.
        schemas: The classes behind its names of schemas; one that is missing may be changed.
    """

    def __init__(self, graph: Graph, schemas: Mapping[str, type[BaseModel]]) -> None:
        self._schemas = schemas
        self._types = Types(schemas)
        self._above: dict[int, int] = {}
        self._known: dict[str, bool] = {}
        nodes = list(walk(graph.body))
        for node in nodes:
            self._types.add(node)
        for node in nodes:
            self._join(node)
        exposed = {node.id: self._exposed(node) for node in nodes if acts(node)}
        self._touched = frozenset[int]({OUTSIDE}).union(*exposed.values())
        self._exposes: dict[int, frozenset[int]] = exposed
        self._reads: dict[int, frozenset[int]] = {}
        for node in reversed(nodes):
            # What is inside a node stands after it.
            inside = [self._reads[inner.id] for region in regions(node) for inner in region.nodes]
            inside.append(frozenset(self._groups((*operands(node), *_outputs(node)))) & self._touched)
            self._reads[node.id] = frozenset[int]().union(*inside)

    def reads(self, node: Node) -> frozenset[int]:
        """The groups that `node`, or a node inside it, reads, and that some acting node may change."""
        return self._reads[node.id]

    def exposes(self, node: Node) -> frozenset[int]:
        """The groups that `node` itself hands to a function that acts, which may change or keep them."""
        return self._exposes.get(node.id, frozenset())

    def exposed_at_once(self, node: Node) -> frozenset[int]:
        """The groups that any node inside exposes to all others inside, because they run again or together."""
        if not isinstance(node, Map) and not (isinstance(node, Attempt) and node.form != "fallback"):
            return frozenset()
        return frozenset(group for region in regions(node) for inner in walk(region) for group in self.exposes(inner))

    def may_change(self, node: Node) -> bool:
        """Whether an acting node may change the value of `node`."""
        return not self._immutable(node.type) and self._of(node.id) in self._touched

    # --- groups -----------------------------------------------------------------------------------

    def _of(self, number: int) -> int:
        root = number
        while root in self._above:
            root = self._above[root]
        while number != root:
            self._above[number], number = root, self._above[number]
        return root

    def _unite(self, one: int, two: int) -> None:
        # What the program holds keeps its own number.
        first, second = sorted((self._of(one), self._of(two)))
        if first != second:
            self._above[second] = first

    def _roots(self, values: Iterable[Value]) -> Iterator[int]:
        for value in values:
            if isinstance(value, Attribute):
                yield OUTSIDE
            elif isinstance(value, Ref) and not self._immutable(self._types.of(value)):
                yield value.node

    def _groups(self, values: Iterable[Value]) -> Iterator[int]:
        return (self._of(root) for root in self._roots(values))

    def _exposed(self, node: Node) -> frozenset[int]:
        own = () if self._immutable(node.type) else (self._of(node.id),)
        return frozenset((*self._groups(operands(node)), *own))

    def _join(self, node: Node) -> None:
        if isinstance(node, Map | Call) and node.body.nodes:
            first = node.body.nodes[0]
            if isinstance(first, Input) and not self._immutable(first.type):
                for root in self._roots(operands(node)):
                    self._unite(first.id, root)
        if isinstance(node, Lm | Input):
            return
        roots = list(self._roots((*self._held(node), *_outputs(node))))
        if self._immutable(node.type):
            # A function that acts may put one of its arguments into another.
            roots = roots if acts(node) else []
        else:
            roots.append(node.id)
        for root in roots[1:]:
            self._unite(roots[0], root)

    def _held(self, node: Node) -> tuple[Value, ...]:
        """What the value of `node` may hold as it is."""
        if isinstance(node, Join) and node.form == "record":
            schema = self._schemas.get(str(node.type))
            return tuple(a.value for a in node.args if schema is None or not self._new(schema, str(a.name)))
        return operands(node) if isinstance(node, Join | Python) or acts(node) else ()

    # --- types ------------------------------------------------------------------------------------

    def _immutable(self, kind: Type) -> bool:
        """Whether nothing can change a value of this type in place."""
        if kind.name in _IMMUTABLE:
            return True
        if kind.name in _HOLDERS:
            return bool(kind.args) and all(self._immutable(arg) for arg in kind.args if isinstance(arg, Type))
        if kind.name not in self._known:
            schema = self._schemas.get(kind.name)
            # A schema that holds itself is as immutable as the rest of it.
            self._known[kind.name] = schema is not None and bool(schema.model_config.get("frozen"))
            if schema is not None and self._known[kind.name]:
                closed = schema.model_config.get("extra") != "allow" and not schema.__private_attributes__
                fields = self._types.fields(kind.name).values()
                self._known[kind.name] = closed and all(self._immutable(item) for item in fields)
        return self._known[kind.name]

    def _new(self, schema: type[BaseModel], name: str) -> bool:
        """Whether validating the field makes a value of its own."""
        info = schema.model_fields.get(name)
        if info is None or _has_validators(schema, info):
            return False
        kind = self._types.kind(info.annotation)
        return self._immutable(kind) or self._copied(kind)

    def _copied(self, kind: Type) -> bool:
        inner = [arg for arg in kind.args if isinstance(arg, Type)]
        if kind.name == "|":
            return all(self._immutable(item) or self._copied(item) for item in inner)
        return kind.name in _COPIED and bool(inner) and all(self._immutable(item) for item in inner)


def _outputs(node: Node) -> tuple[Value, ...]:
    return tuple(region.output for region in regions(node))


def _has_validators(schema: type[BaseModel], info: FieldInfo) -> bool:
    found = schema.__pydantic_decorators__
    own = (found.validators, found.field_validators, found.root_validators, found.model_validators)
    return any(own) or any(hasattr(item, "__get_pydantic_core_schema__") for item in info.metadata)
