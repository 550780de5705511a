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
_MOTHER: Final = int64(-401)
_FATHER: Final = int64(-402)
_MATES: Final = int64(-403)


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
    # Which of two wins cannot be predicted, so it is selected by a mask: a branch would cost more than all the rest.
    for i in range(mothers.shape[0]):
        bits = random_bits(seed, step, _MOTHER, i)
        one, other = ((bits & _LOW) * size) >> _SHIFT, ((bits >> _SHIFT) * size) >> _SHIFT
        first, second = fitness[one], fitness[other]
        wins = np.uint64((second < first) | (first != first))
        mother = one ^ ((one ^ other) & (_NONE - wins))
        bits = random_bits(seed, step, _FATHER, i)
        one, other = ((bits & _LOW) * size) >> _SHIFT, ((bits >> _SHIFT) * size) >> _SHIFT
        first, second = fitness[one], fitness[other]
        wins = np.uint64((second < first) | (first != first))
        father = one ^ ((one ^ other) & (_NONE - wins))
        mothers[i] = mother
        fathers[i] = one + other - father if father == mother else father
    for i in range(mates.shape[0]):
        mates[i] = 1 if uniform(seed, step, _MATES, i) < share else 0


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
