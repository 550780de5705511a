"""Hypothesis strategies for sound graphs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    AttemptForm,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
    Estimate,
    Graph,
    Input,
    Join,
    JoinForm,
    Lm,
    Location,
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
    canonical,
    variables_of,
    walk,
)
from dspex.compiler.ir.nodes import regions as regions_of
from dspex.compiler.ir.types import LiteralValue, Type, union

identifiers = st.sampled_from(["a", "question", "größe", "k2", "名前", "x_1"])
names = st.one_of(identifiers, st.lists(identifiers, min_size=2, max_size=3).map(".".join), st.text(max_size=6))
texts = st.text(st.characters(), max_size=12) | st.just("\ud800")
targets = st.one_of(
    st.sampled_from(["bot:search", "pkg.bot:QA.__call__", "bot:make.<locals>.f", "builtins:len"]), st.text(max_size=6)
)
locations = st.one_of(st.none(), st.builds(Location, st.sampled_from(["bot.py", "a dir/ö.py"]), st.integers(1, 9999)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
constants = json_values.map(Constant.of)
plain_types = st.sampled_from([Type("Ask"), Type("Answer"), Type("str"), Type("?"), Type("None"), Type("pkg.mod.Ask")])
literals = st.lists(
    st.sampled_from([LiteralValue('"a b"'), LiteralValue("1"), LiteralValue("true"), LiteralValue("null")]),
    min_size=1,
    max_size=3,
).map(lambda values: Type("Literal", tuple(values)))
types = st.recursive(
    plain_types | literals,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2).map(lambda args: Type("tuple", (*args, Type("..."))))
        | st.lists(inner, min_size=2, max_size=3).map(lambda args: union(tuple(args)))
    ),
    max_leaves=4,
)
unknown = Type("?")
ranges = st.tuples(st.integers(0, 999), st.integers(0, 999)).map(lambda pair: (min(pair), max(pair)))
estimates = st.builds(Estimate, ranges, ranges | st.integers(0, 99).map(lambda low: (low, None)))


_MANY = names, targets, types, texts
_few = st.sampled_from(["a", "b"])
_FEW = _few, st.just("bot:search"), st.sampled_from([Type("str"), Type("?")]), st.just("x")


class _Numbers:
    """Fresh node numbers, anything but canonical."""

    def __init__(self) -> None:
        self.last = 100

    def take(self) -> int:
        self.last += 3
        return self.last


@st.composite
def graphs(draw: st.DrawFn, *, alike: bool = False) -> Graph:
    """A sound graph with every kind of node, in regions of up to three levels.

    Args:
        alike: Names, paths and settings are so few that many nodes are equal, and calls are deterministic.
    """
    numbers = _Numbers()
    names, targets, types, texts = _FEW if alike else _MANY
    paths = 0 if alike else 2

    def value(seen: list[int]) -> Value:
        others: list[st.SearchStrategy[Value]] = [names.map(Variable), names.map(Attribute), constants]
        if seen:
            path = st.lists(st.one_of(identifiers, st.integers(0, 9)), max_size=paths).map(tuple)
            refs: st.SearchStrategy[Value] = st.builds(Ref, st.sampled_from(seen[:2] if alike else seen), path)
            return draw(st.one_of(refs, refs, *([] if alike else others)))
        return draw(st.one_of(*others))

    def arguments(seen: list[int], positional: int, named: bool) -> tuple[Argument, ...]:
        args = [Argument(None, value(seen)) for _ in range(positional)]
        if named:
            args += [Argument(name, value(seen)) for name in draw(st.lists(names, max_size=2, unique=True))]
        return tuple(args)

    def region(seen: list[int], depth: int, given: bool) -> Region:
        seen = list(seen)
        nodes: list[Node] = []
        if given:
            nodes.append(Input(numbers.take(), unknown, draw(locations)))
            seen.append(nodes[0].id)
        for _ in range(draw(st.integers(0, (5 if alike else 3) if depth else 1))):
            node = operation(seen, depth)
            if nodes and not isinstance(node, Input):
                earlier = st.lists(
                    st.sampled_from([item.id for item in nodes]), max_size=0 if alike else 2, unique=True
                )
                node = replace(node, after=tuple(draw(earlier)))
            nodes.append(node)
            seen.append(node.id)
        if alike and nodes:
            # Everything is read, so that nothing is dead.
            nodes.append(Join(numbers.take(), "tuple", tuple(Argument(None, Ref(at)) for at in seen), unknown))
            return Region(tuple(nodes), Ref(nodes[-1].id))
        return Region(tuple(nodes), value(seen))

    def operation(seen: list[int], depth: int) -> Node:
        kinds = ["lm", "python", "expr", "tool", "join", "vote", "opaque"]
        kinds = ["lm", "lm", "python", "python", "join", "expr"] if alike else kinds
        kinds += ["select", "cond", "map", "call", "attempt"] if depth else []
        at, loc = numbers.take(), draw(locations)
        match draw(st.sampled_from(kinds)):
            case "lm":
                settings = tuple(Setting(name, value([])) for name in draw(st.lists(names, max_size=2, unique=True)))
                if alike:
                    settings = (Setting("temperature", Constant("0.0")),)
                prefix = draw(st.none() | st.lists(names, max_size=2, unique=True).map(tuple))
                notes = draw(names), prefix, draw(st.none() | estimates)
                return Lm(at, draw(names), unknown, unknown, arguments(seen, 1, False), settings, *notes, loc=loc)
            case "python":
                uses = tuple(draw(st.lists(names, max_size=2)))
                args = arguments(seen, draw(st.integers(0, 2)), True)
                flags = draw(st.booleans()), draw(st.booleans())
                return Python(at, draw(targets), args, draw(types), None, None, *flags, uses, loc=loc)
            case "expr":
                args = arguments(seen, 0, True)
                pure = draw(st.booleans())
                return Python(at, draw(targets), args, draw(types), draw(texts), draw(texts), pure=pure, loc=loc)
            case "tool":
                return Tool(at, draw(names), draw(targets), arguments(seen, 1, True), draw(types), loc=loc)
            case "join":
                forms: list[JoinForm] = ["record", "copy", "tuple", "list", "dict"]
                form = draw(st.sampled_from(forms))
                count = {"record": 0, "dict": 0, "copy": 1}.get(form, 2)
                named = form in ("record", "dict", "copy")
                return Join(at, form, arguments(seen, count, named), draw(types), loc=loc)
            case "vote":
                field = tuple(Argument("by", Constant.of(name)) for name in draw(st.lists(names, max_size=1)))
                return Join(at, "vote", arguments(seen, draw(st.integers(1, 3)), False) + field, unknown, loc=loc)
            case "opaque":
                owns, uses = tuple(draw(st.lists(names, max_size=2))), tuple(draw(st.lists(names, max_size=2)))
                args = arguments(seen, 1, False)
                words = draw(texts), draw(texts)
                return Opaque(at, draw(targets), draw(names), unknown, unknown, args, owns, uses, *words, loc=loc)
            case "select":
                return Select(at, draw(names), branches(seen, depth), unknown, loc=loc)
            case "attempt":
                forms_of: list[AttemptForm] = ["fallback", "race", "together"]
                return Attempt(at, draw(st.sampled_from(forms_of)), branches(seen, depth), unknown, loc=loc)
            case "cond":
                then, otherwise = region(seen, depth - 1, False), region(seen, depth - 1, False)
                return Cond(at, value(seen), then, otherwise, unknown, loc=loc)
            case "map":
                ordered = draw(st.booleans())
                return Map(at, value(seen), region(seen, depth - 1, True), draw(types), ordered, loc=loc)
            case _:
                args = arguments(seen, 1, False)
                return Call(at, draw(names), unknown, unknown, args, region([], depth - 1, True), loc=loc)

    def branches(seen: list[int], depth: int) -> tuple[Branch, ...]:
        given = draw(st.lists(names, min_size=1, max_size=3, unique=True))
        return tuple(Branch(name, region(seen, depth - 1, False)) for name in given)

    graph = canonical(Graph(draw(names), unknown, unknown, region([], 2, True)))
    if draw(st.booleans()):
        return graph
    read = list(variables_in(graph))
    rows = draw(st.integers(0, len(read)))
    return replace(graph, params=tuple(read[:rows]), computed=tuple(read[rows:])) if rows else graph


def variables_in(graph: Graph) -> dict[str, None]:
    """Every Variable that something in `graph` reads."""
    found = dict.fromkeys(name for node in walk(graph.body) for name in variables_of(node))
    regions = [graph.body, *(inner for node in walk(graph.body) for inner in regions_of(node))]
    found.update(dict.fromkeys(item.output.name for item in regions if isinstance(item.output, Variable)))
    return found
