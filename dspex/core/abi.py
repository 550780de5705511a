"""The binary interface of the core: the flat parameter table as arrays and as a blob.

Nothing here loads NumPy before arrays are wanted: `validate_blob` checks a file's table without it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from dspex.core.table import (
    BLOCK,
    FORMATS,
    MAX_DIMENSIONS,
    MAX_EXACT,
    MAX_STACK,
    Columns,
    Kind,
    Op,
    ParamTable,
    TableLayout,
    check,
    reject,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "MAX_DIMENSIONS",
    "MAX_EXACT",
    "MAX_STACK",
    "Kind",
    "Op",
    "ParamTable",
    "TableLayout",
    "dimension_count",
    "empty_population",
    "from_bytes",
    "rule_count",
    "to_bytes",
    "validate",
    "validate_blob",
]

_MAGIC: Final = b"DSPXPT01"
_HEADER: Final = struct.Struct("<8sIIIIII")  # magic, crc32 of the rest, D, categories, code, constants, reserved
_ALIGN: Final = 64
_LETTERS: Final = {"u1": "B", "i4": "i", "f8": "d"}


def rule_count(table: ParamTable) -> int:
    """Number of rules in the code."""
    return int(((table.op == Op.END) & (table.arg >= 0)).sum())


def dimension_count(table: ParamTable) -> int:
    """Number of rows."""
    return int(table.kind.shape[0])


def empty_population(dimensions: int, candidates: int) -> NDArray[np.float64]:
    """A population in which every row of every candidate is inactive, (D, N) float64."""
    import numpy as np

    return np.full((dimensions, candidates), np.nan)


def to_bytes(table: ParamTable) -> bytes:
    """The table as one little-endian blob; each array begins at a multiple of 64 bytes.

    Raises:
        CoreError: DX3002 for an array of another type.
    """
    sizes = (table.kind.size, table.cat_logp.size, table.op.size, table.const.size)
    body = bytearray()
    for (name, form), array in zip(FORMATS.items(), table, strict=True):
        if f"{array.dtype.kind}{array.dtype.itemsize}" != form:
            reject("DX3002", f"array {name} is {array.dtype}, not {form}")
        body += b"\0" * (-(len(body) + _ALIGN) % _ALIGN)
        body += array.astype(f"<{form}").tobytes()
    tail = struct.pack("<IIIII", *sizes, 0) + b"\0" * (_ALIGN - _HEADER.size) + bytes(body)
    return _MAGIC + struct.pack("<I", zlib.crc32(tail)) + tail


def from_bytes(blob: bytes) -> ParamTable:
    """Load and validate a table.

    Raises:
        CoreError: DX3001 when the blob is not a table or is damaged, DX3002–DX3006 when its content is not sound.
    """
    import numpy as np

    spans = _spans(blob)
    check(_columns(blob, spans))
    arrays = [
        np.frombuffer(blob, dtype=f"<{form}", count=count, offset=begin).astype(form, copy=True)
        for form, begin, count in spans
    ]
    return ParamTable(*arrays)


def validate_blob(blob: bytes) -> TableLayout:
    """Check a table without building its arrays, and so without NumPy; `from_bytes` accepts exactly the same.

    Raises:
        CoreError: As `from_bytes`.
    """
    return check(_columns(blob, _spans(blob)))


def validate(table: ParamTable) -> TableLayout:
    """Check everything that the unchecked kernels rely on.

    Raises:
        CoreError: DX3002–DX3006, naming the array, the row or the instruction that is not sound.
    """
    columns: list[Sequence[float]] = []
    for (name, form), array in zip(FORMATS.items(), table, strict=True):
        dtype = getattr(array, "dtype", None)
        if dtype is None or f"{dtype.kind}{dtype.itemsize}" != form or not dtype.isnative:
            reject("DX3002", f"array {name} is {type(array).__name__ if dtype is None else dtype}, not {form}")
        flags = array.flags
        if array.ndim != 1 or not (flags.c_contiguous and flags.aligned and flags.writeable):
            reject("DX3002", f"array {name} must be one-dimensional, contiguous, aligned and writable")
        columns.append(cast("list[float]", array.tolist()))
    return check(Columns(*columns))  # pyright: ignore[reportArgumentType]


def _spans(blob: bytes) -> list[tuple[str, int, int]]:
    """Type, first byte and length of each array in a blob whose checksum and size are right."""
    if len(blob) < _ALIGN or blob[:8] != _MAGIC:
        reject("DX3001", f"not a parameter table: {len(blob)} bytes, magic {bytes(blob[:8])!r}")
    _, crc, rows, categories, code, constants, reserved = _HEADER.unpack_from(blob)
    if zlib.crc32(memoryview(blob)[12:]) != crc:
        reject("DX3001", "the parameter table is damaged: its checksum does not match")
    counts = {"cat_logp": categories, "op": code, "arg": code, "const": constants}
    if max(rows, categories, code, constants) > MAX_DIMENSIONS * 16 or rows > MAX_DIMENSIONS:
        reject("DX3002", f"sizes out of range: {rows} rows, {categories} categories, {code} instructions")
    spans: list[tuple[str, int, int]] = []
    gaps, offset = [(_HEADER.size, _ALIGN)], _ALIGN
    for name, form in FORMATS.items():
        begin = offset + -offset % _ALIGN
        gaps.append((offset, begin))
        count = counts.get(name, rows)
        offset = begin + count * int(form[1])
        if offset > len(blob):
            reject("DX3001", f"the parameter table is truncated: {name} ends at byte {offset} of {len(blob)}")
        spans.append((form, begin, count))
    if offset != len(blob):
        reject("DX3001", f"{len(blob) - offset} bytes follow the parameter table")
    # One table has one blob: what stands between the arrays is zero.
    if reserved or any(any(blob[begin:end]) for begin, end in gaps):
        reject("DX3001", "the parameter table has bytes between its arrays")
    return spans


def _columns(blob: bytes, spans: Sequence[tuple[str, int, int]]) -> Columns:
    return Columns(*(struct.unpack_from(f"<{count}{_LETTERS[form]}", blob, begin) for form, begin, count in spans))
