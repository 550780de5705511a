"""`compile`: a program with its graph and its parameter table, checked before any call is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel

from dspex.compiler.bind import bound_program, same_pools
from dspex.compiler.frontend import read_program
from dspex.compiler.ir.nodes import Graph
from dspex.compiler.lower import Lowered, lower
from dspex.compiler.passes import run_passes
from dspex.errors import CompileError
from dspex.program import ports
from dspex.program.program import Program
from dspex.program.schema import Schema

if TYPE_CHECKING:
    from dspex.compiler.explain import Explanation
    from dspex.lm.spend import Budget

__all__ = ["Compiled", "compile"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


@dataclass(frozen=True, eq=False)
class Compiled(Generic[I, O]):
    """A compiled program: call it, read it, bind it, save it.

    Attributes:
        program: The program with its configuration bound.
        graph: Its graph after every pass; `print` gives the canonical text.
        params: Its Variables and rules as the flat parameter table.
        schemas: The classes behind the graph's names of schemas.
        provenance: Where its configuration comes from, as JSON: study, hashes of data, scores with intervals.
    """

    program: Program[I, O]
    graph: Graph
    params: Lowered
    schemas: Mapping[str, type[BaseModel]]
    provenance: Mapping[str, object] = field(default_factory=dict[str, object])

    async def __call__(self, x: I, /) -> O:
        """The program's output for `x`."""
        return await self.program(x)

    def run(self, x: I, /, *, timeout: float | None = None, budget: Budget | None = None) -> O:
        """The output for `x`, from synchronous code; works inside a running event loop too."""
        return ports.run(self.program, x, timeout, budget)

    @property
    def config(self) -> dict[str, object]:
        """The value of every Variable, by full name."""
        return self.program.config

    def bind(self, mapping: Mapping[str, object] | None = None, /, **values: object) -> Compiled[I, O]:
        """A new `Compiled` with other values.

        Raises:
            ProgramError: DX1401 for an unknown name, DX1402 for a value outside its domain, DX1403 when the
                result would break a rule.
        """
        program = bound_program(self.program, {**(mapping or {}), **values})
        if same_pools(self.program, program):
            return Compiled(program, self.graph, self.params, self.schemas)
        # New texts may name other Variables, and new members are new categories.
        return compile(program)

    def explain(self) -> Explanation:
        """Graph, Variables, rules and prompts, to be read before a call is made."""
        from dspex.compiler.explain import explain

        return explain(self)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        provenance: Mapping[str, object] | None = None,
        import_path: str | None = None,
    ) -> None:
        """Writes a `.dspex` artifact; models and keys are not part of it.

        Args:
            path: The file; an existing one is replaced at once or not at all.
            provenance: Where the configuration comes from, as JSON: study, hashes of data, scores with intervals.
            import_path: ``module:name`` of the program's class, or of an instance at module level; that of the class
                when it is left out.

        Raises:
            CompileError: DX2202 when it cannot be written, DX2206 when the program cannot be found again under its
                import path, DX2208 when a schema has no JSON Schema.
        """
        from dspex.compiler.artifact import save

        save(self, path, provenance=self.provenance if provenance is None else provenance, import_path=import_path)

    def __str__(self) -> str:
        return str(self.graph)

    def __repr__(self) -> str:
        return f"<Compiled {self.graph.name}: {self.graph.input} -> {self.graph.output}>"


def compile(program: Program[I, O]) -> Compiled[I, O]:
    """The graph and the parameter table of `program`; nothing of it is run.

    Raises:
        CompileError: For a program that is wrong however it is run: schemas that do not fit (DX2001), an unknown
            field (DX2002), branches of different types (DX2003), rules that cannot hold (DX2104, DX2105), ….
    """
    if not isinstance(program, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
        given = cast("object", program)
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        made = isinstance(given, type) and issubclass(given, Program)
        raise CompileError(
            "DX2008",
            f"compile takes a program, got {'the class ' if isinstance(given, type) else 'an object of '}{name}",
            fix=f"make an instance first: dx.compile({name}())" if made else "write a dx.Program around it",
        )
    reading = read_program(cast("Program[Any, Any]", program))
    graph = run_passes(reading.graph)
    params = lower(tuple(program.variables().values()), program.all_rules())
    return Compiled(program, graph, params, reading.schemas)
