"""Runs plans: a graph under a configuration, with what does not wait for each other together.

A region whose waiting steps need each other one by one runs in source order, without any task. Any other region runs
by its values and its `after` edges: each step that waits is a task of its own as soon as what it needs is there. Of
several failures the first in source order is raised: steps after it are cancelled, steps before it end first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import Context, copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from dspex.compiler.ir.effects import acting
from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    Attribute,
    Call,
    Cond,
    Constant,
    Input,
    Join,
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
    Variable,
    walk,
)
from dspex.compiler.plan import schedule
from dspex.compiler.render.prepared import prepare
from dspex.executor.modules import ReadyModule, call_ready
from dspex.program.concurrency import first_success, first_that_works, majority, stopped, together

if TYPE_CHECKING:
    from dspex.compiler.plan import Binding, Plan
    from dspex.program.modules import ModuleSettings

__all__ = ["run_plan"]

_UNSET: Final = object()


class Frame:
    """One run of a graph, or of a map's region for one item.

    Attributes:
        values: What each node gave, by its number.
        binding: Configuration, prepared modules, the bound program.
    """

    __slots__ = ("binding", "values")

    def __init__(self, binding: Binding, values: list[Any]) -> None:
        self.binding = binding
        self.values = values


Read: TypeAlias = Callable[[Frame], Any]
"""Reads an operand, or works out the value of a step that does not wait."""
Start: TypeAlias = Callable[[Frame], Any]
"""Gives the value of a step, or, for one that waits, what has to be awaited for it."""


def run_plan(binding: Binding, x: object) -> Awaitable[Any]:
    """The output of the graph for `x`."""
    plan = binding.plan
    made = plan.executable
    if not isinstance(made, _Executable):
        made = plan.executable = _Executable(plan)
    values: list[Any] = [None] * made.size
    values[0] = x
    return made.body.run(Frame(binding, values))


class _Executable:
    """A plan's graph as functions, built once."""

    def __init__(self, plan: Plan) -> None:
        self.size = 1 + max(node.id for node in walk(plan.graph.body))
        self.body = _Block(_Builder(plan), plan.graph.body)


class _Block:
    """A region as functions of a frame.

    Attributes:
        waits: Whether any step waits; without one, `value` gives the region's value at once.
    """

    __slots__ = ("_counts", "_followers", "_last", "_output", "_serial", "_steps", "waits")

    def __init__(self, builder: _Builder, region: Region) -> None:
        plan = schedule(region)
        self.waits = plan.waits
        self._serial = plan.serial
        self._output = builder.read(region.output)
        starts = [
            (step.node.id, builder.step(step.node), step.waits, step.node.id in builder.acts)
            if not isinstance(step.node, Input)
            else None
            for step in plan.steps
        ]
        self._steps = [start for start in starts if start is not None]
        self._last: Start | None = None
        if sum(waits for _, _, waits, _ in self._steps) == 1:
            number, start, waits, _ = self._steps[-1]
            if waits and region.output == Ref(number):
                # The only step that waits gives what the region gives: a coroutine around it would do nothing.
                self._last = start
                self._steps.pop()
        if not self._serial:
            # An input is there from the beginning, and so it is no step here.
            places: dict[int, int] = {}
            for position, step in enumerate(plan.steps):
                if not isinstance(step.node, Input):
                    places[position] = len(places)
            self._counts = [0] * len(self._steps)
            self._followers: list[list[int]] = [[] for _ in self._steps]
            for position, step in enumerate(plan.steps):
                for need in step.needs:
                    if need in places:
                        self._counts[places[position]] += 1
                        self._followers[places[need]].append(places[position])

    def run(self, frame: Frame) -> Awaitable[Any]:
        """The region's value, to be awaited at once."""
        if self._last is not None:
            for number, start, _, _ in self._steps:
                frame.values[number] = start(frame)
            return self._last(frame)
        return self._in_order(frame) if self._serial else self._together(frame)

    def value(self, frame: Frame) -> Any:
        """The value of a region in which nothing waits."""
        values = frame.values
        for number, start, _, _ in self._steps:
            values[number] = start(frame)
        return self._output(frame)

    def start(self, frame: Frame) -> Any:
        """The region's value, or what has to be awaited for it when it `waits`."""
        return self.run(frame) if self.waits else self.value(frame)

    async def _in_order(self, frame: Frame) -> Any:
        values = frame.values
        for number, start, waits, _ in self._steps:
            values[number] = await start(frame) if waits else start(frame)
        return self._output(frame)

    async def _together(self, frame: Frame) -> Any:
        await _Flow(frame, self._steps, self._counts, self._followers).run()
        return self._output(frame)


class _Flow:
    """One run of a region by its edges."""

    __slots__ = (
        "_contexts",
        "_counts",
        "_ended",
        "_error",
        "_failed",
        "_followers",
        "_frame",
        "_ready",
        "_running",
        "_steps",
        "_woken",
    )

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[tuple[int, Start, bool, bool]],
        counts: Sequence[int],
        followers: Sequence[Sequence[int]],
    ) -> None:
        self._frame = frame
        self._steps = steps
        self._counts = list(counts)
        self._followers = followers
        self._ready = [place for place, count in enumerate(counts) if count == 0]
        heapify(self._ready)
        self._running: dict[int, asyncio.Future[Any]] = {}
        self._contexts: dict[int, tuple[Context, Context]] = {}
        self._ended: deque[int] = deque()
        self._woken: asyncio.Future[None] | None = None
        self._failed = len(steps)
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Every step, or the first failure in source order."""
        try:
            while True:
                while self._ready:
                    place = heappop(self._ready)
                    if place < self._failed:
                        await self._begin(place)
                if not self._running:
                    break
                await self._next()
        finally:
            if self._running:
                told = [task for place, task in self._running.items() if place > self._failed]
                await stopped(list(self._running.values()), told)
        if self._error is not None:
            try:
                raise self._error
            finally:
                # The traceback holds this frame: the error would hold itself.
                self._error = None

    async def _begin(self, place: int) -> None:
        number, start, waits, acts = self._steps[place]
        try:
            if not waits:
                value = start(self._frame)
            elif self._running or self._ready:
                context = copy_context()
                task = asyncio.get_running_loop().create_task(_begun(start, self._frame), context=context)
                if acts:
                    self._contexts[place] = context.copy(), context
                self._running[place] = task
                task.add_done_callback(partial(self._landed, place))
                return
            else:
                # Nothing else can go on meanwhile, and so it needs no task.
                value = await start(self._frame)
        except Exception as error:  # noqa: BLE001  supervision boundary: any step may fail, the first one counts
            self._fail(place, error)
            return
        self._finish(place, number, value)

    def _landed(self, place: int, _: asyncio.Future[Any]) -> None:
        self._ended.append(place)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _next(self) -> None:
        """Waits until a task ends, and takes in all that ended."""
        if not self._ended:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
            self._woken = None
        while self._ended:
            place = self._ended.popleft()
            task = self._running.pop(place)
            error = _error_of(task)
            if error is None:
                if place in self._contexts:
                    _take_over(*self._contexts.pop(place))
                self._finish(place, self._steps[place][0], task.result())
            elif place < self._failed:
                self._fail(place, error)

    def _finish(self, place: int, number: int, value: Any) -> None:
        self._frame.values[number] = value
        for follower in self._followers[place]:
            self._counts[follower] -= 1
            if self._counts[follower] == 0:
                heappush(self._ready, follower)

    def _fail(self, place: int, error: BaseException) -> None:
        for other, task in self._running.items():
            # Once: what is after an earlier failure has been cancelled.
            if place < other < self._failed:
                task.cancel()
        self._failed, self._error = place, error


async def _begun(start: Start, frame: Frame) -> Any:
    return await start(frame)


def _error_of(task: asyncio.Future[Any]) -> BaseException | None:
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return error


def _take_over(before: Context, after: Context) -> None:
    """Sets the context variables that an acting step set, as the body would have for what comes after it."""
    for variable, value in after.items():
        if before.get(variable, _UNSET) is not value:
            variable.set(value)


class _Builder:
    """Makes functions of nodes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.acts = acting(plan.graph.body)

    # --- operands -------------------------------------------------------------------------------

    def read(self, value: Value) -> Read:
        """What reads an operand."""
        match value:
            case Ref(number, ()):
                return lambda frame: frame.values[number]
            case Ref(number, (str() as name,)):
                return lambda frame: _field(frame.values[number], name)
            case Ref(number, path):
                return lambda frame: _followed(frame.values[number], path)
            case Variable(name):
                return lambda frame: frame.binding.config[name]
            case Constant():
                plain = value.value
                if isinstance(plain, list | dict):
                    # A list written in the source is a new one at each run.
                    return lambda _: value.value
                return lambda _: plain
            case Attribute(name):
                return lambda frame: frame.binding.attribute(name)

    def arguments(self, args: tuple[Argument, ...]) -> Callable[[Frame], tuple[list[Any], dict[str, Any]]]:
        """What reads the arguments of a call: positional ones, named ones."""
        positional = [self.read(arg.value) for arg in args if arg.name is None]
        named = [(arg.name, self.read(arg.value)) for arg in args if arg.name is not None]
        return lambda frame: ([read(frame) for read in positional], {name: read(frame) for name, read in named})

    # --- steps ----------------------------------------------------------------------------------

    def step(self, node: Node) -> Start:
        """What works out a node's value."""
        match node:
            case Lm():
                return self._lm(node)
            case Join():
                return self._join(node)
            case Python():
                return self._called(node.args, self._plan.function(node.key, _named(node)))
            case Tool():
                return self._tool(node)
            case Opaque():
                return self._opaque(node)
            case Select():
                return self._select(node)
            case Cond():
                return self._cond(node)
            case Map():
                return self._map(node)
            case Attempt():
                return self._attempt(node)
            case Call():
                return self._call(node)
            case Input():
                return self.read(Ref(node.id))

    def _lm(self, node: Lm) -> Start:
        path, read = node.module, self.read(node.args[0].value)

        def start(frame: Frame) -> Awaitable[Any]:
            ready = frame.binding.ready.get(path)
            if ready is None:
                ready = frame.binding.prepared(node, _ready)
            return call_ready(ready, read(frame), frame.binding.origin)

        return start

    def _join(self, node: Join) -> Start:
        arguments = self.arguments(node.args)
        match node.form:
            case "record":
                schema = self._plan.schema(str(node.type))
                return lambda frame: schema(**arguments(frame)[1])
            case "copy":

                def copied(frame: Frame) -> Any:
                    (base, *_), update = arguments(frame)
                    return base.model_copy(update=update)

                return copied
            case "tuple":
                return lambda frame: tuple(arguments(frame)[0])
            case "list":
                return lambda frame: arguments(frame)[0]
            case "dict":
                return lambda frame: arguments(frame)[1]
            case "vote":

                def counted(frame: Frame) -> Any:
                    values, named = arguments(frame)
                    return majority(values, named.get("by"))

                return counted

    def _called(self, args: tuple[Argument, ...], function: Callable[..., Any]) -> Start:
        if all(arg.name is not None for arg in args):
            named = [(cast("str", arg.name), self.read(arg.value)) for arg in args]
            return lambda frame: function(**{name: read(frame) for name, read in named})
        arguments = self.arguments(args)

        def start(frame: Frame) -> Any:
            positional, named = arguments(frame)
            return function(*positional, **named)

        return start

    def _tool(self, node: Tool) -> Start:
        call = self._called(node.args, self._plan.function(node.target, f"the tool {node.name}"))

        async def start(frame: Frame) -> Any:
            result = call(frame)
            return await result if isawaitable(result) else result

        return start

    def _opaque(self, node: Opaque) -> Start:
        arguments, path = self.arguments(node.args), node.program
        return lambda frame: frame.binding.part(path)(*arguments(frame)[0])

    def _select(self, node: Select) -> Start:
        name = node.variable
        blocks = {branch.name: _Block(self, branch.body) for branch in node.branches}
        waits = any(block.waits for block in blocks.values())
        return _chosen(lambda frame: blocks[cast("str", frame.binding.config[name])], waits=waits)

    def _cond(self, node: Cond) -> Start:
        test, then, otherwise = self.read(node.test), _Block(self, node.then), _Block(self, node.otherwise)
        return _chosen(lambda frame: then if test(frame) else otherwise, waits=then.waits or otherwise.waits)

    def _map(self, node: Map) -> Start:
        over, block, ordered = self.read(node.over), _Block(self, node.body), node.ordered
        first = node.body.nodes[0] if node.body.nodes else None
        number = first.id if isinstance(first, Input) else None

        def frames(frame: Frame) -> Iterator[Frame]:
            for item in over(frame):
                values = frame.values.copy()
                if number is not None:
                    values[number] = item
                yield Frame(frame.binding, values)

        if not block.waits:
            return lambda frame: [block.value(inner) for inner in frames(frame)]

        async def one_by_one(frame: Frame) -> list[Any]:
            return [await block.run(inner) for inner in frames(frame)]

        async def at_once(frame: Frame) -> list[Any]:
            return await together([partial(block.run, inner) for inner in frames(frame)])

        return one_by_one if ordered else at_once

    def _attempt(self, node: Attempt) -> Start:
        blocks = [_Block(self, branch.body) for branch in node.branches]
        several: Callable[[list[Callable[[], Awaitable[Any]]]], Awaitable[Any]]
        several = {"fallback": first_that_works, "race": first_success, "together": together}[node.form]

        async def start(frame: Frame) -> Any:
            return await several([partial(_branch, block, frame) for block in blocks])

        return start

    def _call(self, node: Call) -> Start:
        read, block = self.read(node.args[0].value), _Block(self, node.body)
        first = node.body.nodes[0] if node.body.nodes else None

        def start(frame: Frame) -> Any:
            if isinstance(first, Input):
                frame.values[first.id] = read(frame)
            return block.start(frame)

        return start


async def _branch(block: _Block, frame: Frame) -> Any:
    return await block.run(frame) if block.waits else block.value(frame)


def _chosen(choose: Callable[[Frame], _Block], *, waits: bool) -> Start:
    """The value of whichever region is chosen; to be awaited when any of them waits."""
    if not waits:
        return lambda frame: choose(frame).value(frame)

    def start(frame: Frame) -> Awaitable[Any]:
        # A region in which nothing waits is run in order as well.
        return choose(frame).run(frame)

    return start


def _ready(settings: ModuleSettings[Any, Any]) -> ReadyModule:
    return ReadyModule(prepare(settings))


def _named(node: Python) -> str:
    return node.target if node.expr is None else f"the expression {node.expr} of {node.target}"


def _field(value: Any, name: str) -> Any:
    return value[name] if type(value) is dict else getattr(value, name)  # pyright: ignore[reportUnknownVariableType]


def _followed(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step] if isinstance(step, int) else _field(value, step)
    return value
