"""The program of an artifact: where it stands, and when it may be looked for there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from dspex.compiler.artifact.archive import unsound
from dspex.compiler.bind import grown_pools
from dspex.errors import CompileError
from dspex.program.demos import source_from_json
from dspex.program.program import Program
from dspex.program.variables import Demos

__all__ = ["AnyProgram", "configured", "fresh_program", "import_path_of", "made_by", "program_of"]

AnyProgram = Program[Any, Any]

_IMPORT_PATH: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def import_path_of(program: AnyProgram) -> str:
    """``module:name`` of a program's class, or of the function that it is."""
    from dspex.program.function import FunctionProgram

    if isinstance(program, FunctionProgram):
        return ":".join(program.source)
    return f"{type(program).__module__}:{type(program).__qualname__}"


def made_by(program: AnyProgram) -> str | None:
    """What of dspex made `program`, when it is of no class of a user's: ``dx.when``; None otherwise."""
    from dspex.program.compose import Pipe
    from dspex.program.flow import Combinator
    from dspex.program.function import FunctionProgram
    from dspex.program.modules import Module
    from dspex.program.select import Select

    cls = type(program)
    if isinstance(program, FunctionProgram) or not cls.__module__.startswith("dspex.program"):
        return None
    if isinstance(program, Pipe):
        return "a >> b"
    if isinstance(program, Combinator | Select):
        return f"dx.{cls.__name__.lower()}"
    return f"dx.{cls.__name__}" if isinstance(program, Module) else cls.__name__


def program_of(
    manifest: Mapping[str, object],
    *,
    program: AnyProgram | type[AnyProgram] | None,
    imports: Sequence[str],
    needs: Sequence[str],
) -> AnyProgram | None:
    """The artifact's program at its defaults; None when none is needed and none was given.

    Args:
        manifest: Of the artifact.
        program: The program or its class, when the caller has it.
        imports: Modules that may be imported.
        needs: What it needs code for, in words.

    Raises:
        CompileError: DX2205 when it is needed and not here, DX2207 when it is another one than was saved.
    """
    described = manifest.get("program")
    if described is None:
        if program is None and not needs:
            return None
        if needs:
            raise unsound("manifest.json names no program, and needs its code")
        raise CompileError(
            "DX2207",
            "the artifact does not say which program it was made of, so it cannot be compared with the one given",
            fix="load it without program=, which it does not need",
        )
    record = cast("dict[str, object]", described) if isinstance(described, dict) else {}
    where, identity = record.get("path"), record.get("identity")
    if not isinstance(where, str) or not isinstance(identity, str):
        raise unsound("manifest.json: program has no path and identity")
    if program is not None:
        fresh = _instance(program, where)
    else:
        module = where.partition(":")[0]
        allowed = any(module == name or module.startswith(f"{name}.") for name in imports)
        if not allowed and not needs:
            return None
        if not allowed and module not in sys.modules:
            raise _needed(where, module, needs)
        fresh = fresh_program(where)
    if fresh.identity() != identity:
        if program is not None and (given := import_path_of(fresh)) != where:
            raise CompileError(
                "DX2207",
                f"the artifact was made of {where!r}, and the program given, {given!r}, is not equal to it: its "
                "source, schemas or Variables differ",
                fix=f"pass program={where.rpartition(':')[2]}, or compile and save {given!r} itself",
            )
        raise CompileError(
            "DX2207",
            f"the program {where!r} is not the one that was saved: its source, schemas or Variables changed",
            fix="compile and save it again, or install the version of the source that it was saved with",
        )
    return fresh


def _needed(where: str, module: str, needs: Sequence[str]) -> CompileError:
    shown = ", ".join(needs[:3]) + (f" and {len(needs) - 3} more" if len(needs) > 3 else "")
    name = where.rpartition(":")[2]
    return CompileError(
        "DX2205",
        f"the artifact needs the code of {where!r} ({shown}), and loading imports nothing by itself",
        fix=f"allow it: load_artifact(path, imports=[{module!r}]) or dspex run FILE --import {module}; "
        f"or pass it: load_artifact(path, program={name})",
    )


def fresh_program(where: str) -> AnyProgram:
    """The program at an import path, at its defaults; its module is imported.

    Raises:
        CompileError: DX2205.
    """
    if not _IMPORT_PATH.fullmatch(where):
        raise _absent(where, "that is no import path")
    module_name, _, name = where.partition(":")
    try:
        found: object = sys.modules.get(module_name) or importlib.import_module(module_name)
    except Exception as error:
        # Importing a module runs the user's code, which may raise anything.
        raise _absent(where, f"{type(error).__name__}: {error}") from error
    for step in name.split("."):
        space = cast("Mapping[str, object]", getattr(found, "__dict__", {}))
        if step not in space:
            raise _absent(where, f"{step!r} is not there")
        found = space[step]
    return _instance(found, where)


def _instance(found: object, where: str) -> AnyProgram:
    if isinstance(found, Program):
        return cast("AnyProgram", found)
    if not (isinstance(found, type) and issubclass(found, Program)):
        raise _absent(where, f"it is a {type(cast('object', found)).__name__}, not a program")
    make = cast("Callable[[], AnyProgram]", found)
    try:
        return make()
    except Exception as error:
        # The user's own __init__ may raise anything.
        raise _absent(where, f"its __init__ failed: {type(error).__name__}: {error}") from error


def _absent(where: str, why: str) -> CompileError:
    return CompileError(
        "DX2205",
        f"the artifact's program {where!r:.300} cannot be found: {why:.500}",
        fix="run where its source can be imported, or pass it: load_artifact(path, program=QABot)",
    )


def configured(
    fresh: AnyProgram, documents: Sequence[Mapping[str, object]], configuration: Mapping[str, object]
) -> AnyProgram:
    """`fresh` with the pools of `documents` and with `configuration` bound."""
    pools: dict[str, tuple[object, ...]] = {}
    for document in documents:
        name, members = document.get("name"), document.get("pool", [])
        if not isinstance(name, str) or not isinstance(members, list):
            raise unsound("variables.json: a Variable has no name, or a pool that is no list")
        items = cast("list[object]", members)
        if document.get("kind") == "text":
            if not all(isinstance(item, str) for item in items):
                raise unsound("variables.json: a pool of texts holds something else")
            pools[name] = tuple(items)
        elif document.get("kind") == "demos":
            pools[name] = tuple(source_from_json(item) for item in items)
    program = fresh.with_pools(grown_pools(fresh, pools))
    variables = program.variables()
    config: dict[str, object] = {}
    for name, value in configuration.items():
        variable = variables.get(name)
        if isinstance(variable, Demos):
            place = cast("dict[str, object]", value).get("pool") if isinstance(value, dict) else None
            if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(pools.get(name, ())):
                raise unsound(f"configuration.json: {name} names no member of its pool")
            config[name] = pools[name][place]
        elif variable is None or variable.kind != "computed":
            config[name] = value if variable is None else variable.from_json(value)
    return program.bind(config)
