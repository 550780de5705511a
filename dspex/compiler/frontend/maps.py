"""Comprehensions, gathered lists of calls and `dx.map`: a region for each item of a list.

What is known in full when the program is compiled (programs in a list of `self`, a literal, a short range) is
written out instead.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, get_args, get_origin

from dspex.compiler.frontend import calls, loops
from dspex.compiler.frontend.annotations import ITERATOR, generic, item_type
from dspex.compiler.frontend.decide import decided
from dspex.compiler.frontend.expressions import awaits_inside, capture, fact_of, holds_await
from dspex.compiler.frontend.names import free_name, is_asynchronous
from dspex.compiler.frontend.symbols import ANY, Deferred, Inner, Symbol, Symbolic, Tooled
from dspex.compiler.ir.nodes import Attempt, Branch, Input, Map, Node, Opaque, Python, Ref, Region, Tool, walk
from dspex.program.tools import Tool as ToolObject

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["acts", "comprehension", "fixed_parts", "gathered", "mapped", "together"]

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_ITERATORS: Final = frozenset({"zip", "enumerate", "reversed", "map", "filter", "range", "iter"})
_VIEWS: Final = frozenset({"items", "keys", "values"})
_ONCE: Final = "make a list of it first: `items = list(...)`"
_COMPREHENSION: Final = "gather one comprehension of calls, or use `await dx.map(self.module, xs)`"


def acts(nodes: Iterable[Node]) -> bool:
    """Whether something among `nodes` may act on the world, so that its place in the order counts."""
    return any(
        isinstance(node, Tool | Opaque) or (isinstance(node, Python) and not node.pure)
        for node in walk(Region(tuple(nodes), Ref(0)))
    )


def fixed_parts(value: Symbolic) -> tuple[Symbolic, ...] | None:
    """The items of a value whose type says how many it has."""
    args = get_args(value.type)
    if get_origin(value.type) is not tuple or not args or ... in args or not isinstance(value.value, Ref):
        return None
    ref = value.value
    return tuple(
        Symbolic(Ref(ref.node, (*ref.path, at)), kind, name=value.name, plain=value.plain)
        for at, kind in enumerate(args)
    )


def comprehension(body: Interpreter, node: ast.ListComp | ast.SetComp | ast.DictComp) -> Symbol | None:
    """A comprehension that awaits, or makes calls to be awaited; None for one that is plain Python."""
    if any(generator.is_async for generator in node.generators):
        return None
    if not awaits_inside(node):
        if isinstance(node, ast.ListComp) and isinstance(node.elt, ast.Call) and _is_call(body, node.elt, node):
            return _pending(body, node, node.elt)
        return None
    if isinstance(node, ast.DictComp):
        pair, generators = (node.key, node.value), node.generators
        found = _each(body, generators, lambda: body.joined("tuple", [body.value(item) for item in pair], node), node)
        return _finished(body, found, "{key: value for key, value in items}", node)
    element = node.elt
    found = _each(body, node.generators, lambda: body.value(element), node)
    return found if isinstance(node, ast.ListComp) else _finished(body, found, "{*items}", node)


def _pending(body: Interpreter, node: ast.ListComp, call: ast.Call) -> Deferred:
    """A list of calls that are awaited later."""
    names, count = body.snapshot(), len(body.nodes)
    argued: list[bool] = []

    def made() -> Symbolic:
        return _each(body, node.generators, lambda: _one(body, call, argued), node, together=True)

    result = body.with_names(names, made)
    if not acts(body.nodes[count:]):
        # When such calls begin makes no difference.
        return body.defer(lambda: result, node, several=True)
    if any(argued):
        raise body.unsupported(
            "arguments of calls that are awaited later act on the world",
            "gather the comprehension directly, or mark what is pure @dx.op(pure=True)",
            node,
        )
    del body.nodes[count:]
    return body.defer(lambda: body.with_names(names, made), node, several=True)


def _finished(body: Interpreter, found: Symbolic, text: str, node: ast.expr) -> Symbolic:
    """The container that a comprehension makes of its items."""
    tree = ast.parse(text, mode="eval").body
    for item in ast.walk(tree):
        ast.copy_location(item, node)
    return body.with_names({"items": found}, lambda: capture(body, tree))


def gathered(body: Interpreter, value: ast.expr, call: ast.Call) -> Deferred:
    """``asyncio.gather(*value)``."""
    names = body.snapshot()
    match value:
        case ast.Name():
            known = body.names.get(value.id)
            if isinstance(known, Deferred) and known.several:
                return body.defer(lambda: calls.spend(body, known, call), call)
        case ast.List() | ast.Tuple():
            flat = ast.copy_location(ast.Call(call.func, value.elts, []), call)
            return calls.deferred(body, flat)
        case ast.ListComp() | ast.GeneratorExp(elt=ast.Call()) if isinstance(value.elt, ast.Call):
            element, generators = value.elt, value.generators
            if isinstance(value, ast.ListComp) or not awaits_inside(value):
                return body.defer(
                    lambda: body.with_names(
                        names, lambda: _each(body, generators, lambda: _one(body, element), call, together=True)
                    ),
                    call,
                )
        case ast.Call(func=ast.Name(id="map"), args=[function, over], keywords=[]):
            program = body.resolve(function)
            if isinstance(program, Inner) and free_name(body.body, value.func, body.names) is builtins.map:
                return _over(body, program, over, call)
        case _:
            pass
    raise body.unsupported("asyncio.gather over something other than a list of calls", _COMPREHENSION, call)


def mapped(body: Interpreter, call: ast.Call) -> Deferred:
    """``dx.map(program, xs)``."""
    if len(call.args) != 2 or call.keywords or any(isinstance(arg, ast.Starred) for arg in call.args):
        raise body.unsupported("dx.map with other arguments than two", calls.MAP, call)
    program, over = calls.program_of(body, call.args[0], calls.MAP), call.args[1]
    if isinstance(over, ast.ListComp | ast.GeneratorExp) and not awaits_inside(over):
        element = over.elt
        names = body.snapshot()

        def one() -> Symbolic:
            start = len(body.nodes)
            given = body.value(element)
            return _ordered(body, start, lambda: _run(body, program, given, call), call)

        return body.defer(
            lambda: body.with_names(names, lambda: _each(body, over.generators, one, call, together=True)), call
        )
    return _over(body, program, over, call)


def _over(body: Interpreter, program: Inner, over: ast.expr, call: ast.Call) -> Deferred:
    """A program, run on each item of a list."""
    given = _iterated(body, over)
    parts = given.parts
    if parts is not None:
        runs = [lambda part=part: _run(body, program, part, call) for part in parts]
        return body.defer(lambda: together(body, runs, call), call)
    return body.defer(
        lambda: _region(body, given, lambda item: _run(body, program, item, call), call, together=True), call
    )


def _run(body: Interpreter, program: Inner, given: Symbolic, call: ast.Call) -> Symbolic:
    return body.reader.call(body, program, given, body.location(call))


def _one(body: Interpreter, call: ast.Call, argued: list[bool] | None = None) -> Symbolic:
    """One of the calls of a list; `argued` is told whether its arguments act."""
    start = len(body.nodes)
    pending = calls.deferred(body, call)
    if argued is not None:
        nested = [item for arg in (*call.args, *call.keywords) for item in ast.walk(arg) if isinstance(item, ast.Call)]
        plain = not isinstance(body.resolve(call.func), Inner | Tooled) and calls.own_method(body, call.func) is None
        argued.append(bool(nested) if plain else acts(body.nodes[start:]))
    return _ordered(body, start, lambda: calls.spend(body, pending, call), call)


def _ordered(body: Interpreter, start: int, run: Callable[[], Symbolic], node: ast.AST) -> Symbolic:
    """What `run` gives. All arguments are computed before the first call begins: that has to make no difference.

    Args:
        body: The body.
        start: From which node on the arguments are computed.
        run: Appends the call.
        node: Where in the source.
    """
    count = len(body.nodes)
    before = acts(body.nodes[start:])
    result = run()
    if before and acts(body.nodes[count:]):
        raise body.unsupported(
            "calls of a list act on the world, and so do their arguments",
            "compute the arguments in a comprehension of their own first, or mark what is pure @dx.op(pure=True)",
            node,
        )
    return result


def _is_call(body: Interpreter, call: ast.Call, node: ast.ListComp) -> bool:
    """Whether `call` gives something to await."""
    bound = {name.id for item in node.generators for name in ast.walk(item.target) if isinstance(name, ast.Name)}
    root: ast.expr = call.func
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    if isinstance(root, ast.Name) and root.id in bound:
        known = loops.items(body, node.generators[0].iter)
        return known is not None and any(isinstance(item, Inner) for item in loops.flat(known))
    if isinstance(body.resolve(call.func), Inner | Tooled) or calls.own_method(body, call.func) is not None:
        return True
    target = free_name(body.body, call.func, {*body.names, *bound})
    return is_asynchronous(target) or type(target) is ToolObject


# --- regions --------------------------------------------------------------------------------------


def _each(
    body: Interpreter,
    generators: list[ast.comprehension],
    element: Callable[[], Symbolic],
    node: ast.expr,
    *,
    together: bool = False,
) -> Symbolic:
    """The list of what `element` gives for each item."""
    first = generators[0]
    known = loops.items(body, first.iter) if len(generators) == 1 else None
    if known is not None:
        return _written_out(body, first, known, element, node, at_once=together)
    if len(generators) == 1 and not first.ifs:
        over = _iterated(body, first.iter)
        return _region(body, over, lambda item: _bound(body, first.target, item, element), node, together=together)
    selecting = [*(test for item in generators for test in item.ifs), *(item.iter for item in generators[1:])]
    if any(holds_await(part) for part in selecting):
        raise body.unsupported(
            "an await inside a comprehension's condition",
            "await the calls in a comprehension of their own, or with asyncio.gather, and select by their results",
            node,
        )
    # What several `for` and `if` select is one list, made before.
    targets = [name for item in generators for name in ast.walk(item.target) if isinstance(name, ast.Name)]
    names = list(dict.fromkeys(name.id for name in targets))
    loads: list[ast.expr] = [ast.copy_location(ast.Name(name, ast.Load()), first.target) for name in names]
    selected: ast.expr = loads[0] if len(loads) == 1 else ast.copy_location(ast.Tuple(loads, ast.Load()), first.target)
    over = capture(body, ast.copy_location(ast.ListComp(selected, generators), node))
    before = body.nodes[-1]

    def bound(item: Symbolic) -> Symbolic:
        if len(names) == 1:
            body.names[names[0]] = Symbolic(item.value, item.type, name=names[0], plain=item.plain)
        else:
            args = get_args(item.type)
            kinds = args if len(args) == len(names) else (ANY,) * len(names)
            for at, (name, kind) in enumerate(zip(names, kinds, strict=True)):
                value = Ref(item.value.node, (at,)) if isinstance(item.value, Ref) else item.value
                body.names[name] = Symbolic(value, kind, name=name, plain=item.plain)
        return element()

    made = _region(body, over, bound, node, together=together)
    last = body.nodes[-1]
    if isinstance(before, Python) and not before.pure and acts([last]):
        raise body.unsupported(
            "a comprehension acts on the world, and so does its condition",
            "select the items in a comprehension of their own first",
            node,
        )
    return made


def _bound(body: Interpreter, target: ast.expr, item: Symbolic, element: Callable[[], Symbolic]) -> Symbolic:
    body.assign(target, item)
    return element()


def _written_out(
    body: Interpreter,
    generator: ast.comprehension,
    known: list[Symbol],
    element: Callable[[], Symbolic],
    node: ast.expr,
    *,
    at_once: bool,
) -> Symbolic:
    start = len(body.nodes)
    results: list[Symbolic] = []
    ends: list[int] = []

    def run() -> None:
        for item in known:
            body.assign(generator.target, item)
            truths = [decided(body, test) for test in generator.ifs]
            if None in truths:
                raise body.unsupported(
                    "a condition in a comprehension over programs",
                    "put the condition around it: `[await p(x) for p in self.programs] if test else []`",
                    node,
                )
            if all(truths):
                results.append(element())
                ends.append(len(body.nodes))

    body.with_names(body.names, run)
    return _gathered(body, start, ends, results, node) if at_once else body.joined("list", results, node)


def together(body: Interpreter, calls: Iterable[Callable[[], Symbolic]], node: ast.AST) -> Symbolic:
    """The list of what `calls` give, which run together."""
    start, results, ends = len(body.nodes), list[Symbolic](), list[int]()
    for call in calls:
        results.append(call())
        ends.append(len(body.nodes))
    return _gathered(body, start, ends, results, node)


def _gathered(body: Interpreter, start: int, ends: list[int], results: list[Symbolic], node: ast.AST) -> Symbolic:
    """The list of `results`, whose nodes stand one after another from `start` on and end at `ends`.

    Where two of them act, each has a region of its own; all others are ordered by their values anyway.
    """
    begins = [start, *ends[:-1]]
    slices = [body.nodes[begin:end] for begin, end in zip(begins, ends, strict=True)]
    if sum(acts(nodes) for nodes in slices) < 2:
        return body.joined("list", results, node)
    del body.nodes[start:]
    number = body.reader.fresh()
    made = tuple(
        Branch(f"branch{at}", Region(tuple(nodes), result.value))
        for at, (nodes, result) in enumerate(zip(slices, results, strict=True), 1)
    )
    whole = body.emit(Attempt(number, "together", made, body.reader.type(list)), node, list)
    parts = tuple(replace(item, value=Ref(number, (at,)), parts=None) for at, item in enumerate(results))
    return replace(whole, parts=parts, plain=all(fact_of(item).plain for item in results))


def _iterated(body: Interpreter, node: ast.expr) -> Symbolic:
    """What a comprehension iterates over, as a value that can be read more than once."""
    quiet = body.resolve(node)
    if quiet is None and _gives_iterator(body, node):
        tree = ast.copy_location(ast.List([ast.copy_location(ast.Starred(node, ast.Load()), node)], ast.Load()), node)
        return capture(body, tree)
    found = body.value(node)
    if found.type is ITERATOR:
        raise body.unsupported("an iterator that is read through once", _ONCE, node)
    return found


def _gives_iterator(body: Interpreter, node: ast.expr) -> bool:
    if isinstance(node, ast.GeneratorExp):
        return True
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr in _VIEWS and not node.args:
        return True
    if isinstance(node.func, ast.Name) and node.func.id in _ITERATORS:
        return free_name(body.body, node.func, body.names) is vars(builtins)[node.func.id]
    return False


def _region(
    body: Interpreter, over: Symbolic, element: Callable[[Symbolic], Symbolic], node: ast.AST, *, together: bool
) -> Symbolic:
    """A `map` whose region is what `element` does with one item."""
    reader = body.reader
    number, kind = reader.fresh(), item_type(over.type)
    with body.inside() as nodes:
        first = Input(reader.fresh(), reader.type(kind))
        nodes.append(first)
        reader.annotations[first.id] = kind
        result = element(Symbolic(Ref(first.id), kind, name="item", plain=over.plain))
    inside = Region(tuple(nodes), result.value)
    gives = generic(list, result.type)
    ordered = not together and acts(nodes)
    return body.emit(Map(number, over.value, inside, reader.type(gives), ordered), node, gives)
