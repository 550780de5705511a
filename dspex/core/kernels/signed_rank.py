"""Wilcoxon's signed-rank test of paired differences, with ties and zeros.

Ranks are doubled, so that the mean rank of tied values is a whole number and the exact distribution can be counted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import kernel
from dspex.core.rng import normal_cdf


@kernel(exact=True)
def doubled_ranks(magnitudes: NDArray[np.float64], ranks: NDArray[np.int64]) -> None:
    """Twice the rank of each magnitude; equal ones share the mean of their ranks, and a zero has none of its own.

    Zeros take the lowest ranks and are then dropped: their entry is 0.

    Args:
        magnitudes: Absolute differences in ascending order, (n,) float64.
        ranks: (n,) int64, overwritten.

    Source: Pratt (1959).
    """
    n = magnitudes.shape[0]
    first, value = 0, 0.0
    for i in range(n):
        # At the beginning of a run of equal values it is not known where it ends: the run before it is ranked.
        if magnitudes[i] != value:
            ranked = ranks[first:i]
            shared = first + i + 1 if value > 0.0 else 0
            for j in range(ranked.shape[0]):
                ranked[j] = shared
            first, value = i, magnitudes[i]
    ranked = ranks[first:]
    shared = first + n + 1 if value > 0.0 else 0
    for j in range(ranked.shape[0]):
        ranked[j] = shared


@kernel(exact=True)
def exact_tail(ranks: NDArray[np.int64], observed: int, shares: NDArray[np.float64]) -> float:
    """Probability that the ranks with positive sign sum to `observed` or more, over all sign patterns.

    Args:
        ranks: Doubled ranks, (n,) int64; zeros change nothing.
        observed: The doubled sum observed.
        shares: (2, sum of ranks + 1) float64, scratch.

    Source: Wilcoxon (1945); the count by dynamic programming is exact under ties.
    """
    shares[:, :] = 0.0
    shares[0, 0] = 1.0
    reached, now = 0, 0
    for i in range(ranks.shape[0]):
        rank = ranks[i]
        if rank == 0:
            continue
        reached += rank
        # Slices, since an index that might be negative keeps a loop from becoming vectors.
        before, after = shares[now], shares[1 - now]
        stayed, reaching = before[rank : reached + 1], after[rank : reached + 1]
        for total in range(rank):
            after[total] = 0.5 * before[total]
        for total in range(reaching.shape[0]):
            reaching[total] = 0.5 * (stayed[total] + before[total])
        now = 1 - now
    tail = 0.0
    for total in range(reached, max(observed, 0) - 1, -1):
        tail += shares[now, total]
    return tail


@kernel(exact=True)
def normal_tail(ranks: NDArray[np.int64], observed: int) -> float:
    """The same probability by the normal approximation with continuity correction; 1 when every rank is zero.

    The variance is that of the ranks as they are, which is the correction for ties and zeros.

    Args:
        ranks: Doubled ranks, (n,) int64.
        observed: The doubled sum observed.
    """
    total, squares = 0.0, 0.0
    for i in range(ranks.shape[0]):
        total += ranks[i]
        squares += float(ranks[i]) * float(ranks[i])
    if squares == 0.0:
        return 1.0
    # Doubled sums are two apart where nothing is tied, so half of the step is 1.
    return normal_cdf((0.5 * total - observed + 1.0) / math.sqrt(0.25 * squares))
