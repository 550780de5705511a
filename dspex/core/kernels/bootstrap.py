"""Resampling statistics of a mean: bootstrap means and sign-flip permutations."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import kernel
from dspex.core.rng import random_bits

_LOW: Final = np.uint64(0xFFFFFFFF)
_SHIFT: Final = np.uint64(32)
_ONE: Final = np.uint64(1)


@kernel
def resampled_means(values: NDArray[np.float64], seed: int, step: int, out: NDArray[np.float64]) -> None:
    """Means of bootstrap resamples.

    Each 64-bit draw gives two indices by the high word of a 32-bit product; the bias is under n / 2**32.

    Args:
        values: (n,) float64, 1 ≤ n < 2**32.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        out: (resamples,) float64, overwritten.

    Source: Efron (1979).
    """
    n = values.shape[0]
    size = np.uint64(n)
    for b in range(out.shape[0]):
        total = 0.0
        for pair in range(n // 2):
            bits = random_bits(seed, step, b, pair)
            total += values[((bits & _LOW) * size) >> _SHIFT]
            total += values[((bits >> _SHIFT) * size) >> _SHIFT]
        if n % 2 == 1:
            bits = random_bits(seed, step, b, n // 2)
            total += values[((bits & _LOW) * size) >> _SHIFT]
        out[b] = total / n


@kernel(exact=True)
def sign_flip_exceedances(differences: NDArray[np.float64], seed: int, step: int, resamples: int) -> int:
    """How many random sign patterns give a sum at least as far from zero as the one observed.

    Args:
        differences: Paired differences, (n,) float64.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        resamples: Patterns to draw.

    Source: Fisher (1935), §21.
    """
    n = differences.shape[0]
    observed, size = 0.0, 0.0
    for i in range(n):
        observed += differences[i]
        size += abs(differences[i])
    # Sums in another order differ by rounding; equal patterns must count as equal.
    threshold = abs(observed) - 1e-12 * size
    exceed = 0
    for b in range(resamples):
        total = 0.0
        bits = np.uint64(0)
        for i in range(n):
            if i % 64 == 0:
                bits = random_bits(seed, step, b, i // 64)
            total += differences[i] if bits & _ONE else -differences[i]
            bits >>= _ONE
        if abs(total) >= threshold:
            exceed += 1
    return exceed


@kernel(exact=True)
def sign_flip_exact(differences: NDArray[np.float64]) -> int:
    """How many of all 2**n sign patterns give a sum at least as far from zero as the one observed.

    Args:
        differences: Paired differences, (n,) float64, n ≤ 20.
    """
    n = differences.shape[0]
    observed, size = 0.0, 0.0
    for i in range(n):
        observed += differences[i]
        size += abs(differences[i])
    threshold = abs(observed) - 1e-12 * size
    exceed = 0
    for pattern in range(1 << n):
        total = 0.0
        for i in range(n):
            total += differences[i] if (pattern >> i) & 1 else -differences[i]
        if abs(total) >= threshold:
            exceed += 1
    return exceed
