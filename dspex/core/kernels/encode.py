"""Between natural values and a candidate's column.

A column holds numbers in transformed space, category indices, and NaN for inactive rows. A value on a logarithmic scale
has at most 12 significant digits, so that what is recorded and what is written down is one number: `natural` rounds
whatever the entry is, and `settle` moves an entry to the one that stands for its value. Candidates are drawn and scored
as they come; the one that is kept is settled, and means the same value before and after.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.elementary import exp, log

_LOWEST: Final = -10
_HIGHEST: Final = 33
_DIGITS: Final = 12
_EXPONENTS: Final = range(_LOWEST, _HIGHEST + 1)
# By decimal exponent from -10: where the next one begins, and the exact powers of ten that leave 12 digits.
_NEXT: Final = np.array([float(f"1e{e + 1}") for e in _EXPONENTS])
_TIMES: Final = np.array([10.0 ** max(_DIGITS - 1 - e, 0) for e in _EXPONENTS])
_OVER: Final = np.array([10.0 ** max(e - _DIGITS + 1, 0) for e in _EXPONENTS])
_PER_BIT: Final = np.int64(1233)  # log10(2) in units of 2**-12
_S12: Final = np.int64(12)
_S52: Final = np.int64(52)
_BIAS: Final = np.int64(1023)


@kernel(exact=True)
def canonical(value: float) -> float:
    """`value` rounded to 12 significant digits, correctly as float(f"{value:.12g}") but for exact ties.

    The power of ten is exact and the rounded quotient has few digits, so one division rounds correctly. Outside
    1e-10 … 1e33 the value is returned as it is.
    """
    size = abs(value)
    exponent = (np.float64(size).view(np.int64) >> _S52) - _BIAS
    place = int64(((exponent * _PER_BIT) >> _S12) - _LOWEST)
    place = min(max(place, int64(0)), int64(_HIGHEST - _LOWEST))
    place = min(place + (int64(1) if size >= _NEXT[place] else int64(0)), int64(_HIGHEST - _LOWEST))
    times, over = _TIMES[place], _OVER[place]
    rounded = np.rint(value * times / over) / times * over
    return float(rounded) if 1e-10 <= size <= 1e33 else value


@kernel(exact=True)
def natural(kind: int, log_flag: int, z: float) -> float:
    """Natural value of a row at the column's entry z; a category as its index; NaN stays NaN.

    Kernels called for each entry take a row's scalars: passing the whole table costs more than the work.
    """
    if kind > 1:
        return z
    value = exp(z) if log_flag == 1 else z
    if kind == 1:
        return float(np.rint(value))
    return canonical(value) if log_flag == 1 else value


@kernel(exact=True)
def read_row(
    kind: int,
    log_flag: int,
    population: NDArray[np.float64],
    d: int,
    first: int,
    count: int,
    values: NDArray[np.float64],
    row: int,
) -> None:
    """`natural` of many entries of one row.

    One short loop after the other: each is made of vectors, which one loop over everything is not.

    Args:
        kind: Of the row.
        log_flag: Of the row.
        population: (D, N) float64.
        d: The row.
        first: First candidate.
        count: How many candidates.
        values: Their natural values go to the beginning of row `row`.
        row: Of `values`.
    """
    # Rows are taken here and not by the caller, who would count references to them.
    entries, out, n = population[d, first : first + count], values[row, :count], count
    if kind > 1 or log_flag == 0:
        for i in range(n):
            out[i] = entries[i]
    else:
        for i in range(n):
            out[i] = exp(entries[i])
    if kind == 1:
        for i in range(n):
            out[i] = np.rint(out[i])
    elif kind == 0 and log_flag == 1:
        for i in range(n):
            out[i] = canonical(out[i])


@kernel(exact=True)
def transformed(kind: int, log_flag: int, value: float) -> float:
    """The column's entry for a natural value; the inverse of `natural`."""
    if kind <= 1 and log_flag == 1 and value > 0.0:
        return log(value)
    return value


@kernel(exact=True)
def on_grid(kind: int, first: float, last: float, step: float, value: float) -> float:
    """The value of the grid nearest to a natural value."""
    # The guard absorbs the rounding of the quotient, as in `program.variables.Float`.
    steps = np.floor((last - first) / step + 1e-9)
    index = np.rint((value - first) / step)
    index = index if index > 0.0 else 0.0
    nearest = first + (steps if index > steps else index) * step
    return float(np.rint(nearest)) if kind == 1 else nearest


@kernel(exact=True)
def snap(kind: int, log_flag: int, lo: float, hi: float, step: float, z: float) -> float:
    """The legal entry nearest to z: inside the bounds and on the grid."""
    z = z if z > lo else lo
    z = hi if z > hi else z
    if kind > 1:
        return float(np.rint(z))
    if step <= 0.0:
        return z
    if log_flag == 1:
        return log(on_grid(kind, canonical(exp(lo)), canonical(exp(hi)), step, exp(z)))
    return min(on_grid(kind, lo, hi, step, z), hi)


@kernel(exact=True)
def snap_row(kind: int, log_flag: int, lo: float, hi: float, step: float, entries: NDArray[np.float64]) -> None:
    """`snap` of many entries of one row, in place, (n,) float64; in short loops as in `read_row`."""
    n = entries.shape[0]
    if kind > 1 or step <= 0.0:
        for i in range(n):
            z = entries[i]
            z = z if z > lo else lo
            entries[i] = hi if z > hi else z
        if kind > 1:
            for i in range(n):
                entries[i] = np.rint(entries[i])
    elif log_flag == 1:
        # The grid has ends of its own, here and below.
        first, last = canonical(exp(lo)), canonical(exp(hi))
        for i in range(n):
            entries[i] = exp(entries[i])
        for i in range(n):
            entries[i] = on_grid(kind, first, last, step, entries[i])
        for i in range(n):
            entries[i] = log(entries[i])
    else:
        # Whole steps from a whole bound are whole already.
        for i in range(n):
            entries[i] = min(on_grid(int64(0), lo, hi, step, entries[i]), hi)


@kernel(exact=True)
def settle(table: ParamTable, population: NDArray[np.float64]) -> None:
    """Move each entry of a continuous logarithmic row to the one that stands for its value.

    A value that is a bound's, in 12 digits, is the bound.

    Args:
        table: The parameter table, D rows.
        population: (D, N) float64, changed in place; entries are legal, or NaN, which stays.
    """
    for d in range(population.shape[0]):
        if table.kind[d] != 0 or table.log_flag[d] != 1 or table.step[d] > 0.0:
            continue
        lo, hi = table.lo[d], table.hi[d]
        lowest, highest = canonical(exp(lo)), canonical(exp(hi))
        for i in range(population.shape[1]):
            z = population[d, i]
            value = canonical(exp(z))
            if value <= lowest:
                z = lo
            elif value >= highest:
                z = hi
            elif value == value:
                z = min(max(log(value), lo), hi)
            population[d, i] = z


@kernel(exact=True)
def decode(table: ParamTable, population: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Natural values of a population.

    Args:
        table: The parameter table, D rows.
        population: (D, N) float64.
        out: (D, N) float64, overwritten.
    """
    n = population.shape[1]
    for d in range(population.shape[0]):
        read_row(int64(table.kind[d]), int64(table.log_flag[d]), population, d, int64(0), n, out, d)


@kernel(exact=True)
def flawed(table: ParamTable, population: NDArray[np.float64]) -> int:
    """The first row that holds an infinite value or a category that it has not; -1 = none.

    Args:
        table: The parameter table, D rows.
        population: (D, N) float64.
    """
    for d in range(population.shape[0]):
        end = float(table.ncat[d]) if table.kind[d] > 1 else math.inf
        bad = 0
        for i in range(population.shape[1]):
            z = population[d, i]
            # NaN, an inactive row, differs from itself and is in no order.
            if table.kind[d] > 1:
                bad += 1 if z < 0.0 or z >= end or (z != np.floor(z) and z == z) else 0
            else:
                bad += 1 if abs(z) == math.inf else 0
        if bad > 0:
            return d
    return -1


@kernel(exact=True)
def encode(table: ParamTable, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Columns of natural values, each moved to the nearest legal entry and settled; NaN stays NaN.

    Args:
        table: The parameter table, D rows.
        values: (D, N) float64.
        out: (D, N) float64, overwritten.
    """
    for d in range(values.shape[0]):
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        for i in range(values.shape[1]):
            z = transformed(kind, log_flag, values[d, i])
            if z == z:
                z = snap(kind, log_flag, lo, hi, table.step[d], z)
            out[d, i] = z
    settle(table, out)
