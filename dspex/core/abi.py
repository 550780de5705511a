"""The binary interface of the core: the flat parameter table, its blob form and its validator.

Kernels are compiled without bounds checks, so a table is validated whenever it is built or loaded. After
`validate` returns, no kernel can index outside an array, whatever values a population holds.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from dspex.errors import CoreError

BLOCK: Final = 256
"""Candidates that the rule machine advances together."""
MAX_STACK: Final = 32
"""Depth of the rule machine's stack."""
MAX_DIMENSIONS: Final = 1 << 20
MAX_EXACT: Final = 2.0**53
"""Largest magnitude of an integer Variable: float64 holds every integer up to it."""

_MAGIC: Final = b"DSPXPT01"
_HEADER: Final = struct.Struct("<8sIIIIII")  # magic, crc32 of the rest, D, categories, code, constants, reserved
_ALIGN: Final = 64


class Kind(IntEnum):
    """What a row of the table is. Every kind above INT is categorical."""

    FLOAT = 0
    INT = 1
    BOOL = 2
    CHOICE = 3
    TEXT = 4
    DEMOS = 5
    MODULE = 6


class Op(IntEnum):
    """Instructions of the rule machine. A program is straight-line code, so it always ends."""

    END = 0  # arg: index of the rule, or -1 - d for the condition of row d
    CONST = 1  # arg: index into const
    LOAD = 2  # arg: row; pushes the row's value in natural units, a category as its index
    LOOKUP = 3  # arg: offset into const; directly after LOAD of a categorical row: replaces index i by const[arg + i]
    ACTIVE = 4  # arg: row; pushes 1 where the row is active, else 0
    ADD = 5
    SUB = 6
    MUL = 7
    LE = 8
    LT = 9
    GE = 10
    GT = 11
    EQ = 12
    NE = 13
    AND = 14
    OR = 15
    NOT = 16


FIRST_BINARY: Final = int(Op.ADD)
LAST_BINARY: Final = int(Op.OR)
HIGHEST_OP: Final = int(Op.NOT)
HIGHEST_KIND: Final = int(Kind.MODULE)


class ParamTable(NamedTuple):
    """Structure of arrays, one row per Variable, parents before children.

    Bounds are in transformed space (the logarithm where `log_flag` is set); `step` is in natural units, 0 for a
    continuous row. A candidate is one column of float64: transformed numbers, category indices, NaN where the row
    is inactive.

    Attributes:
        kind: `Kind` of each row, (D,) uint8.
        log_flag: 1 where the row is searched on a logarithmic scale, (D,) uint8.
        lo: Lower bounds, (D,) float64; 0 for categorical rows.
        hi: Upper bounds, inclusive, (D,) float64; ncat - 1 for categorical rows.
        step: Grid step in natural units, (D,) float64.
        ncat: Categories of each row, (D,) int32; 0 for numeric rows.
        cat_off: Offset of the row's first category in `cat_logp`, (D,) int32.
        parent: Row whose category activates this one, or -1, (D,) int32.
        parent_val: Category of `parent` under which this row is active, (D,) int32.
        cond_pc: Start of the row's general condition in the code, or -1, (D,) int32.
        cat_logp: Log prior weights, normalised per row, (sum of ncat,) float64.
        op: Instructions, (L,) uint8: first the rules in order, then the conditions.
        arg: Their arguments, (L,) int32.
        const: Constants of the code, (n,) float64.
    """

    kind: NDArray[np.uint8]
    log_flag: NDArray[np.uint8]
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    step: NDArray[np.float64]
    ncat: NDArray[np.int32]
    cat_off: NDArray[np.int32]
    parent: NDArray[np.int32]
    parent_val: NDArray[np.int32]
    cond_pc: NDArray[np.int32]
    cat_logp: NDArray[np.float64]
    op: NDArray[np.uint8]
    arg: NDArray[np.int32]
    const: NDArray[np.float64]


_DTYPES: Final[dict[str, str]] = {
    "kind": "<u1",
    "log_flag": "<u1",
    "lo": "<f8",
    "hi": "<f8",
    "step": "<f8",
    "ncat": "<i4",
    "cat_off": "<i4",
    "parent": "<i4",
    "parent_val": "<i4",
    "cond_pc": "<i4",
    "cat_logp": "<f8",
    "op": "<u1",
    "arg": "<i4",
    "const": "<f8",
}


def rule_count(table: ParamTable) -> int:
    """Number of rules in the code."""
    return int(np.count_nonzero((table.op == Op.END) & (table.arg >= 0)))


def dimension_count(table: ParamTable) -> int:
    """Number of rows."""
    return int(table.kind.shape[0])


def empty_population(dimensions: int, candidates: int) -> NDArray[np.float64]:
    """A population in which every row of every candidate is inactive, (D, N) float64."""
    return np.full((dimensions, candidates), np.nan)


def to_bytes(table: ParamTable) -> bytes:
    """The table as one little-endian blob; each array begins at a multiple of 64 bytes."""
    sizes = (table.kind.size, table.cat_logp.size, table.op.size, table.const.size)
    body = bytearray()
    for (name, dtype), array in zip(_DTYPES.items(), table, strict=True):
        if array.dtype.newbyteorder("=") != np.dtype(dtype).newbyteorder("="):
            _reject("DX3002", f"array {name} is {array.dtype}, not {dtype}")
        body += b"\0" * (-(len(body) + _ALIGN) % _ALIGN)
        body += np.ascontiguousarray(array, dtype=dtype).tobytes()
    tail = struct.pack("<IIIII", *sizes, 0) + b"\0" * (_ALIGN - _HEADER.size) + bytes(body)
    return _MAGIC + struct.pack("<I", zlib.crc32(tail)) + tail


def from_bytes(blob: bytes) -> ParamTable:
    """Load and validate a table.

    Raises:
        CoreError: DX3001 when the blob is not a table or is damaged, DX3002–DX3006 when its content is not sound.
    """
    if len(blob) < _ALIGN or blob[:8] != _MAGIC:
        _reject("DX3001", f"not a parameter table: {len(blob)} bytes, magic {bytes(blob[:8])!r}")
    _, crc, rows, categories, code, constants, _ = _HEADER.unpack_from(blob)
    if zlib.crc32(memoryview(blob)[12:]) != crc:
        _reject("DX3001", "the parameter table is damaged: its checksum does not match")
    counts = {"cat_logp": categories, "op": code, "arg": code, "const": constants}
    if max(rows, categories, code, constants) > MAX_DIMENSIONS * 16 or rows > MAX_DIMENSIONS:
        _reject("DX3002", f"sizes out of range: {rows} rows, {categories} categories, {code} instructions")
    arrays: list[NDArray[np.generic]] = []
    offset = _ALIGN
    for name, dtype in _DTYPES.items():
        offset += -offset % _ALIGN
        count = counts.get(name, rows)
        end = offset + count * np.dtype(dtype).itemsize
        if end > len(blob):
            _reject("DX3001", f"the parameter table is truncated: {name} ends at byte {end} of {len(blob)}")
        native = np.dtype(dtype).newbyteorder("=")
        arrays.append(np.frombuffer(blob, dtype=dtype, count=count, offset=offset).astype(native, copy=True))
        offset = end
    if offset != len(blob):
        _reject("DX3001", f"{len(blob) - offset} bytes follow the parameter table")
    table = ParamTable(*arrays)  # pyright: ignore[reportArgumentType]
    validate(table)
    return table


def validate(table: ParamTable) -> None:
    """Check everything that the unchecked kernels rely on.

    Raises:
        CoreError: naming the array, the row or the instruction that is not sound.
    """
    _validate_layout(table)
    _validate_rows(table)
    _validate_categories(table)
    _validate_conditions(table)
    _validate_code(table)


def _reject(code: str, message: str) -> NoReturn:
    raise CoreError(code, message, fix="build the table with compiler.lower, or restore the artifact from its source")


def _validate_layout(table: ParamTable) -> None:
    rows = table.kind.shape[0] if table.kind.ndim == 1 else -1
    if not 0 <= rows <= MAX_DIMENSIONS:
        _reject("DX3002", f"a table has 0 to {MAX_DIMENSIONS} rows, not shape {table.kind.shape}")
    for (name, dtype), array in zip(_DTYPES.items(), table, strict=True):
        if array.dtype != np.dtype(dtype).newbyteorder("="):
            _reject("DX3002", f"array {name} is {array.dtype}, not {dtype}")
        if array.ndim != 1 or not array.flags.c_contiguous or not array.flags.aligned or not array.flags.writeable:
            _reject("DX3002", f"array {name} must be one-dimensional, contiguous, aligned and writable")
        if name not in ("cat_logp", "op", "arg", "const") and array.shape[0] != rows:
            _reject("DX3002", f"array {name} has {array.shape[0]} rows, kind has {rows}")
    if table.op.shape != table.arg.shape:
        _reject("DX3002", f"op has {table.op.shape[0]} instructions, arg {table.arg.shape[0]}")


def _first(bad: NDArray[np.bool_]) -> int:
    return int(np.argmax(bad))


def _validate_rows(table: ParamTable) -> None:
    categorical = table.kind > Kind.INT
    for bad, rule in (
        (table.kind > HIGHEST_KIND, "unknown kind"),
        (table.log_flag > 1, "log_flag must be 0 or 1"),
        (~np.isfinite(table.lo) | ~np.isfinite(table.hi), "bounds must be finite"),
        (~np.isfinite(table.step) | (table.step < 0), "step must be finite and not negative"),
        (table.lo > table.hi, "lo must not be above hi"),
        ((table.kind == Kind.INT) & (table.step < 1), "an integer row needs a step of at least 1"),
        ((table.kind == Kind.INT) & (table.step != np.floor(table.step)), "an integer row's step is a whole number"),
        (categorical & (table.log_flag != 0), "a categorical row has no logarithmic scale"),
        (categorical & (table.ncat < 1), "a categorical row needs at least one category"),
        (~categorical & (table.ncat != 0), "a numeric row has no categories"),
        (categorical & ((table.lo != 0) | (table.hi != table.ncat - 1.0)), "a categorical row spans 0 to ncat - 1"),
        ((table.log_flag == 1) & ((table.lo < -700) | (table.hi > 700)), "a logarithmic bound must lie in ±700"),
        ((table.kind == Kind.INT) & (table.log_flag == 1) & (table.lo < 0), "a logarithmic integer row begins at 1"),
        ((table.log_flag == 0) & (np.maximum(-table.lo, table.hi) > 1e300), "a bound must lie in ±1e300"),
        (
            (table.kind == Kind.INT)
            & (table.log_flag == 0)
            & (np.maximum(np.abs(table.lo), np.abs(table.hi)) > MAX_EXACT),
            "an integer bound must lie in ±2**53",
        ),
    ):
        if bad.any():
            row = _first(bad)
            _reject(
                "DX3003",
                f"row {row}: {rule} (kind {table.kind[row]}, lo {table.lo[row]}, hi {table.hi[row]}, "
                f"step {table.step[row]}, ncat {table.ncat[row]})",
            )


def _validate_categories(table: ParamTable) -> None:
    total = table.cat_logp.shape[0]
    ends = table.cat_off.astype(np.int64) + table.ncat
    bad = (table.cat_off < 0) | (ends > total)
    if bad.any():
        row = _first(bad)
        _reject("DX3004", f"row {row}: categories {table.cat_off[row]} to {ends[row]} of {total}")
    if np.isnan(table.cat_logp).any() or (table.cat_logp > 1e-9).any():
        _reject("DX3004", "cat_logp holds a value that is not the logarithm of a probability")
    for row in np.flatnonzero(table.ncat):
        weights = np.exp(table.cat_logp[table.cat_off[row] : ends[row]])
        if abs(float(weights.sum()) - 1.0) > 1e-6:
            _reject("DX3004", f"row {row}: prior weights sum to {float(weights.sum()):.6g}, not 1")


def _validate_conditions(table: ParamTable) -> None:
    rows = np.arange(table.kind.size, dtype=np.int32)
    bad = (table.parent < -1) | (table.parent >= rows)
    if bad.any():
        row = _first(bad)
        _reject("DX3005", f"row {row}: parent {table.parent[row]} must be -1 or an earlier row")
    for row in np.flatnonzero(table.parent >= 0):
        categories = int(table.ncat[table.parent[row]])
        if not 0 <= table.parent_val[row] < categories:
            _reject("DX3005", f"row {row}: parent_val {table.parent_val[row]} of a parent with {categories} categories")


def _validate_code(table: ParamTable) -> None:
    """Simulate the code's stack once; straight-line code makes this exact."""
    rows, length, constants = table.kind.shape[0], table.op.shape[0], table.const.shape[0]
    if np.isnan(table.const).any():
        _reject("DX3006", "the code has a constant that is not a number")
    starts: dict[int, int] = {}  # row -> start of its condition
    start, depth, rules, highest = 0, 0, 0, -1
    for pc in range(length):
        op, arg = int(table.op[pc]), int(table.arg[pc])
        at = f"instruction {pc} ({op} {arg})"
        if op > HIGHEST_OP:
            _reject("DX3006", f"{at}: unknown opcode")
        if op == Op.CONST:
            if not 0 <= arg < constants:
                _reject("DX3006", f"{at}: {constants} constants")
            depth += 1
        elif op in (Op.LOAD, Op.ACTIVE):
            if not 0 <= arg < rows:
                _reject("DX3006", f"{at}: {rows} rows")
            highest = max(highest, arg)
            depth += 1
        elif op == Op.LOOKUP:
            if pc == start or table.op[pc - 1] != Op.LOAD or table.kind[table.arg[pc - 1]] <= Kind.INT:
                _reject("DX3006", f"{at}: must follow LOAD of a categorical row")
            if not 0 <= arg <= constants - int(table.ncat[table.arg[pc - 1]]):
                _reject("DX3006", f"{at}: its values end after the {constants} constants")
        elif FIRST_BINARY <= op <= LAST_BINARY:
            if depth < 2:
                _reject("DX3006", f"{at}: needs two values, the stack holds {depth}")
            depth -= 1
        elif op == Op.NOT:
            if depth < 1:
                _reject("DX3006", f"{at}: needs a value, the stack is empty")
        else:
            if depth != 1:
                _reject("DX3006", f"{at}: leaves {depth} values instead of one")
            if arg >= 0:
                if arg != rules or starts:
                    _reject("DX3006", f"{at}: rules must come first and in order; {rules} was expected")
                rules += 1
            else:
                row = -1 - arg
                if row >= rows or row in starts or highest >= row:
                    _reject("DX3006", f"{at}: row {row} has no such condition, or it reads a later row")
                starts[row] = start
            start, depth, highest = pc + 1, 0, -1
        if depth > MAX_STACK:
            _reject("DX3006", f"{at}: deeper than {MAX_STACK} values")
    if start != length:
        _reject("DX3006", f"the code has no END after instruction {start}")
    for row in range(rows):
        if int(table.cond_pc[row]) != starts.get(row, -1):
            _reject("DX3006", f"row {row}: cond_pc {table.cond_pc[row]}, its condition is at {starts.get(row, -1)}")
