"""Random numbers."""

from __future__ import annotations

from ctypes import c_int64

import numpy as np

from benchmarks.kernels.harness import Work, bandwidth, library, pointer, work
from dspex.core import rng


@work("rng.fill_uniform 1,000,000")
def _() -> Work:
    n = 1_000_000
    ours, theirs, c = np.empty(n), np.empty(n), library("rng")
    keys = [c_int64(key) for key in (7, 3, 1, 0)]
    generator = np.random.default_rng(0)
    return Work(
        ours=lambda: rng.fill_uniform(7, 3, 1, 0, ours),
        units=n,
        unit="numbers",
        c=lambda: c.fill_uniform(*keys, pointer(theirs), c_int64(n)),
        numpy=lambda: generator.random(n),
        equal=lambda: np.array_equal(ours, theirs),
        limit="memory",
        limit_seconds=8.0 * n / bandwidth(),
    )
