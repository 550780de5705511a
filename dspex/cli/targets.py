"""Finds what a command line names: ``module:attribute``, ``path/to/file.py:attribute`` or an artifact."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from dspex.errors import CompileError, DspexError, ProgramError, UsageError

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.program.program import Program
    from dspex.program.schema import Schema

EXAMPLES = ("support_tickets",)


@contextmanager
def user_code(what: str) -> Generator[None]:
    """Run code of a user's: what it raises becomes a DX1701 with that as its cause.

    Raises:
        ProgramError: DX1701. Errors of dspex pass as they are.
    """
    try:
        yield
    except DspexError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        fix = "correct it; the traceback is on stderr"
        if isinstance(error, ModuleNotFoundError):
            fix = f"install what provides {error.name!r} into this environment, or correct the import"
        raise ProgramError("DX1701", f"{what} raised {text:.300}", where=_place(error), fix=fix) from error


def _place(error: BaseException) -> str | None:
    """``file:line`` where the error was raised, or which line cannot be parsed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return None if frames is None else f"{frames.tb_frame.f_code.co_filename}:{frames.tb_lineno}"


def load_object(target: str, *, folder: str | None = None) -> object:
    """Import what `target` names, from `folder` (by default the current one) or from what is installed.

    Raises:
        UsageError: DX8221 for a target that is not ``module:attribute``, DX8222 for a module that does not exist,
            DX8223 for an attribute that it does not have, DX8226 for a file whose name another module has.
        ProgramError: DX1701: the module raised.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(
            "DX8221",
            f"a target is written module:name or path/to/file.py:name, got {target!r}",
            fix="for example bot:QABot",
        )
    here = os.path.abspath(folder or os.getcwd())
    _on_path(here)
    module = _file_module(place, here) if place.endswith(".py") else _named_module(place, here)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [key for key in vars(module) if not key.startswith("_")], n=3)
            raise UsageError(
                "DX8223",
                f"{place} has no {name!r}",
                where=str(getattr(module, "__file__", place)),
                fix=f"did you mean {', '.join(near)}?" if near else None,
            )
        found = getattr(found, part)
    return found


def import_path(target: str) -> str | None:
    """``module:name`` of what `target` names, once it was loaded; None for an artifact."""
    place, _, name = target.rpartition(":")
    if target.endswith(".dspex") or not place:
        return None
    return f"{Path(place).stem if place.endswith('.py') else place}:{name}"


def _on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _file_module(place: str, here: str) -> ModuleType:
    path = (Path(here) / place).resolve()
    if not path.is_file():
        raise UsageError("DX8222", f"there is no file {place}", where=here, fix="check the path")
    if not path.stem.isidentifier():
        raise UsageError(
            "DX8226",
            f"{path.name} cannot be imported: {path.stem!r} is no Python name",
            where=str(path),
            fix="rename the file",
        )
    _on_path(str(path.parent))
    importlib.invalidate_caches()
    known = sys.modules.get(path.stem)
    spec = importlib.util.find_spec(path.stem) if known is None else None
    file = getattr(known, "__file__", None) if known is not None else spec.origin if spec is not None else None
    if file is None or Path(file).resolve() != path:
        raise UsageError(
            "DX8226",
            f"{path.name} cannot be imported: {path.stem!r} is {file or 'a module of Python itself'}",
            where=str(path),
            fix="rename the file",
        )
    with user_code(path.name):
        return importlib.import_module(path.stem)


def _named_module(place: str, here: str) -> ModuleType:
    missing = UsageError(
        "DX8222",
        f"there is no module {place!r}",
        where=here,
        fix="run from the folder that holds it, or give the file's path: path/to/file.py:name",
    )
    if not all(part.isidentifier() for part in place.split(".")):
        raise missing
    importlib.invalidate_caches()
    top = place.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        raise missing
    try:
        with user_code(place):
            return importlib.import_module(place)
    except ProgramError as error:
        cause = error.__cause__
        if (
            isinstance(cause, ModuleNotFoundError)
            and cause.name is not None
            and f"{place}.".startswith(f"{cause.name}.")
        ):
            raise missing from None
        raise


def load_program(
    target: str, *, folder: str | None = None, imports: Sequence[str] | None = None
) -> Program[Schema, Schema]:
    """The program that `target` names: a program, a class of one, or the one that an artifact was made of.

    Args:
        target: As on the command line.
        folder: Where modules and files are looked for; the current one by default.
        imports: Modules that an artifact may import; None for that of its program: who names an artifact where its
            program is needed means to run that program.
    """
    from dspex.program.program import Program

    if target.endswith(".dspex"):
        path = Path(folder or os.getcwd(), target)
        return cast("Program[Schema, Schema]", _from_artifact(path, _own(path) if imports is None else imports).program)
    found = load_object(target, folder=folder)
    if isinstance(found, type) and issubclass(found, Program):
        with user_code(f"making {target}"):
            return cast("type[Program[Schema, Schema]]", found)()
    if isinstance(found, Program):
        return cast("Program[Schema, Schema]", found)
    kind = type(cast(object, found)).__name__
    raise UsageError("DX8224", f"{target} is {kind}, not a Program", fix="name a dx.Program class or instance")


def load_compiled(
    target: str, *, imports: Sequence[str] = (), key: Path | None = None, folder: str | None = None
) -> Compiled[Any, Any]:
    """What `target` names, compiled: an artifact, whose code is imported only from `imports`, or a program.

    Args:
        target: As on the command line.
        imports: Modules that an artifact may import.
        key: Public key that an artifact has to be signed with.
        folder: Where modules and files are looked for; the current one by default.
    """
    if target.endswith(".dspex"):
        return _from_artifact(Path(folder or os.getcwd(), target), imports, key)
    if key is not None:
        raise UsageError("DX8312", "--key verifies an artifact, and a program is none", fix="name a .dspex file")
    from dspex.compiler import compile as compile_program

    return compile_program(load_program(target, folder=folder))


def from_here() -> None:
    """Let modules of the current folder be imported."""
    _on_path(os.getcwd())


def _from_artifact(path: Path, imports: Sequence[str], key: Path | None = None) -> Compiled[Any, Any]:
    """The artifact at `path`; code that it may import is looked for in the current folder and beside the artifact."""
    from dspex.compiler.artifact.loading import load_artifact

    if imports:
        _on_path(str(path.resolve().parent))
        _on_path(os.getcwd())
    with user_code(f"the program of {path.name}"):
        try:
            return load_artifact(path, imports=imports, key=key)
        except CompileError as error:
            if error.code != "DX2205" or not imports:
                raise
            # The demo's artifact is written anywhere; its program is dspex's own.
            for name in EXAMPLES:
                sys.path.append(str(examples_folder(name)))
            return load_artifact(path, imports=imports, key=key)


def _own(path: Path) -> tuple[str, ...]:
    """The module of an artifact's program."""
    from dspex.compiler.artifact.archive import read_archive

    program = read_archive(path).manifest.get("program")
    where = cast("dict[str, object]", program).get("path") if isinstance(program, dict) else None
    return (where.partition(":")[0],) if isinstance(where, str) else ()


def examples_folder(name: str) -> Path:
    """One of the examples: in a checkout under ``examples``, otherwise inside the installed package.

    Raises:
        UsageError: DX8307: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "examples" / name, package / "examples" / name):
        if folder.is_dir():
            return folder
    raise UsageError("DX8307", f"the example {name} is not there", where=str(package), fix="install dspex again")


def load_callable(target: str, *, folder: str | None = None) -> Callable[[Any, Any], Any]:
    """The function (a metric, say) that `target` names."""
    found = load_object(target, folder=folder)
    if not callable(found):
        raise UsageError(
            "DX8225",
            f"{target} is {type(found).__name__}, which cannot be called",
            fix="name a function of (got, want), or one under @dx.metric",
        )
    return cast("Callable[[Any, Any], Any]", found)
