"""Drawing candidates from the prior under conditions, and marking what a broken rule allows to change."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.elementary import exp, log
from dspex.core.kernels.encode import canonical, snap, snap_row
from dspex.core.rng import fill_uniform, uniform
from dspex.core.rules import activate


@kernel(exact=True)
def frame(table: ParamTable, origin: NDArray[np.float64], width: NDArray[np.float64]) -> None:
    """Origin and width of each numeric row's unit interval; a grid row's reaches half a step beyond its ends.

    Args:
        table: The parameter table.
        origin: (D,) float64, overwritten.
        width: (D,) float64, overwritten; 0 where the row has a single value.
    """
    for d in range(table.kind.shape[0]):
        kind, log_flag = int64(table.kind[d]), int64(table.log_flag[d])
        lo, hi, half = table.lo[d], table.hi[d], 0.5 * table.step[d]
        if table.kind[d] <= 1 and half > 0.0:
            if table.log_flag[d] == 1:
                first = canonical(exp(lo))
                last = exp(snap(kind, log_flag, lo, hi, table.step[d], hi))
                lo = log(max(first - half, 0.5 * first))
                hi = log(last + half)
            else:
                hi = snap(kind, log_flag, lo, hi, table.step[d], hi) + half
                lo = lo - half
        if table.kind[d] > 1 or table.lo[d] == table.hi[d]:
            origin[d], width[d] = table.lo[d], 0.0
        else:
            origin[d], width[d] = lo, hi - lo


@kernel(exact=True)
def draw_number(
    kind: int, log_flag: int, lo: float, hi: float, step: float, origin: float, width: float, u: float
) -> float:
    """The entry of a numeric row at quantile u in [0, 1] of its prior; origin and width from `frame`."""
    return snap(kind, log_flag, lo, hi, step, origin + u * width)


@kernel(exact=True)
def draw_category(cat_logp: NDArray[np.float64], offset: int, categories: int, u: float) -> float:
    """The category at quantile u in [0, 1) of the prior weights that begin at `offset`."""
    last = categories - 1
    total = 0.0
    for c in range(last):
        total += exp(cat_logp[offset + c])
        if u < total:
            return float(c)
    # Rounding may leave u above the sum of all weights; a category of weight zero must not be drawn for that.
    while last > 0 and cat_logp[offset + last] == -math.inf:
        last -= 1
    return float(last)


@kernel(exact=True)
def draw_categories(
    cat_logp: NDArray[np.float64],
    offset: int,
    categories: int,
    shares: NDArray[np.float64],
    quantiles: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """`draw_category` at many quantiles of one row.

    Args:
        cat_logp: Log prior weights.
        offset: Where the row's begin.
        categories: Of the row.
        shares: Scratch, (m,) float64; a row of more than m categories takes longer.
        quantiles: (n,) float64 in [0, 1).
        out: (n,) float64, overwritten.
    """
    n, last = quantiles.shape[0], categories - 1
    if last > shares.shape[0]:
        for i in range(n):
            out[i] = draw_category(cat_logp, offset, categories, quantiles[i])
        return
    for c in range(last):
        shares[c] = exp(cat_logp[offset + c])
    for c in range(1, last):
        shares[c] += shares[c - 1]
    for i in range(n):
        out[i] = 0.0
    for c in range(last):
        share = shares[c]
        for i in range(n):
            out[i] += 1.0 if quantiles[i] >= share else 0.0
    highest = last
    while highest > 0 and cat_logp[offset + highest] == -math.inf:
        highest -= 1
    if highest < last:
        for i in range(n):
            out[i] = min(out[i], float(highest))


@kernel(exact=True)
def sample(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    seed: int,
    step: int,
    stack: NDArray[np.float64],
    population: NDArray[np.float64],
) -> None:
    """Independent candidates from the prior, conditions included, rules not.

    Args:
        table: The parameter table.
        origin: From `frame`.
        width: From `frame`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        population: (D, N) float64, overwritten.
    """
    candidates, scratch = population.shape[1], stack.reshape(-1)
    # Long pieces, since each has its cost, and short enough to stay near the processor.
    piece = scratch.shape[0] // 4
    for d in range(population.shape[0]):
        # Scalars, since a call with the whole table costs more than its answer.
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace, start, span = table.step[d], origin[d], width[d]
        offset, categories = int64(table.cat_off[d]), int64(table.ncat[d])
        parent, wanted = table.parent[d], float(table.parent_val[d])
        for first in range(0, candidates, piece):
            count = min(piece, candidates - first)
            drawn = population[d, first : first + count]
            if kind > 1:
                quantiles = scratch[:count]
                fill_uniform(seed, step, d, first, quantiles)
                draw_categories(table.cat_logp, offset, categories, scratch[piece:], quantiles, drawn)
            elif pace > 0.0:
                for c in range(count):
                    drawn[c] = start + uniform(seed, step, d, first + c) * span
                snap_row(kind, log_flag, lo, hi, pace, drawn)
            else:
                for c in range(count):
                    z = start + uniform(seed, step, d, first + c) * span
                    z = z if z > lo else lo
                    drawn[c] = hi if z > hi else z
            if parent >= 0 and table.cond_pc[d] < 0:
                above = population[parent, first : first + count]
                for c in range(count):
                    value = drawn[c]  # read whatever the parent is: a loop that may not read is not made of vectors
                    drawn[c] = value if above[c] == wanted else math.nan
        if table.cond_pc[d] >= 0:
            for first in range(0, candidates, BLOCK):
                count = min(BLOCK, candidates - first)
                activate(table, population, d, first, count, stack)
                for c in range(count):
                    value = population[d, first + c]
                    population[d, first + c] = value if stack[0, c] != 0.0 else math.nan


@kernel(exact=True)
def redraw(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    seed: int,
    step: int,
    index: NDArray[np.int64],
    chosen: NDArray[np.uint8],
    stack: NDArray[np.float64],
    population: NDArray[np.float64],
) -> None:
    """Draw the chosen rows again and bring conditions up to date: newly active rows are drawn, inactive ones cleared.

    Args:
        table: The parameter table.
        origin: From `frame`.
        width: From `frame`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        index: Random-number index of each candidate, (N,) int64.
        chosen: (D, N) uint8: 1 where the entry is to change.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        population: (D, N) float64, changed in place.
    """
    candidates = population.shape[1]
    for d in range(population.shape[0]):
        # Scalars, since a call with the whole table costs more than its answer.
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace, start, span = table.step[d], origin[d], width[d]
        offset, categories = int64(table.cat_off[d]), int64(table.ncat[d])
        for first in range(0, candidates, BLOCK):
            count = min(BLOCK, candidates - first)
            activate(table, population, d, first, count, stack)
            quantiles, drawn = stack[1, :count], stack[3, :count]
            for c in range(count):
                quantiles[c] = uniform(seed, step, d, index[first + c])
            if kind > 1:
                draw_categories(table.cat_logp, offset, categories, stack[2], quantiles, drawn)
            else:
                for c in range(count):
                    drawn[c] = start + quantiles[c] * span
                snap_row(kind, log_flag, lo, hi, pace, drawn)
            for c in range(count):
                value = population[d, first + c]
                value = drawn[c] if chosen[d, first + c] == 1 or value != value else value
                population[d, first + c] = value if stack[0, c] != 0.0 else math.nan


@kernel(exact=True)
def rule_rows(table: ParamTable, rows: NDArray[np.uint8]) -> None:
    """Which rows a rule depends on: those it reads, and those that decide whether these are active.

    Args:
        table: The parameter table with R rules.
        rows: (R, D) uint8, overwritten.
    """
    rules = rows.shape[0]
    rows[:, :] = 0
    rule = 0
    for pc in range(table.op.shape[0]):
        if rule == rules:
            break
        if table.op[pc] == 0:
            rule += 1
        elif table.op[pc] == 2 or table.op[pc] == 4:
            rows[rule, table.arg[pc]] = 1
    for d in range(rows.shape[1] - 1, -1, -1):
        parent, pc = table.parent[d], table.cond_pc[d]
        for r in range(rules):
            if rows[r, d] == 1 and parent >= 0:
                rows[r, parent] = 1
        while pc >= 0 and table.op[pc] != 0:
            if table.op[pc] == 2 or table.op[pc] == 4:
                for r in range(rules):
                    if rows[r, d] == 1:
                        rows[r, table.arg[pc]] = 1
            pc += 1


@kernel(exact=True)
def mark_broken(
    rows: NDArray[np.uint8],
    holds: NDArray[np.uint8],
    seed: int,
    step: int,
    index: NDArray[np.int64],
    chosen: NDArray[np.uint8],
) -> None:
    """Choose, at random, half of the rows that each broken rule depends on.

    Args:
        rows: (R, D) uint8 from `rule_rows`.
        holds: (R, N) uint8 from `evaluate_rules`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        index: Random-number index of each candidate, (N,) int64.
        chosen: (D, N) uint8, overwritten.
    """
    chosen[:, :] = 0
    for r in range(rows.shape[0]):
        for i in range(holds.shape[1]):
            if holds[r, i] == 0:
                for d in range(rows.shape[1]):
                    if rows[r, d] == 1 and uniform(seed, step, d, index[i]) < 0.5:
                        chosen[d, i] = 1
