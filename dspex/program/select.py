"""Module selection: which of several programs with the same schemas runs is a Variable."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dspex.errors import ProgramError
from dspex.program.program import Program
from dspex.program.rules import Compare, Const, Ref, Rule
from dspex.program.schema import Schema
from dspex.program.tree import join
from dspex.program.variables import Branch, Var, definition, place

if TYPE_CHECKING:
    from dspex.program.variables import Definition

__all__ = ["Select", "select"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class Select(Program[I, O]):
    """Runs one of its branches; which one is a Variable that has the name of the attribute that holds this.

    A branch's own Variables are active only while it is the chosen one. Built by `select`.

    Attributes:
        branches: The programs to choose from, by name; the first is the default.
    """

    __dx_named__ = True
    _scope = False
    branches: Mapping[str, Program[I, O]]
    attribute: str
    at: Definition

    def __init__(self, branches: Mapping[str, Program[I, O]], at: Definition) -> None:
        first = next(iter(branches.values()))
        self.input_schema = first.input_schema
        self.output_schema = first.output_schema
        self.branches = dict(branches)
        self.at = at
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.attribute:
            object.__setattr__(self, "attribute", name)

    @property
    def name(self) -> str:
        """The name of its Variable inside the program that holds it."""
        return self.attribute or self.dx_root_path()

    @property
    def choice(self) -> str:
        """The branch that runs."""
        return cast(str, self.dx_node.values.get("", next(iter(self.branches))))

    def is_(self, branch: str) -> Rule:
        """Holds when `branch` is the chosen one."""
        return Compare("==", Ref(self), Const(self._branch(branch)))

    def is_not(self, branch: str) -> Rule:
        """Holds when another branch than `branch` is the chosen one."""
        return Compare("!=", Ref(self), Const(self._branch(branch)))

    def _branch(self, branch: str) -> str:
        if branch not in self.branches:
            raise ProgramError(
                "DX1402",
                f"the selection {self.name!r} has the branches {', '.join(self.branches)}, got {branch!r}",
                where=place(self.at, self.name),
            )
        return branch

    async def __call__(self, x: I, /) -> O:
        """The output of the chosen branch for `x`."""
        return await self.branches[self.choice](x)

    def dx_root_path(self) -> str:
        return "select"

    def children(self) -> dict[str, Program[Any, Any]]:
        return dict(self.branches)

    def dx_replace_children(self, visit: Callable[[Program[Any, Any], str, Rule | None], Program[Any, Any]]) -> None:
        chosen = Ref(self.dx_node.path)
        vars(self)["branches"] = {
            name: visit(branch, name, Compare("==", chosen, Const(name))) for name, branch in self.branches.items()
        }

    def dx_show(self, values: Mapping[str, object]) -> None:
        pass

    def dx_variables(self) -> dict[str, Var[Any]]:
        variable = Branch(self.name, tuple(self.branches))
        variable.at = self.at
        return {"": variable}

    def dx_full_name(self, name: str) -> str:
        return join(self.dx_node.path, name)


def select(*positional: Program[I, O], **named: Program[I, O]) -> Select[I, O]:
    """A selection between programs with the same schemas: `dx.select(predict=…, cot=…)`.

    Args:
        positional: Branches that are named after their classes.
        named: Branches by name. The first branch of all is the default.

    Raises:
        ProgramError: DX1507, for no branch, two of one name, or schemas that differ.
    """
    at = definition()

    def wrong(why: str, fix: str | None = None) -> ProgramError:
        return ProgramError("DX1507", f"select: {why}", where=place(at), fix=fix)

    branches: dict[str, Program[I, O]] = {}
    derived = [(re.sub(r"(?<!^)(?=[A-Z])", "_", type(branch).__name__).lower(), branch) for branch in positional]
    for name, branch in (*derived, *named.items()):
        if name in branches:
            raise wrong(f"two branches are named {name!r}", "name them: dx.select(short=…, long=…)")
        if not isinstance(branch, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong(f"the branch {name!r} is no program: {branch!r}")
        branches[name] = branch
    if not branches:
        raise wrong("there is no branch", "dx.select(predict=dx.Predict(…), cot=dx.ChainOfThought(…))")
    first_name, first = next(iter(branches.items()))
    for name, branch in branches.items():
        for side in ("input_schema", "output_schema"):
            mine, theirs = getattr(first, side), getattr(branch, side)
            if mine is not theirs:
                raise wrong(
                    f"{side} of the branch {name!r} is {theirs.__name__}, of {first_name!r} it is {mine.__name__}",
                    "all branches take and give the same schemas",
                )
    return Select(branches, at)
