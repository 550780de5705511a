"""Plans: a graph made ready to run, once for all configurations, and what a configuration adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from dspex.compiler.ir.nodes import (
    Attempt,
    Attribute,
    Call,
    Cond,
    Graph,
    Input,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Tool,
    Value,
    operands,
    regions,
    variables_of,
    walk,
)
from dspex.compiler.settings import settings_of
from dspex.errors import CompileError
from dspex.program import ports
from dspex.program.program import Program
from dspex.program.tree import walk as programs_below

if TYPE_CHECKING:
    from dspex.compiler.code import Code
    from dspex.compiler.lower.lowering import Lowered
    from dspex.program.modules import ModuleSettings
    from dspex.program.space import Space

__all__ = ["Binding", "Plan", "Schedule", "Step", "schedule"]

_KEPT = 64
"""Prepared prompts that are kept for each module; a search comes back to its best ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a region.

    Attributes:
        node: What to do.
        needs: Positions, in the region, of the steps that have to end first.
        waits: Whether it may wait for something, so that others can go on meanwhile.
    """

    node: Node
    needs: tuple[int, ...]
    waits: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A region in source order.

    Attributes:
        steps: Its nodes.
        output: What it gives.
        waits: Whether any step waits.
        serial: No two steps that wait could run together, so that source order is as fast as any.
    """

    steps: tuple[Step, ...]
    output: Value
    waits: bool
    serial: bool


def schedule(region: Region) -> Schedule:
    """The steps of `region` and what they need from each other, by values read and by `after`."""
    places = {node.id: position for position, node in enumerate(region.nodes)}
    steps: list[Step] = []
    # For each step, the last of the waiting steps before it that it needs, directly or not.
    behind: list[int] = []
    last, serial = -1, True
    for position, node in enumerate(region.nodes):
        needs = tuple(sorted({places[number] for number in _read(node) if number in places}))
        waits = _waits(node)
        tail = max((need if steps[need].waits else behind[need] for need in needs), default=-1)
        if waits:
            serial = serial and tail == last
            last = position
        behind.append(tail)
        steps.append(Step(node, needs, waits))
    return Schedule(tuple(steps), region.output, last >= 0, serial)


def _read(node: Node) -> Iterator[int]:
    """Numbers of the nodes that `node` needs, those read inside its regions included."""
    if not isinstance(node, Input):
        yield from node.after
    for value in operands(node):
        if isinstance(value, Ref):
            yield value.node
    for region in regions(node):
        if isinstance(region.output, Ref):
            yield region.output.node
        for inner in region.nodes:
            yield from _read(inner)


def _waits(node: Node) -> bool:
    match node:
        case Lm() | Opaque() | Tool() | Attempt():
            return True
        case Python():
            return node.awaits
        case Select() | Cond() | Map() | Call():
            return any(_waits(inner) for region in regions(node) for inner in region.nodes)
        case _:
            return False


class Plan:
    """A graph made ready to run: what every binding of it shares.

    Attributes:
        graph: What runs.
        space: Its Variables and rules.
        schemas: The classes behind the graph's names of schemas.
        code: Everything else that it calls.
        calls: The language-model nodes, each module's first one by the module's path.
    """

    def __init__(self, graph: Graph, space: Space, schemas: Mapping[str, type[BaseModel]], code: Code) -> None:
        self.graph = graph
        self.space = space
        self.schemas = schemas
        self.code = code
        self._executable: list[object] = [None]
        self._kept: dict[str, dict[tuple[object, ...], object]] = {}

    @property
    def executable(self) -> object | None:
        """Where the executor keeps its own form of the graph, for all plans of one graph."""
        return self._executable[0]

    @executable.setter
    def executable(self, made: object) -> None:
        self._executable[0] = made

    def grown(self, space: Space) -> Plan:
        """The same graph over a space whose pools have grown: what runs, and what was prepared, stays."""
        other = Plan(self.graph, space, self.schemas, self.code)
        other._executable = self._executable
        other._kept = self._kept
        return other

    @cached_property
    def calls(self) -> Mapping[str, Lm]:
        found: dict[str, Lm] = {}
        for node in walk(self.graph.body):
            if isinstance(node, Lm):
                found.setdefault(node.module, node)
        return found

    @cached_property
    def params(self) -> Lowered:
        """The parameter table of the space."""
        return ports.lower(self.space)

    @cached_property
    def needs_program(self) -> bool:
        """Whether something runs that only the program itself has."""
        values = (value for node in walk(self.graph.body) for value in operands(node))
        return bool(self.graph.opaque) or any(isinstance(value, Attribute) for value in values)

    def schema(self, name: str) -> type[BaseModel]:
        """The class of a schema that the graph names.

        Raises:
            CompileError: DX2302.
        """
        found = self.schemas.get(name)
        if found is None:
            raise CompileError(
                "DX2302",
                f"the graph names the schema {name}, which is not known",
                fix="compile the program again, or load the artifact that the graph came with",
            )
        return found

    def function(self, key: str, what: str) -> Callable[..., Any]:
        """What a python or tool node calls.

        Raises:
            CompileError: DX2303.
        """
        found = self.code.functions.get(key)
        if found is None:
            raise CompileError(
                "DX2303",
                f"the graph calls {what}, whose code is not here",
                fix="load the artifact with program=… or imports=[…], so that its code is found",
            )
        return found

    def shared(self, module: str, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What `make` gave for a module under equal values before; the latest of them are kept."""
        known = self._kept.setdefault(module, {})
        try:
            found = known.get(key)
        except TypeError:
            # A value that cannot be hashed is never equal to another one here.
            return make()
        if found is None:
            found = make()
            if len(known) >= _KEPT:
                # Several threads may do so at once.
                oldest, *_ = known
                known.pop(oldest, None)
            known[key] = found
        return found


class Binding:
    """A plan with a configuration: what the executor runs.

    Args:
        plan: Shared with other bindings.
        config: The value of every Variable.
        program: Gives the program with `config` bound.
    """

    __slots__ = ("_origin", "_places", "_program", "config", "plan", "ready")

    def __init__(self, plan: Plan, config: Mapping[str, object], program: Callable[[], Program[Any, Any]]) -> None:
        self.plan = plan
        self.config = config
        self.ready: dict[str, Any] = {}
        """Where the executor keeps the modules that it prepared, by path."""
        self._program = program
        self._places: dict[str, Program[Any, Any]] | None = None
        self._origin: tuple[str, str] | None = None

    def origin(self) -> tuple[str, str]:
        """The program's name and the identity of the configuration, empty for a program without Variables."""
        if self._origin is None:
            self._origin = self.plan.graph.name, self.plan.space.identity(self.config) if self.config else ""
        return self._origin

    def settings(self, node: Lm) -> ModuleSettings[Any, Any]:
        """What the module of `node` asks of a model."""
        plan = self.plan
        return settings_of(node, plan.schemas, plan.space, self.config, plan.code.models)

    def prepared(self, node: Lm, make: Callable[[ModuleSettings[Any, Any]], Any]) -> Any:
        """The module of `node` as `make` prepared it, for this binding or one that means the same to it."""
        found = self.ready.get(node.module)
        if found is None:
            key = tuple(_told_apart(self.config[name]) for name in variables_of(node))
            found = self.plan.shared(node.module, key, lambda: make(self.settings(node)))
            self.ready[node.module] = found
        return found

    def part(self, path: str) -> Program[Any, Any]:
        """The bound program's part at a dotted path.

        Raises:
            CompileError: DX2301 without a program, DX2304 when it has no such part.
        """
        root = self._program()
        if self._places is None:
            self._places = {below.dx_node.path: below for below in programs_below(root)}
        found = self._places.get(path)
        if found is None:
            raise CompileError(
                "DX2304",
                f"{type(root).__name__} has no part {path!r}, which the graph calls",
                fix="compile the program again: its parts are not the ones of the graph",
            )
        return found

    def attribute(self, path: str) -> Any:
        """A plain attribute of the bound program, by dotted path.

        Raises:
            CompileError: DX2301 without a program.
        """
        root = self._program()
        own = root.dx_node.path
        found: Any = root
        for step in (path[len(own) + 1 :] if own else path).split("."):
            found = _member(found, step)
        return found


def _told_apart(value: object) -> object:
    """What is equal for values that are the same in a prompt: 1, 1.0 and True are equal and written differently."""
    kind = type(value)
    return (kind, value, repr(value)) if kind in (float, tuple) else (kind, value)


def _member(value: object, step: str) -> Any:
    if isinstance(value, list | tuple) and step.isdecimal():
        return cast("Sequence[Any]", value)[int(step)]
    items: Mapping[Any, Any] | None = cast("Mapping[Any, Any]", value) if isinstance(value, Mapping) else None
    if items is not None and not hasattr(items, step):
        return items[step] if step in items else items[int(step)]
    return getattr(cast("Any", value), step)
