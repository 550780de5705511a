"""Randomised trees."""

from __future__ import annotations

from ctypes import c_double, c_int64
from typing import Any

import numpy as np

from benchmarks.kernels.cases.sampling import bound, genes
from benchmarks.kernels.harness import Work, library, work
from dspex.core.kernels import importance

ROWS, TRIALS, LEAST = 40, 1000, 10


def _trials(count: int) -> tuple[Any, Any]:
    """Categories and columns."""
    space = genes(ROWS)
    return space.table.ncat, space.sampler.sample(count, 1)


def _nodes(count: int) -> tuple[Any, Any, Any, Any]:
    """Rows, children, cuts and values."""
    return np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count), np.empty(count)


@work("grow a tree 1,000 x 40")
def _() -> Work:
    ncat, columns = _trials(TRIALS)
    losses, weights = np.nan_to_num(columns[1] + columns[4]), np.linspace(0.5, 1.0, TRIALS)
    spans, spare, terms = np.empty((2 * TRIALS, 2), np.int64), np.empty(TRIALS, np.int64), np.empty((3, TRIALS))
    members, order = np.empty(TRIALS, np.int64), np.arange(TRIALS)
    ours, theirs = _nodes(2 * TRIALS), _nodes(2 * TRIALS)
    numbers = [c_int64(number) for number in (ROWS, TRIALS, TRIALS, LEAST, 3, importance.STREAM + 5)]
    call = bound(
        library("importance").grow_tree, *numbers, ncat, columns, losses, weights, members, spans, spare, *theirs
    )

    def grow() -> int:
        members[:] = order
        return importance.grow_tree(ncat, columns, losses, weights, LEAST, 3, 5, members, spans, spare, terms, *ours)

    def c() -> object:
        members[:] = order
        return call()

    def equal() -> bool:
        count = grow()
        return c() == count and all(np.array_equal(a[:count], b[:count]) for a, b in zip(ours, theirs, strict=True))

    return Work(grow, TRIALS, "trials", c, equal=equal)


@work("ask a tree 10,000 x 40")
def _() -> Work:
    ncat, columns = _trials(TRIALS)
    losses, weights = np.nan_to_num(columns[1] + columns[4]), np.ones(TRIALS)
    spans, spare, terms = np.empty((2 * TRIALS, 2), np.int64), np.empty(TRIALS, np.int64), np.empty((3, TRIALS))
    tree = _nodes(2 * TRIALS)
    importance.grow_tree(ncat, columns, losses, weights, LEAST, 3, 5, np.arange(TRIALS), spans, spare, terms, *tree)
    population = _trials(10_000)[1]
    ours, theirs = np.zeros(10_000), np.zeros(10_000)
    c = bound(library("importance").add_tree, c_int64(10_000), c_double(0.5), ncat, *tree, population, theirs)

    def add() -> None:
        importance.add_tree(ncat, *tree, 0.5, population, ours)

    def equal() -> bool:
        ours[:], theirs[:] = 0.0, 0.0
        add()
        c()
        return np.allclose(ours, theirs, rtol=1e-15)

    return Work(add, 10_000, "candidates", c, equal=equal)
