"""Infers the types that the source does not say, and checks what flows along the edges."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dspex.compiler.ir.nodes import (
    Attempt,
    Call,
    Cond,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Ref,
    Region,
    Select,
    Value,
    operands,
    rebuilt,
    regions,
)
from dspex.compiler.ir.printer import NAME
from dspex.compiler.ir.types import ELLIPSIS, NONE, UNKNOWN, Type, type_of, union
from dspex.errors import CompileError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["InferTypes", "Types"]

_PLAIN: Final = frozenset({"str", "int", "float", "bool", "None", "bytes"})
_SINGLE: Final = frozenset({"int", "float", "bool", "None"})
_LITERALS: Final = (str, int, float, bool)
_SAME: Final = "give every region a value of the same schema"


@dataclass(frozen=True, slots=True)
class InferTypes:
    """Fills in unknown types (``?``) from the schemas' fields, and checks every edge that is known. Idempotent.

    A value of a derived schema may stand for one of the schema that it derives from. What stays unknown is checked when
    it runs.

    Attributes:
        schemas: The classes behind the graph's names of schemas.
    """

    schemas: Mapping[str, type[BaseModel]]
    name: str = "types"

    def run(self, graph: Graph) -> Graph:
        """`graph` with types.

        Raises:
            CompileError: DX2001 for a value of another schema than the one that is wanted, DX2002 for a field that a
                schema does not have, DX2003 for regions of different types, DX2083 for a `map` over what is no list.
        """
        return _Inference(self.schemas).graph(graph)


class Types:
    """The types of values in a graph whose nodes are told one by one.

    Args:
        schemas: The classes behind the graph's names of schemas.
    """

    def __init__(self, schemas: Mapping[str, type[BaseModel]]) -> None:
        self._schemas = schemas
        self._names = {cls: name for name, cls in schemas.items()}
        self._fields: dict[str, dict[str, Type]] = {}
        self._types: dict[int, Type] = {}
        self._together: dict[int, tuple[Value, ...]] = {}

    def add(self, node: Node) -> None:
        """Takes note of a node's type."""
        self._types[node.id] = node.type
        if isinstance(node, Attempt) and node.form == "together":
            self._together[node.id] = tuple(branch.body.output for branch in node.branches)

    def of(self, value: Value, node: Node | None = None) -> Type:
        """The type of what is read.

        Raises:
            CompileError: DX2002 for a field that a schema does not have.
        """
        match value:
            case Ref():
                kind, path = self._types.get(value.node, UNKNOWN), value.path
                items = self._together.get(value.node, ())
                if path and isinstance(path[0], int) and path[0] < len(items):
                    # Each item has a type of its own.
                    kind, path = self.of(items[path[0]], node), path[1:]
                for step in path:
                    kind = self._step(kind, step, node)
                return kind
            case Constant():
                found = value.value
                if found is None:
                    return NONE
                return Type(type(found).__name__) if isinstance(found, _LITERALS) else UNKNOWN
            case _:
                return UNKNOWN

    def kind(self, annotation: object) -> Type:
        """The graph's type of an annotation."""
        return _sound(type_of(annotation, self._name))

    def fields(self, name: str) -> Mapping[str, Type]:
        """The types of the fields of the schema called `name`."""
        if name not in self._fields:
            infos = self._schemas[name].model_fields
            self._fields[name] = {field: self.kind(info.annotation) for field, info in infos.items()}
        return self._fields[name]

    def _step(self, kind: Type, step: str | int, node: Node | None) -> Type:
        if isinstance(step, int):
            if kind.name == "tuple" and ELLIPSIS not in kind.args:
                item = kind.args[step] if step < len(kind.args) else UNKNOWN
                return item if isinstance(item, Type) else UNKNOWN
            return _item(kind) if kind.name in ("list", "tuple") else UNKNOWN
        schema = self._schemas.get(kind.name)
        if schema is None:
            return UNKNOWN
        fields = self.fields(kind.name)
        if step not in fields and not _has(schema, step):
            near = difflib.get_close_matches(step, fields, n=1)
            _refuse(
                "DX2002",
                node,
                f"{kind.name} has no field {step!r}",
                f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(fields)}",
            )
        return fields.get(step, UNKNOWN)

    def _name(self, cls: type[Any]) -> str:
        """How a class is called in the graph; a schema that the graph does not know has no name there."""
        if hasattr(cls, "model_fields"):
            return self._names.get(cls, "?")
        return cls.__name__ if NAME.fullmatch(cls.__name__) else "?"


class _Inference(Types):
    def graph(self, graph: Graph) -> Graph:
        body = self._region(graph.body, graph.input)
        given = self.of(body.output)
        if self._differ(given, graph.output):
            raise CompileError(
                "DX2001",
                f"{graph.name} gives {given}, it declares {graph.output}",
                fix=f"return {graph.output}(...), or change the program's output schema",
            )
        return replace(graph, body=body)

    def _region(self, region: Region, given: Type = UNKNOWN) -> Region:
        nodes: list[Node] = []
        for node in region.nodes:
            if isinstance(node, Input) and node.type == UNKNOWN:
                typed: Node = replace(node, type=given)
            else:
                typed = self._node(node)
            self.add(typed)
            nodes.append(typed)
        return Region(tuple(nodes), region.output)

    def _node(self, node: Node) -> Node:
        match node:
            case Map():
                return self._map(node)
            case Call():
                self._takes(node)
                return replace(node, body=self._region(node.body, node.input))
            case Select() | Cond() | Attempt():
                return self._joined(rebuilt(node, lambda item: item, self._region), isinstance(node, Cond))
            case Lm() | Opaque():
                self._takes(node)
                return node
            case Join():
                return self._join(node)
            case _:
                # Python and tools say what they take only when they run; the paths can be checked.
                for value in operands(node):
                    self.of(value, node)
                return node

    # --- what each kind of node gives -----------------------------------------------------------

    def _map(self, node: Map) -> Map:
        over = self.of(node.over, node)
        if over.name in _SINGLE:
            _refuse("DX2083", node, f"a map goes over a value of type {over}", "map over a list of items")
        body = self._region(node.body, _item(over))
        gives = node.type
        if not gives.known:
            gives = Type("list", (self.of(body.output, node),))
        return replace(node, body=body, type=gives)

    def _joined(self, node: Node, mixed: bool) -> Node:
        """A node whose regions give its value; `mixed`: they may be of several types."""
        if isinstance(node, Cond):
            self.of(node.test, node)
        given = [self.of(inner.output, node) for inner in regions(node)]
        if isinstance(node, Attempt) and node.form == "together":
            return replace(node, type=Type("list", (self._common(given),))) if node.type == UNKNOWN else node
        if node.type != UNKNOWN:
            for item in given:
                if self._differ(item, node.type):
                    _refuse("DX2003", node, f"a region gives {item}, {node.type} is wanted", _SAME)
            return node
        common = self._common(given)
        # What comes of `if` and of loops may well be of several types; implementations of one thing may not.
        if common == UNKNOWN and not mixed:
            for item in given[1:]:
                if self._differ(item, given[0]) and self._differ(given[0], item):
                    _refuse("DX2003", node, f"one region gives {given[0]}, another {item}", _SAME)
        return replace(node, type=common)

    def _join(self, node: Join) -> Join:
        given = [self.of(a.value, node) for a in node.args]
        if node.type != UNKNOWN:
            if node.form in ("record", "copy"):
                self._check_fields(node, node.type)
            return node
        match node.form:
            case "tuple":
                return replace(node, type=Type("tuple", tuple(given)))
            case "list":
                return replace(node, type=Type("list", (self._common(given),)))
            case "dict":
                return replace(node, type=Type("dict", (Type("str"), self._common(given))))
            case "copy":
                self._check_fields(node, given[0])
                return replace(node, type=given[0])
            case "vote":
                values = [item for item, argument in zip(given, node.args, strict=True) if argument.name is None]
                return replace(node, type=self._common(values))
            case "record":
                return node

    def _common(self, given: list[Type]) -> Type:
        """The one type of several values; the more general schema, unknown when they are of several."""
        if not given:
            return UNKNOWN
        result = given[0]
        for item in given[1:]:
            if item != result:
                if self._differ(item, result):
                    if self._differ(result, item):
                        return UNKNOWN
                    result = item
                elif not item.known or not result.known or item.name not in self._schemas:
                    return UNKNOWN
        return result

    # --- values and fields ----------------------------------------------------------------------

    def _check_fields(self, node: Join, kind: Type) -> None:
        schema = self._schemas.get(kind.name)
        if schema is None or schema.model_config.get("extra") == "allow":
            return
        known = {*schema.model_fields, *(info.alias for info in schema.model_fields.values())}
        for argument in node.args:
            if argument.name is not None and argument.name not in known:
                near = difflib.get_close_matches(argument.name, schema.model_fields, n=1)
                _refuse(
                    "DX2004",
                    node,
                    f"{kind.name} has no field {argument.name!r}",
                    f"did you mean {near[0]!r}?" if near else "leave it out, or add the field to the schema",
                )

    # --- edges ----------------------------------------------------------------------------------

    def _takes(self, node: Lm | Call | Opaque) -> None:
        given = self.of(node.args[0].value, node)
        if self._differ(given, node.input):
            _refuse(
                "DX2001",
                node,
                f"{_label(node)} takes {node.input}, it is given {given}",
                f"construct {node.input}(...) from the value, or change the schema that it takes",
            )

    def _differ(self, given: Type, wanted: Type) -> bool:
        """Whether a value of type `given` can surely not stand for `wanted`."""
        if given == wanted or given.args or wanted.args or UNKNOWN in (given, wanted):
            return False
        mine, other = self._schemas.get(given.name), self._schemas.get(wanted.name)
        if mine is not None and other is not None:
            return not issubclass(mine, other)
        names = {given.name, wanted.name}
        if mine is not None or other is not None:
            return not names.isdisjoint(_PLAIN)
        # An int may stand for a float, and a bool for an int.
        return names <= _PLAIN and not names <= {"int", "float", "bool"}


def _refuse(code: str, node: Node | None, message: str, fix: str) -> NoReturn:
    place = node.loc if node is not None else None
    raise CompileError(code, message, where=str(place) if place is not None else None, fix=fix)


def _item(kind: Type) -> Type:
    """What is in a container, one after another."""
    items = [arg for arg in kind.args if isinstance(arg, Type) and arg != ELLIPSIS]
    if kind.name in ("list", "set", "frozenset", "dict") and items:
        return items[0]
    if kind.name == "tuple" and items and all(item == items[0] for item in items):
        return items[0]
    return Type("str") if kind.name == "str" else UNKNOWN


def _sound(kind: Type) -> Type:
    """`kind` with everything below a name that is not known left out."""
    if kind.name == "?":
        return UNKNOWN
    args = tuple(_sound(arg) if isinstance(arg, Type) else arg for arg in kind.args)
    return union(tuple(arg for arg in args if isinstance(arg, Type))) if kind.name == "|" else Type(kind.name, args)


def _has(schema: type[BaseModel], name: str) -> bool:
    """Whether an instance may have an attribute that is no field: a property, a method, an extra value."""
    if hasattr(schema, name) or schema.model_config.get("extra") == "allow":
        return True
    own = [cls for cls in schema.__mro__ if cls.__module__.partition(".")[0] != "pydantic"]
    return any("__getattr__" in vars(cls) or name in vars(cls).get("__private_attributes__", ()) for cls in own)


def _label(node: Lm | Call | Opaque) -> str:
    path = node.module if isinstance(node, Lm) else node.program
    return path or f"%{node.id}"
