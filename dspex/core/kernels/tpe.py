"""The multivariate tree-structured Parzen estimator over mixed rows with conditions.

Each kernel of a mixture is a product over rows: a truncated normal on a numeric row's unit interval, a smoothed point
mass on a categorical one, the prior where the observed trial was inactive. A row that is inactive in the candidate
contributes nothing. Sources: Bergstra et al. (2011); Watanabe (2023), arXiv:2304.11127.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.elementary import exp, log
from dspex.core.kernels.encode import snap_row
from dspex.core.kernels.sampling import draw_categories
from dspex.core.rng import fill_uniform, normal_cdf, normal_quantile, uniform
from dspex.core.rules import activate

DENSITY_BLOCK: Final = 128
"""Candidates that `log_density` scores together: partial sums of a hundred kernels stay near the processor."""


@kernel
def prior(values: NDArray[np.float64], variances: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Mean and variance of the normal distribution that noisy trials are taken to be drawn from (empirical Bayes).

    Args:
        values: Observed means, (n,) float64; NaN = failed.
        variances: Noise variance of each, (n,) float64, ≥ 0.
        out: (2,) float64, overwritten; the variance is infinite where there is no noise to take into account.

    Source: DerSimonian & Laird (1986) for the moments.
    """
    n = values.shape[0]
    out[0], out[1] = 0.0, math.inf
    count, mean, noise = 0, 0.0, 0.0
    for i in range(n):
        if values[i] == values[i]:
            count += 1
            mean += values[i]
            noise += variances[i]
    if count < 2 or noise <= 0.0:
        return
    mean /= count
    spread = 0.0
    for i in range(n):
        if values[i] == values[i]:
            spread += (values[i] - mean) ** 2
    # A tenth of the spread is always taken as real: with few trials the moments often claim that nothing differs.
    between = max(spread / (count - 1) - noise / count, 0.1 * spread / (count - 1))
    if not between > 0.0:
        return
    total, centre = 0.0, 0.0
    for i in range(n):
        if values[i] == values[i]:
            weight = 1.0 / (between + variances[i])
            total += weight
            centre += weight * values[i]
    out[0], out[1] = centre / total, between


@kernel
def shrink(
    values: NDArray[np.float64],
    variances: NDArray[np.float64],
    mean: float,
    between: float,
    out: NDArray[np.float64],
) -> None:
    """Posterior means of noisy trials under the prior of `prior`.

    Args:
        values: Observed means, (n,) float64; NaN = failed, stays NaN.
        variances: Noise variance of each, (n,) float64, ≥ 0.
        mean: Of the prior.
        between: Its variance, finite.
        out: (n,) float64, overwritten.
    """
    for i in range(values.shape[0]):
        out[i] = mean + between / (between + variances[i]) * (values[i] - mean)


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
    below: NDArray[np.float64],
    mass: NDArray[np.float64],
) -> None:
    """Centres and integrals of a mixture's kernels: one for each member, then the prior.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        history: (D, capacity) float64, columns of trials.
        members: Columns to use, (k,) int64.
        sigma: Bandwidth of each numeric row in its unit interval, (D,) float64, > 0.
        centres: (D, k + 1) float64, overwritten: unit coordinate or category; NaN = the prior.
        below: (D, k + 1) float64, overwritten: a numeric kernel's mass below its unit interval; NaN elsewhere.
        mass: (D, k + 1) float64, overwritten: its mass inside the interval; NaN elsewhere.
    """
    k = members.shape[0]
    for d in range(table.kind.shape[0]):
        centres[d, k] = math.nan
        if table.kind[d] > 1:
            for j in range(k):
                centres[d, j] = history[d, members[j]]
            for j in range(k + 1):
                below[d, j] = math.nan
                mass[d, j] = math.nan
            continue
        start, scale, inverse = origin[d], (1.0 / width[d] if width[d] > 0.0 else math.nan), 1.0 / sigma[d]
        for j in range(k):
            centres[d, j] = (history[d, members[j]] - start) * scale
        for j in range(k + 1):
            below[d, j] = normal_cdf(-centres[d, j] * inverse)
        for j in range(k + 1):
            mass[d, j] = normal_cdf((1.0 - centres[d, j]) * inverse) - below[d, j]


@kernel(exact=True)
def propose(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    centres: NDArray[np.float64],
    below: NDArray[np.float64],
    mass: NDArray[np.float64],
    cumulative: NDArray[np.float64],
    sigma: NDArray[np.float64],
    smoothing: float,
    seed: int,
    step: int,
    stack: NDArray[np.float64],
    picks: NDArray[np.int64],
    candidates: NDArray[np.float64],
) -> None:
    """Draw candidates from a mixture.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        centres: (D, k) float64 from `build_mixture`.
        below: (D, k) float64 from `build_mixture`.
        mass: (D, k) float64 from `build_mixture`.
        cumulative: Cumulative mixture weights, (k,) float64.
        sigma: (D,) float64.
        smoothing: Prior mass of a categorical kernel relative to its point mass, > 0.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        picks: (N,) int64, overwritten: the kernel that each candidate was drawn from.
        candidates: (D, N) float64, overwritten.
    """
    rows, n, last = candidates.shape[0], candidates.shape[1], centres.shape[1] - 1
    for i in range(n):
        u = uniform(seed, step, rows, i)
        j = 0
        while j < last and u >= cumulative[j]:
            j += 1
        picks[i] = j
    for d in range(rows):
        # Scalars, since a call with the whole table costs more than its answer.
        kind, log_flag, lo, hi = int64(table.kind[d]), int64(table.log_flag[d]), table.lo[d], table.hi[d]
        pace, start, span, spread = table.step[d], origin[d], width[d], sigma[d]
        offset, categories = int64(table.cat_off[d]), int64(table.ncat[d])
        for first in range(0, n, BLOCK):
            count = min(BLOCK, n - first)
            u, drawn = stack[1, :count], candidates[d, first : first + count]
            centre, low, inside = stack[3, :count], stack[4, :count], stack[5, :count]
            fill_uniform(seed, step, d, first, u)
            for i in range(count):
                centre[i] = centres[d, picks[first + i]]
            if kind > 1:
                # One number decides between the point mass and the prior, and then the category.
                for i in range(count):
                    rest = u[i] * (1.0 + smoothing) - 1.0
                    low[i] = max(rest, 0.0) / smoothing if centre[i] == centre[i] else u[i]
                    centre[i] = centre[i] if rest < 0.0 else math.nan
                draw_categories(table.cat_logp, offset, categories, stack[2], low, drawn)
                for i in range(count):
                    drawn[i] = drawn[i] if centre[i] != centre[i] else centre[i]
            else:
                for i in range(count):
                    low[i] = below[d, picks[first + i]]
                    inside[i] = mass[d, picks[first + i]]
                for i in range(count):
                    inside[i] = normal_quantile(low[i] + u[i] * inside[i])
                for i in range(count):
                    x = centre[i] + spread * inside[i]
                    x = min(max(x, 0.0), 1.0)
                    drawn[i] = start + (x if centre[i] == centre[i] else u[i]) * span
                snap_row(kind, log_flag, lo, hi, pace, drawn)
            if table.parent[d] >= 0 or table.cond_pc[d] >= 0:
                activate(table, candidates, d, first, count, stack)
                for i in range(count):
                    drawn[i] = drawn[i] if stack[0, i] != 0.0 else math.nan


@kernel(exact=True)
def group_rows(table: ParamTable, width: NDArray[np.float64], groups: NDArray[np.int64]) -> int:
    """Groups of four rows of one sort that are active together, for `log_density`; rows of one value are left out.

    Args:
        table: The parameter table.
        width: From `sampling.frame`.
        groups: (D, 4) int64, overwritten: rows, then -1.

    Returns:
        How many groups there are.
    """
    count = 0
    for d in range(table.kind.shape[0]):
        categorical = table.kind[d] > 1
        if width[d] == 0.0 and not categorical:
            continue
        g, r = 0, 4
        while g < count and r == 4:
            other = groups[g, 0]
            alike = (table.kind[other] > 1) == categorical
            alike = alike and table.parent[d] == table.parent[other] and table.parent_val[d] == table.parent_val[other]
            if alike and table.cond_pc[d] < 0 and table.cond_pc[other] < 0:
                r = 0
                while r < 4 and groups[g, r] >= 0:
                    r += 1
            g += 1
        if r == 4:
            g, r = count + 1, 0
            count += 1
            for place in range(4):
                groups[g - 1, place] = -1
        groups[g - 1, r] = d
    return count


@kernel
def log_density(
    table: ParamTable,
    groups: NDArray[np.int64],
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    centres: NDArray[np.float64],
    mass: NDArray[np.float64],
    log_weight: NDArray[np.float64],
    sigma: NDArray[np.float64],
    smoothing: float,
    candidates: NDArray[np.float64],
    terms: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Log density of each candidate under a mixture, relative to Lebesgue measure on the unit intervals.

    A grid row is scored by its density at the grid point, so bandwidths must not be far below half a step. Four rows
    are scored together, so that each partial sum is loaded and stored once for them.

    Args:
        table: The parameter table.
        groups: (G, 4) int64 from `group_rows`.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        centres: (D, k) float64 from `build_mixture`.
        mass: (D, k) float64 from `build_mixture`.
        log_weight: Log mixture weights, (k,) float64.
        sigma: (D,) float64.
        smoothing: As in `propose`.
        candidates: (D, N) float64.
        terms: (5, k) float64, overwritten.
        scratch: (k + 10, DENSITY_BLOCK) float64, overwritten.
        out: (N,) float64, overwritten.
    """
    k = centres.shape[1]
    shared = -log(1.0 + smoothing)
    # Rows of the scratch after the kernels': four rows' entries, what a hit adds to each, and for the group what it
    # has without a hit and under the prior.
    x, gain, missed, prior = k, k + 4, k + 8, k + 9
    for first in range(0, candidates.shape[1], DENSITY_BLOCK):
        n = min(DENSITY_BLOCK, candidates.shape[1] - first)
        for j in range(k):
            for i in range(n):
                scratch[j, i] = log_weight[j]
        for g in range(groups.shape[0]):
            categorical = table.kind[groups[g, 0]] > 1
            for j in range(k):
                terms[4, j] = 1.0
            for i in range(n):
                scratch[missed, i] = 0.0
                scratch[prior, i] = 0.0
            for r in range(4):
                d = groups[g, r]
                if d < 0:
                    for i in range(n):
                        scratch[x + r, i] = 0.0
                        scratch[gain + r, i] = 0.0
                    for j in range(k):
                        terms[r, j] = 0.0
                elif categorical:
                    offset = table.cat_off[d]
                    for i in range(n):
                        value = candidates[d, first + i]
                        scratch[x + r, i] = value
                        scratch[gain + r, i] = table.cat_logp[offset + int(value)] if value == value else math.nan
                    for i in range(n):
                        weight = scratch[gain + r, i]
                        share = smoothing * exp(weight)
                        # A category of weight zero is all but impossible, so that a hit's gain stays finite.
                        miss = log(max(share, 1e-300)) + shared
                        active = weight == weight
                        scratch[missed, i] += miss if active else 0.0
                        scratch[prior, i] += weight if active else 0.0
                        scratch[gain + r, i] = log(1.0 + share) + shared - miss if active else 0.0
                    for j in range(k):
                        terms[r, j] = centres[d, j]
                else:
                    # With x in units of sqrt(2) bandwidths the exponent is -(x - centre)**2.
                    inverse = 0.7071067811865476 / sigma[d]
                    scale = inverse / width[d]
                    shift, root = -origin[d] * scale, sigma[d] * 2.5066282746310002
                    for i in range(n):
                        scratch[x + r, i] = candidates[d, first + i] * scale + shift
                    for j in range(k):
                        terms[r, j] = centres[d, j] * inverse
                        terms[4, j] *= mass[d, j] * root
            for j in range(k):
                terms[4, j] = -log(terms[4, j])
            for j in range(k):
                a, b, c, e, norm = terms[0, j], terms[1, j], terms[2, j], terms[3, j], terms[4, j]
                if a != a:
                    # Inactive in this kernel's trial: the prior, which is 1 on a unit interval.
                    if categorical:
                        for i in range(n):
                            scratch[j, i] += scratch[prior, i]
                elif categorical:
                    for i in range(n):
                        value = scratch[missed, i]
                        value += scratch[gain, i] if scratch[x, i] == a else 0.0
                        value += scratch[gain + 1, i] if scratch[x + 1, i] == b else 0.0
                        value += scratch[gain + 2, i] if scratch[x + 2, i] == c else 0.0
                        value += scratch[gain + 3, i] if scratch[x + 3, i] == e else 0.0
                        scratch[j, i] += value
                else:
                    for i in range(n):
                        u, v = scratch[x, i] - a, scratch[x + 1, i] - b
                        w, z = scratch[x + 2, i] - c, scratch[x + 3, i] - e
                        value = norm - u * u - v * v - w * w - z * z
                        scratch[j, i] += value if value == value else 0.0
        highest, total = k, k + 1
        for i in range(n):
            scratch[highest, i] = -math.inf
            scratch[total, i] = 0.0
        for j in range(k):
            for i in range(n):
                scratch[highest, i] = max(scratch[highest, i], scratch[j, i])
        for i in range(n):
            scratch[highest, i] = scratch[highest, i] if scratch[highest, i] > -math.inf else 0.0
        for j in range(k):
            for i in range(n):
                scratch[total, i] += exp(scratch[j, i] - scratch[highest, i])
        for i in range(n):
            out[first + i] = scratch[highest, i] + log(scratch[total, i])
