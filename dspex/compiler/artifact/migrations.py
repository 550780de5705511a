"""Older formats of artifacts, brought to the newest one step at a time.

Each step takes the contents of one format and gives those of the next; the chain is `STEPS`, by the version that a
step begins with. A step never runs anything and never guesses: what an older format does not say, the program says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, cast

from dspex.compiler.artifact.archive import FORMAT_VERSION, Archive, json_bytes, unsound
from dspex.compiler.ir.parser import parse

__all__ = ["STEPS", "migrated"]


def migrated(archive: Archive) -> Archive:
    """`archive` in the newest format.

    Raises:
        CompileError: DX2203 when it is not sound.
    """
    while (version := cast("int", archive.manifest["format"])) < FORMAT_VERSION:
        archive = STEPS[version](archive)
    return archive


def _from_1(archive: Archive) -> Archive:
    """Format 1 says nothing of what is code, and its conditions and rules are texts: they come from the program."""
    manifest = dict(archive.manifest)
    program = manifest.get("program")
    if not isinstance(program, dict):
        raise unsound("manifest.json: program is not an object")
    path = cast("Mapping[str, object]", program).get("path")
    graph = parse(archive.text("graph.txt"))
    contents = archive.json("variables.json")
    documents = cast("Mapping[str, object]", contents).get("variables") if isinstance(contents, dict) else None
    if not isinstance(documents, list):
        raise unsound("variables.json holds no list of Variables")
    variables = cast("list[object]", documents)
    manifest.update(
        format=2,
        # The hash of an equal graph is another one where the graph says more.
        graph=graph.hash,
        needs=[{"kind": "program", "what": path, "why": "format 1 does not say what is code"}],
        models={},
        migrated=1,
    )
    members = {**archive.members, "variables.json": json_bytes({"variables": variables, "rules": []})}
    return Archive(manifest, members, archive.raw_manifest, archive.signature)


STEPS: Final[Mapping[int, Callable[[Archive], Archive]]] = {1: _from_1}
"""By format, the step to the next one."""
