"""Combinators: programs made of programs that run together, in turn, or one instead of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from dspex.errors import CompileError, ProgramError
from dspex.program.concurrency import first_success, first_that_works, majority, together
from dspex.program.outputs import dropped
from dspex.program.program import Program
from dspex.program.rules import Rule
from dspex.program.schema import Schema
from dspex.program.variables import Var, definition, place

if TYPE_CHECKING:
    from dspex.program.variables import Definition

__all__ = [
    "Combinator",
    "Fallback",
    "Parallel",
    "Race",
    "Vote",
    "When",
    "cond",
    "fallback",
    "map",
    "parallel",
    "race",
    "vote",
    "when",
]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class Combinator(Program[I, O], Generic[I, O]):
    """A program that consists of named branches and of what it does with them.

    Attributes:
        branches: The programs, by name; the names are their local paths.
        at: File and line where it was written.
    """

    _scope = False
    branches: Mapping[str, Program[Any, Any]]
    at: Definition

    def __init__(
        self, input: type[I], output: type[O], branches: Mapping[str, Program[Any, Any]], at: Definition
    ) -> None:
        self.input_schema = input
        self.output_schema = output
        self.branches = dict(branches)
        self.at = at

    def children(self) -> dict[str, Program[Any, Any]]:
        return dict(self.branches)

    def dx_replace_children(self, visit: Callable[[Program[Any, Any], str, Rule | None], Program[Any, Any]]) -> None:
        vars(self)["branches"] = {name: visit(branch, name, None) for name, branch in self.branches.items()}

    def dx_variables(self) -> dict[str, Var[Any]]:
        return {}

    def dx_text(self) -> str:
        """What it does beyond its class, its schemas and its branches, as text for content hashes."""
        return " ".join(self.branches)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.branches)}>"


class Parallel(Combinator[I, O]):
    """Gives its input to every branch at once and collects their outputs in the fields named like them."""

    async def __call__(self, x: I, /) -> O:
        """The merged outputs; of several failures the first in source order is raised, and later ones cancelled."""
        outputs = await together([partial(branch, x) for branch in self.branches.values()])
        return self.output_schema(**dict(zip(self.branches, outputs, strict=True)))


class Fallback(Combinator[I, O]):
    """Tries its branches in order; the next one runs when a call failed or an answer did not fit."""

    async def __call__(self, x: I, /) -> O:
        """The output of the first branch that does not fail."""
        return await first_that_works([partial(branch, x) for branch in self.branches.values()])


class Race(Combinator[I, O]):
    """Runs all branches together; the first that succeeds wins, and the others are cancelled."""

    async def __call__(self, x: I, /) -> O:
        """The output of the branch that succeeded first."""
        return await first_success([partial(branch, x) for branch in self.branches.values()])


class Vote(Combinator[I, O]):
    """Runs all branches together; the commonest output wins, of equally common ones the first.

    Attributes:
        by: The field that is compared; None for the whole output.
    """

    by: str | None

    def __init__(
        self, input: type[I], output: type[O], branches: Mapping[str, Program[Any, Any]], at: Definition, by: str | None
    ) -> None:
        super().__init__(input, output, branches, at)
        self.by = by

    async def __call__(self, x: I, /) -> O:
        """The commonest output."""
        return majority(await together([partial(branch, x) for branch in self.branches.values()]), self.by)

    def dx_text(self) -> str:
        return f"{super().dx_text()} by {self.by}"


class When(Combinator[I, O]):
    """Runs the branch ``then`` where `test` of the input is true, else the branch ``otherwise``.

    Attributes:
        test: A plain function of the input.
    """

    test: Callable[[I], bool]

    def __init__(
        self,
        input: type[I],
        output: type[O],
        branches: Mapping[str, Program[Any, Any]],
        at: Definition,
        test: Callable[[I], bool],
    ) -> None:
        super().__init__(input, output, branches, at)
        self.test = test

    async def __call__(self, x: I, /) -> O:
        """The output of the branch that `test` chooses for `x`."""
        return cast(O, await self.branches["then" if self.test(x) else "otherwise"](x))

    def dx_text(self) -> str:
        from dspex.program.identity import behaviour_hash

        return f"{super().dx_text()} if {behaviour_hash(self.test)}"


def parallel(merged: type[O], /, **branches: Program[I, Any]) -> Parallel[I, O]:
    """A program that runs `branches` on one input together and gives a `merged`.

    Args:
        merged: A schema with a field for each branch, named like it and of the type of its output.
        branches: The programs; they take the same schema.

    Raises:
        CompileError: DX1530, when fields and branches do not fit together.
    """
    at = definition()
    form = "parallel"
    if not (isinstance(merged, type) and issubclass(merged, Schema)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(form, at, f"the first argument is the schema of the result, got {merged!r}")
    _programs(form, at, branches)
    first = next(iter(branches))
    _equal(form, at, branches, ("input_schema",))

    def unfit(why: str, fix: str) -> CompileError:
        return CompileError("DX1530", f"parallel: {why}", where=place(at), fix=fix)

    for name, branch in branches.items():
        known = merged.model_fields.get(name)
        given = branch.output_schema
        if known is None:
            raise unfit(
                f"{merged.__name__} has no field for the branch {name!r}; its fields are "
                f"{', '.join(merged.model_fields) or '(none)'}",
                f"add {name}: {given.__name__} to {merged.__name__}, or rename the branch",
            )
        wanted: object = known.annotation
        if not (isinstance(wanted, type) and issubclass(given, wanted)):
            raise unfit(
                f"{merged.__name__}.{name} is {getattr(wanted, '__name__', wanted)}, the branch {name!r} gives "
                f"{given.__name__}",
                f"annotate it {name}: {given.__name__}",
            )
    for name, known in merged.model_fields.items():
        if known.is_required() and name not in branches:
            raise unfit(f"no branch gives {merged.__name__}.{name}", "add a branch of that name, or give it a default")
    return Parallel(branches[first].input_schema, merged, branches, at)


def fallback(*positional: Program[I, O], **named: Program[I, O]) -> Fallback[I, O]:
    """A program that tries others in order: `dx.fallback(cheap, strong)`.

    The next one runs when the one before raises an `LMError` (a failed call, an answer that does not fit) other than
    `BudgetExceeded`; any other error is raised at once. When all fail, the last error is raised, with the earlier ones
    as notes.

    Args:
        positional: Programs; their local paths are ``branch1``, ``branch2``, …
        named: Further programs, by local path.

    Raises:
        ProgramError: DX1531, for no program, something that is none, or schemas that differ.
    """
    at = definition()
    branches = _branches("fallback", at, positional, named)
    first = next(iter(branches.values()))
    return Fallback(first.input_schema, first.output_schema, branches, at)


def race(*positional: Program[I, O], **named: Program[I, O]) -> Race[I, O]:
    """A program that runs others together and gives the output of the first that succeeds; the others are cancelled.

    A branch loses by the errors after which `fallback` goes on; any other error ends the race and is raised. When all
    lose, the first branch's error is raised.

    Args:
        positional: Programs; their local paths are ``branch1``, ``branch2``, …
        named: Further programs, by local path.

    Raises:
        ProgramError: DX1531, for no program, something that is none, or schemas that differ.
    """
    at = definition()
    branches = _branches("race", at, positional, named)
    first = next(iter(branches.values()))
    return Race(first.input_schema, first.output_schema, branches, at)


def vote(*positional: Program[I, O], by: str | None = None, **named: Program[I, O]) -> Vote[I, O]:
    """A program that runs others together and gives their commonest output, of equally common ones the first.

    Args:
        positional: Programs; their local paths are ``branch1``, ``branch2``, …
        by: The output field that is compared; by default the whole output is.
        named: Further programs, by local path.

    Raises:
        ProgramError: DX1531, for no program, something that is none, or schemas that differ; DX1532, when the output
            has no field `by`.
    """
    at = definition()
    branches = _branches("vote", at, positional, named)
    first = next(iter(branches.values()))
    if by is not None and by not in first.output_schema.model_fields:
        raise ProgramError(
            "DX1532",
            f"vote: {first.output_schema.__name__} has no field {by!r} to vote by; its fields are "
            f"{', '.join(first.output_schema.model_fields)}",
            where=place(at),
            fix=_nearest(by, first.output_schema.model_fields) or "leave by= out to compare whole outputs",
        )
    return Vote(first.input_schema, first.output_schema, branches, at, by)


def when(test: Callable[[I], bool], then: Program[I, O], otherwise: Program[I, O]) -> When[I, O]:
    """A program that runs `then` on inputs for which `test` is true, else `otherwise`.

    Args:
        test: A plain function of the input; it is part of the program's identity.
        then: Its local path is ``then``.
        otherwise: Its local path is ``otherwise``.

    Raises:
        ProgramError: DX1531, when the programs differ in their schemas; DX1533, when `test` is no plain function.
    """
    from inspect import iscoroutinefunction

    at = definition()
    if not callable(test) or isinstance(cast(object, test), Program) or iscoroutinefunction(test):
        raise ProgramError(
            "DX1533",
            f"when: the test is a plain function of the input, got {test!r}",
            where=place(at),
            fix="write dx.when(lambda x: len(x.text) > 100, long, short)",
        )
    branches = {"then": then, "otherwise": otherwise}
    _programs("when", at, branches)
    _equal("when", at, branches, ("input_schema", "output_schema"))
    return When(then.input_schema, then.output_schema, branches, at, test)


async def cond(test: object, then: Program[I, O], otherwise: Program[I, O], x: I, /) -> O:
    """The output of `then` for `x` where `test` is true, else of `otherwise`: an `if` that the compiler can read.

    Raises:
        ProgramError: DX1534, when a branch is no program.
    """
    for branch in (then, otherwise):
        if not isinstance(branch, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
            if isawaitable(branch):
                dropped(then)
                dropped(otherwise)
                raise ProgramError(
                    "DX1534",
                    "cond runs programs, got a coroutine: a branch was called already. Conditions do not nest",
                    where=place(definition()),
                    fix="write `a if test else b` with awaits, or make the inner one a program: dx.when(test, a, b)",
                )
            raise _no_program("cond", branch, "await dx.cond(test, self.long, self.short, x)")
    return await (then if test else otherwise)(x)


async def map(program: Program[I, O], xs: Iterable[I], /) -> list[O]:
    """The outputs of `program` for all of `xs`, in their order; they are worked on together.

    When one fails, later ones are cancelled and earlier ones are finished; the first failure in order is raised.

    Raises:
        ProgramError: DX1534, when `program` is none or `xs` is one input.
    """
    if not isinstance(program, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
        dropped(program)
        raise _no_program("map", program, "await dx.map(self.answer, [Ask(...), Ask(...)])")
    if isinstance(xs, Schema) or not isinstance(xs, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ProgramError(
            "DX1534", f"map takes a list of inputs, got {xs!r:.100}", where=place(definition()), fix="pass a list"
        )
    return await together([partial(program, x) for x in xs])


# --- checks ---------------------------------------------------------------------------------------


def _wrong(form: str, at: Definition, why: str, fix: str | None = None) -> ProgramError:
    return ProgramError("DX1531", f"{form}: {why}", where=place(at), fix=fix)


def _no_program(form: str, value: object, example: str) -> ProgramError:
    return ProgramError(
        "DX1534", f"{form} runs programs, got {value!r:.100}", where=place(definition()), fix=f"write {example}"
    )


def _nearest(name: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def _branches(
    form: str, at: Definition, positional: tuple[Program[I, O], ...], named: Mapping[str, Program[I, O]]
) -> dict[str, Program[I, O]]:
    branches = {f"branch{number}": branch for number, branch in enumerate(positional, 1)}
    for name, branch in named.items():
        if name in branches:
            raise _wrong(form, at, f"two branches are named {name!r}", "give the named one another name")
        branches[name] = branch
    _programs(form, at, branches)
    if len(branches) == 1:
        raise _wrong(form, at, "there is one branch only", "give it another, or use the program alone")
    _equal(form, at, branches, ("input_schema", "output_schema"))
    return branches


def _programs(form: str, at: Definition, branches: Mapping[str, object]) -> None:
    if not branches:
        raise _wrong(form, at, "there is no branch", "give it programs")
    for name, branch in branches.items():
        if isinstance(branch, type) and issubclass(branch, Program):
            made = f"{branch.__name__}()"
            raise _wrong(form, at, f"the branch {name!r} is the class {branch.__name__}", f"make an instance: {made}")
        if not isinstance(branch, Program):
            dropped(cast(object, branch))
            raise _wrong(
                form, at, f"the branch {name!r} is no program: {branch!r:.100}", "write a dx.Program around it"
            )


def _equal(form: str, at: Definition, branches: Mapping[str, Program[Any, Any]], sides: tuple[str, ...]) -> None:
    first_name, first = next(iter(branches.items()))
    for name, branch in branches.items():
        for side in sides:
            mine, theirs = getattr(first, side), getattr(branch, side)
            if mine is not theirs:
                raise _wrong(
                    form,
                    at,
                    f"{side} of the branch {name!r} is {theirs.__name__}, of {first_name!r} it is {mine.__name__}",
                    "all branches take and give the same schemas" if len(sides) > 1 else "all branches take one schema",
                )
