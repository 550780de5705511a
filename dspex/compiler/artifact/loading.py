"""Artifacts: a compiled program with its configuration as one `.dspex` file.

A zip of readable parts: `manifest.json`, `graph.txt`, `params.bin`, `variables.json`, `configuration.json`,
`prompts/*.md`, `schemas/*.json`, `demos/*.jsonl`. Loading checks every hash, rebuilds Variables and schemas from
their documents, and binds the configuration; nothing in the file is executed and nothing is imported that the caller
did not allow. What is code is named in the manifest and found in the program. Language models are not part of it:
the caller chooses them, and no key is ever saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from dspex._version import __version__
from dspex.compiler.artifact.archive import Archive, read_archive, unsound
from dspex.compiler.artifact.fitting import check_fit, code_needs
from dspex.compiler.artifact.migrations import migrated
from dspex.compiler.artifact.source import AnyProgram, configured, program_of
from dspex.compiler.code import Code
from dspex.compiler.compiled import Compiled
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.verify import verify
from dspex.errors import CompileError, DspexError
from dspex.program import rules, variables
from dspex.program.demos import DemoSource
from dspex.program.space import Space
from dspex.program.variables import Demos, Var

if TYPE_CHECKING:
    from dspex.compiler.artifact.schemas import Rebuilt
    from dspex.compiler.artifact.signing import Key
    from dspex.compiler.ir.nodes import Graph
    from dspex.lm.model import LMLike

__all__ = ["IR_VERSION", "load_archive", "load_artifact", "save"]

IR_VERSION: Final = 2

_LARGEST: Final = {"graph.txt": 4 * 2**20, "params.bin": 16 * 2**20}
"""Parts that take longer to check than others: a program of 10,000 nodes and as many Variables needs half of it."""


def save(
    compiled: Compiled[Any, Any],
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object],
    import_path: str | None = None,
    sign: Key | None = None,
) -> None:
    """Writes `compiled` to `path`; see `Compiled.save`."""
    # What only saving needs is not on the way of loading.
    from dspex.compiler.artifact.packing import write

    write(compiled, path, provenance=provenance, import_path=import_path, sign=sign)


def load_artifact(
    path: str | os.PathLike[str],
    *,
    program: AnyProgram | type[AnyProgram] | None = None,
    imports: Sequence[str] = (),
    models: Mapping[str, LMLike] | None = None,
    key: Key | None = None,
) -> Compiled[Any, Any]:
    """The compiled program in the artifact at `path`, with its configuration bound.

    An artifact without code loads without its source. One with code (functions, tools, opaque programs, validators)
    takes it from `program`, from a module that `imports` allows, or from a module that is imported already; nothing
    else is ever imported, and nothing in the file is executed.

    Args:
        path: A file that `Compiled.save` wrote.
        program: The program or its class.
        imports: Modules that may be imported to find the program; a package allows the modules below it.
        models: Models by the names that modules call them by, where a name alone does not say which model it is.
        key: Public key that the artifact has to be signed with: a PEM file, or its contents.

    Raises:
        CompileError: DX2201 when the file cannot be read, DX2203 when it is damaged or unsafe, DX2204 when its
            format is newer, DX2205 when it needs code that is not here, DX2207 when the program is not the one that
            was saved, DX2209 and DX2211 when it is not signed with `key`, DX2210 when a schema cannot be rebuilt.
        ProgramError: When a Variable or the configuration in it is not sound.
        CoreError: When its parameter table is not sound.
    """
    archive = read_archive(path)
    try:
        return load_archive(archive, program=program, imports=imports, models=models, key=key)
    except DspexError as error:
        error.where = error.where or str(path)
        error.fix = error.fix or "compile and save it again, or copy it again from its source"
        raise


def load_archive(
    archive: Archive,
    *,
    program: AnyProgram | type[AnyProgram] | None = None,
    imports: Sequence[str] = (),
    models: Mapping[str, LMLike] | None = None,
    key: Key | None = None,
) -> Compiled[Any, Any]:
    """The compiled program in the contents of an artifact; see `load_artifact`."""
    if key is not None:
        from dspex.compiler.artifact.signing import verify_signature

        verify_signature(archive, key)
    for name, most in _LARGEST.items():
        if len(archive.members.get(name, b"")) > most:
            raise unsound(f"{name} is larger than {most} bytes")
    archive = migrated(archive)
    manifest = archive.manifest
    graph = verify(parse(archive.text("graph.txt")))
    if graph.hash != manifest.get("graph"):
        raise unsound("graph.txt is not the graph of the manifest")
    rows = _rows(archive.member("params.bin"))
    provenance = _object(manifest.get("provenance"), "manifest.json: provenance")
    needs = _needs(manifest)
    documents = _documents(archive)
    configuration = _object(archive.json("configuration.json"), "configuration.json")
    if manifest.get("migrated") is None and (missing := code_needs(graph) - needs):
        raise unsound(f"manifest.json does not name all that the graph needs: {', '.join(sorted(missing)[:3])}")
    found = program_of(manifest, program=program, imports=imports, needs=_reasons(manifest))
    if found is not None:
        return _with_program(archive, graph, found, documents, configuration, provenance, models)
    space = _space(archive, documents)
    if rows != _expected_rows(space):
        raise unsound("params.bin is not the table of variables.json")
    config = space.validate(_values(space, configuration))
    origin = _object(manifest.get("program") or {}, "manifest.json: program")
    schemas = _schemas(archive)
    fresh = any(cls.__module__ == "dspex.rebuilt" for cls in schemas.fields.values())
    code = Code(models=_models(manifest, models), rebuilt=fresh, origin=origin)
    compiled: Compiled[Any, Any] = Compiled(graph, space, schemas.fields, config, code, provenance)
    check_fit(compiled)
    return replace(compiled, schemas=schemas)


def _with_program(
    archive: Archive,
    graph: Graph,
    fresh: AnyProgram,
    documents: Sequence[Mapping[str, object]],
    configuration: Mapping[str, object],
    provenance: Mapping[str, object],
    models: Mapping[str, LMLike] | None,
) -> Compiled[Any, Any]:
    """The artifact over its program: compiled again, and equal to what was saved."""
    from dspex.compiler.compiled import compile

    manifest = archive.manifest
    where = str(_object(manifest.get("program") or {}, "manifest.json: program").get("path"))
    try:
        compiled = compile(configured(fresh, documents, configuration))
    except DspexError as error:
        if error.code == "DX2203":
            raise
        raise CompileError(
            "DX2207",
            f"the saved configuration does not fit the program {where!r}: {error.message}",
            fix=error.fix or "compile and save it again",
        ) from error
    # Another version of dspex may understand more of the same source, so only equal versions have to agree.
    if manifest.get("dspex") == __version__ and not manifest.get("migrated") and graph.hash != compiled.graph.hash:
        raise CompileError(
            "DX2207",
            f"the program {where!r} compiles to another graph than the one that was saved",
            fix="compile and save it again",
        )
    code = replace(compiled.code, origin=_object(manifest.get("program") or {}, "manifest.json: program"))
    if models:
        code = replace(code, models={**code.models, **_models(manifest, models, code.models)})
    return replace(compiled, code=code, provenance=provenance)


# --- what stands in the parts -------------------------------------------------------------------


def _rows(blob: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    from dspex.core.abi import validate_blob

    layout = validate_blob(blob)
    return tuple(sorted(layout.kinds)), tuple(sorted(layout.categories))


def _expected_rows(space: Space) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kinds and sizes of the rows that the Variables have; the order pass may put them in another order."""
    from dspex.core.table import Kind

    kept = [variable for variable in space.variables.values() if variable.kind != "computed"]
    kinds = sorted(int(Kind[variable.kind.upper()]) for variable in kept)
    return tuple(kinds), tuple(sorted(len(variable.options) for variable in kept))


def _needs(manifest: Mapping[str, object]) -> frozenset[str]:
    """What the artifact needs, as ``kind what``."""
    found: set[str] = set()
    for item in _list(manifest.get("needs"), "manifest.json: needs"):
        need = _object(item, "manifest.json: needs")
        found.add(f"{_text(need.get('kind'), 'needs')} {_text(need.get('what'), 'needs')}")
    return frozenset(found)


def _reasons(manifest: Mapping[str, object]) -> list[str]:
    """What the artifact needs code for, as `dspex verify` says it."""
    found: list[str] = []
    for item in _list(manifest.get("needs"), "manifest.json: needs"):
        need = _object(item, "manifest.json: needs")
        kind, why = _text(need.get("kind"), "needs"), need.get("why")
        found.append(f"{kind}: {why:.200}" if isinstance(why, str) and why else f"{kind} {need.get('what'):.200}")
    return list(dict.fromkeys(found))


def _documents(archive: Archive) -> list[Mapping[str, object]]:
    contents = _object(archive.json("variables.json"), "variables.json")
    return [_object(item, "variables.json") for item in _list(contents.get("variables"), "variables.json")]


def _space(archive: Archive, documents: Sequence[Mapping[str, object]]) -> Space:
    contents = _object(archive.json("variables.json"), "variables.json")
    made: list[Var[Any]] = [variables.from_document(document) for document in documents]
    return Space(made, [rules.from_json(item) for item in _list(contents.get("rules"), "variables.json: rules")])


def _values(space: Space, configuration: Mapping[str, object]) -> dict[str, object]:
    """The values in `configuration.json` as the space has them; every Variable is there."""
    values: dict[str, object] = {}
    for name, variable in space.variables.items():
        if variable.kind == "computed":
            continue
        if name not in configuration:
            raise unsound(f"configuration.json: {name} is missing")
        value = configuration[name]
        values[name] = _member(variable, value) if isinstance(variable, Demos) else variable.from_json(value)
    if unknown := sorted(configuration.keys() - space.variables.keys()):
        raise unsound(f"configuration.json: {unknown[0]!r:.200} is no Variable")
    return values


def _member(variable: Demos, value: object) -> DemoSource:
    said = _object(value, f"configuration.json: {variable.name}")
    place = said.get("pool")
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(variable.pool):
        raise unsound(f"configuration.json: {variable.name} names no member of its pool")
    member = variable.pool[place]
    if said.get("hash") != member.hash:
        raise unsound(f"configuration.json: {variable.name} names another member of its pool than it hashes")
    return member


def _schemas(archive: Archive) -> Rebuilt:
    """The classes by their names in the graph."""
    from dspex.compiler.artifact.schemas import definitions, rebuilt

    names = _object(archive.manifest.get("schemas"), "manifest.json: schemas")
    documents = {name: archive.json(_text(file, "manifest.json: schemas")) for name, file in names.items()}
    _, found = definitions(documents)
    return rebuilt(documents, _live(found))


def _live(
    found: Mapping[str, Mapping[str, object]],
) -> Callable[[str, str], type[BaseModel] | None]:
    """Finds classes that this process has already, so that a program and its artifact agree on what they are."""
    from dspex.compiler.artifact.schemas import loaded_class

    def live(key: str, where: str) -> type[BaseModel] | None:
        cls = loaded_class(where)
        if cls is None:
            return None
        from dspex.compiler.artifact.documents import is_described

        return cls if is_described(cls, key, found) else None

    return live


def _models(
    manifest: Mapping[str, object],
    given: Mapping[str, LMLike] | None,
    known: Mapping[str, Mapping[str, LMLike]] | None = None,
) -> dict[str, dict[str, LMLike]]:
    """The given models by module; a module calls them by the names that the manifest lists."""
    result: dict[str, dict[str, LMLike]] = {path: dict(models) for path, models in (known or {}).items()}
    used: set[str] = set()
    for path, names in _object(manifest.get("models"), "manifest.json: models").items():
        for item in _list(names, "manifest.json: models"):
            name = _text(item, "manifest.json: models")
            if given and name in given:
                result.setdefault(path, {})[name] = given[name]
                used.add(name)
    if given and (unused := sorted(set(given) - used)):
        raise CompileError(
            "DX2215",
            f"models names {unused[0]!r}, and no module of the artifact calls a model so",
            fix=f"known are {', '.join(sorted(_names(manifest))) or '(none)'}; give the others with dx.using(lm=…)",
        )
    return result


def _names(manifest: Mapping[str, object]) -> set[str]:
    listed = _object(manifest.get("models"), "manifest.json: models")
    return {str(name) for names in listed.values() for name in _list(names, "manifest.json: models")}


def _object(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise unsound(f"{place} is not an object")
    return cast("dict[str, object]", value)


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise unsound(f"{place} is not a list")
    return cast("list[object]", value)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise unsound(f"{place} is not a text")
    return value
