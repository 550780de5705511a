"""The difference of two graphs, by meaning: nodes are matched by what they do, never by their numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, cast

from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    Call,
    Cond,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Setting,
    Tool,
    Value,
    Variable,
    regions,
    variables_of,
    walk,
)
from dspex.compiler.ir.printer import print_value
from dspex.compiler.ir.types import Type

__all__ = ["Change", "Detail", "GraphDiff", "diff"]

Kind = Literal["added", "removed", "changed"]

_SIGNS: Final[Mapping[Kind, str]] = {"added": "+", "removed": "-", "changed": "~"}
_UNSEEN: Final = frozenset({"id", "loc", "reason", "remedy", "estimate", "branches", "body", "then", "otherwise"})


@dataclass(frozen=True, slots=True)
class Detail:
    """What differs about one node or about the program, each side as text; None where a side has nothing."""

    what: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.what} {self.after} added"
        if self.after is None:
            return f"{self.what} {self.before} removed"
        return f"{self.what} {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class Change:
    """A node that only one graph has, or that differs.

    Attributes:
        kind: What happened to it.
        label: What it is: ``lm @solver.cot``.
        before: Its number in the first graph.
        after: Its number in the second graph.
        details: What differs; empty for a node that only one graph has.
    """

    kind: Kind
    label: str
    before: int | None
    after: int | None
    details: tuple[Detail, ...] = ()

    def __str__(self) -> str:
        places = " -> ".join(f"%{number}" for number in (self.before, self.after) if number is not None)
        said = f": {'; '.join(str(item) for item in self.details)}" if self.details else ""
        return f"{_SIGNS[self.kind]} {self.label} ({places}){said}"


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """What two graphs have not in common; false when there is nothing.

    Attributes:
        program: What differs about the program itself: its types, its output, the order of its parameters.
        nodes: Nodes that only one graph has, and nodes that differ.
        variables: Variables that only one graph reads or has as parameters: the first side's, then the second's.
        types: Names of types that only one graph has: the first side's, then the second's.
    """

    program: tuple[Detail, ...]
    nodes: tuple[Change, ...]
    variables: tuple[tuple[str, ...], tuple[str, ...]]
    types: tuple[tuple[str, ...], tuple[str, ...]]

    def __bool__(self) -> bool:
        return bool(self.program or self.nodes or any(self.variables) or any(self.types))

    @property
    def added(self) -> tuple[Change, ...]:
        return tuple(change for change in self.nodes if change.kind == "added")

    @property
    def removed(self) -> tuple[Change, ...]:
        return tuple(change for change in self.nodes if change.kind == "removed")

    @property
    def changed(self) -> tuple[Change, ...]:
        return tuple(change for change in self.nodes if change.kind == "changed")

    def __str__(self) -> str:
        lines = [f"~ program: {item}" for item in self.program]
        lines += [str(change) for change in self.nodes]
        for what, sign, (gone, new) in (("Variable", "$", self.variables), ("type", "", self.types)):
            lines += [f"- {what} {sign}{name}" for name in gone]
            lines += [f"+ {what} {sign}{name}" for name in new]
        return "\n".join(lines) if lines else "no difference"

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""

        def details(items: tuple[Detail, ...]) -> list[dict[str, str | None]]:
            return [{"what": item.what, "before": item.before, "after": item.after} for item in items]

        return {
            "program": details(self.program),
            "nodes": [
                {
                    "kind": change.kind,
                    "label": change.label,
                    "before": change.before,
                    "after": change.after,
                    "details": details(change.details),
                }
                for change in self.nodes
            ],
            "variables": {"removed": list(self.variables[0]), "added": list(self.variables[1])},
            "types": {"removed": list(self.types[0]), "added": list(self.types[1])},
        }


def diff(a: Graph, b: Graph) -> GraphDiff:
    """What `b` has that `a` has not, and the reverse; nothing exactly if their structural hashes are equal.

    Nodes of corresponding regions are matched first by all that they are and read, then by what they do (the module
    called, the function, the Variable of a selection), then a node that went from one region to another. A node is not
    changed because a node that it reads is.
    """
    matching = _Matching(a, b)
    matching.pair_regions(a.body, b.body)
    matching.pair_moved()
    program = [
        Detail(what, str(before), str(after))
        for what, before, after in (("input", a.input, b.input), ("result", a.output, b.output))
        if before != after
    ]
    program += matching.outputs("output", a.body, b.body)
    mine, theirs = _variables(a), _variables(b)
    for what, before, after in (("params", a.params, b.params), ("computed", a.computed, b.computed)):
        # Variables that one side does not know at all are told apart below.
        kept = [name for name in before if name in theirs], [name for name in after if name in mine]
        if kept[0] != kept[1]:
            program.append(Detail(what, _names(kept[0]), _names(kept[1])))
    return GraphDiff(tuple(program), tuple(matching.changes()), _either(mine, theirs), _either(_types(a), _types(b)))


class _Matching:
    """Which node of one graph is which of the other."""

    def __init__(self, a: Graph, b: Graph) -> None:
        self._pairs: dict[int, int] = {}
        self._taken: set[int] = set()
        self._moved: set[int] = set()
        self._classes: dict[Hashable, int] = {}
        self._meanings = self._meanings_of(a), self._meanings_of(b)
        self._homes = _homes(a), _homes(b)
        self._nodes = tuple({node.id: node for node in walk(graph.body)} for graph in (a, b))

    # --- what a node means ----------------------------------------------------------------------

    def _meanings_of(self, graph: Graph) -> dict[int, int]:
        """For each node a number that it shares exactly with nodes that are and read the same."""
        meanings: dict[int, int] = {}

        def read(value: Value) -> Hashable:
            return (meanings.get(value.node), value.path) if isinstance(value, Ref) else value

        def region(item: Region) -> Hashable:
            for node in item.nodes:
                key = self._plain(node, read), tuple(region(inner) for inner in regions(node))
                meanings[node.id] = self._classes.setdefault(key, len(self._classes))
            return tuple(meanings[node.id] for node in item.nodes), read(item.output)

        region(graph.body)
        return meanings

    def _plain(self, node: Node, read: Callable[[Value], Hashable]) -> Hashable:
        parts: list[Hashable] = [node.kind]
        for name in _seen(node):
            content = getattr(node, name)
            if name in ("args", "settings"):
                given = cast("tuple[Argument | Setting, ...]", content)
                parts.append(tuple((item.name, read(item.value)) for item in given))
            elif name in ("test", "over"):
                parts.append(read(content))
            elif name == "after":
                parts.append(tuple(read(Ref(number)) for number in cast("tuple[int, ...]", content)))
            else:
                parts.append(content)
        if isinstance(node, Select | Attempt):
            parts.append(tuple(branch.name for branch in node.branches))
        return tuple(parts)

    # --- pairs ----------------------------------------------------------------------------------

    def pair_regions(self, a: Region, b: Region) -> None:
        """Matches the nodes of two corresponding regions, and those of the regions that these hold."""
        self._pair(a.nodes, b.nodes)
        place = {node.id: at for at, node in enumerate(b.nodes)}
        both = [node.id for node in a.nodes if self._pairs.get(node.id) in place]
        kept = _rising([place[self._pairs[number]] for number in both])
        self._moved.update(number for at, number in enumerate(both) if at not in kept)

    def pair_moved(self) -> None:
        """Matches what is left over, wherever it stands."""
        left = [node for node in self._nodes[0].values() if node.id not in self._pairs]
        right = [node for node in self._nodes[1].values() if node.id not in self._taken]
        self._pair(left, right)

    def _pair(self, left: Iterable[Node], right: Iterable[Node]) -> None:
        left, right = list(left), list(right)
        for keys in ((self._meaning_before, self._meaning_after), (_identity, _identity)):
            waiting: defaultdict[Hashable, deque[Node]] = defaultdict(deque)
            for node in right:
                waiting[keys[1](node)].append(node)
            for node in left:
                if node.id in self._pairs:
                    continue
                found = waiting.get(keys[0](node))
                while found and found[0].id in self._taken:
                    found.popleft()
                if found:
                    self._join(node, found.popleft())

    def _meaning_before(self, node: Node) -> Hashable:
        return self._meanings[0][node.id]

    def _meaning_after(self, node: Node) -> Hashable:
        return self._meanings[1][node.id]

    def _join(self, x: Node, y: Node) -> None:
        self._pairs[x.id] = y.id
        self._taken.add(y.id)
        theirs = _named_regions(y)
        for name, region in _named_regions(x).items():
            if name in theirs:
                self.pair_regions(region, theirs[name])

    # --- what differs ---------------------------------------------------------------------------

    def changes(self) -> Iterator[Change]:
        """What is gone, then what is new or differs, each in the order of its graph."""
        before, after = self._nodes
        for node in before.values():
            if node.id not in self._pairs:
                yield Change("removed", _label(node), node.id, None)
        origin = {there: here for here, there in self._pairs.items()}
        for node in after.values():
            if node.id not in origin:
                yield Change("added", _label(node), None, node.id)
                continue
            here = before[origin[node.id]]
            details = tuple(self._details(here, node))
            if details:
                yield Change("changed", _label(node), here.id, node.id, details)

    def outputs(self, what: str, a: Region, b: Region) -> list[Detail]:
        if self._same(a.output, b.output):
            return []
        return [Detail(what, *self._texts(a.output, b.output))]

    def _texts(self, before: Value | None, after: Value | None) -> tuple[str | None, str | None]:
        """Two values that differ; nodes are named by what they do where their numbers do not tell them apart."""
        texts = [None if value is None else print_value(value) for value in (before, after)]
        if texts[0] == texts[1] and isinstance(before, Ref) and isinstance(after, Ref):
            nodes = self._nodes[0][before.node], self._nodes[1][after.node]
            texts = [f"{text} ({_label(node)})" for text, node in zip(texts, nodes, strict=True)]
        return texts[0], texts[1]

    def _same(self, before: Value, after: Value) -> bool:
        if isinstance(before, Ref) and isinstance(after, Ref):
            return self._pairs.get(before.node) == after.node and before.path == after.path
        return before == after

    def _details(self, x: Node, y: Node) -> Iterator[Detail]:
        yield from self._place(x, y)
        for name in _seen(x):
            before, after = getattr(x, name), getattr(y, name)
            if name in ("args", "settings"):
                yield from self._arguments(name, before, after)
            elif name in ("test", "over"):
                if not self._same(before, after):
                    yield Detail(name, *self._texts(before, after))
            elif name == "after":
                if [self._pairs.get(number) for number in before] != list(after):
                    yield Detail("runs after", _numbers(before), _numbers(after))
            elif before != after:
                yield Detail(name, _text(before), _text(after))
        mine, theirs = _named_regions(x), _named_regions(y)
        if list(mine) != list(theirs):
            yield Detail("branches", ", ".join(mine), ", ".join(theirs))
        for name, region in mine.items():
            if name in theirs:
                yield from self.outputs(f"output of {name}", region, theirs[name])

    def _place(self, x: Node, y: Node) -> Iterator[Detail]:
        (holder, name), (other, there) = self._homes[0][x.id], self._homes[1][y.id]
        if (self._pairs.get(holder, holder), name) != (other, there):
            yield Detail("region", _home(holder, name), _home(other, there))
        elif x.id in self._moved:
            yield Detail("place", f"%{x.id}", f"%{y.id}")

    def _arguments(
        self, what: str, before: tuple[Argument | Setting, ...], after: tuple[Argument | Setting, ...]
    ) -> Iterator[Detail]:
        mine, theirs = _keyed(before), _keyed(after)
        changed = False
        for key in dict.fromkeys((*mine, *theirs)):
            here, there = mine.get(key), theirs.get(key)
            if here is None or there is None or not self._same(here, there):
                changed = True
                yield Detail(key, *self._texts(here, there))
        if not changed and list(mine) != list(theirs):
            yield Detail(f"order of {what}", ", ".join(mine), ", ".join(theirs))


def _seen(node: Node) -> Iterator[str]:
    """Names of the parts that a node's meaning has, beside its regions."""
    return (item.name for item in fields(node) if item.name not in _UNSEEN)


def _identity(node: Node) -> Hashable:
    """What a node does, whatever it reads and however it is set."""
    match node:
        case Lm():
            return node.kind, node.module
        case Select():
            return node.kind, node.variable
        case Python():
            return node.kind, node.target, node.expr
        case Tool():
            return node.kind, node.name
        case Join():
            return node.kind, node.form, node.type
        case Attempt():
            return node.kind, node.form
        case Call() | Opaque():
            return node.kind, node.program
        case Input() | Cond() | Map():
            return node.kind


def _label(node: Node) -> str:
    match node:
        case Lm():
            return f"lm @{node.module}"
        case Select():
            return f"select ${node.variable}"
        case Python():
            return f"python {node.target}" if node.expr is None else f"python {node.expr!r}"
        case Tool():
            return f"tool {node.name}"
        case Join():
            return f"join {node.form}"
        case Attempt():
            return node.form
        case Call() | Opaque():
            return f"{node.kind} @{node.program}"
        case Input() | Cond() | Map():
            return node.kind


def _named_regions(node: Node) -> dict[str, Region]:
    match node:
        case Select() | Attempt():
            return {branch.name: branch.body for branch in node.branches}
        case Cond():
            return {"then": node.then, "else": node.otherwise}
        case Map() | Call():
            return {"body": node.body}
        case _:
            return {}


def _homes(graph: Graph) -> dict[int, tuple[int, str]]:
    """For each node the node that holds it, and the region's name; -1 holds those of the program."""
    homes = {node.id: (-1, "") for node in graph.body.nodes}
    for node in walk(graph.body):
        for name, region in _named_regions(node).items():
            homes.update({inner.id: (node.id, name) for inner in region.nodes})
    return homes


def _home(holder: int, name: str) -> str:
    return "the program" if holder < 0 else f"{name} of %{holder}"


def _keyed(items: tuple[Argument | Setting, ...]) -> dict[str, Value]:
    return {item.name if item.name is not None else f"value {at}": item.value for at, item in enumerate(items)}


def _rising(places: list[int]) -> set[int]:
    """Indices of a longest rising part of `places`: what did not move."""
    ends: list[int] = []
    at_end: list[int] = []
    before: list[int] = []
    for index, place in enumerate(places):
        at = bisect_left(ends, place)
        before.append(at_end[at - 1] if at else -1)
        ends[at : at + 1] = [place]
        at_end[at : at + 1] = [index]
    kept: set[int] = set()
    index = at_end[-1] if at_end else -1
    while index >= 0:
        kept.add(index)
        index = before[index]
    return kept


def _text(value: object) -> str | None:
    match value:
        case None | "" | ():
            return None
        case tuple():
            return f"[{', '.join(str(item) for item in cast('tuple[object, ...]', value))}]"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _names(names: Iterable[str]) -> str | None:
    return ", ".join(f"${name}" for name in names) or None


def _numbers(numbers: tuple[int, ...]) -> str | None:
    return ", ".join(f"%{number}" for number in numbers) or None


def _variables(graph: Graph) -> dict[str, None]:
    found = dict.fromkeys((*graph.params, *graph.computed))
    for node in walk(graph.body):
        found.update(dict.fromkeys(variables_of(node)))
        found.update({item.output.name: None for item in regions(node) if isinstance(item.output, Variable)})
    if isinstance(graph.body.output, Variable):
        found[graph.body.output.name] = None
    return found


def _types(graph: Graph) -> dict[str, None]:
    found: dict[str, None] = {}

    def add(kind: Type) -> None:
        if kind.name not in ("|", "?", "..."):
            found[kind.name] = None
        for arg in kind.args:
            if isinstance(arg, Type):
                add(arg)

    add(graph.input)
    add(graph.output)
    for node in walk(graph.body):
        add(node.type)
        if isinstance(node, Lm | Call | Opaque):
            add(node.input)
    return found


def _either(before: Mapping[str, None], after: Mapping[str, None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that only one side has."""
    return tuple(n for n in before if n not in after), tuple(n for n in after if n not in before)
