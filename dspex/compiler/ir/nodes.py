"""The graph IR: immutable nodes with typed edges.

A graph is one region: nodes in source order, then its output. `select`, `cond`, `map` and `call`
hold regions of their own, which see the values around them. Nodes are numbered in the order in
which they are read (`canonical`), so that equal programs give equal graphs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

from dspex.compiler.ir.types import Type

__all__ = [
    "Argument",
    "Attribute",
    "Branch",
    "Call",
    "Cond",
    "Constant",
    "Graph",
    "Input",
    "Join",
    "JoinForm",
    "Lm",
    "Location",
    "Map",
    "Node",
    "Opaque",
    "Python",
    "Ref",
    "Region",
    "Select",
    "Setting",
    "Tool",
    "Value",
    "Variable",
    "canonical",
    "json_text",
    "operands",
    "rebuilt",
    "regions",
    "variables_of",
    "walk",
]

JoinForm = Literal["record", "copy", "tuple", "list", "dict"]


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a node, or a field or item of it: ``%0``, ``%0.question``, ``%1[0]``."""

    node: int
    path: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """A Variable by its full name: ``$solver.cot.instruction``."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A plain value, kept as canonical JSON text so that ``1``, ``1.0`` and ``true`` differ."""

    text: str

    @classmethod
    def of(cls, value: object) -> Constant:
        """The constant for a JSON value; ValueError for anything else."""
        return cls(json_text(value))

    @property
    def value(self) -> object:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A plain attribute or method of a program object, by its dotted path: ``@table``."""

    name: str


Value: TypeAlias = Ref | Variable | Constant | Attribute


@dataclass(frozen=True, slots=True)
class Argument:
    """One operand; `name` is None for a positional one."""

    name: str | None
    value: Value


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of an LM node: a Variable or a constant."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes in source order and what they give."""

    nodes: tuple[Node, ...]
    output: Value


@dataclass(frozen=True, slots=True)
class Branch:
    """One named implementation of a `select`."""

    name: str
    body: Region


@dataclass(frozen=True, slots=True)
class Input:
    """What a graph, a `call` or a `map` is given."""

    kind: ClassVar[str] = "input"
    id: int
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Lm:
    """One call of a language model through the module at `module`."""

    kind: ClassVar[str] = "lm"
    id: int
    module: str
    input: Type
    type: Type
    args: tuple[Argument, ...]
    settings: tuple[Setting, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Select:
    """Module selection: the branch named by the Variable runs."""

    kind: ClassVar[str] = "select"
    id: int
    variable: str
    branches: tuple[Branch, ...]
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Cond:
    """One of two regions, by the truth of a value."""

    kind: ClassVar[str] = "cond"
    id: int
    test: Value
    then: Region
    otherwise: Region
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Map:
    """A region, once for each item of a list; its `input` is the item."""

    kind: ClassVar[str] = "map"
    id: int
    over: Value
    body: Region
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Python:
    """A plain function call, or one Python expression.

    Attributes:
        target: ``module:qualname`` of the function called, or of the body that holds the expression.
        expr: The expression with its captured inputs as names, or None for a call of `target`.
        source: Hash of the expression's source; an artifact checks it, and never evaluates `expr`.
        awaits: The function is asynchronous.
        pure: Equal inputs give equal values and nothing else happens.
        uses: Variables that are read inside, beyond the arguments.
    """

    kind: ClassVar[str] = "python"
    id: int
    target: str
    args: tuple[Argument, ...]
    type: Type
    expr: str | None = None
    source: str | None = None
    awaits: bool = False
    pure: bool = False
    uses: tuple[str, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """One call of a tool by name."""

    kind: ClassVar[str] = "tool"
    id: int
    name: str
    args: tuple[Argument, ...]
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Join:
    """Values brought together.

    Attributes:
        form: ``record`` constructs a schema, ``copy`` updates one, the others are containers.
    """

    kind: ClassVar[str] = "join"
    id: int
    form: JoinForm
    args: tuple[Argument, ...]
    type: Type
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A program inside the program, with its body; the inline pass dissolves it."""

    kind: ClassVar[str] = "call"
    id: int
    program: str
    input: Type
    type: Type
    args: tuple[Argument, ...]
    body: Region
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A program that runs as plain Python; it still owns its Variables and inner modules.

    Attributes:
        target: ``module:qualname`` of the program's class.
        program: Its dotted path; empty for the compiled program itself.
        owns: Paths of the modules inside.
        uses: Variables inside.
        reason: What the front end does not understand.
        remedy: How to write it so that it is understood.
    """

    kind: ClassVar[str] = "opaque"
    id: int
    target: str
    program: str
    input: Type
    type: Type
    args: tuple[Argument, ...]
    owns: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""
    loc: Location | None = field(default=None, compare=False)


Node: TypeAlias = Input | Lm | Select | Cond | Map | Python | Tool | Join | Call | Opaque


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole program.

    Attributes:
        name: The program's name.
        input: Type of its input.
        output: Type of its output.
        body: Its nodes, in canonical numbering.
    """

    name: str
    input: Type
    output: Type
    body: Region

    def __str__(self) -> str:
        from dspex.compiler.ir.printer import print_graph

        return print_graph(self)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, those of inner regions included, in canonical order."""
        return tuple(walk(self.body))

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        """The programs that run as plain Python."""
        return tuple(node for node in walk(self.body) if isinstance(node, Opaque))

    @property
    def hash(self) -> str:
        """Structural hash: equal for graphs that mean the same, wherever their source stands."""
        from dspex.compiler.ir.printer import structural_hash

        return structural_hash(self)


def json_text(value: object) -> str:
    """`value` as JSON, readable where the text can be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or _encodable(text) else json.dumps(value, allow_nan=False)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def operands(node: Node) -> tuple[Value, ...]:
    """The values that `node` itself reads, without those inside its regions."""
    match node:
        case Input() | Select():
            return ()
        case Lm():
            return (*(a.value for a in node.args), *(s.value for s in node.settings))
        case Cond():
            return (node.test,)
        case Map():
            return (node.over,)
        case Python() | Tool() | Join() | Call() | Opaque():
            return tuple(a.value for a in node.args)


def regions(node: Node) -> tuple[Region, ...]:
    """The regions that `node` holds."""
    match node:
        case Select():
            return tuple(branch.body for branch in node.branches)
        case Cond():
            return (node.then, node.otherwise)
        case Map() | Call():
            return (node.body,)
        case _:
            return ()


def walk(region: Region) -> Iterator[Node]:
    """Every node of `region`, each before the nodes of its own regions."""
    for node in region.nodes:
        yield node
        for inner in regions(node):
            yield from walk(inner)


def variables_of(node: Node) -> tuple[str, ...]:
    """Names of the Variables that `node` itself reads."""
    found = [value.name for value in operands(node) if isinstance(value, Variable)]
    if isinstance(node, Select):
        found.append(node.variable)
    elif isinstance(node, Python | Opaque):
        found.extend(node.uses)
    return tuple(dict.fromkeys(found))


def rebuilt(
    node: Node, value: Callable[[Value], Value], region: Callable[[Region], Region], number: int | None = None
) -> Node:
    """`node` with every operand and region replaced, and numbered `number` when given."""
    at = node.id if number is None else number

    def arguments(args: tuple[Argument, ...]) -> tuple[Argument, ...]:
        return tuple(Argument(a.name, value(a.value)) for a in args)

    match node:
        case Input():
            return replace(node, id=at)
        case Lm():
            settings = tuple(Setting(s.name, value(s.value)) for s in node.settings)
            return replace(node, id=at, args=arguments(node.args), settings=settings)
        case Select():
            return replace(node, id=at, branches=tuple(Branch(b.name, region(b.body)) for b in node.branches))
        case Cond():
            return replace(node, id=at, test=value(node.test), then=region(node.then), otherwise=region(node.otherwise))
        case Map():
            return replace(node, id=at, over=value(node.over), body=region(node.body))
        case Call():
            return replace(node, id=at, args=arguments(node.args), body=region(node.body))
        case Python() | Tool() | Join() | Opaque():
            return replace(node, id=at, args=arguments(node.args))


def canonical(graph: Graph) -> Graph:
    """`graph` with its nodes numbered in reading order."""
    numbers = {node.id: number for number, node in enumerate(walk(graph.body))}

    def value(item: Value) -> Value:
        return Ref(numbers.get(item.node, item.node), item.path) if isinstance(item, Ref) else item

    def region(item: Region) -> Region:
        nodes = tuple(rebuilt(node, value, region, numbers[node.id]) for node in item.nodes)
        return Region(nodes, value(item.output))

    return Graph(graph.name, graph.input, graph.output, region(graph.body))
