"""Drawing candidates from the prior under conditions, and marking what a broken rule allows to change."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import kernel
from dspex.core.kernels.encode import canonical, snap
from dspex.core.rng import uniform
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
        lo, hi, half = table.lo[d], table.hi[d], 0.5 * table.step[d]
        if table.kind[d] <= 1 and half > 0.0:
            if table.log_flag[d] == 1:
                first = canonical(math.exp(lo))
                last = math.exp(snap(table.kind[d], table.log_flag[d], lo, hi, table.step[d], hi))
                lo = math.log(max(first - half, 0.5 * first))
                hi = math.log(last + half)
            else:
                hi = snap(table.kind[d], table.log_flag[d], lo, hi, table.step[d], hi) + half
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
        total += math.exp(cat_logp[offset + c])
        if u < total:
            return float(c)
    # Rounding may leave u above the sum of all weights; a category of weight zero must not be drawn for that.
    while last > 0 and cat_logp[offset + last] == -math.inf:
        last -= 1
    return float(last)


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
    candidates = population.shape[1]
    for d in range(population.shape[0]):
        always = table.parent[d] < 0 and table.cond_pc[d] < 0
        kind, log_flag, lo, hi, pace = table.kind[d], table.log_flag[d], table.lo[d], table.hi[d], table.step[d]
        for first in range(0, candidates, BLOCK):
            count = min(BLOCK, candidates - first)
            if not always:
                activate(table, population, d, first, count, stack)
            for c in range(count):
                if always or stack[0, c] != 0.0:
                    u = uniform(seed, step, d, first + c)
                    if kind <= 1:
                        population[d, first + c] = draw_number(kind, log_flag, lo, hi, pace, origin[d], width[d], u)
                    else:
                        population[d, first + c] = draw_category(table.cat_logp, table.cat_off[d], table.ncat[d], u)
                else:
                    population[d, first + c] = math.nan


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
        kind, log_flag, lo, hi, pace = table.kind[d], table.log_flag[d], table.lo[d], table.hi[d], table.step[d]
        for first in range(0, candidates, BLOCK):
            count = min(BLOCK, candidates - first)
            activate(table, population, d, first, count, stack)
            for c in range(count):
                i = first + c
                if stack[0, c] == 0.0:
                    population[d, i] = math.nan
                elif chosen[d, i] == 1 or population[d, i] != population[d, i]:
                    u = uniform(seed, step, d, index[i])
                    if kind <= 1:
                        population[d, i] = draw_number(kind, log_flag, lo, hi, pace, origin[d], width[d], u)
                    else:
                        population[d, i] = draw_category(table.cat_logp, table.cat_off[d], table.ncat[d], u)


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
