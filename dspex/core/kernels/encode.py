"""Between natural values and a candidate's column.

A column holds numbers in transformed space, category indices, and NaN for inactive rows. Logarithmic rows hold
values of at most 12 significant digits, so that what is scored, recorded and written down is one number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import ParamTable
from dspex.core.jit import kernel


@kernel(exact=True)
def canonical(value: float) -> float:
    """`value` rounded to 12 significant digits, correctly as float(f"{value:.12g}") but for exact ties.

    The power of ten is exact and the rounded quotient has few digits, so one division rounds correctly. Outside
    1e-10 … 1e33 the value is returned as it is.
    """
    size = abs(value)
    if not (1e-10 <= size <= 1e33):
        return value
    exponent = 11 - math.floor(math.log10(size))
    if exponent >= 0:
        power = 10.0**exponent
        return float(np.rint(value * power)) / power
    power = 10.0**-exponent
    return float(np.rint(value / power)) * power


@kernel(exact=True)
def natural(kind: int, log_flag: int, z: float) -> float:
    """Natural value of a row at the column's entry z; a category as its index; NaN stays NaN.

    Kernels called for each entry take a row's scalars: passing the whole table costs more than the work.
    """
    if kind > 1 or z != z:
        return z
    if log_flag == 1:
        z = math.exp(min(max(z, -700.0), 700.0))
    if kind == 1:
        return float(np.rint(z))
    return canonical(z) if log_flag == 1 else z


@kernel(exact=True)
def transformed(kind: int, log_flag: int, value: float) -> float:
    """The column's entry for a natural value; the inverse of `natural`."""
    if kind <= 1 and log_flag == 1 and value > 0.0:
        return math.log(value)
    return value


@kernel(exact=True)
def snap(kind: int, log_flag: int, lo: float, hi: float, step: float, z: float) -> float:
    """The legal entry nearest to z: inside the bounds, on the grid, canonical."""
    if not (z > lo):
        z = lo
    if z > hi:
        z = hi
    if kind > 1:
        return float(np.rint(z))
    logarithmic = log_flag == 1
    if step <= 0.0:
        if not logarithmic or z in (lo, hi):
            return z
        return min(max(math.log(canonical(math.exp(z))), lo), hi)
    first = canonical(math.exp(lo)) if logarithmic else lo
    last = canonical(math.exp(hi)) if logarithmic else hi
    value = math.exp(z) if logarithmic else z
    # The guard absorbs the rounding of the quotient, as in `program.variables.Float`.
    steps = np.floor((last - first) / step + 1e-9)
    index = min(max(np.rint((value - first) / step), 0.0), steps)
    value = first + index * step
    if kind == 1:
        value = float(np.rint(value))
    return math.log(value) if logarithmic else min(value, hi)


@kernel(exact=True)
def decode(table: ParamTable, population: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Natural values of a population.

    Args:
        table: The parameter table, D rows.
        population: (D, N) float64.
        out: (D, N) float64, overwritten.
    """
    for d in range(population.shape[0]):
        for i in range(population.shape[1]):
            out[d, i] = natural(table.kind[d], table.log_flag[d], population[d, i])


@kernel(exact=True)
def encode(table: ParamTable, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Columns of natural values, each moved to the nearest legal entry; NaN stays NaN.

    Args:
        table: The parameter table, D rows.
        values: (D, N) float64.
        out: (D, N) float64, overwritten.
    """
    for d in range(values.shape[0]):
        for i in range(values.shape[1]):
            z = transformed(table.kind[d], table.log_flag[d], values[d, i])
            if z == z:
                z = snap(table.kind[d], table.log_flag[d], table.lo[d], table.hi[d], table.step[d], z)
            out[d, i] = z
