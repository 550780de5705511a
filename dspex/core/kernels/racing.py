"""Successive halving and Hyperband: sizes of rungs and brackets, and who goes on to the next rung."""

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
        total, count = 0.0, used
        for e in range(used):
            total += scores[c, e]
        if total != total:
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


@kernel(exact=True)
def rungs_for(candidates: int, eta: int) -> int:
    """Rungs after which a share of 1/eta each leaves one of `candidates`, at least 1."""
    count, left = 1, -(-candidates // eta)
    while left > 1:
        left = -(-left // eta)
        count += 1
    return count


@kernel(exact=True)
def halving_rungs(
    candidates: int, examples: int, budget: int, eta: int, sizes: NDArray[np.int64], targets: NDArray[np.int64]
) -> None:
    """How many take part in each rung, and how many examples each of them has at its end.

    Every rung has an equal part of the budget; results of earlier rungs count on.

    Args:
        candidates: Members of the first rung.
        examples: Most examples for one candidate.
        budget: Evaluations to spend.
        eta: The share 1/eta goes on, rounded up.
        sizes: (rungs,) int64, overwritten.
        targets: (rungs,) int64, overwritten; at least 1 and at most `examples`, never falling.

    Source: Karnin, Koren & Somekh (2013), algorithm 1.
    """
    size, target = candidates, 0
    rungs = sizes.shape[0]
    for rung in range(rungs):
        target = min(examples, max(target + budget // (rungs * size), 1))
        sizes[rung], targets[rung] = size, target
        size = -(-size // eta)


@kernel(exact=True)
def bracket_sizes(eta: int, sizes: NDArray[np.int64]) -> int:
    """Candidates of each bracket of one round of Hyperband, the one that halves most often first.

    Args:
        eta: The share 1/eta goes on in each rung of a bracket.
        sizes: (brackets,) int64, overwritten; bracket j has `brackets - j` rungs.

    Returns:
        Their sum.

    Source: Li et al. (2018), algorithm 1.
    """
    brackets = sizes.shape[0]
    total = 0
    for j in range(brackets):
        rungs = brackets - j
        size = brackets
        for _ in range(rungs - 1):
            size *= eta
        sizes[j] = -(-size // rungs)
        total += sizes[j]
    return total
