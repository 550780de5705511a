"""`Program`: a typed asynchronous callable whose Variables an optimizer may set."""

from __future__ import annotations

import sys
import threading
from abc import ABCMeta, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ForwardRef,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    overload,
)

from dspex.errors import ProgramError
from dspex.program import ports
from dspex.program.computed import Computed
from dspex.program.demos import is_demo_source
from dspex.program.rules import Rule
from dspex.program.schema import Schema
from dspex.program.tree import TRANSIENT, Changes, Node, bound_copy, found, join, rebuilt, walk
from dspex.program.variables import Demos, Text, Var, place, written_at

if TYPE_CHECKING:
    from dspex.evaluation.dataset import Dataset
    from dspex.evaluation.statistics import FailurePolicy
    from dspex.executor.live import Stream
    from dspex.lm.model import LMLike
    from dspex.lm.spend import Budget
    from dspex.program.compose import Pipe
    from dspex.program.metric import MetricLike
    from dspex.program.modules import Module
    from dspex.program.space import Space
    from dspex.stores.protocol import EventStore
    from dspex.study.progress import Watcher
    from dspex.study.stop import StopToken
    from dspex.study.study import Study
    from dspex.telemetry.events import ContentMode

__all__ = ["Program", "Step"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741
P = TypeVar("P", bound=Schema)
I_contra = TypeVar("I_contra", bound=Schema, contravariant=True)
P_co = TypeVar("P_co", bound=Schema, covariant=True)


class Step(Protocol[I_contra, P_co]):
    """What may stand on the right of `>>`: a program that takes what the left one gives."""

    def __call__(self, x: I_contra, /) -> Awaitable[P_co]: ...

    def identity(self) -> str: ...


_MOST_IN_ONE = 50
_making = threading.local()


def _makes_itself(cls: type) -> ProgramError:
    return ProgramError(
        "DX1536",
        f"{cls.__name__} makes itself in its __init__, more than {_MOST_IN_ONE} times inside one another",
        fix="make the inner program outside and pass it in, or repeat the work in __call__",
    )


def _no_call(cls: type[Program[Any, Any]]) -> ProgramError:
    name = cls.__name__
    schemas = [getattr(cls, side, None) for side in ("input_schema", "output_schema")]
    takes, gives = (one.__name__ if isinstance(one, type) else other for one, other in zip(schemas, "IO", strict=True))
    said = "dx.Program is written by subclassing it" if cls is Program else f"{name} has no __call__, so it cannot run"
    return ProgramError(
        "DX1544",
        said,
        where=place(written_at()),
        fix=f"write async def __call__(self, x: {takes}, /) -> {gives}: … in a class of it",
    )


class ProgramMeta(ABCMeta):
    """Closes a program after its `__init__`, whichever way its classes wrote theirs."""

    if not TYPE_CHECKING:
        # Hidden from checkers: a `__call__` here would hide the signatures of the programs' own `__init__`.

        def __call__(cls, *args: object, **kwargs: object) -> object:
            if "__call__" in cls.__abstractmethods__:
                raise _no_call(cls)
            cls.dx_refuse_arguments(args, kwargs)
            program = cls.__new__(cls, *args, **kwargs)
            program.dx_prepare()
            making = _making.__dict__
            making[cls] = making.get(cls, 0) + 1
            try:
                if making[cls] > _MOST_IN_ONE:
                    raise _makes_itself(cls)
                program.__init__(*args, **kwargs)
            finally:
                making[cls] -= 1
                if not making[cls]:
                    del making[cls]
            program.dx_close()
            return program


class Program(Generic[I, O], metaclass=ProgramMeta):
    """A typed asynchronous callable from schema I to schema O, built of modules, programs and plain Python.

    Subclasses name both schemas, `class QABot(dx.Program[Ask, Answer])`, and write `async def __call__`. Variables
    and modules are class attributes, or are set in `__init__`; afterwards a program never changes: `bind` gives a
    changed copy. Class-level modules are templates, of which every instance gets its own bound copies.

    Attributes:
        input_schema: The schema that it takes.
        output_schema: The schema that it gives.
        rules: Constraints between its Variables.
        lm: The language model of all its modules that name none.
        study: How it was found, on what `optimize` returns; None on any other program.
        dx_node: Its place in the tree that it belongs to.
    """

    input_schema: type[I]
    output_schema: type[O]
    rules: Sequence[Rule] = ()
    lm: LMLike | None = None
    # Typed for what `optimize` returns; a program that no study made has None.
    study: Study = cast("Study", None)
    dx_node: Node

    _declared: Mapping[str, Var[Any]] = {}
    # Names of the computed ones among them, in the order in which they are computed.
    _computed: tuple[str, ...] = ()
    _templates: tuple[str, ...] = ()
    # A scope resolves the names of Variables for the modules in it; modules and combinators are none.
    _scope = True

    @abstractmethod
    async def __call__(self, x: I, /) -> O:
        """The program's output for `x`."""
        ...

    # --- the class ------------------------------------------------------------------------------

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _resolve_schemas(cls)
        if cls.__module__.partition(".")[0] == "dspex" and cls.__module__.startswith("dspex.program"):
            return
        from dspex.program.body import read_body

        cls._declared, cls._templates, cls._computed = read_body(cls, Program)

    @classmethod
    def dx_refuse_arguments(cls, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Before an instance is made: refuse arguments that its `__init__` could only call wrong."""

    # --- an instance's life ---------------------------------------------------------------------

    def dx_prepare(self) -> None:
        """Before `__init__`: values of the Variables, copies of the class's modules."""
        attributes = vars(self)
        node = attributes["dx_node"] = Node(self.dx_root_path())
        node.open = True
        for name in self._declared:
            node.values[name] = attributes[name] = getattr(type(self), name).default
        memo: dict[object, Program[Any, Any]] = {}
        for name in self._templates:
            attributes[name] = rebuilt(
                getattr(type(self), name),
                name,
                lambda child, local: bound_copy(child, join(node.path, local), self, None, memo, fresh=True),
            )
        if self._computed:
            known = self.dx_local_values()
            for name in self._computed:
                variable = cast("Computed[Any]", getattr(type(self), name))
                known[name] = node.values[name] = attributes[name] = variable.value(known)

    def dx_close(self) -> None:
        """After `__init__`: adopt the programs that it set, then refuse changes."""
        node = self.dx_node
        if not (hasattr(self, "input_schema") and hasattr(self, "output_schema")):
            _resolve_schemas(type(self), final=True)
        memo: dict[object, Program[Any, Any]] = {}
        for child in self.children().values():
            # What stands in this tree already (copies of templates) stays; everything else is copied into it.
            if child.dx_node.parent is self:
                for below in walk(child):
                    memo[below.dx_node.token] = below

        def adopt(child: Program[Any, Any], local: str, gate: Rule | None) -> Program[Any, Any]:
            return bound_copy(child, join(node.path, local), self, gate, memo, fresh=False)

        self.dx_replace_children(adopt)
        node.open = False
        if self._scope:
            self._check_modules()

    def _check_modules(self) -> None:
        from dspex.program.modules import Module

        for below in walk(self):
            if isinstance(below, Module) and below.owner() is self:
                below.check_names()

    def __setattr__(self, name: str, value: object) -> None:
        node = self.__dict__.get("dx_node")
        if name in type(self)._declared:
            raise ProgramError(
                "DX1501",
                f"{type(self).__name__}.{name} is a Variable and cannot be assigned",
                fix=f"program.bind({name}={value!r}) gives a copy with that value",
            )
        if node is not None and not node.open and name != "__orig_class__":
            raise ProgramError(
                "DX1501",
                f"{type(self).__name__} is immutable after __init__: {name} cannot be assigned",
                fix="program.bind(...) sets Variables, program.with_lm(...) the model, on a copy",
            )
        if isinstance(value, Var):
            raise ProgramError(
                "DX1214",
                f"{type(self).__name__}.{name} is assigned a Variable in __init__",
                where=place(cast("Var[Any]", value).at, name),
                fix="declare Variables in the class body, or give this one to the module that uses it",
            )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if not self.dx_node.open:
            raise ProgramError("DX1501", f"{type(self).__name__} is immutable after __init__: {name} cannot be deleted")
        object.__delattr__(self, name)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in TRANSIENT}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Program) or type(self) is not type(cast(object, other)):
            return NotImplemented
        theirs = cast("Program[Any, Any]", other)
        return (
            self.input_schema is theirs.input_schema
            and self.output_schema is theirs.output_schema
            and self.config == theirs.config
            and [variable.signature() for variable in self.variables().values()]
            == [variable.signature() for variable in theirs.variables().values()]
        )

    def __hash__(self) -> int:
        return hash((type(self).__qualname__, self.input_schema, self.output_schema))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self.dx_node.values.get(name)!r}" for name in self._declared)
        return f"<{type(self).__name__}{' ' + values if values else ''}>"

    # --- structure ------------------------------------------------------------------------------

    def dx_root_path(self) -> str:
        """The path of this program when no other holds it."""
        return ""

    def children(self) -> dict[str, Program[Any, Any]]:
        """The programs that this one holds directly, by local path: attributes, members of lists and dicts."""
        below: dict[str, Program[Any, Any]] = {}
        for name, value in self.__dict__.items():
            if name != "dx_node":
                below.update(found(value, name))
        return below

    def dx_replace_children(self, visit: Callable[[Program[Any, Any], str, Rule | None], Program[Any, Any]]) -> None:
        """Put `visit(child, local path, gate)` in the place of every child."""
        attributes = vars(self)
        for name, value in list(attributes.items()):
            if name != "dx_node":
                attributes[name] = rebuilt(value, name, lambda child, local: visit(child, local, None))

    def is_scope(self) -> bool:
        """Whether the modules below look names of Variables up here; modules and combinators pass through."""
        return self._scope

    def dx_show(self, values: Mapping[str, object]) -> None:
        """Make bound values readable as attributes."""
        vars(self).update(values)

    def dx_variables(self) -> dict[str, Var[Any]]:
        """The Variables that this very program declares, by local name."""
        grown = self.dx_node.grown
        return {
            name: _grown(getattr(type(self), name), grown[name]) if name in grown else getattr(type(self), name)
            for name in self._declared
        }

    def dx_local_values(self) -> dict[str, object]:
        """The values that computed Variables of this program may read, by local name: Variables and selections."""
        from dspex.program.select import Select

        values = dict(self.dx_node.values)
        for name in self._templates:
            child: object = self.__dict__.get(name)
            if isinstance(child, Select):
                values[name] = child.choice
        return values

    def dx_source(self, local: str) -> object:
        """What says where this program got its Variable `local` from, when it was handed to it; None otherwise."""
        return None

    def dx_rules(self) -> tuple[Rule, ...]:
        """The rules that this very program declares, over local names."""
        for rule in self.rules:
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise not_a_rule(type(self).__name__, rule)
        return tuple(self.rules)

    def dx_full_name(self, name: str) -> str:
        """The full name of what `name` means in this program's conditions and rules."""
        return join(self.dx_node.path, name)

    def modules(self) -> dict[str, Module[Any, Any]]:
        """Every module of the tree, by dotted path."""
        from dspex.program.modules import Module

        return {below.dx_node.path: below for below in walk(self) if isinstance(below, Module)}

    def variables(self) -> dict[str, Var[Any]]:
        """Every Variable of the tree, by full name, active or not: a program's own, then its children's."""
        return dict(self.dx_node.tables(self).variables)

    def all_rules(self) -> tuple[Rule, ...]:
        """Every rule of the tree, over full names."""
        return self.dx_node.tables(self).rules

    @property
    def config(self) -> dict[str, object]:
        """The value of every Variable, by full name."""
        return dict(self.dx_node.tables(self).config)

    @property
    def space(self) -> Space:
        """All Variables with their rules."""
        return self.dx_node.tables(self).space

    def identity(self) -> str:
        """Content hash over source, schemas, Variables, rules and values; the same in every process."""
        from dspex.program.identity import identity

        return identity(self)

    # --- changed copies -------------------------------------------------------------------------

    def bind(self, mapping: Mapping[str, object] | None = None, /, **values: object) -> Self:
        """A copy with other values; names with dots go into the mapping.

        A text or a demonstration source that its pool does not hold yet is added to the pool.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 when the
                result would break a rule, DX1406 for a computed Variable with another value than follows, DX1506 for
                a new instruction that names an unknown Variable.
        """
        tables = self.dx_node.tables(self)
        changes = Changes()
        bound: dict[str, object] = {}
        claimed: dict[str, object] = {}
        fresh: dict[str, str] = {}
        grew = False
        for name, value in {**(mapping or {}), **values}.items():
            variable = tables.variables.get(name)
            if variable is None:
                from dspex.program.space import unknown_variable

                raise unknown_variable(name, tables.variables)
            if isinstance(variable, Computed):
                claimed[name] = value
                continue
            owner, local = tables.places[name]
            if _is_new_member(variable, value):
                changes.grow(owner, local, (value,))
                variable = _grown(variable, (value,))
                grew = True
                if isinstance(value, str):
                    fresh[name] = value
            bound[name] = variable.canonical(value)
            changes.set(owner, local, bound[name])
        config = {**tables.config, **bound}
        if tables.computed:
            tables.space.settle(config, claimed)
            for variable in tables.computed:
                owner, local = tables.places[variable.name]
                changes.set(owner, local, config[variable.name])
        clone = self._copied(changes)
        if not grew:
            clone.dx_node.inherit(tables, clone, config)
        clone.dx_check_rules()
        if new := {name: text for name, text in fresh.items() if "{" in text}:
            for module in clone.modules().values():
                module.check_instruction(new)
        return clone

    def with_pools(self, pools: Mapping[str, Sequence[object]], /) -> Self:
        """A copy whose Text and Demos pools end with the given members; values stay as they are.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1404 for a Variable without a pool.
        """
        tables = self.dx_node.tables(self)
        changes = Changes()
        for name, members in pools.items():
            variable = tables.variables.get(name)
            if variable is None:
                from dspex.program.space import unknown_variable

                raise unknown_variable(name, tables.variables)
            grown = _grown(variable, tuple(members))
            fresh = grown.options[len(variable.options) :]
            owner, local = tables.places[name]
            if fresh:
                changes.grow(owner, local, tuple(fresh))
        return self._copied(changes)

    def with_lm(self, lm: LMLike, /) -> Self:
        """A copy whose modules call `lm` unless they name a model themselves."""
        clone = self._copied(Changes())
        vars(clone)["lm"] = lm
        return clone

    def _copied(self, changes: Changes) -> Self:
        node = self.dx_node
        clone = bound_copy(self, node.path, node.parent, node.gate, {}, fresh=True, changes=changes)
        return cast(Self, clone)

    def dx_check_rules(self) -> None:
        """Raise DX1403 when the program's values break one of its rules, DX2104 to DX2106 when its defaults do."""
        tables = self.dx_node.tables(self)
        if tables.rules:
            broken = tables.space.broken(tables.config)
            if broken:
                from dspex.program.space import broken_rule

                if tables.config == tables.space.default():
                    # Nothing was bound: the compiler tells rules that nothing obeys from an unlucky default.
                    ports.lower(tables.space)
                raise broken_rule(broken[0], tables.config)

    # --- calling up -----------------------------------------------------------------------------

    def run(self, x: I, /, *, timeout: float | None = None, budget: Budget | None = None) -> O:
        """The output for `x`, from synchronous code; works inside a running event loop too.

        Args:
            x: The input.
            timeout: Seconds for the whole run.
            budget: Caps on what it may spend.
        """
        self.dx_check_rules()
        return ports.run(self, x, timeout, budget)

    def stream(self, x: I, /, *, timeout: float | None = None, budget: Budget | None = None) -> Stream[O]:
        """A run for `x`, read while it goes on: what the modules write, field by field, and at last the output.

        For example ``async for part in program.stream(x)``, or ``for`` in synchronous code. The run begins with the
        first part that is asked for, waits where its reader is slow, and ends when the stream is closed.

        Args:
            x: The input.
            timeout: Seconds for the whole run, those that the reader takes included.
            budget: Caps on what it may spend.
        """
        self.dx_check_rules()
        return ports.stream(self, x, timeout, budget)

    @overload
    def batch(
        self,
        xs: Iterable[I],
        /,
        *,
        on_error: Literal["raise"] = "raise",
        concurrency: int | None = None,
        timeout: float | None = None,
        budget: Budget | None = None,
    ) -> list[O]: ...
    @overload
    def batch(
        self,
        xs: Iterable[I],
        /,
        *,
        on_error: Literal["return"],
        concurrency: int | None = None,
        timeout: float | None = None,
        budget: Budget | None = None,
    ) -> list[O | Exception]: ...
    def batch(
        self,
        xs: Iterable[I],
        /,
        *,
        on_error: Literal["raise", "return"] = "raise",
        concurrency: int | None = None,
        timeout: float | None = None,
        budget: Budget | None = None,
    ) -> list[Any]:
        """The outputs for `xs`, in their order, from synchronous code.

        Args:
            xs: Inputs.
            on_error: "raise" stops at the first error; "return" puts it in its input's place and goes on.
            concurrency: Inputs in work at once.
            timeout: Seconds for the whole batch.
            budget: Caps on what the batch may spend.
        """
        self.dx_check_rules()
        return ports.batch(self, xs, on_error, concurrency, timeout, budget)

    def optimize(
        self,
        data: Dataset[I, O] | Sequence[tuple[I, O]],
        maximize: MetricLike[I, O],
        *,
        budget: Budget | None = None,
        seed: int = 0,
        strategy: str = "auto",
        held_out: Dataset[I, O] | Sequence[tuple[I, O]] | None = None,
        lm: LMLike | None = None,
        proposer_lm: LMLike | None = None,
        concurrency: int | None = None,
        on_failure: FailurePolicy = "worst",
        content: ContentMode | None = None,
        store: EventStore | None = None,
        study_id: str | None = None,
        stop: StopToken | None = None,
        progress: Watcher | None = None,
    ) -> Self:
        """The best configuration found for `maximize` on `data`, bound; its `study` says how it was found.

        Args:
            data: Examples; split into disjoint train, validation and held-out parts.
            maximize: A function of (got, want), or a `dx.metric`.
            budget: Caps on what the search may spend, held-out evaluations included.
            seed: Everything random follows from it.
            strategy: Name of the recipe.
            held_out: Examples for the final report alone; otherwise a part of `data`.
            lm: The model of modules that name none; otherwise the context's.
            proposer_lm: The model that writes proposals; otherwise the same.
            concurrency: Evaluations in work at once.
            on_failure: What a failed example counts as: "worst" (0, or the lowest score if that is below), "exclude"
                or "stop".
            content: What the event log keeps of prompts and answers: "full", "hash" or "off".
            store: Where the study's events go; a file in `dspex.settings.home` by default.
            study_id: The study's name; a new one by default.
            stop: Ends the study early.
            progress: Called after each step.
        """
        return ports.optimize(
            self,
            data,
            maximize,
            budget=budget,
            seed=seed,
            strategy=strategy,
            held_out=held_out,
            lm=lm,
            proposer_lm=proposer_lm,
            concurrency=concurrency,
            on_failure=on_failure,
            content=content,
            store=store,
            study_id=study_id,
            stop=stop,
            progress=progress,
        )

    async def optimize_async(
        self,
        data: Dataset[I, O] | Sequence[tuple[I, O]],
        maximize: MetricLike[I, O],
        *,
        budget: Budget | None = None,
        seed: int = 0,
        strategy: str = "auto",
        held_out: Dataset[I, O] | Sequence[tuple[I, O]] | None = None,
        lm: LMLike | None = None,
        proposer_lm: LMLike | None = None,
        concurrency: int | None = None,
        on_failure: FailurePolicy = "worst",
        content: ContentMode | None = None,
        store: EventStore | None = None,
        study_id: str | None = None,
        stop: StopToken | None = None,
        progress: Watcher | None = None,
    ) -> Self:
        """`optimize`, awaited."""
        return await ports.optimize_async(
            self,
            data,
            maximize,
            budget=budget,
            seed=seed,
            strategy=strategy,
            held_out=held_out,
            lm=lm,
            proposer_lm=proposer_lm,
            concurrency=concurrency,
            on_failure=on_failure,
            content=content,
            store=store,
            study_id=study_id,
            stop=stop,
            progress=progress,
        )

    def __rshift__(self, other: Step[O, P], /) -> Pipe[I, P]:
        """`self`, then `other` on its output."""
        from dspex.program.compose import pipe

        return pipe(self, other)


def not_a_rule(where: str, value: object) -> ProgramError:
    return ProgramError(
        "DX1302",
        f"rules of {where} holds {value!r}, which is not a rule",
        where=place(written_at()),
        fix="write k.is_(4) rather than k == 4: == compares the Variables themselves",
    )


def _is_new_member(variable: Var[Any], value: object) -> bool:
    if isinstance(variable, Text):
        return isinstance(value, str) and value not in variable.pool
    if isinstance(variable, Demos) and is_demo_source(value):
        return all(member.hash != value.hash for member in variable.pool)
    return False


def _grown(variable: Var[Any], members: tuple[Any, ...]) -> Var[Any]:
    if isinstance(variable, Text | Demos):
        return variable.grown(*members)
    raise ProgramError(
        "DX1404",
        f"Variable {variable.name!r} of kind {variable.kind} has no pool that could grow",
        where=place(variable.at, variable.name),
    )


# --- schemas from the generic arguments ------------------------------------------------------------


def _resolve_schemas(cls: type[Program[Any, Any]], *, final: bool = False) -> None:
    """Set `input_schema` and `output_schema` from `Program[I, O]` in the bases; `final` makes a lack an error."""
    problem: str | None = None
    arguments = _arguments(cls)
    if arguments is not None:
        resolved = [_schema(cast(type[object], cls), argument) for argument in arguments]
        if all(isinstance(schema, type) for schema in resolved):
            for schema in cast("list[type[object]]", resolved):
                if not issubclass(schema, Schema):
                    raise ProgramError(
                        "DX1502",
                        f"{cls.__name__} is a Program over {schema.__name__}, which is not a dx.Schema",
                        fix=f"class {schema.__name__}(dx.Schema): …",
                    )
            for name, schema in zip(("input_schema", "output_schema"), resolved, strict=True):
                setattr(cls, name, schema)
            return
        problem = ", ".join(str(entry) for entry in resolved if isinstance(entry, NameError))
    if final:
        raise ProgramError(
            "DX1502",
            f"{cls.__name__} does not say its schemas" + (f": {problem}" if problem else ""),
            fix=f"class {cls.__name__}(dx.Program[Ask, Answer]): …",
        )


def _arguments(cls: type) -> tuple[object, ...] | None:
    """What stands for I and O of `Program` in `cls`; TypeVars where it is still generic."""
    for base in cls.__dict__.get("__orig_bases__", ()):
        origin = get_origin(base)
        if origin is None or not isinstance(origin, type) or not issubclass(origin, Program):
            continue
        given = get_args(base)
        if origin is Program:
            return given
        inner = _arguments(cast(type, origin))
        if inner is None:
            continue
        parameters = cast("tuple[object, ...]", getattr(cast(object, origin), "__parameters__", ()))
        assigned = dict(zip(parameters, given, strict=False))
        return tuple(assigned.get(entry, entry) for entry in inner)
    return None


def _schema(cls: type[object], argument: object) -> object:
    """The schema behind a generic argument; a NameError for a forward reference to nothing (yet)."""
    if isinstance(argument, ForwardRef | str):
        text = argument.__forward_arg__ if isinstance(argument, ForwardRef) else argument
        module = sys.modules.get(cls.__module__)
        target: object = getattr(module, text, None)
        return target if target is not None else NameError(f"name {text!r} is not defined")
    return argument
