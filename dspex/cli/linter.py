"""Finds the programs of a project and compiles each: what `dspex check` does.

A Python file is read before it is imported, and imported only when it imports dspex itself and defines something that
may be a program. What a file raises while it is imported is a finding, and so is a file that ends the process or calls
a model: such a call is refused.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from dspex.cli.targets import user_code
from dspex.errors import BudgetExceeded, DspexError, ProgramError, UsageError
from dspex.program.context import bounded

if TYPE_CHECKING:
    from dspex.compiler.diagnose import Diagnostic, Severity
    from dspex.lm.spend import Spend
    from dspex.program.context import Reservation
    from dspex.program.program import Program

__all__ = ["Checked", "Finding", "check"]

_SKIPPED = frozenset(
    ("__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env", "virtualenv", "_build")
)
_TESTS = re.compile(r"(test_.*|.*_test|conftest|setup|noxfile)\.py")
_PLACE = re.compile(r"(?P<file>\S.*?):(?P<line>\d+)(?:\s|$)")
_PACKAGE = Path(__file__).resolve().parents[1]
_RANK = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """A diagnostic with its place.

    Attributes:
        file: Relative to the current folder where it is below it.
        line: 1 where nothing says a line.
        program: The name that the program stands under.
        severity, code, message, where, fix: As in `Diagnostic`.
    """

    file: str
    line: int
    program: str | None
    severity: Severity
    code: str
    message: str
    where: str | None
    fix: str | None

    def as_json(self) -> dict[str, object]:
        """As plain JSON data."""
        return {
            "file": self.file,
            "line": self.line,
            "program": self.program,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "where": self.where,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.severity} {self.code} {self.message}"
        return text if self.fix is None else f"{text}\n    fix: {self.fix}"

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        """By what findings are sorted."""
        return self.file, self.line, _RANK[self.severity], self.code, self.message


@dataclass
class Checked:
    """What a check found.

    Attributes:
        findings: In the order of files and lines.
        files: How many files were looked at more closely than for an import of dspex.
        programs: How many programs were compiled.
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    files: int = 0
    programs: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        return {name: sum(each.severity == name for each in self.findings) for name in _RANK}


def check(paths: Sequence[str]) -> Checked:
    """Check everything under `paths`.

    Raises:
        UsageError: DX8332 for a path that is nothing to check.
    """
    found = Checked()
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    for file in files:
        if file.suffix == ".dspex":
            _check_artifact(file, found)
        else:
            _check_file(file, found)
    # A program inside several others is found wrong in each of them, and told once.
    told = {finding.order: finding for finding in reversed(found.findings)}
    found.findings = [told[place] for place in sorted(told)]
    return found


# --- what to look at ----------------------------------------------------------------------------


def _files(path: str) -> Iterator[Path]:
    place = Path(path)
    if place.is_dir():
        yield from _below(place.resolve())
    elif place.is_file() and place.suffix in (".py", ".dspex"):
        yield place.resolve()
    elif not place.exists() and (module := _module_file(path)) is not None:
        yield from _below(module.parent) if module.name == "__init__.py" else [module]
    else:
        what = "is no Python file and no artifact" if place.exists() else "does not exist"
        raise UsageError(
            "DX8332", f"{path} {what}", fix="name a .py file, a folder, an importable module or a .dspex artifact"
        )


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder to look at, in a stable order; links are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _SKIPPED
            and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if name.endswith(".dspex") or (name.endswith(".py") and not _TESTS.fullmatch(name)):
                yield Path(place, name)


def _module_file(name: str) -> Path | None:
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None or not spec.origin.endswith(".py") else Path(spec.origin)


# --- one file -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    path: Path
    found: Checked

    @property
    def shown(self) -> str:
        return _relative(str(self.path))

    def _place(self, where: str | None) -> tuple[str, int] | None:
        """File and line that a finding names; None when it names none of the user's."""
        match = _PLACE.match(where or "")
        if match is None:
            return None
        # Graphs name files without their folder.
        beside = self.path.parent / match["file"]
        path = beside if beside.is_file() else Path(match["file"]).resolve()
        if not path.is_file() or path.is_relative_to(_PACKAGE):
            # A user's code raised inside dspex: where it was called from says more.
            return None
        return _relative(str(path)), int(match["line"])

    def report(self, diagnostic: Diagnostic, line: int = 1, program: str | None = None) -> None:
        """Adds a finding, at the place that it names or at `line`."""
        file, at = self._place(diagnostic.where) or (self.shown, line)
        self.found.findings.append(
            Finding(
                file,
                at,
                program,
                diagnostic.severity,
                diagnostic.code,
                " ".join(diagnostic.message.split()),
                diagnostic.where,
                diagnostic.fix,
            )
        )


def _relative(path: str) -> str:
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else path


def _check_file(path: Path, found: Checked) -> None:
    from dspex.compiler.diagnose import Diagnostic, of_error

    file = _File(path, found)
    try:
        source = path.read_bytes()
    except OSError as error:
        file.report(Diagnostic("error", "DX2410", f"the file cannot be read: {error.strerror}", None, None))
        return
    if b"dspex" not in source:
        return
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        file.report(Diagnostic("error", "DX2410", f"the file is not Python: {reason}", None, "correct it"), line)
        found.files += 1
        return
    names = _definitions(tree)
    if not names or not _imports_dspex(tree):
        return
    found.files += 1
    try:
        with _imported(path) as module:
            _check_module(file, module, names)
    except DspexError as error:
        file.report(_raised(of_error(error)))


def _raised(diagnostic: Diagnostic) -> Diagnostic:
    """A finding of code that raised; here its traceback is not shown."""
    fix = None if diagnostic.fix is None else diagnostic.fix.removesuffix("; the traceback is on stderr")
    return replace(diagnostic, fix=fix)


def _imports_dspex(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "dspex" for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == "dspex":
            return True
    return False


def _definitions(tree: ast.Module) -> dict[str, int]:
    """Names that the file itself defines at its top level and that may be programs, with their lines."""
    names: dict[str, int] = {}
    pending: list[ast.stmt] = list(reversed(tree.body))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.bases if isinstance(node, ast.ClassDef) else node.decorator_list:
                names[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call | ast.BinOp):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update({target.id: node.lineno for target in targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.If | ast.Try):
            pending += reversed([*node.body, *node.orelse])
    return names


class _NoCalls:
    """The account of code that is only looked at."""

    def reserve(self, _upper: Spend, /) -> Reservation:
        raise BudgetExceeded(
            "DX2409",
            "the file calls a language model while it is imported; the call was not sent",
            fix='put what is to run under `if __name__ == "__main__":`',
        )


@contextmanager
def _running(what: str) -> Generator[None]:
    """Run code of a user's that is to define programs: it buys nothing, and what it prints goes to stderr."""
    with user_code(what), contextlib.redirect_stdout(sys.stderr), bounded(account=_NoCalls()):
        yield


@contextmanager
def _imported(path: Path) -> Generator[ModuleType]:
    """The file as a module under its own name; afterwards nothing of its folder stays imported.

    Raises:
        ProgramError: DX1701: it raised, or ended the process.
    """
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    name = ".".join(parts)
    known, places = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        with _running(path.name):
            module = importlib.import_module(name)
        file = getattr(module, "__file__", None)
        if file is None or Path(file).resolve() != path:
            raise ProgramError(
                "DX1701",
                f"{path.name} cannot be imported: {name!r} is {file or 'a module of Python itself'}",
                where=f"{path}:1",
                fix="rename the file",
            )
        yield module
    finally:
        sys.path[:] = places
        for other in set(sys.modules) - known:
            file = getattr(sys.modules[other], "__file__", None)
            if file is not None and Path(file).resolve().is_relative_to(root):
                del sys.modules[other]


def _check_module(file: _File, module: ModuleType, names: dict[str, int]) -> None:
    from dspex.compiler.diagnose import Diagnostic, of_error
    from dspex.program.program import Program

    for name, line in names.items():
        value: object = vars(module).get(name)
        if isinstance(value, type) and issubclass(value, Program):
            cls = cast("type[Program[Any, Any]]", value)
            if inspect.isabstract(cls) or name.startswith("_"):
                continue
            wanted = _arguments(cls)
            if wanted:
                message = f"{name} is not checked: it needs {', '.join(wanted)}"
                fix = f"make an instance at the top of a module, {name.lower()} = {name}(…)"
                file.report(Diagnostic("info", "DX2411", message, None, fix), line, name)
                continue
            try:
                with _running(f"making {name}"):
                    program = cls()
            except DspexError as error:
                file.found.programs += 1
                file.report(_raised(of_error(error)), line, name)
                continue
            _check_program(file, program, name, line)
        elif isinstance(value, Program):
            _check_program(file, cast("Program[Any, Any]", value), name, line)


def _arguments(cls: type[Program[Any, Any]]) -> list[str]:
    """Names of the arguments without which the class makes no instance."""
    try:
        # Not the class's own signature: what makes an instance takes anything.
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in kinds]


def _check_program(file: _File, program: Program[Any, Any], name: str, line: int) -> None:
    from dspex.compiler import compile as compile_program
    from dspex.compiler.diagnose import diagnose, of_error

    file.found.programs += 1
    try:
        for diagnostic in diagnose(compile_program(program)):
            file.report(diagnostic, line, name)
    except DspexError as error:
        file.report(of_error(error), line, name)


def _check_artifact(path: Path, found: Checked) -> None:
    from dspex.compiler.artifact.loading import load_artifact
    from dspex.compiler.diagnose import diagnose, of_error

    file = _File(path, found)
    found.files += 1
    try:
        compiled = load_artifact(path)
    except DspexError as error:
        diagnostic = replace(of_error(error), where=None)
        if error.code == "DX2205":
            # It is whole; only its program is elsewhere.
            diagnostic = replace(diagnostic, severity="info")
        file.report(diagnostic)
        return
    found.programs += 1
    for diagnostic in diagnose(compiled):
        file.report(diagnostic, 1, compiled.graph.name)
