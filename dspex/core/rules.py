"""The rule machine: straight-line bytecode over blocks of candidates.

The stack's rows are whole blocks, so each instruction is one vectorised loop.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import natural


@kernel(exact=True)
def run_program(
    table: ParamTable, population: NDArray[np.float64], first: int, count: int, pc: int, stack: NDArray[np.float64]
) -> int:
    """Run the program at `pc` for `count` candidates from `first`; its result is row 0 of the stack.

    Args:
        table: The parameter table.
        population: (D, N) float64.
        first: First candidate of the block.
        count: Candidates in the block, at most 256.
        pc: Start of the program.
        stack: (MAX_STACK, BLOCK) float64, scratch.

    Returns:
        The index after the program's END.
    """
    top = 0
    while True:
        # One integer type for every call, so that callees are compiled once.
        op, arg = int64(table.op[pc]), int64(table.arg[pc])
        pc += 1
        if op == 0:
            return pc
        if op == 1:
            value = table.const[arg]
            for c in range(count):
                stack[top, c] = value
            top += 1
        elif op == 2:
            if table.kind[arg] == 0 and table.log_flag[arg] == 0 and table.step[arg] == 0.0:
                for c in range(count):
                    stack[top, c] = population[arg, first + c]
            else:
                kind, log_flag = table.kind[arg], table.log_flag[arg]
                for c in range(count):
                    stack[top, c] = natural(kind, log_flag, population[arg, first + c])
            top += 1
        elif op == 3:
            categories = int64(table.ncat[table.arg[pc - 2]])
            for c in range(count):
                value = stack[top - 1, c]
                stack[top - 1, c] = table.const[arg + int(value)] if 0.0 <= value < categories else math.nan
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
    for first in range(0, candidates, BLOCK):
        count = min(BLOCK, candidates - first)
        pc = int64(0)
        for r in range(holds.shape[0]):
            pc = run_program(table, population, first, count, pc, stack)
            for c in range(count):
                holds[r, first + c] = 1 if stack[0, c] != 0.0 else 0


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
        run_program(table, population, first, count, int64(table.cond_pc[d]), stack)
    else:
        for c in range(count):
            stack[0, c] = 1.0
    parent = table.parent[d]
    if parent >= 0:
        wanted = table.parent_val[d]
        for c in range(count):
            if population[parent, first + c] != wanted:
                stack[0, c] = 0.0
