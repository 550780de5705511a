"""The container of an artifact: a zip whose every byte is covered by a hash, written deterministically.

Reading is safe on hostile files: sizes are limited before anything is unpacked, names are plain relative
paths, nothing is extracted to disk and nothing is executed. The zip's comment carries a SHA-256 of all that
stands before it; the manifest carries one for each member.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from dspex.errors import CompileError

__all__ = ["FORMAT_VERSION", "Archive", "archive_of", "read_archive", "write_archive"]

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
MAX_FILE: Final = 256 * 2**20
MAX_MEMBER: Final = 64 * 2**20
MAX_TOTAL: Final = 512 * 2**20
MAX_MEMBERS: Final = 20_000

_NAME: Final = re.compile(r"(?:[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*/){0,3}[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*")
_COMMENT: Final = re.compile(rb"dspex sha256=([0-9a-f]{64})")
_DATE: Final = (1980, 1, 1, 0, 0, 0)
# What zipfile and zlib raise on damaged files, as found by fuzzing.
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Archive:
    """The checked contents of an artifact: its manifest and every other member by name."""

    manifest: Mapping[str, object]
    members: Mapping[str, bytes]

    def text(self, name: str) -> str:
        """A member as text."""
        try:
            return self.member(name).decode()
        except UnicodeDecodeError as error:
            raise _damaged(f"{name} is not UTF-8 text") from error

    def json(self, name: str) -> object:
        """A member as JSON."""
        try:
            return cast("object", json.loads(self.member(name)))
        except (ValueError, RecursionError) as error:
            raise _damaged(f"{name} is not JSON") from error

    def member(self, name: str) -> bytes:
        found = self.members.get(name)
        if found is None:
            raise _damaged(f"{name} is missing")
        return found


def write_archive(path: str | os.PathLike[str], manifest: Mapping[str, object], members: Mapping[str, bytes]) -> None:
    """Writes an artifact; equal contents give equal bytes, and a failure leaves the old file in place.

    Raises:
        CompileError: DX2202 when the file cannot be written.
    """
    full = {
        "format": FORMAT_VERSION,
        **manifest,
        "members": {name: hashlib.sha256(members[name]).hexdigest() for name in sorted(members)},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        _put(archive, MANIFEST, (json.dumps(full, ensure_ascii=False, indent=2) + "\n").encode())
        for name in sorted(members):
            _put(archive, name, members[name])
        archive.comment = b"dspex sha256=" + b"0" * 64
    data = buffer.getvalue()
    head = data[: -len(b"dspex sha256=") - 64]
    data = head + b"dspex sha256=" + hashlib.sha256(head).hexdigest().encode()
    _replace(Path(path), data)


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.create_system = 3
    archive.writestr(info, data)


def _replace(path: Path, data: bytes) -> None:
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CompileError(
            "DX2202",
            f"the artifact cannot be written: {error.strerror or error}",
            where=str(path),
            fix="choose a directory that exists and can be written, with room for the file",
        ) from error


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """The contents of an artifact, every hash checked.

    Raises:
        CompileError: DX2201 when the file cannot be read, DX2203 when it is damaged, not an artifact or unsafe,
            DX2204 when its format is newer than this dspex.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise CompileError(
            "DX2201",
            f"the artifact cannot be read: {error.strerror or error}",
            where=str(path),
            fix="check the path; `dspex compile PROGRAM -o FILE` writes one",
        ) from error
    try:
        return archive_of(data)
    except CompileError as error:
        error.where = str(path)
        raise


def _damaged(what: str) -> CompileError:
    return CompileError(
        "DX2203",
        f"the file is not a sound artifact: {what}",
        fix="compile and save it again, or copy it again from its source",
    )


def archive_of(data: bytes) -> Archive:
    """The contents of an artifact's bytes, every hash checked.

    Raises:
        CompileError: DX2203 or DX2204.
    """
    if len(data) > MAX_FILE:
        raise _damaged(f"it is larger than {MAX_FILE} bytes")
    tail = data[-77:]
    found = _COMMENT.fullmatch(tail)
    if found is None:
        raise _damaged("it does not end with its hash, so it is truncated or was not written by dspex")
    if hashlib.sha256(data[:-77]).hexdigest().encode() != found[1]:
        raise _damaged("its bytes do not match its hash")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive)
    except _DAMAGE as error:
        raise _damaged(f"the zip cannot be read ({type(error).__name__})") from error
    return Archive(_manifest(members), {name: data for name, data in members.items() if name != MANIFEST})


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise _damaged(f"it has {len(infos)} members, {MAX_MEMBERS} are allowed")
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise _damaged(f"it unpacks to more than {MAX_TOTAL} bytes")
    members: dict[str, bytes] = {}
    for info in infos:
        name = info.filename
        if not _NAME.fullmatch(name) or name in members:
            raise _damaged(f"the member name {name!r} is not a plain, single, relative path")
        if info.file_size > MAX_MEMBER:
            raise _damaged(f"{name} unpacks to more than {MAX_MEMBER} bytes")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(f"{name} is encrypted or compressed in another way than deflate")
        with archive.open(info) as member:
            content = member.read(MAX_MEMBER + 1)
        if len(content) != info.file_size:
            raise _damaged(f"{name} does not have the size that it declares")
        members[name] = content
    return members


def _manifest(members: Mapping[str, bytes]) -> Mapping[str, object]:
    raw = members.get(MANIFEST)
    if raw is None:
        raise _damaged(f"{MANIFEST} is missing")
    try:
        manifest: object = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict):
        raise _damaged(f"{MANIFEST} is not an object")
    manifest = cast("dict[str, object]", manifest)
    version = manifest.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _damaged(f"{MANIFEST} names no format version")
    if version > FORMAT_VERSION:
        raise CompileError(
            "DX2204",
            f"the artifact has format {version}, this dspex reads up to {FORMAT_VERSION}",
            fix="install a newer dspex",
        )
    listed = manifest.get("members")
    actual = {name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != MANIFEST}
    if listed != actual:
        wrong = sorted(set(actual) ^ set(cast("dict[str, str]", listed))) if isinstance(listed, dict) else []
        raise _damaged(f"its members are not those of the manifest{': ' + ', '.join(wrong[:5]) if wrong else ''}")
    return manifest
