"""Writing an artifact: its parts from a compiled program."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import copy
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from dspex._version import __version__
from dspex.compiler.artifact.archive import (
    SIGNATURE,
    Archive,
    archive_bytes,
    archive_of,
    checked_manifest,
    json_bytes,
    replace_file,
    unsound,
)
from dspex.compiler.artifact.documents import code_in, schema_document
from dspex.compiler.artifact.fitting import needs_of_graph
from dspex.compiler.artifact.loading import IR_VERSION, load_archive
from dspex.compiler.artifact.prompts import edited_instruction, instruction_of, prompt_markdown, shown_demos
from dspex.compiler.artifact.source import AnyProgram, configured, fresh_program, import_path_of, made_by
from dspex.errors import CompileError, DspexError, ProgramError
from dspex.program import rules
from dspex.program.rules import All, Any_, Compare, Const, Expr, Not, Rule
from dspex.program.variables import Choice, Demos, Text, Var

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dspex.compiler.artifact.signing import Key
    from dspex.compiler.compiled import Compiled

__all__ = ["packed", "unpack", "write"]

Need = dict[str, object]


def write(
    compiled: Compiled[Any, Any],
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object],
    import_path: str | None = None,
    sign: Key | None = None,
) -> None:
    """Writes `compiled` to `path`; see `Compiled.save`."""
    replace_file(Path(path), artifact_bytes(compiled, provenance=provenance, import_path=import_path, sign=sign))


def artifact_bytes(
    compiled: Compiled[Any, Any],
    *,
    provenance: Mapping[str, object],
    import_path: str | None = None,
    sign: Key | None = None,
) -> bytes:
    """The bytes of the artifact of `compiled`."""
    members, needs, documents, configuration, files = _parts(compiled)
    where = _origin(compiled, import_path, documents, configuration, needs)
    manifest: dict[str, object] = {
        "ir": IR_VERSION,
        "dspex": __version__,
        "name": compiled.graph.name,
        "program": where,
        "needs": needs,
        "graph": compiled.graph.hash,
        "input": str(compiled.graph.input),
        "output": str(compiled.graph.output),
        "schemas": files,
        "models": _models(compiled),
        "provenance": _plain_provenance(provenance),
    }
    raw = checked_manifest(manifest, members)
    signature = None
    if sign is not None:
        from dspex.compiler.artifact.signing import signature_of

        signature = signature_of(raw, sign)
    return archive_bytes(raw, members, signature)


def _parts(
    compiled: Compiled[Any, Any],
) -> tuple[dict[str, bytes], list[Need], list[dict[str, object]], dict[str, object], dict[str, str]]:
    from dspex.core.abi import to_bytes

    needs: list[Need] = [_need(*need) for need in needs_of_graph(compiled.graph)]
    documents, configuration = _variables(compiled, needs)
    schemas = {name: schema_document(name, cls) for name, cls in compiled.schemas.items()}
    for name, reasons in code_in(schemas, compiled.schemas).items():
        needs.append(_need("schema", name, "; ".join(reasons)))
    files = {name: f"schemas/{_file(name)}.json" for name in schemas}
    members: dict[str, bytes] = {
        "graph.txt": str(compiled.graph).encode("utf-8", "backslashreplace"),
        "params.bin": to_bytes(compiled.params.table),
        "variables.json": json_bytes({"variables": documents, "rules": _rules(compiled, needs)}),
        "configuration.json": json_bytes(configuration),
    }
    for name, document in schemas.items():
        members[files[name]] = json_bytes(document)
    for name in compiled.settings:
        members[f"prompts/{_file(name)}.md"] = prompt_markdown(compiled, name).encode("utf-8", "backslashreplace")
        demos = shown_demos(compiled.settings[name])
        if demos:
            lines = "".join(json.dumps(demo.to_json(), ensure_ascii=False) + "\n" for demo in demos)
            members[f"demos/{_file(name)}.jsonl"] = lines.encode("utf-8", "backslashreplace")
    return members, needs, documents, configuration, files


def _need(kind: str, what: str, why: str) -> Need:
    return {"kind": kind, "what": what, "why": why}


def _file(name: str) -> str:
    return quote(name, safe="") or "program"


def _variables(compiled: Compiled[Any, Any], needs: list[Need]) -> tuple[list[dict[str, object]], dict[str, object]]:
    """The Variables' documents and the configuration, every value as JSON."""
    documents: list[dict[str, object]] = []
    configuration: dict[str, object] = {}
    for name, variable in compiled.space.variables.items():
        value = compiled.config[name]
        try:
            documents.append(_plain(variable).to_document())
        except ProgramError as error:
            needs.append(_need("variable", name, error.message))
            documents.append(_outline(variable))
        if variable.kind == "computed":
            continue
        if isinstance(variable, Demos):
            index = next(i for i, source in enumerate(variable.pool) if source == value)
            configuration[name] = {"pool": index, "hash": variable.pool[index].hash}
        else:
            plain = variable.to_json(value)
            configuration[name] = plain.value if isinstance(plain, Enum) else plain
    return documents, configuration


def _plain(variable: Var[Any]) -> Var[Any]:
    """`variable` with the values of enumerations that are texts or numbers: elsewhere there is no such class."""
    when = None if variable.when is None else _plain_rule(variable.when)
    if isinstance(variable, Choice):
        choice: Choice[Any] = variable
        if any(isinstance(value, Enum) for value in choice.values):
            values = [_plain_value(value) for value in choice.values]
            default = _plain_value(choice.default)
            return Choice[Any](choice.name, values, default=default, weights=choice.weights, when=when)
    if when is not variable.when:
        variable = copy(variable)
        variable.when = when
    return variable


def _plain_value(value: object) -> object:
    return value.value if isinstance(value, Enum) and isinstance(value, str | int) else value


def _plain_rule(rule: Rule) -> Rule:
    """`rule` with the values of enumerations that are texts or numbers; the same one when it has none."""
    match rule:
        case Compare():
            left, right = _plain_side(rule.left), _plain_side(rule.right)
            return rule if left is rule.left and right is rule.right else Compare(rule.op, left, right)
        case All() | Any_():
            items = tuple(_plain_rule(item) for item in rule.items)
            return rule if all(a is b for a, b in zip(items, rule.items, strict=True)) else type(rule)(items)
        case Not():
            item = _plain_rule(rule.item)
            return rule if item is rule.item else Not(item)
        case _:
            return rule


def _plain_side(side: Expr) -> Expr:
    if isinstance(side, Const) and isinstance(side.constant, Enum):
        return Const(_plain_value(side.constant))
    return side


def _outline(variable: Var[Any]) -> dict[str, object]:
    """What is kept of a Variable that its program has to give again: its pool, which may have grown."""
    pool: list[object] = []
    if isinstance(variable, Text):
        pool = list(variable.pool)
    elif isinstance(variable, Demos):
        pool = [source.to_json() for source in variable.pool]
    return {"name": variable.name, "kind": variable.kind, "domain": variable.domain, "pool": pool}


def _rules(compiled: Compiled[Any, Any], needs: list[Need]) -> list[object]:
    found: list[object] = []
    for rule in compiled.space.rules:
        try:
            found.append(rules.to_json(_plain_rule(rule)))
        except ProgramError as error:
            needs.append(_need("rule", str(rule), error.message))
    return found


def _models(compiled: Compiled[Any, Any]) -> dict[str, list[str]]:
    """By module, the names of the models that it calls by name."""
    found: dict[str, list[str]] = {}
    for path, known in compiled.code.models.items():
        names = sorted(name for name in known if name)
        if names:
            found[path] = names
    for path, node in compiled.plan.calls.items():
        for setting in node.settings:
            if setting.name == "lm":
                variable = compiled.space.variables.get(getattr(setting.value, "name", ""))
                values = (getattr(setting.value, "value", None),) if variable is None else variable.options
                names = {value for value in values if isinstance(value, str)}
                found[path] = sorted(names | set(found.get(path, ())))
    return dict(sorted(found.items()))


def _plain_provenance(provenance: Mapping[str, object]) -> dict[str, object]:
    try:
        return cast("dict[str, object]", json.loads(json.dumps(dict(provenance), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise CompileError(
            "DX2218",
            f"the provenance is not JSON: {error}",
            fix="give texts, finite numbers, lists and records of them",
        ) from error


def _origin(
    compiled: Compiled[Any, Any],
    import_path: str | None,
    documents: list[dict[str, object]],
    configuration: dict[str, object],
    needs: list[Need],
) -> Mapping[str, object] | None:
    """Path and identity of the program; None when it cannot be found again and nothing of it is needed."""
    program: AnyProgram | None = compiled.code.program
    if program is None:
        return dict(compiled.code.origin) or None
    known = compiled.code.origin.get("path")
    # What was loaded stands where its artifact says, which may be the name of an instance.
    places = [import_path] if import_path else [known, import_path_of(program)]
    wrong: CompileError | None = None
    for where in (place for place in places if isinstance(place, str)):
        try:
            if import_path is None and where != known and (form := made_by(program)) is not None:
                raise CompileError(
                    "DX2206",
                    f"the artifact needs its program's code, and an instance of {form} has no class of its own: it "
                    "is found by name only",
                    fix=_BY_NAME,
                )
            fresh = _found_again(compiled.program, where, documents, configuration)
        except CompileError as error:
            wrong = wrong or error
            continue
        return {"path": where, "identity": fresh.identity(), "name": compiled.graph.name}
    if wrong is not None and (import_path is not None or needs):
        raise wrong
    return None


_BY_NAME = (
    "give it a name at the top of a module, and save it under that name: dspex compile bot:pipeline -o FILE, or "
    "compiled.save(path, import_path='bot:pipeline')"
)


def _found_again(
    program: AnyProgram, where: str, documents: Sequence[Mapping[str, object]], configuration: Mapping[str, object]
) -> AnyProgram:
    """The program as its import path gives it, when binding the configuration makes it equal to `program`."""
    why = "what stands there differs from it (arguments of __init__, or attributes set later)"
    try:
        fresh = fresh_program(where)
        # From JSON and back, as loading will have it.
        read = json.loads(json.dumps([list(documents), dict(configuration)]))
        again = configured(fresh, read[0], read[1])
        # The model is the caller's choice and no part of an artifact.
        again = again if program.lm is None else again.with_lm(program.lm)
        if again.identity() == program.identity():
            return fresh
    except DspexError as error:
        why = error.message
    raise CompileError(
        "DX2206",
        f"the artifact needs its program's code, and the program cannot be found again under its import path "
        f"{where!r}: {why}",
        fix=f"define its class at the top of a module with an __init__ that takes no arguments, or {_BY_NAME}",
    )


# --- folders ------------------------------------------------------------------------------------


def unpack(archive: Archive, folder: Path) -> list[str]:
    """Writes an artifact's parts as files into `folder`, which is new or empty; gives their names.

    Raises:
        CompileError: DX2217 when the folder is not empty or cannot be written.
    """
    parts = {"manifest.json": archive.raw_manifest, **archive.members}
    if archive.signature is not None:
        parts[SIGNATURE] = archive.signature
    try:
        if folder.exists() and any(folder.iterdir()):
            raise CompileError(
                "DX2217", f"the folder {folder} is not empty", where=str(folder), fix="name a folder that is new"
            )
        for name, data in sorted(parts.items()):
            # Names were checked when the archive was read: plain, relative, without dots at the front.
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    except OSError as error:
        raise CompileError(
            "DX2217",
            f"the folder cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="choose a folder that can be written",
        ) from error
    return sorted(parts)


def packed(folder: Path, *, imports: Sequence[str] = (), sign: Key | None = None) -> tuple[bytes, tuple[str, ...]]:
    """The artifact of an unpacked folder, and the modules whose instructions were edited in it.

    An edited instruction becomes a new member of its Variable's pool, and is bound. Without edits the bytes are those
    that were unpacked, signature included; with edits an earlier signature is gone.

    Raises:
        CompileError: DX2214 when anything else was changed, DX2219 when an instruction is no Variable, DX2217 when
            the folder is no unpacked artifact.
    """
    parts = _read(folder)
    raw, signature = parts.pop("manifest.json"), parts.pop(SIGNATURE, None)
    changed = _changed(raw, parts)
    if not changed:
        data = archive_bytes(raw, parts, None if sign is not None else signature)
        archive = archive_of(data)
        if sign is None:
            return data, ()
        from dspex.compiler.artifact.signing import signature_of

        return archive_bytes(raw, parts, signature_of(archive.raw_manifest, sign)), ()
    compiled = load_archive(_as_it_was(raw, parts, changed), imports=imports)
    edits: dict[str, object] = {}
    modules: list[str] = []
    for module in compiled.settings:
        name = f"prompts/{_file(module)}.md"
        if name not in changed:
            continue
        changed.discard(name)
        text = parts[name].decode("utf-8", "replace")
        new = edited_instruction(prompt_markdown(compiled, module), text, str(folder / name))
        if new is None:
            continue
        _, variable = instruction_of(compiled, module)
        if variable is None:
            raise CompileError(
                "DX2219",
                f"the instruction of {module} is no Variable of the program, so it cannot be changed",
                where=str(folder / name),
                fix="change it in the program's source, or make it a Variable there",
            )
        if edits.get(variable, new) != new:
            raise CompileError(
                "DX2214",
                f"two pages give ${variable} different texts",
                where=str(folder / name),
                fix="edit one of the pages that share the Variable, or both alike",
            )
        edits[variable] = new
        modules.append(module)
    if changed:
        raise _refused(sorted(changed)[0], folder)
    provenance = {**compiled.provenance, "edited": modules}
    return artifact_bytes(compiled.bind(edits), provenance=provenance, sign=sign), tuple(modules)


def _read(folder: Path) -> dict[str, bytes]:
    from dspex.compiler.artifact.archive import MAX_MEMBER, MAX_TOTAL

    parts: dict[str, bytes] = {}
    size = 0
    try:
        for place in sorted(folder.rglob("*")):
            if place.is_dir() or place.name.startswith(".") or place.name.endswith("~"):
                continue
            with place.open("rb") as file:
                data = file.read(MAX_MEMBER + 1)
            size += len(data)
            if len(data) > MAX_MEMBER or size > MAX_TOTAL:
                raise _no_folder(folder, "it is larger than an artifact may be")
            parts[place.relative_to(folder).as_posix()] = data
    except OSError as error:
        raise _no_folder(folder, error.strerror or str(error)) from error
    if "manifest.json" not in parts:
        raise _no_folder(folder, "there is no manifest.json in it")
    return parts


def _no_folder(folder: Path, why: str) -> CompileError:
    return CompileError(
        "DX2217",
        f"the folder is no unpacked artifact: {why}",
        where=str(folder),
        fix="`dspex unpack FILE DIR` makes one",
    )


def _changed(raw: bytes, parts: Mapping[str, bytes]) -> set[str]:
    """Names of the parts that are not as the manifest says; pages of prompts, or an error."""
    import hashlib

    from dspex.compiler.artifact.archive import json_of

    manifest = json_of(raw, "manifest.json")
    listed = cast("dict[str, object]", manifest).get("members") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict):
        raise unsound("manifest.json lists no members")
    known = cast("dict[str, object]", listed)
    for name in sorted(known.keys() ^ parts.keys()):
        raise _refused(name, None)
    changed = {name for name, data in parts.items() if hashlib.sha256(data).hexdigest() != known[name]}
    for name in sorted(changed):
        if not name.startswith("prompts/"):
            raise _refused(name, None)
    return changed


def _refused(name: str, folder: Path | None) -> CompileError:
    return CompileError(
        "DX2214",
        f"{name} was added, removed or changed, and only the instructions in prompts/*.md can be edited",
        where=name if folder is None else str(folder / name),
        fix="unpack again, edit the instruction alone, and bind other values with dspex compile --config",
    )


def _as_it_was(raw: bytes, parts: Mapping[str, bytes], changed: set[str]) -> Archive:
    """The archive without the pages that were edited: nothing else reads them."""
    manifest = cast("dict[str, object]", json.loads(raw))
    return Archive(manifest, {name: data for name, data in parts.items() if name not in changed}, raw)
