"""The source of a function as a syntax tree with the file's own line numbers.

Nothing is run and nothing is unwrapped: the tree is that of the very code object that a call would run.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import os
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Final, cast

from dspex.compiler.ir.nodes import Location

__all__ = ["Body", "Unsupported", "compiled_code", "location_of", "read_body"]

_UNPARSED = "write the body as an `async def __call__` in a file, or accept that it runs as plain Python"


class Unsupported(Exception):
    """A construct that the front end does not interpret; it makes one program opaque."""

    def __init__(self, reason: str, remedy: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.line = line


@dataclass(frozen=True, slots=True)
class Body:
    """A function's syntax tree, with what its names mean.

    Attributes:
        function: The function object.
        tree: Its definition, with the file's line numbers.
        file: The file as locations name it.
        target: ``module:qualname``.
    """

    function: FunctionType
    tree: ast.AsyncFunctionDef | ast.FunctionDef
    file: str
    target: str

    @property
    def owner(self) -> str:
        """Name of the class that defines the function."""
        parts = self.function.__qualname__.split(".")
        return parts[-2] if len(parts) > 1 else ""

    @property
    def names(self) -> dict[str, object]:
        """The global names around the function."""
        # As an attribute of a class a function would be taken for a method.
        return cast("FunctionType", self.function).__globals__

    def location(self, node: ast.AST) -> Location:
        return Location(self.file, getattr(node, "lineno", self.tree.lineno))


_FUTURE: Final = __future__.annotations.compiler_flag

_bodies: dict[tuple[CodeType, int], ast.AsyncFunctionDef | ast.FunctionDef] = {}


def read_body(function: object) -> Body:
    """The body of `function`.

    Raises:
        Unsupported: It is not a plain function, or its source is missing or not that of the loaded code.
    """
    if not isinstance(function, FunctionType):
        raise Unsupported(f"its body is a {type(function).__name__}, not a plain function", _UNPARSED)
    return Body(
        function,
        _tree(function),
        _file(function.__code__.co_filename, function.__module__),
        f"{function.__module__}:{function.__qualname__}",
    )


def location_of(function: object) -> Location | None:
    """Where `function` is defined, when that is known."""
    if not isinstance(function, FunctionType):
        return None
    return Location(_file(function.__code__.co_filename, function.__module__), function.__code__.co_firstlineno)


def _file(filename: str, module: str) -> str:
    """`filename` as seen from the root of the import path, so that it is the same on every machine."""
    if filename.startswith("<"):
        return filename
    dotted = module.replace(".", "/")
    plain = filename.replace(os.sep, "/")
    for ending in (f"{dotted}.py", f"{dotted}/__init__.py"):
        if plain == ending or plain.endswith(f"/{ending}"):
            return ending
    return os.path.basename(filename)


def _tree(function: FunctionType) -> ast.AsyncFunctionDef | ast.FunctionDef:
    code = function.__code__
    # Equal code objects of two files compare equal, so the file is part of the key through the code's identity.
    key = (code, id(code))
    kept = _bodies.get(key)
    if kept is not None:
        return kept
    # `inspect.getsourcelines` gives the same, after looking at every module that is loaded (15 ms).
    first = code.co_firstlineno
    linecache.checkcache(code.co_filename)
    names: dict[str, object] = function.__globals__
    following = linecache.getlines(code.co_filename, names)[first - 1 :]
    if not following:
        raise Unsupported("its source is not available", _UNPARSED)
    try:
        lines = inspect.getblock(following)
    except (IndentationError, SyntaxError, IndexError) as error:
        raise Unsupported("its source cannot be parsed on its own", _UNPARSED) from error
    text = "".join(lines)
    try:
        # Indented source is put under an `if`, because dedenting would change strings of several lines.
        module = ast.parse(f"if 1:\n{text}") if text[:1] in " \t" else ast.parse(f"\n{text}")
    except SyntaxError as error:
        raise Unsupported("its source cannot be parsed on its own", _UNPARSED) from error
    ast.increment_lineno(module, first - 2)
    statement = module.body[0]
    inner = statement.body[0] if isinstance(statement, ast.If) and text[:1] in " \t" else statement
    if not isinstance(inner, ast.AsyncFunctionDef | ast.FunctionDef):
        raise Unsupported("its body is an expression (a lambda)", _UNPARSED)
    if not _same(inner, function):
        raise Unsupported("its source changed after it was imported", "restart the process, then compile again")
    _bodies[key] = inner
    return inner


def _same(tree: ast.AsyncFunctionDef | ast.FunctionDef, function: FunctionType) -> bool:
    """Whether `tree` is what `function` was compiled from, as far as names and constants tell."""
    code = function.__code__
    owner = function.__qualname__.split(".")[-2:-1]
    again = _code(_compiled(tree, owner[0] if owner else "", code), code.co_name)
    return again is not None and _shape(again) == _shape(code)


def compiled_code(body: Body, tree: ast.stmt, path: tuple[str, ...]) -> CodeType:
    """Code of a definition compiled as if it stood in the place of `body`: private names mean what they mean there.

    Args:
        body: The function in whose class and file `tree` belongs.
        tree: A function's definition.
        path: Names of the code objects that lead to the one wanted, from the outside.
    """
    found = _compiled(tree, body.owner, body.function.__code__)
    if body.owner and body.owner != "<locals>":
        path = (body.owner, *path)
    for name in path:
        found = next(item for item in found.co_consts if isinstance(item, CodeType) and item.co_name == name)
    return found


def _compiled(tree: ast.stmt, owner: str, like: CodeType) -> CodeType:
    alone: ast.stmt = tree
    if owner and owner != "<locals>":
        alone = ast.ClassDef(owner, [], [], [tree], [])  # pyright: ignore[reportCallIssue]
        ast.copy_location(alone, tree)
    module = ast.fix_missing_locations(ast.Module([alone], []))
    return compile(module, like.co_filename, "exec", like.co_flags & _FUTURE, True)


def _code(outer: CodeType, name: str) -> CodeType | None:
    for inner in outer.co_consts:
        if isinstance(inner, CodeType):
            found = inner if inner.co_name == name else _code(inner, name)
            if found is not None:
                return found
    return None


def _shape(code: CodeType) -> tuple[object, ...]:
    names = frozenset((*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars))
    constants = tuple((type(item), item) for item in code.co_consts if isinstance(item, str | int | float | bytes))
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    inner = tuple(_shape(item) for item in code.co_consts if isinstance(item, CodeType))
    return code.co_name, arguments, names - {"__class__"}, constants, inner
