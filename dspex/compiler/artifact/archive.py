"""The container of an artifact: a zip whose every byte is covered by a hash, written deterministically.

Reading is safe on hostile files: sizes are limited before anything is unpacked, names are plain relative
paths, nothing is extracted to disk and nothing is executed. The zip's comment carries a SHA-256 of all that
stands before it; the manifest carries one for each member; a signature covers the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, cast

from dspex.errors import CompileError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "SIGNATURE",
    "Archive",
    "archive_bytes",
    "archive_of",
    "checked_manifest",
    "json_bytes",
    "json_of",
    "read_archive",
    "read_bytes",
    "replace_file",
    "unsound",
    "write_archive",
]

FORMAT_VERSION: Final = 2
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
MAX_FILE: Final = 128 * 2**20
MAX_MEMBER: Final = 64 * 2**20
MAX_TOTAL: Final = 128 * 2**20
MAX_MEMBERS: Final = 10_000

_NAME: Final = re.compile(r"(?:[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*/){0,3}[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*")
_COMMENT: Final = re.compile(rb"dspex sha256=([0-9a-f]{64})")
_MARK: Final = b"dspex sha256="
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
    """The checked contents of an artifact.

    Attributes:
        manifest: What the manifest says.
        members: Every other member by name, without the signature.
        raw_manifest: The manifest's bytes, which a signature covers.
        signature: The signature member; None for an unsigned artifact.
    """

    manifest: Mapping[str, object]
    members: Mapping[str, bytes]
    raw_manifest: bytes = b""
    signature: bytes | None = None

    def text(self, name: str) -> str:
        """A member as text."""
        try:
            return self.member(name).decode()
        except UnicodeDecodeError as error:
            raise unsound(f"{name} is not UTF-8 text") from error

    def json(self, name: str) -> object:
        """A member as JSON."""
        return json_of(self.member(name), name)

    def member(self, name: str) -> bytes:
        found = self.members.get(name)
        if found is None:
            raise unsound(f"{name} is missing")
        return found


def unsound(what: str) -> CompileError:
    """The error for a file that no dspex wrote like this."""
    return CompileError(
        "DX2203",
        f"the file is not a sound artifact: {what}",
        fix="compile and save it again, or copy it again from its source",
    )


def json_of(data: bytes, name: str) -> object:
    """JSON without what JSON has not: NaN, infinities, a name given twice.

    Raises:
        CompileError: DX2203.
    """
    try:
        return cast("object", json.loads(data, parse_constant=_no_constant, object_pairs_hook=_object))
    except (ValueError, RecursionError) as error:
        raise unsound(f"{name} is not JSON") from error


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is given twice")
    return made


def json_bytes(value: object) -> bytes:
    """`value` as the JSON text of a member."""
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def checked_manifest(manifest: Mapping[str, object], members: Mapping[str, bytes]) -> bytes:
    """The manifest's bytes, with the format and the hash of every member."""
    full = {
        "format": FORMAT_VERSION,
        **manifest,
        "members": {name: hashlib.sha256(members[name]).hexdigest() for name in sorted(members)},
    }
    return json_bytes(full)


def archive_bytes(raw_manifest: bytes, members: Mapping[str, bytes], signature: bytes | None = None) -> bytes:
    """An artifact's bytes; equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        _put(archive, MANIFEST, raw_manifest)
        for name in sorted(members):
            _put(archive, name, members[name])
        if signature is not None:
            _put(archive, SIGNATURE, signature)
        archive.comment = _MARK + b"0" * 64
    head = buffer.getvalue()[: -len(_MARK) - 64]
    return head + _MARK + hashlib.sha256(head).hexdigest().encode()


def write_archive(
    path: str | os.PathLike[str],
    manifest: Mapping[str, object],
    members: Mapping[str, bytes],
    signature: bytes | None = None,
) -> None:
    """Writes an artifact; equal contents give equal bytes, and a failure leaves the old file in place.

    Raises:
        CompileError: DX2202 when the file cannot be written.
    """
    replace_file(Path(path), archive_bytes(checked_manifest(manifest, members), members, signature))


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.create_system = 3
    archive.writestr(info, data)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file at once or not at all, readable by its owner only.

    Raises:
        CompileError: DX2202.
    """
    import tempfile

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


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, at most as many as an artifact may have and one more.

    Raises:
        CompileError: DX2201.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise CompileError(
            "DX2201",
            f"the artifact cannot be read: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            fix="check the path; `dspex compile PROGRAM -o FILE` writes one",
        ) from error


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """The contents of an artifact, every hash checked.

    Raises:
        CompileError: DX2201 when the file cannot be read, DX2203 when it is damaged, not an artifact or unsafe,
            DX2204 when its format is newer than this dspex.
    """
    try:
        return archive_of(read_bytes(path))
    except CompileError as error:
        error.where = str(path)
        raise


def archive_of(data: bytes) -> Archive:
    """The contents of an artifact's bytes, every hash checked.

    Raises:
        CompileError: DX2203 or DX2204.
    """
    if len(data) > MAX_FILE:
        raise unsound(f"it is larger than {MAX_FILE} bytes")
    found = _COMMENT.fullmatch(data[-77:])
    if found is None:
        raise unsound("it does not end with its hash, so it is truncated or was not written by dspex")
    if hashlib.sha256(memoryview(data)[:-77]).hexdigest().encode() != found[1]:
        raise unsound("its bytes do not match its hash")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive)
    except _DAMAGE as error:
        raise unsound(f"the zip cannot be read ({type(error).__name__})") from error
    raw = members.pop(MANIFEST, None)
    if raw is None:
        raise unsound(f"{MANIFEST} is missing")
    signature = members.pop(SIGNATURE, None)
    return Archive(_manifest(raw, members), members, raw, signature)


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise unsound(f"it has {len(infos)} members, {MAX_MEMBERS} are allowed")
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise unsound(f"it unpacks to more than {MAX_TOTAL} bytes")
    members: dict[str, bytes] = {}
    for info in infos:
        name = info.filename
        if not _NAME.fullmatch(name) or name in members:
            raise unsound(f"the member name {name!r:.200} is not a plain, single, relative path")
        if info.file_size > MAX_MEMBER:
            raise unsound(f"{name} unpacks to more than {MAX_MEMBER} bytes")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise unsound(f"{name} is encrypted or compressed in another way than deflate")
        with archive.open(info) as member:
            content = member.read(MAX_MEMBER + 1)
        if len(content) != info.file_size:
            raise unsound(f"{name} does not have the size that it declares")
        members[name] = content
    return members


def _manifest(raw: bytes, members: Mapping[str, bytes]) -> Mapping[str, object]:
    found = json_of(raw, MANIFEST)
    if not isinstance(found, dict):
        raise unsound(f"{MANIFEST} is not an object")
    manifest = cast("dict[str, object]", found)
    version = manifest.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise unsound(f"{MANIFEST} names no format version")
    if version > FORMAT_VERSION:
        raise CompileError(
            "DX2204",
            f"the artifact has format {version}, this dspex reads up to {FORMAT_VERSION}",
            fix="install a newer dspex",
        )
    listed = manifest.get("members")
    actual = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    if listed != actual:
        wrong = sorted(set(actual) ^ set(cast("dict[str, str]", listed))) if isinstance(listed, dict) else []
        raise unsound(f"its members are not those of the manifest{': ' + ', '.join(wrong[:5]) if wrong else ''}")
    return manifest
