"""The multivariate tree-structured Parzen estimator over mixed rows with conditions.

Each kernel of a mixture is a product over rows: a truncated normal on a numeric row's unit interval, a smoothed point
mass on a categorical one, the prior where the observed trial was inactive. A row that is inactive in the candidate
contributes nothing. Sources: Bergstra et al. (2011); Watanabe (2023), arXiv:2304.11127.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.encode import snap
from dspex.core.kernels.sampling import draw_category, draw_number
from dspex.core.rng import normal_cdf, normal_quantile, uniform
from dspex.core.rules import activate


@kernel
def shrink(values: NDArray[np.float64], variances: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Posterior means of noisy trials under one normal prior fitted to all of them (empirical Bayes).

    Args:
        values: Observed means, (n,) float64; NaN = failed, stays NaN.
        variances: Noise variance of each, (n,) float64, ≥ 0.
        out: (n,) float64, overwritten.

    Source: DerSimonian & Laird (1986) for the moments.
    """
    n = values.shape[0]
    count, mean, noise = 0, 0.0, 0.0
    for i in range(n):
        if values[i] == values[i]:
            count += 1
            mean += values[i]
            noise += variances[i]
    if count < 2 or noise <= 0.0:
        for i in range(n):
            out[i] = values[i]
        return
    mean /= count
    spread = 0.0
    for i in range(n):
        if values[i] == values[i]:
            spread += (values[i] - mean) ** 2
    # A tenth of the spread is always taken as real: with few trials the moments often claim that nothing differs.
    between = max(spread / (count - 1) - noise / count, 0.1 * spread / (count - 1))
    if not between > 0.0:
        for i in range(n):
            out[i] = values[i]
        return
    total, centre = 0.0, 0.0
    for i in range(n):
        if values[i] == values[i]:
            weight = 1.0 / (between + variances[i])
            total += weight
            centre += weight * values[i]
    centre /= total
    for i in range(n):
        share = between / (between + variances[i])
        out[i] = centre + share * (values[i] - centre)


@kernel(exact=True)
def split(losses: NDArray[np.float64], best: NDArray[np.int64]) -> int:
    """Indices of the lowest losses in ascending order, the earlier trial first among equals.

    Args:
        losses: (n,) float64; NaN = failed, never chosen.
        best: (k,) int64, overwritten.

    Returns:
        How many were found: the smaller of k and the number of losses that are not NaN.
    """
    found = 0
    for i in range(losses.shape[0]):
        loss = losses[i]
        if loss != loss or best.shape[0] == 0:
            continue
        if found == best.shape[0]:
            if loss >= losses[best[found - 1]]:
                continue
            found -= 1
        place = found
        while place > 0 and losses[best[place - 1]] > loss:
            best[place] = best[place - 1]
            place -= 1
        best[place] = i
        found += 1
    return found


@kernel
def build_mixture(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    history: NDArray[np.float64],
    members: NDArray[np.int64],
    sigma: NDArray[np.float64],
    centres: NDArray[np.float64],
    log_norm: NDArray[np.float64],
) -> None:
    """Centres and normalisers of a mixture: one kernel for each member, then the prior.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        history: (D, capacity) float64, columns of trials.
        members: Columns to use, (k,) int64.
        sigma: Bandwidth of each numeric row in its unit interval, (D,) float64, > 0.
        centres: (k + 1, D) float64, overwritten: unit coordinate or category; NaN = the prior.
        log_norm: (k + 1, D) float64, overwritten: minus the log of a numeric kernel's integral, else 0.
    """
    k = members.shape[0]
    for j in range(k + 1):
        for d in range(table.kind.shape[0]):
            log_norm[j, d] = 0.0
            value = history[d, members[j]] if j < k else math.nan
            if value == value and table.kind[d] <= 1:
                if width[d] == 0.0:
                    value = math.nan
                else:
                    value = (value - origin[d]) / width[d]
                    mass = normal_cdf((1.0 - value) / sigma[d]) - normal_cdf(-value / sigma[d])
                    log_norm[j, d] = -math.log(mass * sigma[d] * 2.5066282746310002)
            centres[j, d] = value


@kernel(exact=True)
def propose(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    centres: NDArray[np.float64],
    cumulative: NDArray[np.float64],
    sigma: NDArray[np.float64],
    smoothing: float,
    seed: int,
    step: int,
    stack: NDArray[np.float64],
    candidates: NDArray[np.float64],
) -> None:
    """Draw candidates from a mixture.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        centres: (k, D) float64 from `build_mixture`.
        cumulative: Cumulative mixture weights, (k,) float64.
        sigma: (D,) float64.
        smoothing: Prior mass of a categorical kernel relative to its point mass, > 0.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        candidates: (D, N) float64, overwritten.
    """
    rows = candidates.shape[0]
    last = centres.shape[0] - 1
    for i in range(candidates.shape[1]):
        u = uniform(seed, step, rows, i)
        j = 0
        while j < last and u >= cumulative[j]:
            j += 1
        for d in range(rows):
            if table.cond_pc[d] < 0:
                # The usual condition in line: a call with the whole table costs more than its answer.
                parent = table.parent[d]
                if parent >= 0 and candidates[parent, i] != table.parent_val[d]:
                    candidates[d, i] = math.nan
                    continue
            else:
                activate(table, candidates, d, i, int64(1), stack)
                if stack[0, 0] == 0.0:
                    candidates[d, i] = math.nan
                    continue
            u = uniform(seed, step, d, i)
            centre, kind = centres[j, d], table.kind[d]
            log_flag, lo, hi, pace = table.log_flag[d], table.lo[d], table.hi[d], table.step[d]
            if kind > 1:
                if centre == centre:
                    # One number decides between the point mass and the prior, and then the category.
                    u = u * (1.0 + smoothing) - 1.0
                    if u < 0.0:
                        candidates[d, i] = centre
                        continue
                    u /= smoothing
                candidates[d, i] = draw_category(table.cat_logp, table.cat_off[d], table.ncat[d], u)
            elif centre != centre:
                candidates[d, i] = draw_number(kind, log_flag, lo, hi, pace, origin[d], width[d], u)
            else:
                low = normal_cdf(-centre / sigma[d])
                high = normal_cdf((1.0 - centre) / sigma[d])
                x = centre + sigma[d] * normal_quantile(low + u * (high - low))
                x = min(max(x, 0.0), 1.0)
                candidates[d, i] = snap(kind, log_flag, lo, hi, pace, origin[d] + x * width[d])


@kernel
def log_density(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    centres: NDArray[np.float64],
    log_norm: NDArray[np.float64],
    log_weight: NDArray[np.float64],
    sigma: NDArray[np.float64],
    smoothing: float,
    candidates: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Log density of each candidate under a mixture, relative to Lebesgue measure on the unit intervals.

    A grid row is scored by its density at the grid point, so bandwidths must not be far below half a step.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        centres: (k, D) float64 from `build_mixture`.
        log_norm: (k, D) float64 from `build_mixture`.
        log_weight: Log mixture weights, (k,) float64.
        sigma: (D,) float64.
        smoothing: As in `propose`.
        candidates: (D, N) float64.
        scratch: (k, N) float64, overwritten.
        out: (N,) float64, overwritten.
    """
    k, n = centres.shape[0], candidates.shape[1]
    shared = -math.log(1.0 + smoothing)
    for j in range(k):
        for i in range(n):
            scratch[j, i] = log_weight[j]
    for d in range(candidates.shape[0]):
        if table.kind[d] <= 1:
            if width[d] == 0.0:
                continue
            inverse = 1.0 / sigma[d]
            shift, scale = -origin[d] * inverse / width[d], inverse / width[d]
            for j in range(k):
                centre, norm = centres[j, d] * inverse, log_norm[j, d]
                if centre == centre:
                    for i in range(n):
                        x = candidates[d, i] * scale + shift - centre
                        scratch[j, i] += norm - 0.5 * x * x if x == x else 0.0
        else:
            offset = table.cat_off[d]
            for i in range(n):
                value = candidates[d, i]
                if value != value:
                    continue
                prior = table.cat_logp[offset + int(value)]
                mass = math.exp(prior)
                hit = math.log(1.0 + smoothing * mass) + shared
                miss = math.log(smoothing * mass) + shared if mass > 0.0 else -math.inf
                for j in range(k):
                    centre = centres[j, d]
                    if centre == value:
                        scratch[j, i] += hit
                    elif centre == centre:
                        scratch[j, i] += miss
                    else:
                        scratch[j, i] += prior
    for i in range(n):
        highest = -math.inf
        for j in range(k):
            highest = max(highest, scratch[j, i])
        if highest == -math.inf:
            out[i] = -math.inf
            continue
        total = 0.0
        for j in range(k):
            total += math.exp(scratch[j, i] - highest)
        out[i] = highest + math.log(total)
