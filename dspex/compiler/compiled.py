"""`compile`: a program with its graph and its parameter table, checked before any call is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError

from dspex.compiler.bind import bound_program, named_by_new_texts, rebound, refuse_unknown_names
from dspex.compiler.code import Code, models_of
from dspex.compiler.ir.nodes import Graph
from dspex.compiler.plan import Binding, Plan
from dspex.errors import CompileError, ProgramError
from dspex.program import ports
from dspex.program.program import Program
from dspex.program.schema import Schema

if TYPE_CHECKING:
    from dspex.compiler.artifact.signing import Key
    from dspex.compiler.diagnose import Diagnostic
    from dspex.compiler.estimate.estimating import Estimates
    from dspex.compiler.explain import Explanation
    from dspex.compiler.frontend import Reading
    from dspex.compiler.lower.lowering import Lowered
    from dspex.executor.live import Stream
    from dspex.lm.model import LMLike
    from dspex.lm.spend import Budget
    from dspex.program.modules import ModuleSettings
    from dspex.program.space import Space

__all__ = ["Compiled", "compile", "stages"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


@dataclass(frozen=True, eq=False)
class Compiled(Generic[I, O]):
    """A compiled program: call it, read it, bind it, save it.

    Calls run its plan: the graph under the bound configuration, with what does not wait for each other together.

    Attributes:
        graph: Its graph after every pass; `print` gives the canonical text.
        space: Its Variables and the rules between them.
        schemas: The classes behind the graph's names of schemas.
        config: The value of every Variable, by full name.
        code: What it calls beside language models.
        provenance: Where its configuration comes from, as JSON: study, hashes of data, scores with intervals.
    """

    graph: Graph
    space: Space
    schemas: Mapping[str, type[BaseModel]]
    config: Mapping[str, object]
    code: Code
    provenance: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    # --- calling --------------------------------------------------------------------------------

    async def __call__(self, x: I, /) -> O:
        """The program's output for `x`.

        Raises:
            ProgramError: DX1514 when `x` is no instance of the input schema.
        """
        if not isinstance(x, self.input_schema):
            x = self._taken(x)
        return await ports.run_plan(self.binding, x)

    def run(self, x: I, /, *, timeout: float | None = None, budget: Budget | None = None) -> O:
        """The output for `x`, from synchronous code; works inside a running event loop too.

        Args:
            x: The input.
            timeout: Seconds for the whole run.
            budget: Caps on what it may spend.
        """
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
        return ports.batch(self, xs, on_error, concurrency, timeout, budget)

    def _taken(self, x: object) -> I:
        """`x` as an instance of the input schema, where that schema is not the class that callers have.

        Raises:
            ProgramError: DX1514.
        """
        wanted = self.input_schema
        fields: object = None
        if self.code.rebuilt:
            fields = x.model_dump(exclude_unset=True) if isinstance(x, BaseModel) else x
        reason = ""
        if isinstance(fields, Mapping):
            try:
                return wanted.model_validate(fields)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                reason = f": {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ProgramError(
            "DX1514",
            f"{self.graph.name} takes {wanted.__name__}, got {type(x).__name__}{reason}",
            where=self.graph.name,
            fix=f"pass an instance of {wanted.__name__}, made of the fields {', '.join(wanted.model_fields)}",
        )

    # --- what it is -----------------------------------------------------------------------------

    @cached_property
    def plan(self) -> Plan:
        """The graph made ready to run; shared with every binding that has equal pools."""
        return Plan(self.graph, self.space, self.schemas, self.code)

    @cached_property
    def binding(self) -> Binding:
        """The plan under this configuration."""
        return Binding(self.plan, self.config, lambda: self.program)

    @property
    def params(self) -> Lowered:
        """Its Variables and rules as the flat parameter table."""
        return self.plan.params

    @cached_property
    def program(self) -> Program[I, O]:
        """The program with this configuration bound.

        Raises:
            CompileError: DX2301 for an artifact that was loaded without its source.
        """
        program = self.code.program
        if program is None:
            raise CompileError(
                "DX2301",
                f"{self.graph.name} was loaded without the program that it was made of",
                fix="load the artifact with program=…, or use what needs no source: graph, config, settings, calls",
            )
        return bound_program(cast("Program[I, O]", program), self.space, self.config)

    @cached_property
    def input_schema(self) -> type[I]:
        """The schema that it takes."""
        return cast("type[I]", self.plan.schema(str(self.graph.input)))

    @cached_property
    def output_schema(self) -> type[O]:
        """The schema that it gives."""
        return cast("type[O]", self.plan.schema(str(self.graph.output)))

    @cached_property
    def settings(self) -> Mapping[str, ModuleSettings[Any, Any]]:
        """What each module asks of a model, by the module's path; those inside opaque programs included."""
        return _Settings(self)

    # --- other values ---------------------------------------------------------------------------

    def bind(self, mapping: Mapping[str, object] | None = None, /, **values: object) -> Compiled[I, O]:
        """A new `Compiled` with other values; names with dots go into the mapping.

        A text or a demonstration source that its pool does not hold yet is added to the pool.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 when the
                result would break a rule, DX1506 for a new instruction that names an unknown Variable.
        """
        changes = {**(mapping or {}), **values}
        space, config = rebound(self.space, self.config, changes)
        if space is not self.space:
            refuse_unknown_names(self.graph, self.space, space, changes, self.code.program)
            # New texts may name other Variables, and new members are new categories.
            from dspex.compiler.pipeline import nearest_of, passed

            graph = named_by_new_texts(self.graph, self.space, space)
            if graph is not self.graph or nearest_of(graph, space) != nearest_of(graph, self.space):
                graph = passed(graph, self.schemas, space, self.code, self.graph.params)
                return Compiled(graph, space, self.schemas, config, self.code)
            plan = self.plan.grown(space)
        else:
            plan = self.plan
        bound = cast("Compiled[I, O]", object.__new__(Compiled))
        vars(bound).update(
            graph=self.graph,
            space=space,
            schemas=self.schemas,
            config=config,
            code=self.code,
            provenance=_NO_PROVENANCE,
            plan=plan,
        )
        return bound

    # --- seeing and saving ----------------------------------------------------------------------

    def explain(self) -> Explanation:
        """Graph, Variables, rules and prompts, to be read before a call is made."""
        from dspex.compiler.explain import explain

        return explain(self)

    def estimate(
        self,
        inputs: Iterable[I] | None = None,
        *,
        model: LMLike | None = None,
        expected: Iterable[BaseModel] | Mapping[str, Iterable[BaseModel]] | None = None,
    ) -> Estimates:
        """Calls, tokens and dollars of one run, as ranges, before any call is made.

        Args:
            inputs: Inputs like those to come; without any, sizes come from the schemas.
            model: What calls the modules that name no model; otherwise the context's.
            expected: Outputs of the program for the inputs, or, by path, of its modules.

        Raises:
            CompileError: DX2401 for inputs or expected outputs that do not fit.
        """
        from dspex.compiler.estimate.estimating import estimate

        return estimate(self, inputs, model=model, expected=expected)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        provenance: Mapping[str, object] | None = None,
        import_path: str | None = None,
        sign: Key | None = None,
    ) -> None:
        """Writes a `.dspex` artifact; models and keys are not part of it.

        Args:
            path: The file; an existing one is replaced at once or not at all.
            provenance: Where the configuration comes from, as JSON: study, hashes of data, scores with intervals.
            import_path: ``module:name`` of the program's class, or of an instance at module level; that of the class
                when it is left out.
            sign: Private key to sign it with, a PEM file or its contents (`pip install "dspex[sign]"`).

        Raises:
            CompileError: DX2202 when it cannot be written, DX2206 when the program is needed and cannot be found again
                under its import path, DX2208 when a schema has no JSON Schema, DX2212 when the key is none.
        """
        from dspex.compiler.artifact.loading import save

        where = self.provenance if provenance is None else provenance
        save(self, path, provenance=where, import_path=import_path, sign=sign)

    def _repr_html_(self) -> str:
        return self.explain()._repr_html_()  # pyright: ignore[reportPrivateUsage]

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What is wrong with it under this configuration, or worth knowing, before any call is made."""
        from dspex.compiler.diagnose import diagnose

        return diagnose(self)

    def __str__(self) -> str:
        return str(self.graph)

    def __repr__(self) -> str:
        return f"<Compiled {self.graph.name}: {self.graph.input} -> {self.graph.output}>"


_NO_PROVENANCE: Mapping[str, object] = MappingProxyType({})


class _Settings(Mapping[str, "ModuleSettings[Any, Any]"]):
    """Each module's settings, made when they are asked for."""

    def __init__(self, compiled: Compiled[Any, Any]) -> None:
        self._compiled = compiled
        self._made: dict[str, ModuleSettings[Any, Any]] = {}
        hidden = (path for node in compiled.graph.opaque for path in node.owns)
        self._paths = tuple(dict.fromkeys((*compiled.plan.calls, *hidden)))

    def __getitem__(self, path: str) -> ModuleSettings[Any, Any]:
        found = self._made.get(path)
        if found is None:
            node = self._compiled.plan.calls.get(path)
            if node is not None:
                found = self._compiled.binding.settings(node)
            elif path in self._paths:
                found = self._compiled.program.modules()[path].settings
            else:
                raise KeyError(path)
            self._made[path] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def compile(program: Program[I, O]) -> Compiled[I, O]:
    """The graph and the parameter table of `program`; nothing of it is run.

    Raises:
        CompileError: For a program that is wrong however it is run: schemas that do not fit (DX2001), an unknown
            field (DX2002), branches of different types (DX2003), rules that cannot hold (DX2104, DX2105), a prompt
            that no model which it names can hold (DX2402), ….
    """
    # What is loaded from an artifact needs neither the front end nor the passes.
    from dspex.compiler.frontend import read_program
    from dspex.compiler.parts import closed
    from dspex.compiler.pipeline import passed

    known = cast("Program[I, O]", _program(program))
    reading = read_program(known)
    graph = closed(reading.graph, known)
    space, code = known.space, _code(reading, known)
    # Rules that cannot hold are errors of the program, whether or not anybody asks for the table.
    params = ports.lower(space)
    graph = passed(graph, reading.schemas, space, code, params.names)
    compiled: Compiled[I, O] = Compiled(graph, space, reading.schemas, known.config, code)
    vars(compiled.plan)["params"] = params
    if code.models:
        from dspex.compiler.diagnose import refuse_windows

        refuse_windows(compiled)
    return compiled


def stages(program: Program[Any, Any]) -> Iterator[tuple[str, Graph]]:
    """The graph as it was read, and after each pass, by the pass's name."""
    from dspex.compiler.frontend import read_program
    from dspex.compiler.parts import closed
    from dspex.compiler.passes import run_passes
    from dspex.compiler.pipeline import passes_of

    known = _program(program)
    reading = read_program(known)
    graph, space = closed(reading.graph, known), known.space
    yield "read", graph
    for step in passes_of(graph, reading.schemas, space, _code(reading, known), ports.lower(space).names):
        graph = run_passes(graph, (step,))
        yield step.name, graph


def _code(reading: Reading, program: Program[Any, Any]) -> Code:
    return Code(reading.functions, models_of(program), program)


def _program(given: object) -> Program[Any, Any]:
    if isinstance(given, Program):
        return cast("Program[Any, Any]", given)
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    made = isinstance(given, type) and issubclass(given, Program)
    raise CompileError(
        "DX2008",
        f"compile takes a program, got {'the class ' if isinstance(given, type) else 'an object of '}{name}",
        fix=f"make an instance first: dx.compile({name}())" if made else "write a dx.Program around it",
    )
