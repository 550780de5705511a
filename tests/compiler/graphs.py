"""Hypothesis strategies for sound graphs."""

from __future__ import annotations

from hypothesis import strategies as st

from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
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
)
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


class _Numbers:
    """Fresh node numbers, anything but canonical."""

    def __init__(self) -> None:
        self.last = 100

    def take(self) -> int:
        self.last += 3
        return self.last


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A sound graph with every kind of node, in regions of up to three levels."""
    numbers = _Numbers()

    def value(seen: list[int]) -> Value:
        others: list[st.SearchStrategy[Value]] = [names.map(Variable), names.map(Attribute), constants]
        if seen:
            path = st.lists(st.one_of(identifiers, st.integers(0, 9)), max_size=2).map(tuple)
            refs: st.SearchStrategy[Value] = st.builds(Ref, st.sampled_from(seen), path)
            return draw(st.one_of(refs, refs, *others))
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
        for _ in range(draw(st.integers(0, 3 if depth else 1))):
            node = operation(seen, depth)
            nodes.append(node)
            seen.append(node.id)
        return Region(tuple(nodes), value(seen))

    def operation(seen: list[int], depth: int) -> Node:
        kinds = ["lm", "python", "expr", "tool", "join", "opaque"]
        kinds += ["select", "cond", "map", "call"] if depth else []
        at, loc = numbers.take(), draw(locations)
        match draw(st.sampled_from(kinds)):
            case "lm":
                settings = tuple(Setting(name, value([])) for name in draw(st.lists(names, max_size=2, unique=True)))
                return Lm(at, draw(names), unknown, unknown, arguments(seen, 1, False), settings, loc)
            case "python":
                uses = tuple(draw(st.lists(names, max_size=2)))
                args = arguments(seen, draw(st.integers(0, 2)), True)
                flags = draw(st.booleans()), draw(st.booleans())
                return Python(at, draw(targets), args, draw(types), None, None, *flags, uses, loc)
            case "expr":
                args = arguments(seen, 0, True)
                return Python(at, draw(targets), args, draw(types), draw(texts), draw(texts), loc=loc)
            case "tool":
                return Tool(at, draw(names), arguments(seen, 1, True), draw(types), loc)
            case "join":
                forms: list[JoinForm] = ["record", "copy", "tuple", "list", "dict"]
                form = draw(st.sampled_from(forms))
                count = {"record": 0, "dict": 0, "copy": 1}.get(form, 2)
                named = form in ("record", "dict", "copy")
                return Join(at, form, arguments(seen, count, named), draw(types), loc)
            case "opaque":
                owns, uses = tuple(draw(st.lists(names, max_size=2))), tuple(draw(st.lists(names, max_size=2)))
                args = arguments(seen, 1, False)
                words = draw(texts), draw(texts)
                return Opaque(at, draw(targets), draw(names), unknown, unknown, args, owns, uses, *words, loc)
            case "select":
                branches = draw(st.lists(names, min_size=1, max_size=3, unique=True))
                bodies = tuple(Branch(name, region(seen, depth - 1, False)) for name in branches)
                return Select(at, draw(names), bodies, unknown, loc)
            case "cond":
                then, otherwise = region(seen, depth - 1, False), region(seen, depth - 1, False)
                return Cond(at, value(seen), then, otherwise, unknown, loc)
            case "map":
                return Map(at, value(seen), region(seen, depth - 1, True), draw(types), loc)
            case _:
                args = arguments(seen, 1, False)
                return Call(at, draw(names), unknown, unknown, args, region([], depth - 1, True), loc)

    return canonical(Graph(draw(names), unknown, unknown, region([], 2, True)))
