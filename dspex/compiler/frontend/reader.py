"""From a bound program to its graph: every program by its own rule, structurally; nothing is run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, NoneType
from typing import Any, cast

from pydantic import BaseModel

from dspex.compiler.frontend.interpret import Interpreter
from dspex.compiler.frontend.settings import module_settings
from dspex.compiler.frontend.source import Unsupported, location_of, read_body
from dspex.compiler.frontend.symbols import ANY, Container, Inner, Symbol, Symbolic, class_of
from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
    Branch,
    Call,
    Constant,
    Graph,
    Input,
    Lm,
    Location,
    Node,
    Opaque,
    Ref,
    Region,
    Select,
    Variable,
    canonical,
)
from dspex.compiler.ir.types import Type, type_of
from dspex.errors import CompileError
from dspex.program.compose import Pipe
from dspex.program.modules import Module
from dspex.program.program import Program
from dspex.program.select import Select as SelectProgram
from dspex.program.tree import join
from dspex.program.variables import Var

__all__ = ["Reader", "Reading", "read_program"]

AnyProgram = Program[Any, Any]


def _call(cls: object) -> object:
    """The function that runs when an instance of `cls` is called."""
    return inspect.getattr_static(cls, "__call__", None)


_MODULE, _SELECT, _PIPE = _call(Module), _call(SelectProgram), _call(Pipe)
_KINDS: dict[str, object] = {"float": float, "int": int, "bool": bool, "text": str}


@dataclass(frozen=True, slots=True)
class Reading:
    """A program as the front end understands it.

    Attributes:
        graph: Its graph, nested programs not yet inlined.
        schemas: The classes behind the graph's names of schemas.
    """

    graph: Graph
    schemas: Mapping[str, type[BaseModel]]


def read_program(program: AnyProgram) -> Reading:
    """The graph of `program` from its structure and its source.

    Raises:
        CompileError: DX2001–DX2009, for a program that is wrong however it is run.
    """
    reader = Reader()
    root = Inner(program, program.dx_node.path)
    given, body, result = reader.region(root)
    name = program.dx_node.path or _name(program)
    graph = canonical(Graph(name, given, result, body))
    return Reading(graph, reader.schemas)


def _name(program: AnyProgram) -> str:
    return type(program).__name__


class Reader:
    """What one reading shares: node numbers, names of types, and the programs being read."""

    def __init__(self) -> None:
        self.schemas: dict[str, type[BaseModel]] = {}
        self._names: dict[type[Any], str] = {}
        self._next = 0
        self._open: list[AnyProgram] = []

    # --- what interpreters ask for --------------------------------------------------------------

    def fresh(self) -> int:
        """A new node number."""
        self._next += 1
        return self._next - 1

    def type(self, annotation: object) -> Type:
        """The graph's type of a Python annotation."""
        return type_of(annotation, self._name_of)

    def _name_of(self, cls: type[Any]) -> str:
        known = self._names.get(cls)
        if known is not None:
            return known
        name = cls.__name__.partition("[")[0]
        if issubclass(cls, BaseModel):
            # Two schemas of one name are told apart by their modules, then by number.
            choices = [name, f"{cls.__module__}.{cls.__qualname__.replace('.<locals>', '')}"]
            choices += [f"{name}_{count}" for count in range(2, len(self.schemas) + 3)]
            name = next(choice for choice in choices if choice not in self.schemas)
            self.schemas[name] = cls
        self._names[cls] = name
        return name

    def attribute(self, interpreter: Interpreter, base: Inner, name: str, node: ast.Attribute) -> Symbol | None:
        """What ``self.name`` stands for; None for what only Python can say."""
        program = base.program
        if name.startswith("__") and not name.endswith("__"):
            # Private names, as the compiler mangles them inside a class.
            name = f"_{interpreter.body.owner.lstrip('_')}{name}"
        full = join(base.path, name)
        variable = program.dx_variables().get(name)
        if variable is not None:
            return Symbolic(Variable(full), _value_type(variable), name=name)
        attributes: dict[str, object] = vars(program)
        if name in attributes:
            found = attributes[name]
        else:
            found = inspect.getattr_static(type(program), name, None)
            if found is None and not hasattr(type(program), name):
                return self._absent(interpreter, program, name, node)
            if isinstance(found, FunctionType | property):
                # A method of the program itself is one of its plain values; of a module, a call in disguise.
                return Symbolic(Attribute(full), ANY, name=name) if program is interpreter.inner.program else None
        return self._plain(found, full, name)

    def _plain(self, found: object, full: str, name: str) -> Symbol:
        if isinstance(found, Program):
            inner = cast("AnyProgram", found)
            return Inner(inner, inner.dx_node.path)
        if _holds_programs(found):
            return Container(cast("Sequence[object]", found), full)
        # Exact types: a member of an Enum is a text or a number too, and is more than that.
        if type(found) in (str, bool, int, NoneType) or (type(found) is float and found - found == 0):
            return Symbolic(Constant.of(found), type(found), name=name)
        return Symbolic(Attribute(full), ANY, name=name)

    def _absent(self, interpreter: Interpreter, program: AnyProgram, name: str, node: ast.Attribute) -> None:
        if hasattr(type(program), "__getattr__"):
            return
        known = tuple(item for item in (*vars(program), *dir(type(program))) if not item.startswith("_"))
        from dspex.compiler.frontend.annotations import schema_named

        near = schema_named(name, known)
        raise CompileError(
            "DX2007",
            f"{type(program).__name__} has no attribute {name!r}",
            where=f"{interpreter.location(node)}  {ast.unparse(node)}",
            fix=f"did you mean {near!r}?" if near else "define it in the class or set it in __init__",
        )

    def item(self, interpreter: Interpreter, base: Container, key: int | str, node: ast.Subscript) -> Symbol:
        """What ``self.steps[0]`` stands for."""
        try:
            found = cast("Mapping[object, object]", base.items)[key]
        except (LookupError, TypeError) as error:
            raise CompileError(
                "DX2007",
                f"{base.path} has no item {key!r}; it has {len(base.items)}",
                where=f"{interpreter.location(node)}  {ast.unparse(node)}",
                fix="use an index or a key that it has",
            ) from error
        return self._plain(found, f"{base.path}.{key}", "item")

    def reads(self, attribute: str) -> list[str]:
        """Full names of the Variables that a plain method or property reads."""
        program = self._open[-1]
        path = program.dx_node.path
        name = attribute[len(path) + 1 :] if path else attribute
        return _reads(program, name, set())

    # --- calls and regions ----------------------------------------------------------------------

    def call(self, interpreter: Interpreter, callee: Inner, given: Symbolic, at: Location) -> Symbolic:
        """The result of calling `callee`; its node joins those of `interpreter`."""
        self.check(given.type, callee.program, at)
        node = self._node(callee, given, at)
        interpreter.nodes.append(node)
        return Symbolic(Ref(node.id), callee.program.output_schema)

    def check(self, given: object, program: AnyProgram, at: Location | None) -> None:
        """Refuses an argument of a wrong type.

        Raises:
            CompileError: DX2001.
        """
        wanted = cast("type[BaseModel]", program.input_schema)
        kind = class_of(given)
        if kind is None or issubclass(kind, wanted):
            return
        path = program.dx_node.path or type(program).__name__
        raise CompileError(
            "DX2001",
            f"{path} takes {wanted.__name__}, it is given {kind.__name__}",
            where=str(at) if at else None,
            fix=f"construct {wanted.__name__}(...) from the value, or change the module's input schema",
        )

    def _node(self, callee: Inner, given: Symbolic, at: Location | None) -> Node:
        program = callee.program
        args = (Argument(None, given.value),)
        taken = self.type(given.type) if class_of(given.type) is not None else self.type(program.input_schema)
        result = self.type(program.output_schema)
        if isinstance(program, Module) and _call(type(program)) is _MODULE:
            return Lm(self.fresh(), callee.path, taken, result, args, module_settings(program), at)
        if _call(type(program)) is _SELECT:
            return self._select(callee, given, result, at)
        number = self.fresh()
        try:
            inside, body, gives = self.region(callee)
        except Unsupported as refused:
            return self._opaque(callee, args, (taken, result), refused, number)
        return Call(number, callee.path, inside, gives, args, body, at)

    def _select(self, callee: Inner, given: Symbolic, result: Type, at: Location | None) -> Select:
        """A module selection; its branches see the argument itself."""
        wanted = callee.program
        branches: list[Branch] = []
        number = self.fresh()
        for name, child in callee.program.children().items():
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
            node = self._node(Inner(child, child.dx_node.path), given, at)
            branches.append(Branch(name, Region((node,), Ref(node.id))))
        return Select(number, callee.path, tuple(branches), result, at)

    def _opaque(
        self, inner: Inner, args: tuple[Argument, ...], types: tuple[Type, Type], refused: Unsupported, number: int
    ) -> Opaque:
        program = inner.program
        at = location_of(_call(type(program)))
        if at is not None and refused.line is not None:
            at = Location(at.file, refused.line)
        return Opaque(
            number,
            f"{type(program).__module__}:{type(program).__qualname__}",
            inner.path,
            *types,
            args,
            tuple(program.modules()),
            tuple(program.variables()),
            refused.reason,
            refused.remedy,
            at,
        )

    def region(self, inner: Inner) -> tuple[Type, Region, Type]:
        """What a program takes, its nodes, and what it gives.

        Raises:
            Unsupported: Its body is not understood, and it is not the root.
            CompileError: DX2006 when it contains itself.
        """
        program = inner.program
        if any(other is program for other in self._open):
            names = [other.dx_node.path or type(other).__name__ for other in (*self._open, program)]
            raise CompileError(
                "DX2006",
                f"a program calls itself: {' -> '.join(names)}",
                where=str(location_of(_call(type(program))) or ""),
                fix="write the repetition out, or put the inner call in a plain function outside the program",
            )
        first = Input(self.fresh(), self.type(program.input_schema))
        given = Symbolic(Ref(first.id), program.input_schema, name="x")
        self._open.append(program)
        try:
            return first.type, *self._body(inner, given, first)
        finally:
            self._open.pop()

    def _body(self, inner: Inner, given: Symbolic, first: Input) -> tuple[Region, Type]:
        program = inner.program
        # A subclass with a body of its own is read like any other program.
        runs = _call(type(program))
        if runs is _MODULE or runs is _SELECT:
            node = self._node(inner, given, None)
            return Region((first, node), Ref(node.id)), node.type
        if runs is _PIPE:
            return self._pipe(inner, given, first)
        try:
            return self._interpreted(inner, given, first)
        except Unsupported as refused:
            if len(self._open) > 1:
                raise
            types = first.type, self.type(program.output_schema)
            node = self._opaque(inner, (Argument(None, given.value),), types, refused, self.fresh())
            return Region((first, node), Ref(node.id)), types[1]

    def _pipe(self, inner: Inner, given: Symbolic, first: Input) -> tuple[Region, Type]:
        nodes: list[Node] = [first]
        before: AnyProgram | None = None
        for step in inner.program.children().values():
            wanted = step.input_schema
            if before is not None and not issubclass(before.output_schema, wanted):
                raise CompileError(
                    "DX2001",
                    f"`>>` joins {_label(before)}, which gives {before.output_schema.__name__}, "
                    f"to {_label(step)}, which takes {wanted.__name__}",
                    fix="put a step between them, or make the schemas agree",
                )
            node = self._node(Inner(step, step.dx_node.path), given, None)
            nodes.append(node)
            given = Symbolic(Ref(node.id), step.output_schema)
            before = step
        return Region(tuple(nodes), given.value), nodes[-1].type

    def _interpreted(self, inner: Inner, given: Symbolic, first: Input) -> tuple[Region, Type]:
        program = inner.program
        body = read_body(_call(type(program)))
        refuse_constructed(body, program)
        nodes: list[Node] = [first]
        result = Interpreter(self, inner, body, nodes).run(given)
        wanted = cast("type[BaseModel]", program.output_schema)
        kind = class_of(result.type)
        if kind is not None and not issubclass(kind, wanted):
            raise CompileError(
                "DX2001",
                f"{_label(program)} returns {kind.__name__}, it declares {wanted.__name__}",
                where=f"{body.file}:{body.tree.body[-1].lineno}",
                fix=f"return {wanted.__name__}(...), or change the program's output schema",
            )
        gives = self.type(kind) if kind is not None else self.type(wanted)
        return Region(tuple(nodes), result.value), gives


def refuse_constructed(body: Any, program: AnyProgram) -> None:
    """Refuses a module or program that is constructed each time the body runs.

    Raises:
        CompileError: DX2005.
    """
    from dspex.compiler.frontend.expressions import MISSING, free_name
    from dspex.program.select import select

    names = Interpreter(Reader(), Inner(program, ""), body, [])
    local = {arg.arg for arg in (*body.tree.args.posonlyargs, *body.tree.args.args)}
    for node in ast.walk(body.tree):
        if not isinstance(node, ast.Call):
            continue
        root = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in local:
            continue
        target = free_name(names, node.func)
        if target is MISSING:
            continue
        made = target is select or (isinstance(target, type) and issubclass(target, Program))
        if made:
            raise CompileError(
                "DX2005",
                f"{type(program).__name__} constructs {ast.unparse(node.func)}(...) inside its body",
                where=f"{body.location(node)}  {ast.unparse(node)}",
                fix="make it an attribute of the class or set it in __init__, so that its Variables are found",
            )


def _label(program: AnyProgram) -> str:
    return program.dx_node.path or type(program).__name__


def _value_type(variable: Var[Any]) -> object:
    if variable.kind in _KINDS:
        return _KINDS[variable.kind]
    kinds = {type(option) for option in variable.options}
    return kinds.pop() if len(kinds) == 1 else ANY


def _holds_programs(value: object, depth: int = 0) -> bool:
    if isinstance(value, Program):
        return True
    if depth > 8 or not isinstance(value, list | tuple | dict):
        return False
    items = cast("Mapping[object, object] | Sequence[object]", value)
    members = items.values() if isinstance(items, Mapping) else items
    return any(_holds_programs(member, depth + 1) for member in members)


def _reads(program: AnyProgram, name: str, seen: set[str]) -> list[str]:
    """Variables that a method or property names in its code, directly or through other methods."""
    if name in seen:
        return []
    seen.add(name)
    found = inspect.getattr_static(type(program), name, None)
    if isinstance(found, property):
        found = found.fget
    if not isinstance(found, FunctionType):
        return []
    own = program.dx_variables()
    result: list[str] = []
    for used in found.__code__.co_names:
        if used in own:
            result.append(join(program.dx_node.path, used))
        elif isinstance(vars(program).get(used), Program):
            raise Unsupported(
                f"the plain method {name!r} uses the module {used!r}",
                "make the method `async` and await the module's call in it",
                found.__code__.co_firstlineno,
            )
        else:
            result += _reads(program, used, seen)
    return result
