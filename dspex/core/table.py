"""What a parameter table is, and when it is sound: in pure Python, so that a file is refused without NumPy.

Kernels are compiled without bounds checks, so a table is checked whenever it is built or loaded. There is one
validator, `check`, over plain sequences: `abi.validate` gives it the arrays of a table in memory, `abi.validate_blob`
the numbers of a file. After it returns, no kernel can index outside an array, whatever values a population holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from dspex.errors import CoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK: Final = 256
"""Candidates that the rule machine advances together."""
MAX_STACK: Final = 32
"""Depth of the rule machine's stack."""
MAX_DIMENSIONS: Final = 1 << 20
MAX_EXACT: Final = 2.0**53
"""Largest magnitude of an integer Variable: float64 holds every integer up to it."""
MAX_BOUND: Final = 1e300
"""Largest magnitude of a bound and of a step: sums and differences of two of them are still finite."""
MAX_LOG: Final = 700.0
"""Largest magnitude of a logarithmic bound: its exponential is still finite."""


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
        cat_off: Offset of the row's first category in `cat_logp`, (D,) int32: rows follow each other.
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


FORMATS: Final[dict[str, str]] = {
    "kind": "u1",
    "log_flag": "u1",
    "lo": "f8",
    "hi": "f8",
    "step": "f8",
    "ncat": "i4",
    "cat_off": "i4",
    "parent": "i4",
    "parent_val": "i4",
    "cond_pc": "i4",
    "cat_logp": "f8",
    "op": "u1",
    "arg": "i4",
    "const": "f8",
}
"""Type of each array: sort and width in bytes."""


class Columns(NamedTuple):
    """The numbers of a table as plain sequences, named as in `ParamTable`."""

    kind: Sequence[int]
    log_flag: Sequence[int]
    lo: Sequence[float]
    hi: Sequence[float]
    step: Sequence[float]
    ncat: Sequence[int]
    cat_off: Sequence[int]
    parent: Sequence[int]
    parent_val: Sequence[int]
    cond_pc: Sequence[int]
    cat_logp: Sequence[float]
    op: Sequence[int]
    arg: Sequence[int]
    const: Sequence[float]


class TableLayout(NamedTuple):
    """What a sound table holds.

    Attributes:
        kinds: `Kind` of each row.
        categories: Categories of each row, 0 for numeric ones.
        rules: Number of rules.
        instructions: Length of the code.
        constants: Number of its constants.
    """

    kinds: tuple[int, ...]
    categories: tuple[int, ...]
    rules: int
    instructions: int
    constants: int


def reject(code: str, message: str) -> NoReturn:
    """Refuse a table."""
    raise CoreError(code, message, fix="build the table with compiler.lower, or restore the artifact from its source")


def check(columns: Columns) -> TableLayout:
    """Check everything that the unchecked kernels rely on, in time linear in the table.

    Raises:
        CoreError: DX3002 for sizes that differ, DX3003 to DX3006 naming the row or the instruction that is not sound.
    """
    rows = len(columns.kind)
    if rows > MAX_DIMENSIONS:
        reject("DX3002", f"a table has 0 to {MAX_DIMENSIONS} rows, not {rows}")
    for name, column in zip(Columns._fields[:10], columns, strict=False):
        if len(column) != rows:
            reject("DX3002", f"array {name} has {len(column)} rows, kind has {rows}")
    if len(columns.op) != len(columns.arg):
        reject("DX3002", f"op has {len(columns.op)} instructions, arg {len(columns.arg)}")
    _check_rows(columns)
    _check_categories(columns)
    _check_parents(columns)
    rules = _check_code(columns)
    return TableLayout(tuple(columns.kind), tuple(columns.ncat), rules, len(columns.op), len(columns.const))


def _check_rows(columns: Columns) -> None:
    # Comparisons are written so that NaN fails them.
    for row, (kind, log, lo, hi, step, ncat) in enumerate(zip(*columns[:6], strict=True)):
        if kind > Kind.INT:
            good = kind <= Kind.MODULE and log == 0 and ncat >= 1 and lo == 0.0 and hi == ncat - 1.0
            good = good and 0.0 <= step <= MAX_BOUND
        elif log:
            good = log == 1 and ncat == 0 and -MAX_LOG <= lo <= hi <= MAX_LOG and 0.0 <= step <= MAX_BOUND
            if kind == Kind.INT:
                good = good and lo >= 0.0 and step >= 1.0 and step == math.floor(step)
        elif kind == Kind.INT:
            good = ncat == 0 and -MAX_EXACT <= lo <= hi <= MAX_EXACT
            good = good and 1.0 <= step <= MAX_BOUND and step == math.floor(step)
        else:
            good = ncat == 0 and -MAX_BOUND <= lo <= hi <= MAX_BOUND and 0.0 <= step <= MAX_BOUND
        if not good:
            why = _flaw(kind, log, lo, hi, step, ncat)
            reject("DX3003", f"row {row}: {why} (kind {kind}, lo {lo}, hi {hi}, step {step}, ncat {ncat})")


def _flaw(kind: int, log: int, lo: float, hi: float, step: float, ncat: int) -> str:
    """The rule that a row breaks, in words."""
    integer, categorical = kind == Kind.INT, kind > Kind.INT
    whole = math.isfinite(step) and step == math.floor(step)
    for bad, rule in (
        (kind > Kind.MODULE, "unknown kind"),
        (log > 1, "log_flag must be 0 or 1"),
        (not (math.isfinite(lo) and math.isfinite(hi)), "bounds must be finite"),
        (not 0.0 <= step <= MAX_BOUND, "step must be finite and not negative"),
        (lo > hi, "lo must not be above hi"),
        (integer and step < 1, "an integer row needs a step of at least 1"),
        (integer and not whole, "an integer row's step is a whole number"),
        (categorical and log != 0, "a categorical row has no logarithmic scale"),
        (categorical and ncat < 1, "a categorical row needs at least one category"),
        (not categorical and ncat != 0, "a numeric row has no categories"),
        (categorical, "a categorical row spans 0 to ncat - 1"),
        (log == 1 and (lo < -MAX_LOG or hi > MAX_LOG), "a logarithmic bound must lie in ±700"),
        (log == 1, "a logarithmic integer row begins at 1"),
        (integer, "an integer bound must lie in ±2**53"),
    ):
        if bad:
            return rule
    return "a bound must lie in ±1e300"


def _check_categories(columns: Columns) -> None:
    weights, total = columns.cat_logp, len(columns.cat_logp)
    offset = 0
    for row, (begin, count) in enumerate(zip(columns.cat_off, columns.ncat, strict=True)):
        # Rows follow each other: shared categories would make the check below quadratic.
        if begin != offset or begin + count > total:
            reject("DX3004", f"row {row}: categories {begin} to {begin + count} of {total}, expected from {offset}")
        offset += count
    if offset != total:
        reject("DX3004", f"{total} prior weights for {offset} categories")
    for row, (begin, count) in enumerate(zip(columns.cat_off, columns.ncat, strict=True)):
        if not count:
            continue
        mass = 0.0
        for weight in weights[begin : begin + count]:
            if not weight <= 1e-9:
                reject("DX3004", f"row {row}: cat_logp holds {weight}, not the logarithm of a probability")
            mass += math.exp(weight)
        if not abs(mass - 1.0) <= 1e-6:
            reject("DX3004", f"row {row}: prior weights sum to {mass:.6g}, not 1")


def _check_parents(columns: Columns) -> None:
    for row, parent in enumerate(columns.parent):
        if parent == -1:
            continue
        if not 0 <= parent < row:
            reject("DX3005", f"row {row}: parent {parent} must be -1 or an earlier row")
        value, categories = columns.parent_val[row], columns.ncat[parent]
        if not 0 <= value < categories:
            reject("DX3005", f"row {row}: parent_val {value} of a parent with {categories} categories")


def _check_code(columns: Columns) -> int:
    """Simulate the code's stack once; straight-line code makes this exact. Returns the number of rules."""
    kinds, categories, ops, args = columns.kind, columns.ncat, columns.op, columns.arg
    rows, constants = len(kinds), len(columns.const)
    for constant in columns.const:
        if constant != constant:
            reject("DX3006", "the code has a constant that is not a number")
    starts: dict[int, int] = {}  # row -> start of its condition
    start, depth, rules, highest = 0, 0, 0, -1
    for pc, (op, arg) in enumerate(zip(ops, args, strict=True)):
        flaw = ""
        if op == 1:
            flaw = "" if 0 <= arg < constants else f"{constants} constants"
            depth += 1
        elif op in (2, 4):
            flaw = "" if 0 <= arg < rows else f"{rows} rows"
            highest = max(highest, arg)
            depth += 1
        elif op == 3:
            if pc == start or ops[pc - 1] != 2 or kinds[args[pc - 1]] <= 1:
                flaw = "must follow LOAD of a categorical row"
            elif not 0 <= arg <= constants - categories[args[pc - 1]]:
                flaw = f"its values end after the {constants} constants"
        elif 5 <= op <= 15:
            flaw = "" if depth >= 2 else f"needs two values, the stack holds {depth}"
            depth -= 1
        elif op == 16:
            flaw = "" if depth >= 1 else "needs a value, the stack is empty"
        elif op > 16:
            flaw = "unknown opcode"
        else:
            row = -1 - arg
            if depth != 1:
                flaw = f"leaves {depth} values instead of one"
            elif arg >= 0:
                flaw = "" if arg == rules and not starts else f"rules must come first and in order; {rules} is next"
                rules += 1
            elif row >= rows or row in starts or highest >= row:
                flaw = f"row {row} has no such condition, or it reads a later row"
            else:
                starts[row] = start
            start, depth, highest = pc + 1, 0, -1
        if depth > MAX_STACK:
            flaw = flaw or f"deeper than {MAX_STACK} values"
        if flaw:
            reject("DX3006", f"instruction {pc} ({op} {arg}): {flaw}")
    if start != len(ops):
        reject("DX3006", f"the code has no END after instruction {start}")
    for row, pc in enumerate(columns.cond_pc):
        if pc != starts.get(row, -1):
            reject("DX3006", f"row {row}: cond_pc {pc}, its condition is at {starts.get(row, -1)}")
    return rules
