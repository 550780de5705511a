"""What is fuzzed, and what may come of it: a result or a coded error of dspex, nothing else.

Inputs are made of stored seeds by mutation that knows their structure: parts of an artifact are damaged one by one and
the hashes made right again, so that damage reaches the layers behind the hashes.
"""

from __future__ import annotations

import functools
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

import dspex as dx
from dspex.compiler import parse
from dspex.compiler.artifact import packing
from dspex.compiler.artifact.archive import Archive, archive_bytes, archive_of, checked_manifest
from dspex.compiler.artifact.schemas import rebuilt
from dspex.compiler.ir.verify import verify
from dspex.core.abi import validate_blob
from dspex.errors import DspexError
from dspex.testing import ScriptedLM
from tests.compiler import library
from tests.fuzz import programs

TARGETS: Final = ("artifact", "graph", "table", "schemas")
STORED: Final = Path(__file__).parents[1] / "compiler" / "artifacts"


@functools.cache
def artifacts() -> tuple[bytes, ...]:
    """Seeds: one of every kind of program, and those that older versions wrote."""
    known: list[dx.Program[Any, Any]] = [library.Router(), library.route, library.chain, programs.Rich()]
    made = [dx.compile(program) for program in known]
    made.append(made[0].bind({"solver.cot.demos": library.NEAREST, "solver": "cot", "k": 2}))
    written = [packing.artifact_bytes(compiled, provenance={"study": "s"}) for compiled in made]
    stored = [file.read_bytes() for file in sorted(STORED.glob("*.dspex"))]
    return (*(_elsewhere(data) for data in written), written[0], *stored)


def _elsewhere(data: bytes) -> bytes:
    """The artifact as it is on another machine: none of its classes is here, and all are rebuilt."""
    archive = archive_of(data)
    members = {
        name: part.replace(b'"tests.', b'"elsewhere.') if name.startswith("schemas/") else part
        for name, part in archive.members.items()
    }
    manifest = {name: value for name, value in archive.manifest.items() if name != "members"}
    return archive_bytes(checked_manifest(manifest, members), members)


@functools.cache
def archives() -> tuple[Archive, ...]:
    return tuple(archive_of(data) for data in artifacts())


def seeds(target: str) -> list[bytes]:
    """The first inputs of a target."""
    if target == "artifact":
        return list(artifacts())
    if target == "graph":
        return [archive.members["graph.txt"] for archive in archives()]
    if target == "table":
        return [archive.members["params.bin"] for archive in archives()]
    return [
        json.dumps(
            {name[8:-5]: json.loads(data) for name, data in archive.members.items() if name[:8] == "schemas/"}
        ).encode()
        for archive in archives()
    ]


# --- what is run ------------------------------------------------------------------------------------


def load(data: bytes) -> None:
    """An artifact: loaded, and when it loads, explained, run and saved again."""
    with tempfile.NamedTemporaryFile(suffix=".dspex") as file:
        file.write(data)
        file.flush()
        compiled = dx.load_artifact(file.name)
    _ = str(compiled.graph), compiled.params, dict(compiled.schemas)
    for path in compiled.settings:
        _ = compiled.settings[path]
    try:
        x = compiled.input_schema.model_validate({"text": "a"})
    except ValidationError:
        return
    answer = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "billing"))
    with dx.using(lm=answer):
        compiled.run(x, timeout=5)
    packing.artifact_bytes(compiled, provenance=compiled.provenance)


def graph(data: bytes) -> None:
    made = verify(parse(data.decode("utf-8", "replace")))
    assert parse(str(made)) == made


def table(data: bytes) -> None:
    validate_blob(data)


def schemas(data: bytes) -> None:
    try:
        documents = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(documents, dict):
        for cls in rebuilt(cast("dict[str, object]", documents)).values():
            cls.model_json_schema()


RUN: Final[Mapping[str, Callable[[bytes], None]]] = {
    "artifact": load,
    "graph": graph,
    "table": table,
    "schemas": schemas,
}


def one(target: str, data: bytes) -> str:
    """Runs one input; its outcome is ``ok`` or the code of the error. Anything else that is raised is a finding."""
    try:
        RUN[target](data)
    except DspexError as error:
        return error.code
    return "ok"


# --- mutation ---------------------------------------------------------------------------------------

_LANGUAGE: Final = """
input lm select python tool cond map join output fallback race vote after params $k $solver %0 %1 %999999 { } ( ) [ ]
= : -> , | @qa scope prefix estimate -1 0 1 1e999 99999999999999999999 null true NaN "x" Literal list ? os:system
Ticket Route None by= record copy tuple because remedy owns uses awaits pure
"""
_TOKENS: Final = tuple(_LANGUAGE.split())
_WORDS: Final = [
    "",
    "string",
    "object",
    "array",
    "integer",
    "#/$defs/Part",
    "../x",
    "kind",
    "os:system",
    "text",
    "demos",
    "\ud800",
    "a" * 300,
    "{style}",
    "{0.__class__}",
    "solver",
    "cot",
]


def mutated(target: str, data: bytes, seed: int, limit: int = 1 << 20) -> bytes:
    """Another input made of `data`; equal seeds give equal results."""
    rng = random.Random(seed)
    try:
        made = MUTATE[target](data, rng)
    except (DspexError, ValueError, RecursionError, struct.error, IndexError, KeyError):
        made = bytes_of(data, rng)
    return made[:limit]


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(5):
            case 0 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(raw):
                raw[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2:
                del raw[at : at + rng.randrange(1, 16)]
            case 3:
                raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 8)))
            case _:
                raw[at : at + 4] = struct.pack("<i", rng.choice((-1, 0, 1, 2**31 - 1, -(2**31), rng.randrange(1000))))
    return bytes(raw)


def text_of(data: bytes, rng: random.Random) -> bytes:
    words = data.decode("utf-8", "replace")
    parts = [part for part in words.replace("\n", " \n ").split(" ") if part]
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not parts:
            break
        at = rng.randrange(len(parts))
        match rng.randrange(5):
            case 0:
                parts[at] = rng.choice(_TOKENS)
            case 1:
                del parts[at]
            case 2:
                parts.insert(at, rng.choice(_TOKENS))
            case 3:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                parts[at:at] = parts[at : at + rng.randrange(1, 40)]
    return " ".join(parts).encode("utf-8", "replace")


def table_of(data: bytes, rng: random.Random) -> bytes:
    """Numbers of the table changed, under a checksum that is right again."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(8, max(9, len(raw) - 8)) // 4 * 4
        if rng.randrange(2):
            raw[at : at + 4] = struct.pack("<i", rng.choice((-1, 0, 1, 2, 7, 31, 255, 2**31 - 1, -(2**31))))
        else:
            odd = (float("nan"), float("inf"), -1e308, 1e300, 0.0, -0.0, 1.0, 2.5)
            raw[at : at + 8] = struct.pack("<d", rng.choice(odd))
    if rng.randrange(8):
        raw[8:12] = struct.pack("<I", zlib.crc32(memoryview(raw)[12:]))
    return bytes(raw)


def json_of(data: bytes, rng: random.Random) -> bytes:
    whole = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _damage(whole, rng)
    return json.dumps(whole).encode()


def _atom(rng: random.Random) -> object:
    return rng.choice(
        (
            None,
            True,
            False,
            0,
            1,
            -1,
            10**25,
            0.5,
            float("nan"),
            1e308,
            [],
            {},
            [1],
            {"type": "integer"},
            {"$ref": "#/$defs/Part"},
            {"all": [{"op": "<", "left": {"ref": "k"}, "right": {"const": 3}}]},
            rng.choice(_WORDS),
        )
    )


def _damage(whole: Any, rng: random.Random) -> None:
    place = whole
    while isinstance(place, dict | list) and place:
        items: Any = cast("Any", place)
        mapped = isinstance(place, dict)
        key: Any = rng.choice(list(items) if mapped else range(len(items)))
        inner: Any = items[key]
        if isinstance(inner, dict | list) and cast("Any", inner) and rng.randrange(4):
            place = cast("Any", inner)
            continue
        match rng.randrange(5):
            case 0:
                del items[key]
            case 1 if mapped:
                items[rng.choice(_WORDS)] = items.pop(key)
            case 2 if not mapped:
                items.extend(items[: rng.randrange(1, 50)])
            case 3 if mapped:
                other: Any = rng.choice(list(items))
                items[key], items[other] = items[other], items[key]
            case _:
                items[key] = _atom(rng)
        return


def artifact_of(data: bytes, rng: random.Random) -> bytes:
    """Parts damaged or taken from another artifact, under hashes that are right again."""
    if not rng.randrange(12):
        return bytes_of(data, rng)
    archive = archive_of(data)
    manifest, members = dict(archive.manifest), dict(archive.members)
    manifest.pop("members", None)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(["manifest.json", *members])
        if name == "manifest.json":
            manifest = cast("dict[str, object]", json.loads(json_of(json.dumps(manifest).encode(), rng)))
        elif not rng.randrange(12):
            del members[name]
        elif not rng.randrange(12):
            other = rng.choice(archives()).members
            members[name] = other.get(name, rng.choice(list(other.values())))
        elif name.endswith(".json"):
            members[name] = json_of(members[name], rng)
        elif name == "graph.txt":
            members[name] = text_of(members[name], rng)
            if rng.randrange(4):
                manifest["graph"] = _hash(members[name], manifest.get("graph"))
        elif name == "params.bin":
            members[name] = table_of(members[name], rng)
        else:
            members[name] = bytes_of(members[name], rng)
    manifest.pop("members", None)
    return archive_bytes(checked_manifest(manifest, members), members, archive.signature)


def _hash(text: bytes, otherwise: object) -> object:
    try:
        return parse(text.decode("utf-8", "replace")).hash
    except DspexError:
        return otherwise


MUTATE: Final[Mapping[str, Callable[[bytes, random.Random], bytes]]] = {
    "artifact": artifact_of,
    "graph": text_of,
    "table": table_of,
    "schemas": json_of,
}

__all__ = ["TARGETS", "artifacts", "mutated", "one", "seeds"]
