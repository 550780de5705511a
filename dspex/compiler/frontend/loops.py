"""`for` loops whose steps are known when the program is compiled: each step is read on its own."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from dspex.compiler.frontend.decide import constant
from dspex.compiler.frontend.expressions import capture
from dspex.compiler.frontend.facts import union_of
from dspex.compiler.frontend.liveness import read_after
from dspex.compiler.frontend.names import free_name
from dspex.compiler.frontend.symbols import (
    BREAK,
    Container,
    Growing,
    Jump,
    Several,
    Symbol,
    Symbolic,
)
from dspex.compiler.ir.nodes import Argument, Cond, Join, Ref, Region, Value, Variable
from dspex.program.variables import Int, Var

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["appended", "flat", "items", "unrolled"]

_MOST_STEPS: Final = 64
_MOST_IN_ALL: Final = 1024
_MOST_COUNTED: Final = 16
_REMEDY: Final = (
    "write it as a comprehension or with dx.map, or loop over `range(3)` or a list of programs; "
    "a loop without calls of modules goes into a function at the top of the file"
)


def flat(known: list[Symbol]) -> Iterator[Symbol]:
    """Every symbol in `known`, those of pairs too."""
    for item in known:
        if isinstance(item, Several):
            yield from flat(list(item.items))
        else:
            yield item


def items(body: Interpreter, node: ast.expr) -> list[Symbol] | None:
    """What iterating over `node` gives, where that is known when the program is compiled."""
    if isinstance(node, ast.Call):
        return _called(body, node)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return _sliced(body, node, node.slice)
    if isinstance(node, ast.Tuple | ast.List):
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return None
        return [body.evaluate(item) for item in node.elts]
    found = body.resolve(node)
    match found:
        case Container():
            if isinstance(found.items, dict):
                return [body.literal(key) for key in found.items]
            return [body.reader.member(found, at) for at in range(len(found.items))]
        case Symbolic(parts=tuple() as parts):
            return list(parts)
        case Several():
            return list(found.items)
        case _:
            return None


def _sliced(body: Interpreter, node: ast.Subscript, part: ast.Slice) -> list[Symbol] | None:
    ends: list[int | None] = []
    for end in (part.lower, part.upper, part.step):
        value = None if end is None else constant(body, end)
        if value is not None and type(value) is not int:
            return None
        ends.append(value)
    known = items(body, node.value) if isinstance(body.resolve(node.value), Container) else None
    return None if known is None or ends[2] == 0 else known[slice(*ends)]


def _called(body: Interpreter, node: ast.Call) -> list[Symbol] | None:
    func = node.func
    if isinstance(func, ast.Attribute) and func.attr in ("items", "values", "keys") and not node.args:
        found = body.resolve(func.value)
        if not isinstance(found, Container) or not isinstance(found.items, dict):
            return None
        keys = list(found.items)
        names: list[Symbol] = [body.literal(key) for key in keys]
        values = [body.reader.member(found, key) for key in keys]
        if func.attr == "items":
            return [Several(pair) for pair in zip(names, values, strict=True)]
        return names if func.attr == "keys" else values
    if not isinstance(func, ast.Name) or any(isinstance(arg, ast.Starred) for arg in node.args):
        return None
    if free_name(body.body, func, body.names) is not vars(builtins).get(func.id):
        return None
    match func.id:
        case "range":
            return _range(body, node)
        case "enumerate" if len(node.args) in (1, 2):
            starts = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "start")]
            start = constant(body, starts[0]) if starts else 0
            inner = items(body, node.args[0])
            if inner is None or type(start) is not int:
                return None
            return [Several((body.literal(start + at), item)) for at, item in enumerate(inner)]
        case "zip" if node.args:
            columns = [items(body, arg) for arg in node.args]
            known = [column for column in columns if column is not None]
            if len(known) != len(columns) or (node.keywords and len({len(column) for column in known}) > 1):
                return None
            return [Several(row) for row in zip(*known, strict=False)]
        case "reversed" | "list" | "tuple" if len(node.args) == 1 and not node.keywords:
            inner = items(body, node.args[0])
            return inner[::-1] if inner is not None and func.id == "reversed" else inner
        case _:
            return None


def _range(body: Interpreter, node: ast.Call) -> list[Symbol] | None:
    ends = [constant(body, arg) for arg in node.args]
    if node.keywords or not 1 <= len(ends) <= 3 or any(type(end) is not int for end in ends):
        return None
    numbers = cast("list[int]", ends)
    if len(numbers) == 3 and numbers[2] == 0:
        return None
    steps = range(*numbers)
    return [body.literal(number) for number in steps] if len(steps) <= _MOST_STEPS else None


def unrolled(body: Interpreter, loop: ast.For) -> Symbolic | Jump | None:
    """Reads the steps of a loop one after another.

    Raises:
        Unsupported: How many steps there are is known only when the program runs.
    """
    known = items(body, loop.iter)
    if known is None:
        counted = _counted(body, loop)
        if counted is None:
            raise body.unsupported("a `for` loop over values", _REMEDY, loop)
        return _chosen(body, loop, counted)
    body.unrolled += len(known)
    if len(known) > _MOST_STEPS or body.unrolled > _MOST_IN_ALL:
        raise body.unsupported(f"a `for` loop of {len(known)} steps", _REMEDY, loop)
    for item in known:
        body.assign(loop.target, item)
        ended = body.statements(loop.body)
        if isinstance(ended, Symbolic):
            return ended
        if ended is BREAK:
            return None
    return body.statements(loop.orelse)


def appended(body: Interpreter, node: ast.expr) -> bool:
    """Carries out ``names.append(value)`` or ``names.extend(values)`` on a list that nothing else holds."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[value], keywords=[]):
            known = body.names.get(name)
            if isinstance(value, ast.Starred):
                return False
            if isinstance(known, Growing):
                known.items.append(body.value(value))
                return True
            return body.grows(name, ast.copy_location(ast.List([value], ast.Load()), value), value)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="extend"), args=[value], keywords=[]):
            return not isinstance(value, ast.Starred) and body.grows(name, value, node)
        case _:
            pass
    return False


# --- as many steps as a Variable says -------------------------------------------------------------


def _counted(body: Interpreter, loop: ast.For) -> tuple[Variable, Int] | None:
    """The Variable that says how many steps there are."""
    match loop.iter:
        case ast.Call(func=ast.Name(id="range") as func, args=[arg], keywords=[]):
            found = body.resolve(arg)
            if free_name(body.body, func, body.names) is not range or not isinstance(found, Symbolic):
                return None
            variable = _variable(body, found)
            return (cast("Variable", found.value), variable) if isinstance(variable, Int) else None
        case _:
            return None


def _variable(body: Interpreter, found: Symbolic) -> Var[int] | None:
    return body.reader.variables.get(found.value.name) if isinstance(found.value, Variable) else None


def _chosen(body: Interpreter, loop: ast.For, counted: tuple[Variable, Int]) -> None:
    """Each step in a region of its own, which runs while its number is below the Variable's value."""
    name, variable = counted
    if variable.hi > _MOST_COUNTED:
        raise body.unsupported(
            f"a `for` loop of up to {variable.hi} steps",
            f"give {name.name} at most {_MOST_COUNTED}, or leave it: the loop runs as plain Python",
            loop,
        )
    if loop.orelse:
        raise body.unsupported("the `else` of a loop", "write it after the loop", loop)
    read = read_after(body.body.tree, loop)
    for at in range(max(variable.hi, 0)):
        if at < variable.lo:
            body.assign(loop.target, body.literal(at))
            if body.statements(loop.body) is not None:
                raise _leaves(body, loop)
        else:
            _step(body, loop, name, at, read)
    # What the counter is afterwards depends on the Variable.
    for item in ast.walk(loop.target):
        if isinstance(item, ast.Name):
            body.names.pop(item.id, None)


def _leaves(body: Interpreter, loop: ast.For) -> Exception:
    return body.unsupported(
        "a loop of as many steps as a Variable says is left before its end",
        "let every step run to its end, or loop over a constant `range(3)`",
        loop,
    )


def _step(body: Interpreter, loop: ast.For, name: Variable, at: int, read: frozenset[str]) -> None:
    number = body.reader.fresh()
    targets = {item.id for item in ast.walk(loop.target) if isinstance(item, ast.Name)}
    tree = ast.Compare(ast.Constant(at), [ast.Lt()], [ast.Name("steps", ast.Load())])
    for item in ast.walk(tree):
        ast.copy_location(item, loop)
    count = Symbolic(name, int, name="steps")
    test = body.with_names({"steps": count}, lambda: capture(body, tree))
    before = dict(body.names)
    with body.inside() as nodes:
        settled = dict(body.names)
        body.assign(loop.target, body.literal(at))
        if body.statements(loop.body) is not None:
            raise _leaves(body, loop)
        after = body.snapshot()
        differing = [item for item in settled if after.get(item) != settled[item] and item not in targets]
        changed = [item for item in differing if item in read]
        values: list[tuple[Symbolic, Symbolic]] = []
        for item in changed:
            new, old = after[item], settled[item]
            if not isinstance(new, Symbolic) or not isinstance(old, Symbolic):
                raise body.unsupported(
                    f"{item!r} is another program, or a list that grows, in a loop of as many steps as a Variable says",
                    "keep only values in names that the loop changes",
                    loop,
                )
            values.append((new, old))
        made = _together(body, [new for new, _ in values])
    inside = Region(tuple(nodes), made)
    with body.inside() as nodes:
        kept = _together(body, [old for _, old in values])
    otherwise = Region(tuple(nodes), kept)
    kind = union_of([values[0][0].type, values[0][1].type]) if len(values) == 1 else tuple
    found = body.emit(Cond(number, test.value, inside, otherwise, body.reader.type(kind)), loop, kind)
    # A name that a step alone defines may not be read after it.
    body.names = {item: value for item, value in settled.items() if item in before and item not in differing}
    ref = cast("Ref", found.value)
    for at_value, (item, (new, old)) in enumerate(zip(changed, values, strict=True)):
        kind = union_of([new.type, old.type])
        value = found if len(values) == 1 else replace(found, value=Ref(ref.node, (at_value,)))
        body.names[item] = Symbolic(value.value, kind, name=item, plain=new.plain and old.plain)


def _together(body: Interpreter, values: list[Symbolic]) -> Value:
    """One operand for `values`, as the output of a region."""
    if len(values) == 1:
        return values[0].value
    args = tuple(Argument(None, item.value) for item in values)
    node = Join(body.reader.fresh(), "tuple", args, body.reader.type(tuple))
    body.nodes.append(node)
    body.reader.annotations[node.id] = tuple
    return Ref(node.id)
