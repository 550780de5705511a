"""From a bound program to its graph: every program by its own rule, structurally; nothing is run."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, NoneType
from typing import Any, cast

from pydantic import BaseModel

from dspex.compiler.frontend.certain import refuse_definition
from dspex.compiler.frontend.functions import Functions
from dspex.compiler.frontend.interpret import Interpreter
from dspex.compiler.frontend.mutation import settled
from dspex.compiler.frontend.names import MISSING, free_name, is_any
from dspex.compiler.frontend.settings import module_scope, module_settings
from dspex.compiler.frontend.shared import refuse_shared
from dspex.compiler.frontend.source import Body, Unsupported, location_of, read_body
from dspex.compiler.frontend.structure import attempt, body_of, call_of, is_attempt, is_select, label, select
from dspex.compiler.frontend.symbols import ANY, Container, Inner, Symbol, Symbolic, Tooled, class_of
from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
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
    Variable,
    canonical,
)
from dspex.compiler.ir.types import Type, type_of
from dspex.errors import CompileError
from dspex.program import flow
from dspex.program.modules import Module
from dspex.program.program import Program
from dspex.program.select import select as select_programs
from dspex.program.tools import Tool as ToolObject
from dspex.program.tree import join
from dspex.program.variables import Var

__all__ = ["Reader", "Reading", "read_program"]

AnyProgram = Program[Any, Any]


_MODULE = call_of(Module)
# As deep as the stack of an ordinary Python process surely reaches.
_DEEPEST = 32
_MAKERS = (select_programs, flow.parallel, flow.fallback, flow.race, flow.vote, flow.when)
_KINDS: dict[str, object] = {"float": float, "int": int, "bool": bool, "text": str}


@dataclass(frozen=True, slots=True)
class Reading:
    """A program as the front end understands it.

    Attributes:
        graph: Its graph, nested programs not yet inlined.
        schemas: The classes behind the graph's names of schemas.
        functions: What python and tool nodes call, by `Python.key` and `Tool.target`; the live functions.
    """

    graph: Graph
    schemas: Mapping[str, type[BaseModel]]
    functions: Mapping[str, Callable[..., Any]]


def read_program(program: AnyProgram) -> Reading:
    """The graph of `program` from its structure and its source.

    Raises:
        CompileError: DX2001–DX2014, for a program that is wrong however it is run.
    """
    refuse_shared(program)
    reader = Reader(program)
    root = Inner(program, program.dx_node.path)
    given, body, result = reader.region(root)
    name = program.dx_node.path or _name(program)
    graph = canonical(Graph(name, given, result, body))
    return Reading(graph, reader.schemas, reader.functions)


def _name(program: AnyProgram) -> str:
    return type(program).__name__


class Reader:
    """What one reading shares: node numbers, names of types, and the programs being read."""

    def __init__(self, root: AnyProgram) -> None:
        self.schemas: dict[str, type[BaseModel]] = {}
        self.functions = Functions()
        self.annotations: dict[int, object] = {}
        self._root = root
        self._declared: dict[int, Mapping[str, Var[Any]]] = {}
        self._names: dict[type[Any], str] = {}
        self._same: dict[str, int] = {}
        self._next = 0
        self._open: list[AnyProgram] = []

    # --- what interpreters ask for --------------------------------------------------------------

    @property
    def variables(self) -> Mapping[str, Var[Any]]:
        """Every Variable of the whole program, by full name."""
        return self._root.variables()

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
            if name in self.schemas:
                full = f"{cls.__module__}.{cls.__qualname__.replace('.<locals>', '')}"
                numbered = (f"{name}_{count}" for count in itertools.count(self._same.get(name, 2)))
                self._same[name] = self._same.get(name, 2) + 1
                name = next(choice for choice in itertools.chain((full,), numbered) if choice not in self.schemas)
            self.schemas[name] = cls
        self._names[cls] = name
        return name

    def mangled(self, interpreter: Interpreter, name: str) -> str:
        """A private name as the compiler writes it inside a class."""
        private = name.startswith("__") and not name.endswith("__")
        return f"_{interpreter.body.owner.lstrip('_')}{name}" if private else name

    def attribute(self, interpreter: Interpreter, base: Inner, name: str, node: ast.Attribute) -> Symbol | None:
        """What ``self.name`` stands for; None for what only Python can say."""
        program = base.program
        name = self.mangled(interpreter, name)
        full = join(base.path, name)
        attributes: dict[str, object] = vars(program)
        found = inspect.getattr_static(type(program), name, MISSING)
        if name in attributes and not isinstance(found, property):
            # Modules and selections have Variables too, but no attributes of their names.
            if issubclass(type(found), Var) and name in (known := self._variables_of(program)):
                return Symbolic(Variable(full), _value_type(known[name]), name=name)
            found = attributes[name]
        elif found is MISSING:
            return self._absent(interpreter, program, name, node)
        elif isinstance(found, FunctionType | property):
            # A method of the program itself is one of its plain values; of a module, a call in disguise.
            return Symbolic(Attribute(full), ANY, name=name) if program is interpreter.inner.program else None
        return self._plain(found, full, name)

    def _variables_of(self, program: AnyProgram) -> Mapping[str, Var[Any]]:
        known = self._declared.get(id(program))
        if known is None:
            known = self._declared[id(program)] = program.dx_variables()
        return known

    def _plain(self, found: object, full: str, name: str) -> Symbol:
        if issubclass(type(found), Program):
            inner = cast("AnyProgram", found)
            return Inner(inner, inner.dx_node.path)
        if type(found) is ToolObject:
            return Tooled(found)
        if _holds_programs(found):
            return Container(cast("Sequence[object]", found), full)
        # Exact types: a member of an Enum is a text or a number too, and is more than that.
        if type(found) in (str, bool, int, NoneType) or (type(found) is float and found - found == 0):
            return Symbolic(Constant.of(found), type(found), name=name, plain=True)
        parts: tuple[Symbolic, ...] | None = None
        if type(found) is tuple:
            members = [
                self._plain(item, f"{full}.{at}", "item") for at, item in enumerate(cast("tuple[object]", found))
            ]
            constants = tuple(m for m in members if isinstance(m, Symbolic) and isinstance(m.value, Constant))
            parts = constants if len(constants) == len(members) else None
        kind = ANY if parts is None else tuple[tuple(part.type for part in parts)]  # type: ignore[misc]
        return Symbolic(Attribute(full), kind, parts, name, parts is not None)

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
        if isinstance(key, int) and key < 0 and not isinstance(base.items, Mapping):
            key += len(base.items)
        try:
            if type(key) is int and key < 0:
                raise IndexError(key)
            return self.member(base, key)
        except (LookupError, TypeError) as error:
            raise CompileError(
                "DX2007",
                f"{base.path} has no item {key!r}; it has {len(base.items)}",
                where=f"{interpreter.location(node)}  {ast.unparse(node)}",
                fix="use an index or a key that it has",
            ) from error

    def member(self, base: Container, key: object) -> Symbol:
        """An item of a list or dict of programs."""
        found = cast("Mapping[object, object]", base.items)[key]
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
        node = self.node(callee, given, at)
        interpreter.nodes.append(node)
        self.annotations[node.id] = callee.program.output_schema
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

    def node(self, callee: Inner, given: Symbolic, at: Location | None) -> Node:
        """The node that calls `callee`; it is not part of any region yet."""
        program = callee.program
        args = (Argument(None, given.value),)
        taken = self.type(given.type) if class_of(given.type) is not None else self.type(program.input_schema)
        result = self.type(program.output_schema)
        if isinstance(program, Module) and call_of(type(program)) is _MODULE:
            settings, scope = module_settings(program), module_scope(program)
            # A module reads the fields of its own schema, whatever more is given.
            wanted = self.type(program.input_schema)
            return Lm(self.fresh(), callee.path, wanted, result, args, settings, scope, loc=at)
        if is_select(program):
            return select(self, callee, given, result, at)
        if is_attempt(program):
            return attempt(self, callee, given, result, at)
        number = self.fresh()
        try:
            inside, body, gives = self.region(callee)
        except Unsupported as refused:
            return self._opaque(callee, args, (taken, result), refused, number)
        return Call(number, callee.path, inside, gives, args, body, loc=at)

    def _opaque(
        self, inner: Inner, args: tuple[Argument, ...], types: tuple[Type, Type], refused: Unsupported, number: int
    ) -> Opaque:
        program = inner.program
        at = location_of(call_of(type(program)))
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
            loc=at,
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
                where=str(location_of(call_of(type(program))) or ""),
                fix="write the repetition out, or put the inner call in a plain function outside the program",
            )
        if len(self._open) >= _DEEPEST:
            raise CompileError(
                "DX2010",
                f"programs are nested {_DEEPEST} deep at {program.dx_node.path[:120] or type(program).__name__}",
                where=str(location_of(call_of(type(program))) or "") or None,
                fix="put steps beside each other: `a >> b >> c`, or several calls in one body",
            )
        first = Input(self.fresh(), self.type(program.input_schema))
        self.annotations[first.id] = program.input_schema
        given = Symbolic(Ref(first.id), program.input_schema, name="x")
        self._open.append(program)
        try:
            return first.type, *self._body(inner, given, first)
        finally:
            self._open.pop()

    def _body(self, inner: Inner, given: Symbolic, first: Input) -> tuple[Region, Type]:
        program = inner.program
        # A subclass with a body of its own is read like any other program.
        if call_of(type(program)) is _MODULE or is_select(program) or is_attempt(program):
            node = self.node(inner, given, None)
            return Region((first, node), Ref(node.id)), node.type
        structure = body_of(program)
        if structure is not None:
            return structure(self, inner, given, first)
        try:
            return self._interpreted(inner, given, first)
        except (Unsupported, RecursionError) as error:
            refused = (
                error
                if isinstance(error, Unsupported)
                else Unsupported("an expression is nested too deeply", "write it in several statements")
            )
            if len(self._open) > 1:
                raise refused from error
            types = first.type, self.type(program.output_schema)
            node = self._opaque(inner, (Argument(None, given.value),), types, refused, self.fresh())
            return Region((first, node), Ref(node.id)), types[1]

    def _interpreted(self, inner: Inner, given: Symbolic, first: Input) -> tuple[Region, Type]:
        program = inner.program
        body = read_body(call_of(type(program)))
        refuse_constructed(body, program)
        refuse_definition(body, program)
        if inspect.getattr_static(type(program), "__getattribute__", None) is not object.__getattribute__:
            raise Unsupported("its class says what its attributes are (`__getattribute__`)", "use properties")
        nodes: list[Node] = [first]
        result = Interpreter(self, inner, body, nodes).run(given)
        nodes = settled(nodes, self.annotations)
        wanted = cast("type[BaseModel]", program.output_schema)
        kind = class_of(result.type)
        if kind is not None and not issubclass(kind, wanted):
            raise CompileError(
                "DX2001",
                f"{label(program)} returns {kind.__name__}, it declares {wanted.__name__}",
                where=f"{body.file}:{body.tree.body[-1].lineno}",
                fix=f"return {wanted.__name__}(...), or change the program's output schema",
            )
        gives = self.type(kind) if kind is not None else self.type(wanted)
        return Region(tuple(nodes), result.value), gives


def refuse_constructed(body: Body, program: AnyProgram) -> None:
    """Refuses a module or program that is constructed each time the body runs.

    Raises:
        CompileError: DX2005.
    """
    local = {arg.arg for arg in (*body.tree.args.posonlyargs, *body.tree.args.args)}
    for node in ast.walk(body.tree):
        if not isinstance(node, ast.Call):
            continue
        root = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in local:
            continue
        target = free_name(body, node.func)
        if target is MISSING:
            continue
        made = is_any(target, *_MAKERS) or (isinstance(target, type) and issubclass(target, Program))
        if made:
            raise CompileError(
                "DX2005",
                f"{type(program).__name__} constructs {ast.unparse(node.func)}(...) inside its body",
                where=f"{body.location(node)}  {ast.unparse(node)}",
                fix="make it an attribute of the class or set it in __init__, so that its Variables are found",
            )


def _value_type(variable: Var[Any]) -> object:
    if variable.kind in _KINDS:
        return _KINDS[variable.kind]
    if variable.kind == "computed":
        return ANY
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
    result: list[str] = []
    # What a decorator wrapped is held by the closure of its wrapper.
    for cell in found.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        if isinstance(held, FunctionType):
            result += _reads_of(program, held, name, seen)
    return result + _reads_of(program, found, name, seen)


def _reads_of(program: AnyProgram, found: FunctionType, name: str, seen: set[str]) -> list[str]:
    own = program.dx_variables()
    result: list[str] = []
    for used in _used_names(found.__code__):
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


def _used_names(code: CodeType) -> Iterator[str]:
    """Names that a function uses, in the functions and comprehensions inside it too."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _used_names(inner)
