"""Simulated binary crossover of numeric rows, exchange of categories."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import snap
from dspex.core.rng import random_bits

_S11: Final = np.uint64(11)
_CROSSES: Final = np.uint64(1)
_SWAPS: Final = np.uint64(2)
_UNIT: Final = 2.0**-53
_NARROW: Final = 1e-14


@kernel(exact=True)
def cross(
    table: ParamTable,
    parents: NDArray[np.float64],
    mothers: NDArray[np.int64],
    fathers: NDArray[np.int64],
    mates: NDArray[np.uint8],
    blend: int,
    seed: int,
    step: int,
    children: NDArray[np.float64],
) -> None:
    """Two children of each pair; which rows are active in them is left to `mutation.mutate`.

    Each row of a pair that crosses takes part with probability one half: a numeric row by bounded simulated binary
    crossover with a distribution index of 15 in transformed space, so that the power 1/16 is four square roots; a
    categorical one by exchange. A row that is inactive in one parent passes the other's value to both children.

    Args:
        table: The parameter table.
        parents: (D, N) float64.
        mothers: (n,) int64.
        fathers: (n,) int64.
        mates: (n,) uint8: 1 where the pair crosses; else the children are copies.
        blend: 1; 0 = numeric rows are exchanged as well (uniform crossover).
        seed: Key of the random numbers.
        step: Key of the random numbers.
        children: (D, 2 n) float64, overwritten: first those that take after the mothers, then the others.

    Source: Deb & Agrawal (1995); the bounds as in Deb & Goyal (1996).
    """
    pairs = mothers.shape[0]
    for d in range(children.shape[0]):
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace = table.step[d]
        blended = kind <= 1 and blend == 1
        narrow = _NARROW * (hi - lo)
        for first in range(0, pairs, BLOCK):
            count = min(BLOCK, pairs - first)
            ours, theirs = children[d, first : first + count], children[d, pairs + first : pairs + first + count]
            taking = mates[first : first + count]
            for c in range(count):
                ours[c] = parents[d, mothers[first + c]]
                theirs[c] = parents[d, fathers[first + c]]
            if table.parent[d] >= 0 or table.cond_pc[d] >= 0:
                for c in range(count):
                    a, b = ours[c], theirs[c]
                    ours[c] = b if (a != a) & (taking[c] == 1) else a
                    theirs[c] = a if (b != b) & (taking[c] == 1) else b
            if blended:
                # No branch and no call, so that the loop is vectorised.
                for c in range(count):
                    a, b = ours[c], theirs[c]
                    bits = random_bits(seed, step, d, first + c)
                    u = float(bits >> _S11) * _UNIT
                    low = a if a < b else b
                    high = b if a < b else a
                    gap = high - low
                    scale = 2.0 / gap
                    near = 1.0 + (low - lo) * scale
                    far = 1.0 + (hi - high) * scale
                    near *= near
                    near *= near
                    near *= near
                    near *= near
                    far *= far
                    far *= far
                    far *= far
                    far *= far
                    near = u * (2.0 - 1.0 / near)
                    far = u * (2.0 - 1.0 / far)
                    near = near if near <= 1.0 else 1.0 / (2.0 - near)
                    far = far if far <= 1.0 else 1.0 / (2.0 - far)
                    near = math.sqrt(math.sqrt(math.sqrt(math.sqrt(near))))
                    far = math.sqrt(math.sqrt(math.sqrt(math.sqrt(far))))
                    middle = 0.5 * (low + high)
                    near = middle - 0.5 * near * gap
                    far = middle + 0.5 * far * gap
                    near = near if near > lo else lo
                    far = far if far < hi else hi
                    takes = (taking[c] == 1) & ((bits & _CROSSES) != 0) & (gap > narrow)
                    swaps = (bits & _SWAPS) != 0
                    one = far if swaps else near
                    other = near if swaps else far
                    ours[c] = one if takes else a
                    theirs[c] = other if takes else b
                if pace > 0.0:
                    for c in range(count):
                        a, b = parents[d, mothers[first + c]], parents[d, fathers[first + c]]
                        # Neither a parent's entry nor inactive: new.
                        if ours[c] == ours[c] and ours[c] != a and ours[c] != b:
                            ours[c] = snap(kind, log_flag, lo, hi, pace, ours[c])
                        if theirs[c] == theirs[c] and theirs[c] != a and theirs[c] != b:
                            theirs[c] = snap(kind, log_flag, lo, hi, pace, theirs[c])
            else:
                for c in range(count):
                    a, b = ours[c], theirs[c]
                    bits = random_bits(seed, step, d, first + c)
                    swaps = (taking[c] == 1) & ((bits & _CROSSES) != 0)
                    ours[c] = b if swaps else a
                    theirs[c] = a if swaps else b
