"""Artifacts: a compiled program with its configuration as one `.dspex` file.

A zip of readable parts: `manifest.json`, `graph.txt`, `params.bin`, `variables.json`, `configuration.json`,
`prompts/*.md`, `schemas/*.json`, `demos/*.jsonl`. Loading checks every hash, imports the program by the path in
the manifest, and binds the configuration; nothing in the file is executed. Language models are not part of it:
the caller's context chooses them, and no key is ever saved.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import quote

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from dspex._version import __version__
from dspex.compiler.archive import Archive, read_archive, write_archive
from dspex.compiler.bind import grown_pools
from dspex.compiler.compiled import Compiled, compile
from dspex.compiler.explain import module_markdown, shown_demos
from dspex.compiler.frontend.symbols import class_of
from dspex.compiler.ir.nodes import Graph
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.verify import verify
from dspex.errors import CompileError, DspexError
from dspex.program.demos import source_from_json
from dspex.program.function import FunctionProgram
from dspex.program.program import Program
from dspex.program.variables import Choice, Demos, Float, Int, Text, Var

__all__ = ["IR_VERSION", "load_artifact", "save"]

IR_VERSION: Final = 1
AnyProgram = Program[Any, Any]

_IMPORT_PATH: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


# --- saving -------------------------------------------------------------------------------------


def save(
    compiled: Compiled[Any, Any],
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object],
    import_path: str | None = None,
) -> None:
    """Writes `compiled` to `path`; see `Compiled.save`."""
    program: AnyProgram = compiled.program
    where = import_path or _import_path(program)
    variables = program.variables()
    documents = [_variable(variable) for variable in variables.values()]
    configuration = _configuration(variables, program.config)
    fresh = _found_again(program, where, documents, configuration)
    members: dict[str, bytes] = {
        "graph.txt": str(compiled.graph).encode("utf-8", "backslashreplace"),
        "params.bin": _params(compiled),
        "variables.json": _json({"variables": documents, "rules": [str(rule) for rule in program.all_rules()]}),
        "configuration.json": _json(configuration),
    }
    for name, schema in compiled.schemas.items():
        members[f"schemas/{_file(name)}.json"] = _json(_schema(name, schema))
    for name, module in program.modules().items():
        members[f"prompts/{_file(name)}.md"] = module_markdown(module).encode("utf-8", "backslashreplace")
        demos = shown_demos(module.settings)
        if demos:
            lines = "".join(json.dumps(demo.to_json(), ensure_ascii=False) + "\n" for demo in demos)
            members[f"demos/{_file(name)}.jsonl"] = lines.encode("utf-8", "backslashreplace")
    manifest: dict[str, object] = {
        "ir": IR_VERSION,
        "dspex": __version__,
        "program": {"path": where, "identity": fresh.identity(), "name": compiled.graph.name},
        "graph": compiled.graph.hash,
        "input": str(compiled.graph.input),
        "output": str(compiled.graph.output),
        "provenance": dict(provenance),
    }
    write_archive(path, manifest, members)


def _params(compiled: Compiled[Any, Any]) -> bytes:
    from dspex.core.abi import to_bytes

    return to_bytes(compiled.params.table)


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")


def _file(name: str) -> str:
    return quote(name, safe="") or "program"


def _schema(name: str, schema: type[BaseModel]) -> object:
    try:
        return schema.model_json_schema()
    except PydanticUserError as error:
        raise CompileError(
            "DX2208",
            f"the schema {name} has no JSON Schema: {error.message}",
            fix="use field types that JSON can hold, or give the type a JSON Schema",
        ) from error


def _variable(variable: Var[Any]) -> dict[str, object]:
    document: dict[str, object] = {
        "name": variable.name,
        "kind": variable.kind,
        "domain": variable.domain,
        "when": None if variable.when is None else str(variable.when),
    }
    if isinstance(variable, Float | Int):
        document.update(lo=variable.lo, hi=variable.hi, log=variable.log, step=variable.step)
    elif isinstance(variable, Choice):
        document.update(values=[variable.to_json(value) for value in variable.values], weights=variable.weights)
    elif isinstance(variable, Text):
        document["pool"] = list(variable.pool)
    elif isinstance(variable, Demos):
        document["pool"] = [source.to_json() for source in variable.pool]
    else:
        document["values"] = list(variable.options)
    if not isinstance(variable, Demos):
        document["default"] = cast("Var[Any]", variable).to_json(variable.default)
    return document


def _configuration(variables: Mapping[str, Var[Any]], config: Mapping[str, object]) -> dict[str, object]:
    """Every value as JSON; a demonstration source by its place in the pool and its hash."""
    result: dict[str, object] = {}
    for name, variable in variables.items():
        if isinstance(variable, Demos):
            index = next(i for i, source in enumerate(variable.pool) if source == config[name])
            result[name] = {"pool": index, "hash": variable.pool[index].hash}
        else:
            result[name] = variable.to_json(config[name])
    return result


def _import_path(program: AnyProgram) -> str:
    if isinstance(program, FunctionProgram):
        return ":".join(program.source)
    return f"{type(program).__module__}:{type(program).__qualname__}"


def _found_again(
    program: AnyProgram, where: str, documents: list[dict[str, object]], configuration: dict[str, object]
) -> AnyProgram:
    """The program as its import path gives it, when binding the configuration makes it equal to `program`."""
    why = "what stands there differs from it (arguments of __init__, or attributes set later)"
    try:
        fresh = _fresh(where)
        again = _configured(fresh, documents, configuration)
        # The model is the caller's choice and no part of an artifact.
        again = again if program.lm is None else again.with_lm(program.lm)
        if again.identity() == program.identity():
            return fresh
    except DspexError as error:
        why = error.message
    raise CompileError(
        "DX2206",
        f"the program cannot be found again under its import path {where!r}: {why}",
        fix="define its class at the top of a module with an __init__ that takes no arguments, or name an instance "
        "at module level: save(compiled, path, import_path='bot:pipeline')",
    )


# --- loading ------------------------------------------------------------------------------------


def load_artifact(
    path: str | os.PathLike[str], *, program: AnyProgram | type[AnyProgram] | None = None
) -> Compiled[Any, Any]:
    """The compiled program in the artifact at `path`, with its configuration bound.

    The program's source has to be importable; loading without the source tree is not possible in this version.

    Args:
        path: A file that `Compiled.save` wrote.
        program: The program or its class; without it, what the manifest's import path names is imported.

    Raises:
        CompileError: DX2201 when the file cannot be read, DX2203 when it is damaged or unsafe, DX2204 when its
            format is newer, DX2205 when the program cannot be imported, DX2207 when the program is not the one
            that was saved.
        CoreError: When its parameter table is not sound.
    """
    archive = read_archive(path)
    try:
        return _loaded(archive, program)
    except CompileError as error:
        error.where = error.where or str(path)
        raise


def _loaded(archive: Archive, program: AnyProgram | type[AnyProgram] | None) -> Compiled[Any, Any]:
    from dspex.core.abi import from_bytes

    manifest = archive.manifest
    described = _object(manifest.get("program"), "manifest.json: program")
    where = _text(described.get("path"), "manifest.json: program.path")
    identity = _text(described.get("identity"), "manifest.json: program.identity")
    graph = verify(parse(archive.text("graph.txt")))
    if graph.hash != manifest.get("graph"):
        raise _unsound("graph.txt is not the graph of the manifest")
    from_bytes(archive.member("params.bin"))
    contents = _object(archive.json("variables.json"), "variables.json")
    documents = [_object(item, "variables.json") for item in _list(contents.get("variables"), "variables.json")]
    configuration = _object(archive.json("configuration.json"), "configuration.json")
    provenance = _object(manifest.get("provenance"), "manifest.json: provenance")
    fresh = _fresh(where) if program is None else _instance(program, where)
    if fresh.identity() != identity:
        raise CompileError(
            "DX2207",
            f"the program {where!r} is not the one that was saved: its source, schemas or Variables changed",
            fix="compile and save it again, or install the version of the source that it was saved with",
        )
    try:
        compiled = compile(_configured(fresh, documents, configuration))
    except DspexError as error:
        if error.code == "DX2203":
            raise
        raise CompileError(
            "DX2207",
            f"the saved configuration does not fit the program {where!r}: {error.message}",
            fix=error.fix or "compile and save it again",
        ) from error
    _same_graph(manifest, graph, compiled.graph, where)
    return replace(compiled, provenance=provenance)


def _same_graph(manifest: Mapping[str, object], saved: Graph, now: Graph, where: str) -> None:
    # Another version of dspex may understand more of the same source, so only equal versions have to agree.
    if manifest.get("dspex") == __version__ and saved.hash != now.hash:
        raise CompileError(
            "DX2207",
            f"the program {where!r} compiles to another graph than the one that was saved",
            fix="compile and save it again",
        )


def _fresh(where: str) -> AnyProgram:
    """The program at an import path, at its defaults.

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
    cls = class_of(found)
    if cls is None or not issubclass(cls, Program):
        raise _absent(where, f"it is a {type(found).__name__}, not a program")
    make = cast("Callable[[], AnyProgram]", cls)
    try:
        return make()
    except Exception as error:
        # The user's own __init__ may raise anything.
        raise _absent(where, f"its __init__ failed: {type(error).__name__}: {error}") from error


def _absent(where: str, why: str) -> CompileError:
    return CompileError(
        "DX2205",
        f"the artifact's program {where!r} cannot be imported: {why}",
        fix="run where its source can be imported, or pass it: load_artifact(path, program=QABot); an artifact "
        "cannot be loaded without its source in this version",
    )


def _configured(fresh: AnyProgram, documents: list[dict[str, object]], configuration: dict[str, object]) -> AnyProgram:
    pools: dict[str, tuple[object, ...]] = {}
    for document in documents:
        name = _text(document.get("name"), "variables.json: name")
        members = _list(document.get("pool", []), "variables.json: pool")
        if document.get("kind") == "text":
            pools[name] = tuple(_text(member, "variables.json: pool") for member in members)
        elif document.get("kind") == "demos":
            pools[name] = tuple(source_from_json(member) for member in members)
    program = fresh.with_pools(grown_pools(fresh, pools))
    variables = program.variables()
    config: dict[str, object] = {}
    for name, value in configuration.items():
        variable = variables.get(name)
        if isinstance(variable, Demos):
            place = _object(value, "configuration.json").get("pool")
            if not isinstance(place, int) or not 0 <= place < len(pools.get(name, ())):
                raise _unsound(f"configuration.json: {name} names no member of its pool")
            config[name] = pools[name][place]
        else:
            config[name] = value if variable is None else variable.from_json(value)
    return program.bind(config)


def _unsound(what: str) -> CompileError:
    return CompileError("DX2203", f"the file is not a sound artifact: {what}", fix="compile and save it again")


def _object(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _unsound(f"{place} is not an object")
    return cast("dict[str, object]", value)


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise _unsound(f"{place} is not a list")
    return cast("list[object]", value)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise _unsound(f"{place} is not a text")
    return value
