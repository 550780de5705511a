"""Who mates and who survives."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel
from dspex.core.rng import random_bits, uniform

_LOW: Final = np.uint64(0xFFFFFFFF)
_SHIFT: Final = np.uint64(32)
_NONE: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_WORD: Final = 64
_MOTHER: Final = int64(-401)
_FATHER: Final = int64(-402)
_MATES: Final = int64(-403)


@kernel(exact=True, inline=True)
def duels(fitness: NDArray[np.float64], draws: NDArray[np.int64]) -> np.uint64:
    """Which of up to 64 duels the second of two drawn at random wins, a bit for each.

    The answer is one word rather than an array: loads from anywhere become vectors only in a loop that stores nothing.

    Args:
        fitness: (N,) float64, lower is better, 1 ≤ N < 2**32; NaN loses against every value.
        draws: Random bits, (k,) int64, k ≤ 64: the low half draws the first, the high half the second.
    """
    size, won = np.uint64(fitness.shape[0]), _NONE
    for k in range(draws.shape[0]):
        bits = np.uint64(draws[k])
        first, second = fitness[((bits & _LOW) * size) >> _SHIFT], fitness[((bits >> _SHIFT) * size) >> _SHIFT]
        won |= np.uint64((second < first) | (first != first)) << np.uint64(k)
    return won


@kernel(exact=True)
def mate(
    fitness: NDArray[np.float64],
    seed: int,
    step: int,
    share: float,
    mothers: NDArray[np.int64],
    fathers: NDArray[np.int64],
    mates: NDArray[np.uint8],
) -> None:
    """Pairs of parents, each the better of two drawn at random; a pair is of two unless both its draws are one trial.

    Args:
        fitness: (N,) float64, lower is better, 1 ≤ N < 2**32; NaN loses against every value.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        share: Probability that a pair crosses.
        mothers: (n,) int64, overwritten.
        fathers: (n,) int64, overwritten.
        mates: (n,) uint8, overwritten: 1 where the pair crosses.

    Source: Deb et al. (2002), §III-B, the crowded tournament.
    """
    size = np.uint64(fitness.shape[0])
    for i in range(mothers.shape[0]):
        mothers[i] = int64(random_bits(seed, step, _MOTHER, i))
        fathers[i] = int64(random_bits(seed, step, _FATHER, i))
        mates[i] = 1 if uniform(seed, step, _MATES, i) < share else 0
    for begin in range(0, mothers.shape[0], _WORD):
        # These still hold the random bits, whose places the parents take.
        maternal, paternal = mothers[begin : begin + _WORD], fathers[begin : begin + _WORD]
        left, right = duels(fitness, maternal), duels(fitness, paternal)
        for k in range(maternal.shape[0]):
            # Which of two wins cannot be predicted: selected by a mask, since a branch would cost more than the rest.
            bits = np.uint64(maternal[k])
            one, other = ((bits & _LOW) * size) >> _SHIFT, ((bits >> _SHIFT) * size) >> _SHIFT
            mother = one ^ ((one ^ other) & (_NONE - ((left >> np.uint64(k)) & _ONE)))
            bits = np.uint64(paternal[k])
            one, other = ((bits & _LOW) * size) >> _SHIFT, ((bits >> _SHIFT) * size) >> _SHIFT
            father = one ^ ((one ^ other) & (_NONE - ((right >> np.uint64(k)) & _ONE)))
            maternal[k] = int64(mother)
            paternal[k] = int64(one ^ other ^ father if father == mother else father)


@kernel(exact=True)
def survivors(
    fitness: NDArray[np.float64], threshold: float, sources: NDArray[np.int64], places: NDArray[np.int64]
) -> int:
    """Which children take the places of which parents when the better half of both goes on.

    Args:
        fitness: Parents', then children's, (2 N,) float64 without NaN.
        threshold: The N-th lowest fitness; of those equal to it the earlier ones go on.
        sources: (N,) int64, overwritten: as many as returned are children that go on, ascending.
        places: (N,) int64, overwritten: as many are parents that do not, ascending.

    Returns:
        How many children go on.
    """
    size = fitness.shape[0] // 2
    room = int64(size)
    for i in range(2 * size):
        room -= 1 if fitness[i] < threshold else 0
    gone, come = int64(0), int64(0)
    for i in range(size):
        equal = (fitness[i] == threshold) & (room > 0)
        room -= equal
        places[gone] = i
        gone += 0 if (fitness[i] < threshold) | equal else 1
    for i in range(size):
        equal = (fitness[size + i] == threshold) & (room > 0)
        room -= equal
        sources[come] = i
        come += 1 if (fitness[size + i] < threshold) | equal else 0
    return come


@kernel(exact=True)
def replace(
    children: NDArray[np.float64], sources: NDArray[np.int64], places: NDArray[np.int64], parents: NDArray[np.float64]
) -> None:
    """Copy children into parents' places.

    Args:
        children: (D, N) float64.
        sources: Columns of the children, (k,) int64.
        places: Columns of the parents, (k,) int64.
        parents: (D, N) float64, changed in place.
    """
    for d in range(parents.shape[0]):
        for k in range(sources.shape[0]):
            parents[d, places[k]] = children[d, sources[k]]
