"""Non-dominated sorting and crowding.

Trial i precedes trial j when no loss of i is higher and either one is lower or all are equal and i < j: of equal trials
the first dominates the others, so copies never crowd a front. A trial's rank is the length of the longest chain of
trials that precede it.

No kernel here sees NaN: `core.pareto` leaves out trials without a value.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel

_SIGN: Final = np.uint64(1 << 63)
_ALL: Final = np.uint64((1 << 64) - 1)
_BYTE: Final = np.uint64(255)
_WIDTH: Final = np.uint64(8)
_ZERO: Final = np.uint64(0)
_SHORT: Final = 24  # runs of at most this length are sorted by insertion


@kernel(exact=True)
def radix_sort(
    bits: NDArray[np.uint64],
    start: NDArray[np.int64],
    keys: NDArray[np.uint64],
    moved: NDArray[np.int64],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
) -> int:
    """Sort indices by floating-point values; stable, so that every processor gives the same order of equal values.

    Args:
        bits: The float64 values' bits, (n,) uint64; -0 equals 0.
        start: The indices in their first order, (n,) int64; may be `order` itself.
        keys: (2, n) uint64, overwritten.
        moved: (n,) int64, scratch.
        counts: (8, 256) int64, scratch.
        order: (n,) int64, overwritten.

    Returns:
        The row of `keys` that holds the sorted keys: equal ones belong to equal values.

    Source: Knuth (1998), 5.2.5; radix 256, passes over a byte that all keys share left out.
    """
    n = order.shape[0]
    counts[:, :] = 0
    for i in range(n):
        word = bits[start[i]]
        if word == _SIGN:
            word = _ZERO
        word = word ^ (_ALL if word & _SIGN else _SIGN)
        keys[0, i] = word
        order[i] = start[i]
        for digit in range(8):
            counts[digit, int64(word & _BYTE)] += 1
            word = word >> _WIDTH
    here = int64(0)
    for digit in range(8):
        shift = np.uint64(8 * digit)
        if n == 0 or counts[digit, int64((keys[here, 0] >> shift) & _BYTE)] == n:
            continue
        total = int64(0)
        for value in range(256):
            count = counts[digit, value]
            counts[digit, value] = total
            total += count
        for i in range(n):
            key = keys[here, i]
            value = int64((key >> shift) & _BYTE)
            place = counts[digit, value]
            counts[digit, value] = place + 1
            keys[1 - here, place] = key
            if here == 0:
                moved[place] = order[i]
            else:
                order[place] = moved[i]
        here = 1 - here
    if here == 1:
        for i in range(n):
            order[i] = moved[i]
    return here


@kernel(exact=True)
def lexicographic(
    losses: NDArray[np.float64],
    bits: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    moved: NDArray[np.int64],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """Order of trials by the first loss, ties by the next one and so on, then by index.

    Args:
        losses: (M, n) float64.
        bits: The same memory, (M, n) uint64.
        keys: (2, n) uint64, scratch.
        moved: (n,) int64, scratch.
        counts: (8, 256) int64, scratch.
        order: (n,) int64, overwritten.
    """
    objectives, n = losses.shape
    for i in range(n):
        order[i] = i
    sorted_keys = keys[radix_sort(bits[0], order, keys, moved, counts, order)]
    run, longest = 1, 1
    for i in range(1, n):
        run = run + 1 if sorted_keys[i] == sorted_keys[i - 1] else 1
        longest = max(longest, run)
    if objectives == 1 or longest <= 1:
        return
    if longest > _SHORT:
        for i in range(n):
            order[i] = i
        for m in range(objectives - 1, -1, -1):
            radix_sort(bits[m], order, keys, moved, counts, order)
        return
    for i in range(1, n):
        # The stable sort left equal first losses in order of index.
        if sorted_keys[i] != sorted_keys[i - 1]:
            continue
        inserted, key, second = order[i], sorted_keys[i], losses[1, order[i]]
        place = i
        while place > 0 and sorted_keys[place - 1] == key:
            other = order[place - 1]
            later = losses[1, other] > second
            m = 2
            while not later and m < objectives and losses[m - 1, other] == losses[m - 1, inserted]:
                later = losses[m, other] > losses[m, inserted]
                m += 1
            if not later:
                break
            order[place] = other
            place -= 1
        order[place] = inserted


@kernel(exact=True)
def ranks_2d(
    losses: NDArray[np.float64],
    order: NDArray[np.int64],
    needed: int,
    tails: NDArray[np.float64],
    sizes: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> int:
    """Ranks for two losses by a sweep with a binary search over the fronts' last members, O(n log n).

    Args:
        losses: (2, n) float64.
        order: From `lexicographic`.
        needed: How many trials of the first fronts are wanted; ranks beyond the front that completes them are -1.
        tails: (n,) float64, scratch.
        sizes: (n,) int64, scratch.
        rank: (n,) int64, overwritten.

    Returns:
        The number of fronts that have a rank.

    Source: Jensen (2003).
    """
    fronts, limit, covered = int64(0), int64(order.shape[0]), int64(0)
    for i in order:
        height = losses[1, i]
        low, high = int64(0), fronts
        while low < high:
            middle = (low + high) // 2
            if tails[middle] <= height:
                low = middle + 1
            else:
                high = middle
        if low >= limit:
            rank[i] = -1
            continue
        rank[i] = low
        tails[low] = height
        if low == fronts:
            fronts += 1
            sizes[low] = 0
        sizes[low] += 1
        covered += 1
        while fronts > 1 and covered - sizes[fronts - 1] >= needed:
            # What is in the last front, and all that would follow, is not needed any more.
            fronts -= 1
            limit = fronts
            covered -= sizes[fronts]
    for i in range(rank.shape[0]):
        if rank[i] >= limit:
            rank[i] = -1
    return fronts


@kernel(exact=True)
def ranks_3d(
    losses: NDArray[np.float64],
    order: NDArray[np.int64],
    needed: int,
    stairs: NDArray[np.float64],
    spans: NDArray[np.int64],
    sizes: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> int:
    """Ranks for three losses: each front keeps the staircase of its members' second and third losses.

    A search takes O(log fronts · log stairs); an insertion moves the stairs behind it, about √n of them on a
    two-dimensional front, n when second and third loss oppose each other everywhere.

    Args:
        losses: (3, n) float64.
        order: From `lexicographic`.
        needed: As in `ranks_2d`.
        stairs: (2, 4 n) float64, scratch: second loss, ascending within a staircase, and third, descending.
        spans: (3, n) int64, scratch: beginning, length and capacity of each staircase.
        sizes: (n,) int64, scratch.
        rank: (n,) int64, overwritten.

    Returns:
        The number of fronts that have a rank.

    Source: the binary search over fronts of Zhang et al. (2015), over the staircases of Kung, Luccio & Preparata
    (1975).
    """
    fronts, limit, covered, used = int64(0), int64(order.shape[0]), int64(0), int64(0)
    for i in order:
        y, z = losses[1, i], losses[2, i]
        low, high = int64(0), fronts
        at = int64(0)
        while low < high:
            middle = (low + high) // 2
            left, right = spans[0, middle], spans[0, middle] + spans[1, middle]
            while left < right:
                stair = (left + right) // 2
                if stairs[0, stair] <= y:
                    left = stair + 1
                else:
                    right = stair
            if left > spans[0, middle] and stairs[1, left - 1] <= z:
                low = middle + 1
            else:
                high = middle
                at = left
        if low >= limit:
            rank[i] = -1
            continue
        rank[i] = low
        if low == fronts:
            fronts += 1
            spans[0, low], spans[1, low], spans[2, low] = used, 0, 1
            sizes[low] = 0
            at = used
            used += 1
        begin, end = spans[0, low], spans[0, low] + spans[1, low]
        # Stairs that the new one covers are contiguous.
        behind = at
        while behind < end and stairs[1, behind] >= z:
            behind += 1
        if behind > at:
            shift = behind - at - 1
            if shift > 0:
                for j in range(behind, end):
                    stairs[0, j - shift] = stairs[0, j]
                    stairs[1, j - shift] = stairs[1, j]
            spans[1, low] -= shift
        else:
            if spans[1, low] == spans[2, low]:
                # Full: twice the room at the end of the pool.
                for j in range(end - begin):
                    stairs[0, used + j] = stairs[0, begin + j]
                    stairs[1, used + j] = stairs[1, begin + j]
                at += used - begin
                end += used - begin
                begin = used
                spans[0, low] = used
                spans[2, low] *= 2
                used += spans[2, low]
            for j in range(end, at, -1):
                stairs[0, j] = stairs[0, j - 1]
                stairs[1, j] = stairs[1, j - 1]
            spans[1, low] += 1
        stairs[0, at], stairs[1, at] = y, z
        sizes[low] += 1
        covered += 1
        while fronts > 1 and covered - sizes[fronts - 1] >= needed:
            fronts -= 1
            limit = fronts
            covered -= sizes[fronts]
    for i in range(rank.shape[0]):
        if rank[i] >= limit:
            rank[i] = -1
    return fronts


@kernel(exact=True)
def ranks_many(
    losses: NDArray[np.float64],
    order: NDArray[np.int64],
    needed: int,
    points: NDArray[np.float64],
    heads: NDArray[np.int64],
    following: NDArray[np.int64],
    sizes: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> int:
    """Ranks for any number of losses: a binary search over fronts, each compared from its latest member.

    O(n²) comparisons when nearly all trials are in one front.

    Args:
        losses: (M, n) float64, M ≥ 2.
        order: From `lexicographic`.
        needed: As in `ranks_2d`.
        points: (n, M) float64, scratch: the losses in order.
        heads: (n,) int64, scratch: the latest member of each front.
        following: (n,) int64, scratch: the member before each one in its front.
        sizes: (n,) int64, scratch.
        rank: (n,) int64, overwritten.

    Returns:
        The number of fronts that have a rank.

    Source: Zhang, Tian, Cheng & Jin (2015), ENS-BS.
    """
    objectives, n = losses.shape
    for p in range(n):
        for m in range(objectives):
            points[p, m] = losses[m, order[p]]
    fronts, limit, covered = int64(0), int64(n), int64(0)
    for p in range(n):
        low, high = int64(0), fronts
        while low < high:
            middle = (low + high) // 2
            member = heads[middle]
            dominated = False
            while member >= 0 and not dominated:
                dominated = True
                # The first loss needs no comparison: members come earlier in the order.
                for m in range(1, objectives):
                    if points[member, m] > points[p, m]:
                        dominated = False
                        break
                member = following[member]
            if dominated:
                low = middle + 1
            else:
                high = middle
        if low >= limit:
            rank[order[p]] = -1
            continue
        rank[order[p]] = low
        if low == fronts:
            fronts += 1
            sizes[low] = 0
            heads[low] = -1
        following[p] = heads[low]
        heads[low] = p
        sizes[low] += 1
        covered += 1
        while fronts > 1 and covered - sizes[fronts - 1] >= needed:
            fronts -= 1
            limit = fronts
            covered -= sizes[fronts]
    for i in range(n):
        if rank[i] >= limit:
            rank[i] = -1
    return fronts


@kernel(exact=True)
def crowding(
    values: NDArray[np.float64],
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    ends: NDArray[np.int64],
    before: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> None:
    """Add one objective's share of the crowding distance: the gap between a trial's neighbours in its front.

    Args:
        values: One loss of each trial, (n,) float64.
        order: Trials by that loss, ascending or descending, (n,) int64.
        rank: (n,) int64; -1 = left out.
        ends: (2, fronts) int64, scratch: first and last member of each front.
        before: (2, fronts) int64, scratch: the two members met last.
        distance: (n,) float64, added to: the gap as a share of the front's range; infinite at both ends.

    Source: Deb et al. (2002), §III-B.
    """
    ends[:, :] = -1
    before[:, :] = -1
    for i in order:
        k = rank[i]
        if k >= 0:
            if ends[0, k] < 0:
                ends[0, k] = i
            ends[1, k] = i
    for i in order:
        k = rank[i]
        if k < 0:
            continue
        middle = before[0, k]
        if before[1, k] >= 0:
            extent = abs(values[ends[1, k]] - values[ends[0, k]])
            if extent > 0.0:
                distance[middle] += abs(values[i] - values[before[1, k]]) / extent
        before[1, k] = middle
        before[0, k] = i
    for k in range(ends.shape[1]):
        distance[ends[0, k]] = math.inf
        distance[ends[1, k]] = math.inf
