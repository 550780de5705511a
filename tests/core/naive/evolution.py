"""Oracles of sorting, hypervolume, selection, crossover and mutation."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from tests.core import naive
from tests.core.naive import Array

Ranks = NDArray[np.int64]


def precedes(losses: Array, i: int, j: int) -> bool:
    """No loss of i is higher, and one is lower, or i is the earlier of two equal ones."""
    one, other = losses[:, i], losses[:, j]
    return bool((one <= other).all() and ((one < other).any() or i < j))


def radix_passes(values: Array) -> int:
    """Bytes in which the sorting keys differ: the sign bit flipped, of negative numbers every bit."""
    words = [struct.unpack("<Q", struct.pack("<d", value + 0.0))[0] for value in values]
    keys = [word ^ ((1 << 64) - 1 if word >> 63 else 1 << 63) for word in words]
    return sum(len({key >> shift & 255 for key in keys}) > 1 for shift in range(0, 64, 8))


def ranks(losses: Array, needed: int) -> Ranks:
    """Peel front after front; -1 for what is behind the front that completes those needed."""
    rank = np.full(losses.shape[1], -1)
    left, front = list(range(losses.shape[1])), 0
    while left and np.count_nonzero(rank >= 0) < max(needed, 1):
        best = [j for j in left if not any(precedes(losses, i, j) for i in left if i != j)]
        rank[best] = front
        left = [j for j in left if j not in best]
        front += 1
    return rank


def crowding(losses: Array, rank: Ranks) -> Array:
    """Sum over objectives of the gap between the neighbours in the same front; infinite at the ends."""
    distance = np.zeros(losses.shape[1])
    for values in losses:
        for front in set(rank[rank >= 0].tolist()):
            members = sorted(np.flatnonzero(rank == front).tolist(), key=lambda i: values[i])
            extent = values[members[-1]] - values[members[0]]
            for before, i, after in zip(members, members[1:], members[2:], strict=False):
                distance[i] += (values[after] - values[before]) / extent if extent > 0 else 0.0
            distance[[members[0], members[-1]]] = math.inf
    return distance


def volume(points: Array, reference: Array) -> float:
    """By inclusion and exclusion."""
    total = 0.0
    for size in range(1, points.shape[1] + 1):
        for chosen in itertools.combinations(range(points.shape[1]), size):
            box = np.maximum(reference - points[:, chosen].max(axis=1), 0.0)
            total -= (-1) ** size * math.prod(box.tolist())
    return total


def shares(points: Array, reference: Array) -> Array:
    whole = volume(points, reference)
    return np.array([whole - volume(np.delete(points, i, axis=1), reference) for i in range(points.shape[1])])


def duels(fitness: Array, words: list[int]) -> int:
    won = 0
    for k, word in enumerate(words):
        a, b = _drawn(word, len(fitness))
        if fitness[b] < fitness[a] or math.isnan(fitness[a]):
            won += 1 << k
    return won


def _drawn(word: int, size: int) -> tuple[int, int]:
    return (word & 0xFFFFFFFF) * size >> 32, (word >> 32) * size >> 32


def mate(fitness: Array, seed: int, step: int, share: float, pairs: int) -> tuple[list[int], list[int], list[int]]:
    found: list[tuple[int, int, int]] = []
    size = len(fitness)
    for i in range(pairs):
        words = [streams.bits(seed, step, dim, i) for dim in (-401, -402)]
        (a, b), (c, d) = [_drawn(word, size) for word in words]
        mother = b if fitness[b] < fitness[a] or math.isnan(fitness[a]) else a
        father, loser = (d, c) if fitness[d] < fitness[c] or math.isnan(fitness[c]) else (c, d)
        crosses = streams.uniform(seed, step, -403, i) < share
        found.append((mother, loser if mother == father else father, int(crosses)))
    mothers, fathers, mates = ([each[k] for each in found] for k in range(3))
    return mothers, fathers, mates


def survivors(fitness: Array) -> tuple[list[int], list[int]]:
    """Children that go on and the parents that do not."""
    size = len(fitness) // 2
    stay = set(sorted(range(2 * size), key=lambda i: (fitness[i], i))[:size])
    return [i - size for i in range(size, 2 * size) if i in stay], [i for i in range(size) if i not in stay]


def blend(lo: float, hi: float, a: float, b: float, u: float) -> tuple[float, float]:
    """Bounded SBX with index 15: the children near the lower and the higher parent."""
    low, high = min(a, b), max(a, b)

    def spread(room: float) -> float:
        alpha = 2 - (1 + 2 * room / (high - low)) ** -16
        return (u * alpha if u * alpha <= 1 else 1 / (2 - u * alpha)) ** (1 / 16)

    one = (low + high - spread(low - lo) * (high - low)) / 2
    other = (low + high + spread(hi - high) * (high - low)) / 2
    return max(one, lo), min(other, hi)


def cross(
    lowered: Lowered, parents: Array, mothers: Any, fathers: Any, mates: Any, blended: bool, seed: int, step: int
) -> Array:
    pairs = len(mothers)
    children = np.empty((parents.shape[0], 2 * pairs))
    for (d, variable), i in itertools.product(enumerate(lowered.variables), range(pairs)):
        a, b = float(parents[d, mothers[i]]), float(parents[d, fathers[i]])
        lo, hi = float(lowered.table.lo[d]), float(lowered.table.hi[d])
        word = streams.bits(seed, step, d, i)
        if mates[i]:
            a, b = (b if math.isnan(a) else a), (a if math.isnan(b) else b)
        takes = bool(mates[i]) and word & 1
        if takes and (variable.options or not blended):
            a, b = b, a
        elif takes and abs(b - a) > 1e-14 * (hi - lo):
            parent = (a, b)
            one, other = blend(lo, hi, a, b, (word >> 11) * 2.0**-53)
            a, b = (other, one) if word & 2 else (one, other)
            a, b = (x if x in parent else naive.snap(lowered, d, x) for x in (a, b))
        children[d, i], children[d, pairs + i] = a, b
    return children


def perturb(lo: float, hi: float, z: float, u: float) -> float:
    """Bounded polynomial mutation with index 15."""
    if u < 0.5:
        moved = (2 * u + (1 - 2 * u) * (1 - (z - lo) / (hi - lo)) ** 16) ** (1 / 16) - 1
    else:
        moved = 1 - (2 * (1 - u) + 2 * (u - 0.5) * (1 - (hi - z) / (hi - lo)) ** 16) ** (1 / 16)
    return min(max(z + moved * (hi - lo), lo), hi)


def other_number(lowered: Lowered, d: int, z: float, u: float) -> float:
    origin, width = naive.frame(lowered, d)
    if width == 0:
        return z
    values = naive.grid(lowered, d)
    if values is None:
        return naive.snap(lowered, d, perturb(float(lowered.table.lo[d]), float(lowered.table.hi[d]), z, u))
    moved = naive.snap(lowered, d, perturb(origin, origin + width, z, u))
    if not math.isclose(moved, z, rel_tol=1e-11, abs_tol=1e-11):
        return moved
    log = bool(lowered.table.log_flag[d])
    place = min(range(len(values)), key=lambda index: abs((math.log(values[index]) if log else values[index]) - z))
    wanted = place + (1 if u >= 0.5 else -1)
    if not 0 <= wanted < len(values):
        wanted = 2 * place - wanted
    value = values[min(max(wanted, 0), len(values) - 1)]
    return math.log(value) if log else value


def other_category(lowered: Lowered, d: int, current: int, u: float) -> int:
    table = lowered.table
    weights = np.exp(table.cat_logp[table.cat_off[d] : table.cat_off[d] + table.ncat[d]])
    weights[current] = 0.0
    if not weights.any():
        return current
    total = np.cumsum(weights)
    return int(np.count_nonzero(total <= u * total[-1]))


def mutate(lowered: Lowered, rate: float, seed: int, step: int, population: Array) -> Array:
    result = population.copy()
    for i, (d, variable) in itertools.product(range(population.shape[1]), enumerate(lowered.variables)):
        z, u = float(result[d, i]), streams.uniform(seed, step, d, i)
        if not naive.active(lowered, result[:, i], d):
            result[d, i] = math.nan
        elif math.isnan(z):
            result[d, i] = naive.draw(lowered, d, u)
        elif u < rate:
            known = bool(variable.options)
            result[d, i] = (
                other_category(lowered, d, int(z), u / rate) if known else other_number(lowered, d, z, u / rate)
            )
    return result
