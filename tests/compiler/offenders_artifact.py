"""The smallest artifact, key or folder that has each code of artifacts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

from pydantic import SkipValidation

import dspex as dx
from dspex.compiler import parse
from dspex.compiler.artifact.archive import read_archive, write_archive
from dspex.compiler.artifact.packing import packed, unpack
from dspex.compiler.artifact.signing import new_keys
from tests.compiler.library import Loops, Router
from tests.compiler.offenders import Answer, Ask, Plain, offends


def saved(folder: Path, program: dx.Program[Any, Any] | None = None, **how: Any) -> Path:
    path = folder / "p.dspex"
    dx.compile(program or Plain()).save(path, **how)
    return path


def resealed(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """The artifact with changed contents under hashes that are right again."""
    archive = read_archive(path)
    manifest, members = dict(archive.manifest), dict(archive.members)
    change(manifest, members)
    manifest.pop("members", None)
    write_archive(path, manifest, members)
    return path


@offends("DX2201")
def missing(folder: Path) -> None:
    dx.load_artifact(folder / "nothing.dspex")


@offends("DX2202")
def no_folder(folder: Path) -> None:
    saved(folder / "nowhere")


@offends("DX2203")
def truncated(folder: Path) -> None:
    path = saved(folder)
    path.write_bytes(path.read_bytes()[:-1])
    dx.load_artifact(path)


@offends("DX2204")
def newer(folder: Path) -> None:
    dx.load_artifact(resealed(saved(folder), lambda manifest, _: manifest.update(format=99)))


@offends("DX2205")
def needs_code(folder: Path) -> None:
    def elsewhere(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["program"] = {**manifest["program"], "path": "no_such_module:Loops"}

    dx.load_artifact(resealed(saved(folder, Loops()), elsewhere))


@offends("DX2206")
def local_class(folder: Path) -> None:
    class Local(Loops):
        pass

    saved(folder, Local())


@offends("DX2207")
def another_program(folder: Path) -> None:
    dx.load_artifact(saved(folder, Router()), program=Loops)


class Odd:
    """A type that JSON Schema does not know."""


class Holds(dx.Schema):
    odd: Annotated[Odd, SkipValidation]

    model_config = {"arbitrary_types_allowed": True}


@offends("DX2208")
def no_json_schema(folder: Path) -> None:
    class Odds(dx.Program[Holds, Answer]):
        async def __call__(self, x: Holds, /) -> Answer:
            return Answer(answer="")

    saved(folder, Odds())


@offends("DX2209")
def not_signed(folder: Path) -> None:
    new_keys(folder / "k.pem", folder / "k.pub")
    dx.load_artifact(saved(folder), key=folder / "k.pub")


@offends("DX2210")
def crafted_schema(folder: Path) -> None:
    def crafted(_: dict[str, Any], members: dict[str, bytes]) -> None:
        for name in members:
            if name.startswith("schemas/"):
                members[name] = json.dumps({"type": "object", "properties": 3}).encode()

    with mock.patch.dict(sys.modules):
        dx.load_artifact(resealed(saved(folder, dx.Predict(Ask, Answer)), crafted))


@offends("DX2211")
def another_key(folder: Path) -> None:
    new_keys(folder / "k.pem", folder / "k.pub")
    new_keys(folder / "l.pem", folder / "l.pub")
    dx.load_artifact(saved(folder, sign=folder / "k.pem"), key=folder / "l.pub")


@offends("DX2212")
def no_key(folder: Path) -> None:
    dx.load_artifact(saved(folder), key=b"no key")


@offends("DX2213")
def no_library(folder: Path) -> None:
    missing: dict[str, Any] = {name: None for name in sys.modules if name.partition(".")[0] == "cryptography"}
    with mock.patch.dict(sys.modules, {**missing, "cryptography": None}):
        new_keys(folder / "k.pem", folder / "k.pub")


def unpacked(folder: Path, program: dx.Program[Any, Any] | None = None) -> Path:
    unpack(read_archive(saved(folder, program)), folder / "parts")
    return folder / "parts"


@offends("DX2214")
def edited_elsewhere(folder: Path) -> None:
    place = unpacked(folder)
    (page,) = place.glob("prompts/*.md")
    page.write_text(page.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    packed(place)


@offends("DX2215")
def unknown_model(folder: Path) -> None:
    dx.load_artifact(saved(folder), models={"x/medium": "local/smollm2"})


@offends("DX2216")
def parts_of_two(folder: Path) -> None:
    def other(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        text = members["graph.txt"].decode().replace("max_tokens=7", "evil=7")
        members["graph.txt"], manifest["graph"] = text.encode(), parse(text).hash

    dx.load_artifact(resealed(saved(folder, dx.Predict(Ask, Answer, max_tokens=7)), other))


@offends("DX2217")
def no_artifact(folder: Path) -> None:
    packed(folder)


@offends("DX2218")
def no_json(folder: Path) -> None:
    saved(folder, provenance={"at": object()})


@offends("DX2219")
def fixed_instruction(folder: Path) -> None:
    class Fixed(dx.Program[Ask, Answer]):
        wording: dx.Var[Literal["Answer briefly.", "Answer at length."]] = dx.var("Answer briefly.")
        ask = dx.Predict(Ask, Answer, instruction=wording)  # pyright: ignore[reportArgumentType]

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.ask(x)

    place = unpacked(folder, Fixed())
    (page,) = place.glob("prompts/*.md")
    text = page.read_text(encoding="utf-8")
    at = text.index("Answer briefly.", text.index("## Instruction"))
    page.write_text(text[:at] + "Now " + text[at:], encoding="utf-8")
    packed(place)
