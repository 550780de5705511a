"""The rule machine: straight-line bytecode over blocks of candidates.

The stack's rows are whole blocks, so each instruction is one vectorised loop.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import read_row


@kernel(exact=True)
def run_programs(
    table: ParamTable,
    population: NDArray[np.float64],
    first: int,
    count: int,
    pc: int,
    stack: NDArray[np.float64],
    holds: NDArray[np.uint8],
) -> None:
    """Run a condition, or all rules, for `count` candidates from `first`.

    All rules in one call, since each call counts references to every array.

    Args:
        table: The parameter table.
        population: (D, N) float64.
        first: First candidate of the block.
        count: Candidates in the block, at most 256.
        pc: Start of a condition, whose result is left in row 0 of the stack; or 0 for the rules.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        holds: (R, N) uint8: 1 where a rule holds; a condition leaves it alone.
    """
    ops, args, constants = table.op, table.arg, table.const
    kinds, logs, sizes = table.kind, table.log_flag, table.ncat
    if first < 0 or count < 0:
        return  # never: it lets the compiler leave out the check of each index for a negative one
    top = int64(0)
    while True:
        # One integer type for every call, so that callees are compiled once.
        op, arg = int64(ops[pc]), int64(args[pc])
        pc += 1
        if op == 0:
            if arg < 0:
                return
            for c in range(count):
                holds[arg, first + c] = 1 if stack[0, c] != 0.0 else 0
            if arg == holds.shape[0] - 1:
                return
            top = int64(0)
        elif op == 1:
            # A comparison with a constant takes one pass, and so does adding or subtracting a row below.
            value, following = constants[arg], int64(ops[pc])
            if 8 <= following <= 11:
                pc += 1
                if following == 8:
                    for c in range(count):
                        stack[top - 1, c] = 1.0 if stack[top - 1, c] <= value else 0.0
                elif following == 9:
                    for c in range(count):
                        stack[top - 1, c] = 1.0 if stack[top - 1, c] < value else 0.0
                elif following == 10:
                    for c in range(count):
                        stack[top - 1, c] = 1.0 if stack[top - 1, c] >= value else 0.0
                else:
                    for c in range(count):
                        stack[top - 1, c] = 1.0 if stack[top - 1, c] > value else 0.0
            else:
                for c in range(count):
                    stack[top, c] = value
                top += 1
        elif op == 2:
            kind, log_flag = int64(kinds[arg]), int64(logs[arg])
            following = int64(ops[pc])
            if log_flag == 1 or kind == 1:
                read_row(kind, log_flag, population, arg, first, count, stack, top)
                top += 1
            elif following == 5:
                pc += 1
                for c in range(count):
                    stack[top - 1, c] += population[arg, first + c]
            elif following == 6:
                pc += 1
                for c in range(count):
                    stack[top - 1, c] -= population[arg, first + c]
            else:
                for c in range(count):
                    stack[top, c] = population[arg, first + c]
                top += 1
        elif op == 3:
            categories = int64(sizes[args[pc - 2]])
            for c in range(count):
                value = stack[top - 1, c]
                stack[top - 1, c] = constants[arg + int(value)] if 0.0 <= value < categories else math.nan
        elif op == 4:
            for c in range(count):
                value = population[arg, first + c]
                stack[top, c] = 1.0 if value == value else 0.0
            top += 1
        elif op == 16:
            for c in range(count):
                stack[top - 1, c] = 1.0 if stack[top - 1, c] == 0.0 else 0.0
        else:
            top -= 1
            if op == 5:
                for c in range(count):
                    stack[top - 1, c] += stack[top, c]
            elif op == 6:
                for c in range(count):
                    stack[top - 1, c] -= stack[top, c]
            elif op == 7:
                for c in range(count):
                    stack[top - 1, c] *= stack[top, c]
            elif op == 8:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] <= stack[top, c] else 0.0
            elif op == 9:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] < stack[top, c] else 0.0
            elif op == 10:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] >= stack[top, c] else 0.0
            elif op == 11:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] > stack[top, c] else 0.0
            elif op == 12:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] == stack[top, c] else 0.0
            elif op == 13:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] != stack[top, c] else 0.0
            elif op == 14:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] != 0.0 and stack[top, c] != 0.0 else 0.0
            else:
                for c in range(count):
                    stack[top - 1, c] = 1.0 if stack[top - 1, c] != 0.0 or stack[top, c] != 0.0 else 0.0


@kernel(exact=True)
def evaluate_rules(
    table: ParamTable, population: NDArray[np.float64], stack: NDArray[np.float64], holds: NDArray[np.uint8]
) -> None:
    """Which rules hold for which candidates.

    Args:
        table: The parameter table with R rules.
        population: (D, N) float64.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        holds: (R, N) uint8, overwritten: 1 where the rule holds.
    """
    candidates = population.shape[1]
    if holds.shape[0] > 0:
        for first in range(0, candidates, BLOCK):
            run_programs(table, population, first, min(BLOCK, candidates - first), int64(0), stack, holds)


@kernel(exact=True)
def activate(
    table: ParamTable,
    population: NDArray[np.float64],
    d: int,
    first: int,
    count: int,
    stack: NDArray[np.float64],
) -> None:
    """Whether row d is active, from the rows before it; the answer is row 0 of the stack, 1 or 0.

    Args:
        table: The parameter table.
        population: (D, N) float64; rows before d are final.
        d: The row.
        first: First candidate of the block.
        count: Candidates in the block, at most 256.
        stack: (MAX_STACK, BLOCK) float64, overwritten.
    """
    if table.cond_pc[d] >= 0:
        run_programs(table, population, first, count, int64(table.cond_pc[d]), stack, stack.view(np.uint8))
    else:
        for c in range(count):
            stack[0, c] = 1.0
    parent = table.parent[d]
    if parent >= 0:
        wanted = table.parent_val[d]
        for c in range(count):
            if population[parent, first + c] != wanted:
                stack[0, c] = 0.0
