"""Quasi-random points: Sobol' sequences, scrambled, and their way through the prior."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import streams
from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import snap_row
from dspex.core.kernels.sampling import draw_categories
from dspex.core.rng import mix, random_bits, uniform
from dspex.core.rules import activate

STREAM: Final = 7 << 44
"""Step of the random numbers used here: beyond every step that a search draws with."""

_GOLDEN: Final = np.uint64(streams.GOLDEN)
_ONE: Final = np.uint64(1)
_S21: Final = np.uint64(21)
_S43: Final = np.uint64(43)
_S63: Final = np.uint64(63)
_UNIT: Final = 2.0**-53


@kernel(exact=True)
def scramble(digits: int, key: np.uint64) -> float:
    """Nested uniform scrambling of 32 binary digits; what follows them is uniform.

    Each digit is flipped, or not, by a bit that depends on the key and on the digits before it, so that every binary
    interval is mapped to one of the same length.

    Args:
        digits: In [0, 2**32), the first digit highest.
        key: Of the permutation.

    Returns:
        A float in [0, 1), a multiple of 2**-53.

    Source: Owen (1995), with a hash of the node in place of stored permutations.
    """
    flips = np.uint64(0)
    for depth in range(32):
        node = np.uint64((int64(1) << depth) | (digits >> (32 - depth)))
        flips = (flips << _ONE) | (mix((key ^ node) + _GOLDEN) >> _S63)
    below = mix((key ^ np.uint64((int64(1) << 32) | digits)) + _GOLDEN) >> _S43
    return float(((np.uint64(digits) ^ flips) << _S21) | below) * _UNIT


@kernel(exact=True)
def sobol(directions: NDArray[np.int64], seed: int, first: int, out: NDArray[np.float64]) -> None:
    """Points of the scrambled Sobol' sequence.

    Args:
        directions: (S, 32) int64 from `core.sobol.directions`: entry j belongs to bit j of a point's index.
        seed: Key of the scrambling.
        first: Index of the first point; indices stay below 2**32.
        out: (D, N) float64 in [0, 1), overwritten, one point a column; rows from S on are independent uniform numbers.

    Source: Sobol' (1967), points in the order of the plain binary index.
    """
    for d in range(out.shape[0]):
        if d < directions.shape[0]:
            key = np.uint64(random_bits(seed, int64(STREAM), int64(d), int64(0)))
            for i in range(out.shape[1]):
                digits, index, bit = int64(0), first + i, 0
                while index != 0:
                    if index & 1 == 1:
                        digits ^= directions[d, bit]
                    index >>= 1
                    bit += 1
                out[d, i] = scramble(digits, key)
        else:
            for i in range(out.shape[1]):
                out[d, i] = uniform(seed, int64(STREAM), int64(d), int64(first + i))


@kernel(exact=True)
def quantiles(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    points: NDArray[np.float64],
    stack: NDArray[np.float64],
    population: NDArray[np.float64],
) -> None:
    """The candidates at given quantiles of the prior, conditions included, rules not.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        points: (D, N) float64 in [0, 1); an inactive row's entry is not used.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        population: (D, N) float64, overwritten.
    """
    candidates = population.shape[1]
    for d in range(population.shape[0]):
        # Scalars, since a call with the whole table costs more than its answer.
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace, start, span = table.step[d], origin[d], width[d]
        offset, categories = int64(table.cat_off[d]), int64(table.ncat[d])
        for first in range(0, candidates, BLOCK):
            count = min(BLOCK, candidates - first)
            places, drawn = points[d, first : first + count], population[d, first : first + count]
            if kind > 1:
                draw_categories(table.cat_logp, offset, categories, stack[2], places, drawn)
            else:
                for c in range(count):
                    drawn[c] = start + places[c] * span
                snap_row(kind, log_flag, lo, hi, pace, drawn)
            if table.parent[d] >= 0 or table.cond_pc[d] >= 0:
                activate(table, population, d, first, count, stack)
                for c in range(count):
                    drawn[c] = drawn[c] if stack[0, c] != 0.0 else math.nan
