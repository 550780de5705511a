"""What a candidate is worth under a Gaussian posterior, and the neighbours among which better ones are looked for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import snap
from dspex.core.rng import normal_quantile, uniform

_LOG_ROOT_TWO_PI = 0.9189385332046727

# Streams of random numbers beside those of the rows, of which there are fewer.
_ALWAYS = 1 << 40
_WHETHER = 1 << 41


@kernel
def log_improvement(z: float) -> float:
    """log(φ(z) + z·Φ(z)), the expected improvement in units of the standard deviation, accurate at any z.

    Source: Ament et al. (2023), §4.1.
    """
    if z > -1.0:
        density = math.exp(-0.5 * z * z - _LOG_ROOT_TWO_PI)
        return math.log(density + z * 0.5 * math.erfc(-z * 0.7071067811865476))
    t = -z
    if t > 25.0:
        # The asymptotic series of 1 - t · Φ(-t) / φ(t), whose terms cancel.
        q = 1.0 / (t * t)
        rest = q * (1.0 - q * (3.0 - q * (15.0 - q * (105.0 - q * 945.0))))
    else:
        mills = 0.5 * math.erfc(t * 0.7071067811865476) * math.exp(0.5 * t * t + _LOG_ROOT_TWO_PI)
        rest = 1.0 - t * mills
    return math.log(rest) - 0.5 * t * t - _LOG_ROOT_TWO_PI


@kernel
def log_expected_improvement(
    mean: NDArray[np.float64], variance: NDArray[np.float64], best: float, out: NDArray[np.float64]
) -> None:
    """Logarithm of each candidate's expected improvement over `best`, for minimisation.

    Args:
        mean: Posterior means, (n,) float64.
        variance: Posterior variances, (n,) float64, > 0.
        best: What is to be improved on: under noise the lowest posterior mean of what was tried.
        out: (n,) float64, overwritten.

    Source: Ament et al. (2023), eq. 9.
    """
    for i in range(mean.shape[0]):
        deviation = math.sqrt(variance[i])
        out[i] = log_improvement((best - mean[i]) / deviation) + math.log(deviation)


@kernel(exact=True)
def neighbours(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    bases: NDArray[np.float64],
    rows: NDArray[np.int64],
    changes: NDArray[np.float64],
    reach: NDArray[np.float64],
    seed: int,
    step: int,
    out: NDArray[np.float64],
) -> None:
    """Candidates near others: some rows drawn again, numbers by a normal step, categories from the others.

    A number that lands on the value it had moves on by one grid step; conditions are left as they are.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        bases: (D, B) float64; candidate i begins as base i mod B.
        rows: Rows that may change, (k,) int64.
        changes: Expected number of rows to change in each candidate, (N,) float64; one is always changed, if active.
        reach: Standard deviation of a step of each candidate, in unit coordinates, (N,) float64.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        out: (D, N) float64, overwritten.
    """
    dims, bases_count, choices = out.shape[0], bases.shape[1], rows.shape[0]
    for i in range(out.shape[1]):
        b = i % bases_count
        for d in range(dims):
            out[d, i] = bases[d, b]
        active = 0
        for k in range(choices):
            if bases[rows[k], b] == bases[rows[k], b]:
                active += 1
        if active == 0:
            continue
        always = int(uniform(seed, step, int64(_ALWAYS), i) * active)
        share = (changes[i] - 1.0) / active
        seen = -1
        for k in range(choices):
            d = int(rows[k])
            value = out[d, i]
            if value != value:
                continue
            seen += 1
            if seen != always and uniform(seed, step, _WHETHER + d, i) >= share:
                continue
            u = uniform(seed, step, d, i)
            if table.kind[d] > 1:
                # A uniform one of the other categories that the prior does not rule out.
                others, offset = 0, table.cat_off[d]
                for c in range(table.ncat[d]):
                    if c != int(value) and table.cat_logp[offset + c] > -math.inf:
                        others += 1
                chosen = int(u * others)
                for c in range(table.ncat[d]):
                    if c != int(value) and table.cat_logp[offset + c] > -math.inf:
                        if chosen == 0:
                            out[d, i] = float(c)
                        chosen -= 1
                continue
            lo, hi, pace = table.lo[d], table.hi[d], table.step[d]
            kind, log_flag = int64(table.kind[d]), int64(table.log_flag[d])
            gap = reach[i] * normal_quantile(u) * width[d]
            target = value + gap
            # Reflected at the ends, so that they are no traps.
            if target < lo:
                target = min(lo + (lo - target), hi)
            elif target > hi:
                target = max(hi - (target - hi), lo)
            moved = snap(kind, log_flag, lo, hi, pace, target)
            if moved == value and pace > 0.0:
                up = gap >= 0.0
                for _ in range(2):
                    shift = pace if up else -pace
                    if log_flag == 1:
                        target = math.log(max(math.exp(value) + shift, math.exp(lo)))
                    else:
                        target = value + shift
                    moved = snap(kind, log_flag, lo, hi, pace, min(max(target, lo), hi))
                    if moved != value:
                        break
                    up = not up
            out[d, i] = moved
