"""Quasi-random points, and their way through the prior."""

from __future__ import annotations

from ctypes import c_int64

import numpy as np

from benchmarks.kernels.cases.sampling import bound, genes
from benchmarks.kernels.harness import Work, library, work
from dspex.core import sobol
from dspex.core.kernels import qmc


@work("sobol 4,096 x 64")
def _() -> Work:
    directions = sobol.directions()
    ours, theirs = np.empty((64, 4096)), np.empty((64, 4096))
    numbers = [c_int64(number) for number in (7, qmc.STREAM, 0, 64, 4096)]
    c = bound(library("qmc").sobol, *numbers, directions, theirs)

    def fill() -> None:
        qmc.sobol(directions, 7, 0, ours)

    def equal() -> bool:
        fill()
        c()
        return np.array_equal(ours, theirs)

    return Work(fill, 64 * 4096, "coordinates", c, equal=equal)


@work("sobol candidates 4,096 x 64")
def _() -> Work:
    space = genes(64)
    table, sampler, directions = space.table, space.sampler, sobol.directions()
    points, stack = np.empty((64, 4096)), sampler.stack
    ours, theirs = np.empty((64, 4096)), np.empty((64, 4096))
    numbers = [c_int64(number) for number in (7, qmc.STREAM, 0, 64, 4096)]
    arrays = (table.kind, table.lo, table.hi, table.step, sampler.origin, sampler.width, table.ncat, table.cat_off)
    shares = np.cumsum(np.exp(table.cat_logp))
    fill = bound(library("qmc").sobol, *numbers, directions, points)
    place = bound(
        library("qmc").quantiles, *numbers[3:], *arrays, shares, table.parent, table.parent_val, points, theirs
    )

    def draw() -> None:
        qmc.sobol(directions, 7, 0, points)
        qmc.quantiles(table, sampler.origin, sampler.width, points, stack, ours)

    def c() -> None:
        fill()
        place()

    def equal() -> bool:
        draw()
        c()
        return np.array_equal(ours, theirs, equal_nan=True)

    return Work(draw, 4096, "candidates", c, equal=equal)
