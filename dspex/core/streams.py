"""The core's counter-based random numbers in plain Python integers, for code that must not load NumPy.

`bits` equals `core.rng.random_bits` for equal keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_MASK: Final = (1 << 64) - 1
GOLDEN: Final = 0x9E3779B97F4A7C15
FIRST: Final = 0xBF58476D1CE4E5B9
SECOND: Final = 0x94D049BB133111EB


def mix(word: int) -> int:
    """The finaliser of splitmix64. Source: Steele, Lea & Flood (2014), variant 13 of Stafford."""
    word &= _MASK
    word = ((word ^ (word >> 30)) * FIRST) & _MASK
    word = ((word ^ (word >> 27)) * SECOND) & _MASK
    return word ^ (word >> 31)


def bits(seed: int, step: int, dim: int, index: int) -> int:
    """64 random bits that depend on the four counters alone."""
    word = mix(seed + GOLDEN)
    word = mix((word ^ (step & _MASK)) + GOLDEN)
    word = mix((word ^ (dim & _MASK)) + GOLDEN)
    return mix((word ^ (index & _MASK)) + GOLDEN)


def uniform(seed: int, step: int, dim: int, index: int) -> float:
    """A float in [0, 1), a multiple of 2**-53."""
    return (bits(seed, step, dim, index) >> 11) * 2.0**-53


def below(bound: int, seed: int, step: int, dim: int, index: int) -> int:
    """An integer in [0, bound), bound ≥ 1, by the high word of a product; its bias is under bound / 2**64."""
    return (bits(seed, step, dim, index) * bound) >> 64


def shuffled(items: Sequence[T], seed: int, step: int = 0) -> list[T]:
    """The items in a random order that depends on `seed` and `step`. Source: Durstenfeld (1964)."""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = below(last + 1, seed, step, 0, last)
        result[last], result[other] = result[other], result[last]
    return result
