"""Programs whose meaning is their structure: selections, pipes and the combinators."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

from dspex.compiler.frontend.names import import_path
from dspex.compiler.frontend.symbols import Inner, Symbolic
from dspex.compiler.ir.effects import acts
from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    AttemptForm,
    Attribute,
    Branch,
    Cond,
    Constant,
    Input,
    Join,
    Location,
    Node,
    Python,
    Ref,
    Region,
    Select,
    walk,
)
from dspex.compiler.ir.types import Type
from dspex.errors import CompileError
from dspex.program.compose import Pipe
from dspex.program.flow import Fallback, Parallel, Race, Vote, When
from dspex.program.identity import function_hash
from dspex.program.operations import operation_of
from dspex.program.program import Program
from dspex.program.select import Select as SelectProgram
from dspex.program.tree import join

if TYPE_CHECKING:
    from dspex.compiler.frontend.reader import Reader

__all__ = ["attempt", "body_of", "call_of", "is_attempt", "is_select", "label", "select"]

AnyProgram = Program[Any, Any]
Body = tuple[Region, Type]


def call_of(cls: type) -> object:
    """The function that runs when an instance of `cls` is called."""
    for base in cls.__mro__:
        if "__call__" in base.__dict__:
            return base.__dict__["__call__"]
    return None


def label(program: AnyProgram) -> str:
    """What a message calls a program."""
    return program.dx_node.path or type(program).__name__


def is_select(program: AnyProgram) -> bool:
    """Whether it is a selection that runs as such; a subclass may have a body of its own."""
    return call_of(type(program)) is _SELECT


def is_attempt(program: AnyProgram) -> bool:
    """Whether it is a fallback or a race."""
    return call_of(type(program)) in _ATTEMPTS


def select(reader: Reader, callee: Inner, given: Symbolic, result: Type, at: Location | None) -> Select:
    """A module selection; its branches see the argument itself.

    Raises:
        CompileError: DX2003 when they differ in their schemas.
    """
    wanted = callee.program
    number = reader.fresh()
    for name, child in wanted.children().items():
        for side, mine, theirs in (
            ("takes", child.input_schema, wanted.input_schema),
            ("gives", child.output_schema, wanted.output_schema),
        ):
            if mine is not theirs:
                raise CompileError(
                    "DX2003",
                    f"the branch {name!r} of {callee.path or 'the selection'} {side} {mine.__name__}, "
                    f"the others {theirs.__name__}",
                    where=str(at) if at else None,
                    fix="give every branch the same input and output schema",
                )
    return Select(number, callee.path, _branches(reader, wanted, given, at), result, loc=at)


def attempt(reader: Reader, callee: Inner, given: Symbolic, result: Type, at: Location | None) -> Attempt:
    """A fallback or a race; its branches see the argument itself."""
    form = cast("AttemptForm", _ATTEMPTS[call_of(type(callee.program))])
    number = reader.fresh()
    return Attempt(number, form, _branches(reader, callee.program, given, at), result, loc=at)


def _branches(reader: Reader, program: AnyProgram, given: Symbolic, at: Location | None) -> tuple[Branch, ...]:
    found: list[Branch] = []
    for name, child in program.children().items():
        node = _child(reader, child, given, at)
        found.append(Branch(name, Region((node,), Ref(node.id))))
    return tuple(found)


def _child(reader: Reader, child: AnyProgram, given: Symbolic, at: Location | None = None) -> Node:
    return reader.node(Inner(child, child.dx_node.path), given, at)


def body_of(program: AnyProgram) -> Callable[[Reader, Inner, Symbolic, Input], Body] | None:
    """What reads the structure of `program`; None for one with a body of its own."""
    return _BODIES.get(call_of(type(program)))


def _pipe(reader: Reader, inner: Inner, given: Symbolic, first: Input) -> Body:
    nodes: list[Node] = [first]
    before: AnyProgram | None = None
    for step in inner.program.children().values():
        wanted = step.input_schema
        if before is not None and not issubclass(before.output_schema, wanted):
            raise CompileError(
                "DX2001",
                f"`>>` joins {label(before)}, which gives {before.output_schema.__name__}, "
                f"to {label(step)}, which takes {wanted.__name__}",
                fix="put a step between them, or make the schemas agree",
            )
        node = _child(reader, step, given)
        nodes.append(node)
        given = Symbolic(Ref(node.id), step.output_schema)
        before = step
    return Region(tuple(nodes), given.value), nodes[-1].type


def _parallel(reader: Reader, inner: Inner, given: Symbolic, first: Input) -> Body:
    nodes, values = _together(reader, inner.program, given)
    args = tuple(Argument(name, value) for name, value in zip(inner.program.children(), values, strict=True))
    kind = reader.type(inner.program.output_schema)
    made = Join(reader.fresh(), "record", args, kind)
    return Region((first, *nodes, made), Ref(made.id)), kind


def _vote(reader: Reader, inner: Inner, given: Symbolic, first: Input) -> Body:
    program = cast("Vote[Any, Any]", inner.program)
    nodes, values = _together(reader, program, given)
    args = [Argument(None, value) for value in values]
    if program.by is not None:
        args.append(Argument("by", Constant.of(program.by)))
    kind = reader.type(program.output_schema)
    made = Join(reader.fresh(), "vote", tuple(args), kind)
    return Region((first, *nodes, made), Ref(made.id)), kind


def _together(reader: Reader, program: AnyProgram, given: Symbolic) -> tuple[list[Node], list[Ref]]:
    """Nodes that call every child of `program`, and their values.

    Where two of them act, each has a region of its own; all others are ordered by their values anyway.
    """
    number = reader.fresh()
    branches = _branches(reader, program, given, None)
    nodes = [branch.body.nodes[0] for branch in branches]
    if sum(any(acts(inner) for inner in walk(branch.body)) for branch in branches) < 2:
        return nodes, [Ref(node.id) for node in nodes]
    made = Attempt(number, "together", branches, reader.type(list))
    return [made], [Ref(number, (at,)) for at in range(len(nodes))]


def _when(reader: Reader, inner: Inner, given: Symbolic, first: Input) -> Body:
    program = cast("When[Any, Any]", inner.program)
    test = _test(reader, program, inner.path, given)
    kind = reader.type(program.output_schema)
    number = reader.fresh()
    then, otherwise = (branch.body for branch in _branches(reader, program, given, None))
    made = Cond(number, Ref(test.id), then, otherwise, kind)
    return Region((first, test, made), Ref(made.id)), kind


def _test(reader: Reader, program: When[Any, Any], path: str, given: Symbolic) -> Python:
    """The node that asks the test of a `when`: a call of it by name, or of the object that the program holds."""
    function = program.test
    operation = operation_of(function) if isinstance(function, FunctionType) else None
    pure = operation is not None and operation.pure
    boolean = reader.type(bool) if isinstance(function, FunctionType) else reader.type(object)
    named = import_path(function)
    if named is not None:
        node = Python(reader.fresh(), named, (Argument(None, given.value),), boolean, pure=pure)
        reader.functions.keep(node.key, function)
        return node
    owner = function if isinstance(function, FunctionType) else type(function)
    target = f"{owner.__module__}:{owner.__qualname__}"
    args = (Argument("test", Attribute(join(path, "test"))), Argument("x", given.value))
    source = function_hash(function)[:16]
    node = Python(reader.fresh(), target, args, boolean, "test(x)", source, pure=pure)
    reader.functions.keep(node.key, _asked)
    return node


def _asked(test: Callable[[Any], Any], x: object) -> object:
    """What the test of a `when` says about `x`."""
    return test(x)


_SELECT: Final = call_of(SelectProgram)
_ATTEMPTS: Final[dict[object, str]] = {call_of(Fallback): "fallback", call_of(Race): "race"}
_BODIES: Final[dict[object, Callable[[Any, Inner, Symbolic, Input], Body]]] = {
    call_of(Pipe): _pipe,
    call_of(Parallel): _parallel,
    call_of(Vote): _vote,
    call_of(When): _when,
}
