"""Full factorial designs over a table: levels, size, and an order whose every beginning covers the space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, streams
from dspex.core.abi import ParamTable
from dspex.core.kernels import encode, sampling
from dspex.core.population import Sampler

WHOLE: Final = 32
"""Most values of a numeric row that are all levels, however few levels continuous rows have."""


def values(table: ParamTable) -> list[int | None]:
    """How many values each row has; None where it is continuous."""
    first, last = (_natural(table, bounds) for bounds in (table.lo, table.hi))
    counts: list[int | None] = []
    for row, categories in enumerate(table.ncat.tolist()):
        step = float(table.step[row])
        if categories or table.lo[row] == table.hi[row]:
            counts.append(max(categories, 1))
        else:
            counts.append(math.floor((last[row] - first[row]) / step + 1e-9) + 1 if step else None)
    return counts


def size(table: ParamTable, counts: Sequence[int]) -> int:
    """Configurations that differ in an active value, when row d has `counts[d]` levels.

    A row under a general condition counts as always active, so the number is then an upper bound; so it is under
    rules.
    """
    total = 1
    under = [[1] * max(categories, 1) for categories in table.ncat.tolist()]
    for row in range(len(counts) - 1, -1, -1):
        ways = sum(under[row]) if table.ncat[row] else counts[row]
        parent = int(table.parent[row])
        if parent >= 0:
            under[parent][int(table.parent_val[row])] *= ways
        else:
            total *= ways
    return total


def level_counts(counts: Sequence[int | None], k: int) -> list[int]:
    """Levels of each row, when those that have too many values, as `values` counts them, have `k`."""
    return [count if count is not None and count <= max(WHOLE, k) else k for count in counts]


def levels(sampler: Sampler, k: int) -> list[NDArray[np.float64]]:
    """The entries of each row's levels: all values of a row that has few, else `k` from end to end of its domain."""
    table = sampler.table
    counts = values(table)
    result: list[NDArray[np.float64]] = []
    for row, (count, found) in enumerate(zip(counts, level_counts(counts, k), strict=True)):
        if count is None or count > found:
            result.append(_spread(sampler, row, k))
        elif table.ncat[row]:
            result.append(np.arange(count, dtype=np.float64))
        else:
            result.append(_every(table, row, count))
    return result


class Factorial:
    """Every combination of levels, in an order that is drawn by `seed` and needs no memory.

    The combinations are numbered as digits of a mixed radix; the order steps through these numbers by a golden
    section of their count, so that any run of combinations is spread over every row.

    Args:
        sampler: Of the table.
        levels: Entries of each row's levels.
        seed: Where the order begins.

    Attributes:
        total: Combinations, whether they differ in an active value or not.
    """

    def __init__(self, sampler: Sampler, levels: Sequence[NDArray[np.float64]], seed: int) -> None:
        self._sampler = sampler
        self._levels = levels
        self.total = math.prod(each.size for each in levels)
        stride = (math.isqrt(5 * self.total * self.total) - self.total) // 2
        while math.gcd(stride, self.total) != 1:
            stride += 1
        self._stride = self._digits(stride)
        self._start = self._digits((streams.bits(seed, 0, -700, 0) * self.total) >> 64)

    def _digits(self, number: int) -> list[int]:
        digits: list[int] = []
        for each in self._levels:
            number, digit = divmod(number, each.size)
            digits.append(digit)
        return digits

    def candidates(self, first: int, count: int) -> NDArray[np.float64]:
        """The combinations from place `first` of the order, (D, count) float64; rules need not hold."""
        population = np.empty((len(self._levels), count))
        places = np.arange(first, first + count, dtype=np.int64)
        carry = np.zeros(count, dtype=np.int64)
        for row, each in enumerate(self._levels):
            # Digit by digit: the numbers themselves may have thousands of digits. The last carry is the wrap around.
            carry, digits = np.divmod(self._start[row] + places * self._stride[row] + carry, each.size)
            population[row] = each[digits]
        sampler = self._sampler
        nothing, index = np.zeros(population.shape, dtype=np.uint8), np.arange(count, dtype=np.int64)
        # With nothing chosen, this clears what is inactive.
        sampling.redraw(sampler.table, sampler.origin, sampler.width, 0, 0, index, nothing, sampler.stack, population)
        return population


def _natural(table: ParamTable, bounds: NDArray[np.float64]) -> list[float]:
    out = np.empty((bounds.shape[0], 1))
    encode.decode(table, np.ascontiguousarray(bounds.reshape(-1, 1)), out)
    return out[:, 0].tolist()


def _every(table: ParamTable, row: int, count: int) -> NDArray[np.float64]:
    """The entries of a numeric row with few values, all of them."""
    steps = np.full((abi.dimension_count(table), count), math.nan)
    steps[row] = _natural(table, table.lo)[row] + np.arange(count) * float(table.step[row])
    out = np.empty_like(steps)
    encode.encode(table, steps, out)
    return out[row]


def _spread(sampler: Sampler, row: int, k: int) -> NDArray[np.float64]:
    """`k` entries of a numeric row, evenly from end to end; fewer where several fall on one value."""
    table = sampler.table
    found = [
        sampling.draw_number(
            int(table.kind[row]),
            int(table.log_flag[row]),
            table.lo[row],
            table.hi[row],
            table.step[row],
            sampler.origin[row],
            sampler.width[row],
            float(u),
        )
        for u in (np.linspace(0.0, 1.0, k) if k > 1 else (0.5,))
    ]
    found[0] = float(table.lo[row]) if k > 1 else found[0]
    return np.unique(found)
