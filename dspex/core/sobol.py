"""Scrambled Sobol' sequences by index: any point at any time, no state.

The direction numbers of the first 1,111 dimensions are by Joe & Kuo (2008), "Constructing Sobol sequences with better
two-dimensional projections", set new-joe-kuo-6.21201; their licence is in `sobol_directions.LICENSE`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.kernels import qmc
from dspex.core.population import Sampler

DIMENSIONS: Final = 1111
"""Dimensions with direction numbers; a point's further coordinates are independent uniform numbers."""
BITS: Final = 32


@cache
def directions() -> NDArray[np.int64]:
    """Direction numbers, (DIMENSIONS, BITS) int64: column j is what bit j of a point's index adds to its digits."""
    with np.load(Path(__file__).with_name("sobol_directions.npz")) as file:
        polynomial = file["polynomial"].astype(np.int64)
        initial = file["initial"].astype(np.int64)
    degree = np.frexp(polynomial.astype(np.float64))[1].astype(np.int64) - 1
    rows, most = initial.shape
    numbers = np.ones((rows, BITS), dtype=np.int64)  # what the first dimension, of degree 0, consists of
    numbers[1:, :most] = initial[1:]
    for k in range(1, BITS):
        # Bratley & Fox (1988), eq. 2: m_k from the `degree` numbers before it.
        chosen = np.flatnonzero((degree <= k) & (degree > 0))
        s, m = degree[chosen], numbers[chosen]
        oldest = m[np.arange(chosen.size), k - s]
        value = oldest ^ (oldest << s)
        for i in range(1, min(k, most - 1) + 1):
            coefficient = np.where(i < s, (polynomial[chosen] >> np.maximum(s - i, 0)) & 1, 0)
            value ^= coefficient * (m[:, k - i] << i)
        numbers[chosen, k] = value
    return np.ascontiguousarray(numbers << np.arange(BITS - 1, -1, -1))


def points(dimensions: int, count: int, seed: int, first: int = 0) -> NDArray[np.float64]:
    """Points of the sequence, (dimensions, count) float64 in [0, 1), one a column.

    Blocks of 2**m points whose first index is a multiple of 2**m fill every dimension, and most pairs of dimensions,
    evenly.

    Args:
        dimensions: How many coordinates.
        count: How many points.
        seed: Key of the scrambling, below 2**63.
        first: Index of the first point; indices stay below 2**32.
    """
    out = np.empty((dimensions, count))
    qmc.sobol(directions(), seed, first, out)
    return out


def candidates(sampler: Sampler, count: int, seed: int, first: int = 0) -> NDArray[np.float64]:
    """Candidates at the sequence's points as quantiles of the prior, (D, count) float64; rules need not hold."""
    population = points(sampler.table.kind.shape[0], count, seed, first)
    qmc.quantiles(sampler.table, sampler.origin, sampler.width, population.copy(), sampler.stack, population)
    return population
