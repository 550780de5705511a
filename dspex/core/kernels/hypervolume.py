"""Dominated volume of points in three dimensions, and the share of it that each point adds alone.

Both sweep along the last loss over the staircase of the first two. Points in two dimensions get a constant third loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel


@kernel
def volume(
    points: NDArray[np.float64],
    order: NDArray[np.int64],
    reference: NDArray[np.float64],
    stairs: NDArray[np.float64],
) -> float:
    """Volume between the points and the reference, O(n log n + n s) with s the length of the staircase.

    Args:
        points: (3, n) float64, below the reference in every loss.
        order: Points by ascending third loss, (n,) int64.
        reference: (3,) float64.
        stairs: (2, n + 1) float64, scratch: first loss, ascending, and second, descending.

    Source: Fonseca, Paquete & López-Ibáñez (2006), dimension sweep.
    """
    total, area, level, length = 0.0, 0.0, 0.0, int64(0)
    for i in order:
        x, y = points[0, i], points[1, i]
        low, high = int64(0), length
        while low < high:
            middle = (low + high) // 2
            if stairs[0, middle] < x:
                low = middle + 1
            else:
                high = middle
        top = stairs[1, low - 1] if low > 0 else reference[1]
        if top <= y or (low < length and stairs[0, low] == x and stairs[1, low] <= y):
            continue
        total += area * (points[2, i] - level)
        level = points[2, i]
        left, behind = x, low
        while behind < length and stairs[1, behind] >= y:
            area += (stairs[0, behind] - left) * (top - y)
            left, top = stairs[0, behind], stairs[1, behind]
            behind += 1
        area += ((stairs[0, behind] if behind < length else reference[0]) - left) * (top - y)
        shift = low + 1 - behind
        if shift == 1:
            for j in range(length, low, -1):
                stairs[0, j] = stairs[0, j - 1]
                stairs[1, j] = stairs[1, j - 1]
        elif shift < 0:
            for j in range(behind, length):
                stairs[0, j + shift] = stairs[0, j]
                stairs[1, j + shift] = stairs[1, j]
        length += shift
        stairs[0, low], stairs[1, low] = x, y
    return total + area * (reference[2] - level)


@kernel
def shares(
    points: NDArray[np.float64],
    order: NDArray[np.int64],
    reference: NDArray[np.float64],
    stairs: NDArray[np.int64],
    strips: NDArray[np.float64],
    following: NDArray[np.int64],
    heads: NDArray[np.int64],
    state: NDArray[np.float64],
    share: NDArray[np.float64],
) -> None:
    """Volume that the reference would lose with each point: what no other point dominates.

    Each point on the staircase keeps the part of the plane that it dominates alone, as strips from left to right with
    descending tops. A new point cuts a corner off the strips of its neighbours, and takes over what only points that
    it dominates had.

    Args:
        points: (3, n) float64, below the reference in every loss.
        order: Points by ascending third loss, (n,) int64.
        reference: (3,) float64.
        stairs: (n + 1,) int64, scratch: points by ascending first loss.
        strips: (2, 3 n) float64, scratch: left end and top of each strip.
        following: (3 n,) int64, scratch: the strip to the right, or -1.
        heads: (n,) int64, scratch: the leftmost strip of each point.
        state: (3, n) float64, scratch: right end, area and last level of each point.
        share: (n,) float64, overwritten.

    Source: Emmerich & Fonseca (2011).
    """
    length, used = int64(0), int64(0)
    share[:] = 0.0
    for i in order:
        x, y, z = points[0, i], points[1, i], points[2, i]
        low, high = int64(0), length
        while low < high:
            middle = (low + high) // 2
            if points[0, stairs[middle]] < x:
                low = middle + 1
            else:
                high = middle
        last = low
        if low == length or points[0, stairs[low]] > x:
            last -= 1
        hidden = last >= 0 and points[1, stairs[last]] <= y
        behind = low
        if hidden:
            if last > 0 and points[1, stairs[last - 1]] <= y:
                continue
            left, right = stairs[last], int64(-1)
        else:
            while behind < length and points[1, stairs[behind]] >= y:
                behind += 1
            left = stairs[low - 1] if low > 0 else int64(-1)
            right = stairs[behind] if behind < length else int64(-1)
        for side in range(2):
            m = left if side == 0 else right
            if m < 0:
                continue
            share[m] += state[1, m] * (z - state[2, m])
            state[2, m] = z
            strip = heads[m]
            while following[strip] >= 0 and strips[0, following[strip]] <= x:
                strip = following[strip]
            if strips[1, strip] <= y:
                continue
            after = following[strip]
            while after >= 0 and strips[1, after] > y:
                after = following[after]
            if strips[0, strip] < x:
                strips[0, used] = x
                following[strip] = used
                strip = used
                used += 1
            strips[1, strip] = y
            following[strip] = after
            state[1, m] = 0.0
            strip = heads[m]
            while strip >= 0:
                end = strips[0, following[strip]] if following[strip] >= 0 else state[0, m]
                state[1, m] += (end - strips[0, strip]) * max(strips[1, strip] - points[1, m], 0.0)
                strip = following[strip]
        if hidden:
            continue
        heads[i] = used
        strips[0, used] = x
        strips[1, used] = points[1, left] if left >= 0 else reference[1]
        state[1, i] = 0.0
        for position in range(low, behind):
            m = stairs[position]
            share[m] += state[1, m] * (z - state[2, m])
            state[1, i] += (points[0, m] - strips[0, used]) * (strips[1, used] - y)
            following[used] = used + 1
            used += 1
            strips[0, used], strips[1, used] = points[0, m], points[1, m]
        following[used] = -1
        state[0, i] = points[0, right] if right >= 0 else reference[0]
        state[1, i] += (state[0, i] - strips[0, used]) * (strips[1, used] - y)
        state[2, i] = z
        used += 1
        shift = low + 1 - behind
        if shift == 1:
            for j in range(length, low, -1):
                stairs[j] = stairs[j - 1]
        elif shift < 0:
            for j in range(behind, length):
                stairs[j + shift] = stairs[j]
        length += shift
        stairs[low] = i
    for position in range(length):
        m = stairs[position]
        share[m] += state[1, m] * (reference[2] - state[2, m])
