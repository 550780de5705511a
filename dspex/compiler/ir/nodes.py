"""The graph IR: immutable nodes with typed edges.

A graph is one region: nodes in source order, then its output. `select`, `cond`, `map`, `fallback`,
`race`, `together` and `call` hold regions of their own, which see the values around them. Nodes are numbered in
the order in which they are read (`canonical`), so that equal programs give equal graphs.

Nodes are ordered by the values that they read. `after` names nodes of the same region that have to
end first although their value is not read: those that act on the world keep their order by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import ClassVar, Final, Literal, TypeAlias

from dspex.compiler.ir.types import Type

__all__ = [
    "MAX_DEPTH",
    "Argument",
    "Attempt",
    "AttemptForm",
    "Attribute",
    "Branch",
    "Call",
    "Cond",
    "Constant",
    "Estimate",
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

MAX_DEPTH: Final = 64
"""How deep regions may be nested; everything that walks a graph recursively relies on it."""

JoinForm = Literal["record", "copy", "tuple", "list", "dict", "vote"]
AttemptForm = Literal["fallback", "race", "together"]


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
class Estimate:
    """Tokens of one call: each a range, from lowest to highest; None where nothing bounds it."""

    input: tuple[int, int | None]
    output: tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes in source order and what they give."""

    nodes: tuple[Node, ...]
    output: Value


@dataclass(frozen=True, slots=True)
class Branch:
    """One named region of a `select`, or one way of a `fallback`, `race` or `together`."""

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
    """One call of a language model through the module at `module`.

    Attributes:
        scope: Path of the program whose Variables the instruction's placeholders name.
        prefix: The sections of the prompt, in order, that are the same at every call: ``instruction``, ``demos``
            and the names of leading input fields. None before the layout pass.
        estimate: Tokens of one call. None before the estimate pass.
    """

    kind: ClassVar[str] = "lm"
    id: int
    module: str
    input: Type
    type: Type
    args: tuple[Argument, ...]
    settings: tuple[Setting, ...] = ()
    scope: str = ""
    prefix: tuple[str, ...] | None = None
    estimate: Estimate | None = None
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Select:
    """Module selection: the branch named by the Variable runs."""

    kind: ClassVar[str] = "select"
    id: int
    variable: str
    branches: tuple[Branch, ...]
    type: Type
    after: tuple[int, ...] = ()
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
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Map:
    """A region, once for each item of a list; its `input` is the item.

    Attributes:
        ordered: Items are worked on one after another, because the region acts on the world.
    """

    kind: ClassVar[str] = "map"
    id: int
    over: Value
    body: Region
    type: Type
    ordered: bool = False
    after: tuple[int, ...] = ()
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
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Under what its callable is kept: `target`, for an expression with the expression and its source's hash."""
        return self.target if self.expr is None else f"{self.target} {self.source} {self.expr}"


@dataclass(frozen=True, slots=True)
class Tool:
    """One call of a tool.

    Attributes:
        name: The tool's name, as a model would call it.
        target: ``module:qualname`` of its function.
    """

    kind: ClassVar[str] = "tool"
    id: int
    name: str
    target: str
    args: tuple[Argument, ...]
    type: Type
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Join:
    """Values brought together.

    Attributes:
        form: ``record`` constructs a schema, ``copy`` updates one, ``vote`` is the commonest of its values (by the
            field named ``by`` when it is given; the first of equally common ones), the others are containers.
    """

    kind: ClassVar[str] = "join"
    id: int
    form: JoinForm
    args: tuple[Argument, ...]
    type: Type
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Several ways to one value, or to a list of values.

    Attributes:
        form: ``fallback`` tries the branches in order until one does not fail, ``race`` runs all and takes the first
            that does not fail, ``together`` runs all and takes the list of their values. Branches of a ``together``
            may act at the same time; each keeps an order of its own.
    """

    kind: ClassVar[str] = "attempt"
    id: int
    form: AttemptForm
    branches: tuple[Branch, ...]
    type: Type
    after: tuple[int, ...] = ()
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
    after: tuple[int, ...] = ()
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
    after: tuple[int, ...] = ()
    loc: Location | None = field(default=None, compare=False)


Node: TypeAlias = Input | Lm | Select | Cond | Map | Python | Tool | Join | Attempt | Call | Opaque


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole program.

    Attributes:
        name: The program's name.
        input: Type of its input.
        output: Type of its output.
        body: Its nodes, in canonical numbering.
        params: The Variables that are rows of the parameter table, in the order of the rows; empty before the
            order pass.
        computed: The Variables that follow from others and have no row, each after those that it depends on.
    """

    name: str
    input: Type
    output: Type
    body: Region
    params: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()

    def __str__(self) -> str:
        from dspex.compiler.ir.printer import print_graph

        return print_graph(self)

    def _repr_html_(self) -> str:
        from dspex.compiler.view.page import graph_fragment

        return graph_fragment(self)

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
        case Input() | Select() | Attempt():
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
        case Select() | Attempt():
            return tuple(branch.body for branch in node.branches)
        case Cond():
            return (node.then, node.otherwise)
        case Map() | Call():
            return (node.body,)
        case _:
            return ()


def walk(region: Region) -> Iterator[Node]:
    """Every node of `region`, each before the nodes of its own regions."""
    levels = [iter(region.nodes)]
    while levels:
        for node in levels[-1]:
            yield node
            inner = regions(node)
            if inner:
                levels.append(chain.from_iterable(item.nodes for item in inner))
                break
        else:
            levels.pop()


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

    if isinstance(node, Input):
        return replace(node, id=at)
    earlier = (value(Ref(number)) for number in node.after)
    after = tuple(item.node for item in earlier if isinstance(item, Ref))
    match node:
        case Lm():
            settings = tuple(Setting(s.name, value(s.value)) for s in node.settings)
            return replace(node, id=at, args=arguments(node.args), settings=settings, after=after)
        case Select() | Attempt():
            branches = tuple(Branch(b.name, region(b.body)) for b in node.branches)
            return replace(node, id=at, branches=branches, after=after)
        case Cond():
            then, otherwise = region(node.then), region(node.otherwise)
            return replace(node, id=at, test=value(node.test), then=then, otherwise=otherwise, after=after)
        case Map():
            return replace(node, id=at, over=value(node.over), body=region(node.body), after=after)
        case Call():
            return replace(node, id=at, args=arguments(node.args), body=region(node.body), after=after)
        case Python() | Tool() | Join() | Opaque():
            return replace(node, id=at, args=arguments(node.args), after=after)


def canonical(graph: Graph) -> Graph:
    """`graph` with its nodes numbered in reading order."""
    numbers = {node.id: number for number, node in enumerate(walk(graph.body))}

    def value(item: Value) -> Value:
        return Ref(numbers.get(item.node, item.node), item.path) if isinstance(item, Ref) else item

    def region(item: Region) -> Region:
        nodes = tuple(rebuilt(node, value, region, numbers[node.id]) for node in item.nodes)
        return Region(nodes, value(item.output))

    return replace(graph, body=region(graph.body))
