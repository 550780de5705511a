"""Polynomial mutation of numeric rows, another category for categorical ones, conditions brought up to date."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import natural, snap, transformed
from dspex.core.kernels.sampling import draw_category, draw_number
from dspex.core.rng import fill_uniform
from dspex.core.rules import activate


@kernel(exact=True)
def perturb(lo: float, hi: float, z: float, u: float) -> float:
    """Bounded polynomial mutation with a distribution index of 15: the entry at quantile u in [0, 1).

    Source: Deb & Goyal (1996); the power 1/16 is four square roots.
    """
    width = hi - lo
    upwards = u >= 0.5
    room = (hi - z) / width if upwards else (z - lo) / width
    share = 2.0 * (1.0 - u) if upwards else 2.0 * u
    rest = 1.0 - room
    rest *= rest
    rest *= rest
    rest *= rest
    rest *= rest
    size = 1.0 - math.sqrt(math.sqrt(math.sqrt(math.sqrt(share + (1.0 - share) * rest))))
    z = z + size * width if upwards else z - size * width
    return min(max(z, lo), hi)


@kernel(exact=True)
def other_number(
    kind: int, log_flag: int, lo: float, hi: float, step: float, origin: float, width: float, z: float, u: float
) -> float:
    """Another entry of a numeric row near z, at quantile u in [0, 1); on a grid at least one step away.

    Origin and width are from `sampling.frame`.
    """
    if width <= 0.0:
        return z
    if step <= 0.0:
        return snap(kind, log_flag, lo, hi, step, perturb(lo, hi, z, u))
    value = natural(kind, log_flag, z)
    moved = snap(kind, log_flag, lo, hi, step, perturb(origin, origin + width, z, u))
    if natural(kind, log_flag, moved) == value:
        pace = step if u >= 0.5 else -step
        # A logarithm has no value at or below 0: the lower end stands for what lies there.
        below = log_flag == 1 and value + pace <= 0.0
        moved = snap(kind, log_flag, lo, hi, step, lo if below else transformed(kind, log_flag, value + pace))
        if natural(kind, log_flag, moved) == value:
            moved = snap(kind, log_flag, lo, hi, step, transformed(kind, log_flag, value - pace))
    return moved


@kernel(exact=True)
def other_category(cat_logp: NDArray[np.float64], offset: int, categories: int, current: int, u: float) -> float:
    """A category other than `current` by prior weight, at quantile u in [0, 1); `current` when no other has weight."""
    last, total = current, 0.0
    rest = 0.0
    for c in range(categories):
        if c != current:
            rest += math.exp(cat_logp[offset + c])
    for c in range(categories):
        if c != current and cat_logp[offset + c] > -math.inf:
            total += math.exp(cat_logp[offset + c])
            last = c
            if u * rest < total:
                break
    return float(last)


@kernel(exact=True)
def mutate(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    rate: float,
    seed: int,
    step: int,
    stack: NDArray[np.float64],
    draws: NDArray[np.float64],
    picked: NDArray[np.int64],
    population: NDArray[np.float64],
) -> None:
    """Mutate, then bring conditions up to date: newly active rows are drawn from the prior, inactive ones cleared.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        rate: Probability that an active entry changes, > 0.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        draws: (BLOCK,) float64, scratch.
        picked: (BLOCK,) int64, scratch.
        population: (D, N) float64, changed in place.

    Source: Deb & Goyal (1996) for numeric rows.
    """
    candidates = population.shape[1]
    for d in range(population.shape[0]):
        always = table.parent[d] < 0 and table.cond_pc[d] < 0
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace = table.step[d]
        plain = kind == 0 and pace <= 0.0 and lo < hi
        offset, categories = int64(table.cat_off[d]), int64(table.ncat[d])
        for first in range(0, candidates, BLOCK):
            count = min(BLOCK, candidates - first)
            entries = population[d, first : first + count]
            fill_uniform(seed, step, int64(d), int64(first), draws[:count])
            if not always:
                activate(table, population, d, first, count, stack)
                for c in range(count):
                    if stack[0, c] == 0.0:
                        entries[c] = math.nan
                        draws[c] = 1.0
                    elif entries[c] != entries[c]:
                        if kind <= 1:
                            entries[c] = draw_number(kind, log_flag, lo, hi, pace, origin[d], width[d], draws[c])
                        else:
                            entries[c] = draw_category(table.cat_logp, offset, categories, draws[c])
                        draws[c] = 1.0
            # Those that change are picked first: compiled into one loop, all of them would be computed for a few.
            changed = int64(0)
            for c in range(count):
                picked[changed] = c
                changed += 1 if draws[c] < rate else 0
            for place in range(changed):
                c = int(picked[place])
                # One number decides whether the entry changes, and then how.
                u = draws[c] / rate
                if plain:
                    entries[c] = perturb(lo, hi, entries[c], u)
                elif kind <= 1:
                    z = entries[c]
                    entries[c] = other_number(kind, log_flag, lo, hi, pace, origin[d], width[d], z, u)
                else:
                    current = int64(entries[c])
                    entries[c] = other_category(table.cat_logp, offset, categories, current, u)
