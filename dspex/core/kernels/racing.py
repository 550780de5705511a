"""Successive halving: who goes on to the next rung."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import kernel
from dspex.core.kernels.encode import canonical


@kernel(exact=True)
def promote(
    scores: NDArray[np.float64], used: int, keep: int, means: NDArray[np.float64], out: NDArray[np.int64]
) -> int:
    """The candidates with the highest means over the first `used` examples, best first; the lower index wins a tie.

    Args:
        scores: (candidates, examples) float64; NaN = excluded.
        used: Examples of this rung.
        keep: How many to promote.
        means: (candidates,) float64, overwritten; NaN where a candidate has no score.
        out: (candidates,) int64, overwritten up to the count returned.

    Returns:
        How many were promoted: fewer than `keep` when candidates without any score are left out.

    Source: Jamieson & Talwalkar (2016).
    """
    filled = 0
    for c in range(scores.shape[0]):
        total, count = 0.0, 0
        for e in range(used):
            if scores[c, e] == scores[c, e]:
                total += scores[c, e]
                count += 1
        # Rounded, so that equal scores summed in another order tie.
        means[c] = canonical(total / count) if count > 0 else np.nan
        if count == 0 or keep <= 0:
            continue
        if filled == keep:
            if not means[c] > means[out[filled - 1]]:
                continue
            filled -= 1
        place = filled
        while place > 0 and means[out[place - 1]] < means[c]:
            out[place] = out[place - 1]
            place -= 1
        out[place] = c
        filled += 1
    return filled
