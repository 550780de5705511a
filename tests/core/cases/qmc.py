"""Cases of quasi-random points."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from dspex.core import sobol, streams
from tests.core import naive as basics
from tests.core.cases.registry import Case, case
from tests.core.naive import qmc as naive
from tests.core.spaces import SEEDS, spaces, stack

WORDS = st.integers(0, 2**32 - 1)


@case("qmc.scramble")
def _(draw: st.DrawFn) -> Case:
    digits, key = draw(WORDS), draw(st.integers(0, 2**64 - 1))
    return Case((digits, np.uint64(key)), (), lambda: [naive.scramble(digits, key)])


@case("qmc.sobol")
def _(draw: st.DrawFn) -> Case:
    known, rows, count = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    begin = draw(st.integers(0, sobol.DIMENSIONS - known))
    directions = sobol.directions()[begin : begin + known].copy()
    seed, first = draw(SEEDS), draw(st.integers(0, 100) | st.integers(0, 2**32 - 5))
    return Case(
        (directions, seed, first, np.zeros((rows, count))),
        (3,),
        lambda: [naive.sobol(directions, seed, first, rows, count)],
    )


@case("qmc.quantiles")
def _(draw: st.DrawFn) -> Case:
    lowered, count, seed = draw(spaces()), draw(st.integers(1, 5)), draw(SEEDS)
    rows = len(lowered.variables)
    points = np.array([[streams.uniform(seed, 0, d, i) for i in range(count)] for d in range(rows)])
    frames = [basics.frame(lowered, d) for d in range(rows)]
    origin, width = (np.array([frame[part] for frame in frames]) for part in (0, 1))
    return Case(
        (lowered.table, origin, width, points, stack(), np.zeros((rows, count))),
        (5,),
        lambda: [naive.quantiles(lowered, points)],
        1e-12,
    )
