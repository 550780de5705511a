"""What a plan calls for the graph's python and tool nodes: the live functions, never text of a file.

An expression's function is compiled from the syntax tree of the very source that was interpreted, with the
globals and closure cells of the body that holds it. Making one runs nothing; it is made when it is first asked for.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final, cast

from dspex.compiler.frontend.source import Body, compiled_code

__all__ = ["Expression", "Functions"]

_NAME: Final = "expression"


@dataclass(frozen=True, slots=True)
class Expression:
    """One Python expression of a body.

    Attributes:
        body: The function that holds it.
        tree: The expression, with names in the place of the values that it is given.
        names: These names; the function takes them by name.
        awaits: It is awaited.
    """

    body: Body
    tree: ast.expr
    names: tuple[str, ...]
    awaits: bool = False

    def same(self, other: Expression) -> bool:
        """Whether both mean the same wherever their texts agree: the same code around the same cells."""
        mine, theirs = self.body.function, other.body.function
        if mine is theirs:
            return True
        cells = mine.__closure__ or (), theirs.__closure__ or ()
        around = len(cells[0]) == len(cells[1]) and all(one is two for one, two in zip(*cells, strict=True))
        return mine.__code__ is theirs.__code__ and self.body.names is other.body.names and around

    def made(self) -> FunctionType:
        """The expression as a function of its names."""
        function = self.body.function
        closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        given = ast.arguments([], [ast.arg(name) for name in self.names], None, [], [], None, [])
        awaited: ast.expr = ast.Await(self.tree) if self.awaits else self.tree
        kind = ast.AsyncFunctionDef if self.awaits else ast.FunctionDef
        inner = kind(_NAME, given, [ast.Return(awaited)], [])  # pyright: ignore[reportCallIssue]
        # A function around it makes closed-over names free again.
        around = [ast.arg(name) for name in closed if name not in self.names and name != "__class__"]
        outer = ast.FunctionDef(  # pyright: ignore[reportCallIssue]
            _NAME, ast.arguments([], around, None, [], [], None, []), [inner, ast.Return(ast.Constant(None))], []
        )
        ast.copy_location(outer, self.tree)
        ast.copy_location(inner, self.tree)
        code = compiled_code(self.body, ast.fix_missing_locations(outer), (_NAME, _NAME))
        cells = tuple(closed[name] for name in code.co_freevars)
        made = FunctionType(code, self.body.names, _NAME, None, cells)
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        return made


class Functions(Mapping[str, Callable[..., Any]]):
    """Callables by `Python.key` and `Tool.target`, those of expressions made when they are asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Callable[..., Any]] = {}
        self._expressions: dict[str, Expression] = {}

    def __getitem__(self, key: str) -> Callable[..., Any]:
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._expressions[key].made()
        return made

    def __iter__(self) -> Iterator[str]:
        yield from self._made
        yield from (key for key in self._expressions if key not in self._made)

    def __len__(self) -> int:
        return len(self._made.keys() | self._expressions.keys())

    def __contains__(self, key: object) -> bool:
        return key in self._made or key in self._expressions

    def keep(self, key: str, function: object) -> bool:
        """Keeps `function` under `key`; False when another one is kept there."""
        return self._made.setdefault(key, cast("Callable[..., Any]", function)) is function

    def keep_expression(self, key: str, expression: Expression) -> bool:
        """Keeps `expression` under `key`; False when one that may mean something else is kept there."""
        return self._expressions.setdefault(key, expression).same(expression)
