"""CatCMA with margin: one Gaussian over the numeric rows, and a categorical distribution for each other row.

The covariance is kept as its Cholesky factor and updated by rank-one updates, so no decomposition is ever needed: a
generation of mu candidates costs mu n². Factors are stored transposed: row k of `factor` is column k of L, C = L Lᵀ.

Sources: Hamano et al. (2024), arXiv:2405.09962, and (2025), arXiv:2504.07884; Krause, Arbonès & Igel (2016) for the
factor; Hansen (2016), arXiv:1604.00772, for path, step size and negative weights; Akimoto et al. (2019),
arXiv:1905.08974, for the categorical learning rate; Hansen (2011), arXiv:1110.4181, for candidates from elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import BLOCK, ParamTable
from dspex.core.jit import int64, kernel
from dspex.core.kernels.elementary import exp, log
from dspex.core.kernels.encode import natural, snap, transformed
from dspex.core.rng import fill_uniform, normal_cdf, normal_quantile, uniform
from dspex.core.rules import activate

_GAUSS, _PICK = -500, -501  # dimensions of the random numbers
_HALF = 2.0**-54  # half a step of `uniform`: its quantile is finite


@kernel(exact=True)
def draw_latents(
    mean: NDArray[np.float64],
    factor: NDArray[np.float64],
    sigma: float,
    seed: int,
    first: int,
    latents: NDArray[np.float64],
) -> None:
    """Draws from N(mean, sigma² L Lᵀ).

    Args:
        mean: (n,) float64.
        factor: (n, n) float64, L transposed.
        sigma: Step size.
        seed: Key of the random numbers.
        first: Number of the first draw, the random numbers' step.
        latents: (N, n) float64, overwritten.
    """
    n = mean.shape[0]
    for i in range(latents.shape[0]):
        row = latents[i]
        fill_uniform(seed, first + i, int64(_GAUSS), int64(0), row)
        for k in range(n):
            row[k] = sigma * normal_quantile(row[k] + _HALF)
        # In place, from the last: what stands before k is still z.
        for k in range(n - 1, -1, -1):
            z = row[k]
            row[k] = mean[k] + factor[k, k] * z
            # Tails as arrays of their own: from 0 to their length, the compiler makes vectors of a loop.
            tail, rest = factor[k, k + 1 :], row[k + 1 :]
            for j in range(tail.shape[0]):
                rest[j] += tail[j] * z


@kernel(exact=True)
def draw_categories(
    weights: NDArray[np.float64], offsets: NDArray[np.int64], seed: int, first: int, categories: NDArray[np.int64]
) -> None:
    """Draws of every categorical row.

    Args:
        weights: Probabilities, one row's after the other's, (K,) float64.
        offsets: Where each row's begin, and K, (c + 1,) int64.
        seed: Key of the random numbers.
        first: Number of the first draw, the random numbers' step.
        categories: (N, c) int64, overwritten.
    """
    for i in range(categories.shape[0]):
        for j in range(categories.shape[1]):
            u, total = uniform(seed, first + i, int64(_PICK), j), 0.0
            # Rounding may leave u above the sum; a category of weight zero must not be drawn for that.
            chosen = offsets[j]
            for k in range(offsets[j], offsets[j + 1]):
                if weights[k] > 0.0:
                    chosen = k
                total += weights[k]
                if u < total:
                    break
            categories[i, j] = chosen - offsets[j]


@kernel(exact=True)
def compose(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    place: NDArray[np.int64],
    latents: NDArray[np.float64],
    categories: NDArray[np.int64],
    stack: NDArray[np.float64],
    population: NDArray[np.float64],
) -> None:
    """Columns of draws: the nearest legal entry of each row that is active.

    Args:
        table: The parameter table, D rows.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        place: (D,) int64: index among the numeric rows, or -1 - index among the categorical ones; n for a row with a
            single value.
        latents: (N, n) float64 unit coordinates.
        categories: (N, c) int64; of a numeric row with two values 0 or 1.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        population: (D, N) float64, overwritten.
    """
    n = latents.shape[1]
    for d in range(population.shape[0]):
        kind, log_flag = int64(table.kind[d]), int64(table.log_flag[d])
        lo, hi, pace = table.lo[d], table.hi[d], table.step[d]
        always = table.parent[d] < 0 and table.cond_pc[d] < 0
        for first in range(0, population.shape[1], BLOCK):
            count = min(BLOCK, population.shape[1] - first)
            if not always:
                activate(table, population, d, first, count, stack)
            for c in range(count):
                i = first + c
                if not always and stack[0, c] == 0.0:
                    population[d, i] = math.nan
                elif place[d] >= n:
                    population[d, i] = snap(kind, log_flag, lo, hi, pace, lo)
                elif place[d] >= 0:
                    population[d, i] = snap(kind, log_flag, lo, hi, pace, origin[d] + latents[i, place[d]] * width[d])
                else:
                    k = float(categories[i, -1 - place[d]])
                    population[d, i] = snap(kind, log_flag, lo, hi, pace, k if kind > 1 else lo + k * (hi - lo))


@kernel(exact=True)
def absorb(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    place: NDArray[np.int64],
    population: NDArray[np.float64],
    stack: NDArray[np.float64],
    latents: NDArray[np.float64],
    categories: NDArray[np.int64],
) -> None:
    """What was evaluated as points of the distribution: the inverse of `compose`.

    An entry is its own coordinate, a grid entry the centre of its cell, wherever bounds, rounding and repair have
    moved it.

    Args:
        table: The parameter table, D rows.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        place: As in `compose`.
        population: (D, N) float64, as evaluated.
        stack: (MAX_STACK, BLOCK) float64, scratch.
        latents: (N, n) float64, overwritten; NaN where inactive.
        categories: (N, c) int64, overwritten; -1 where inactive.

    Source: Marty et al. (2024), LB+IC-CMA-ES, for integer centring; here every grid entry is centred, also one in the
    mean's cell, so that the mean settles on a value instead of drifting to the border of its cell.
    """
    n, quotients = latents.shape[1], stack[0]
    for first in range(0, population.shape[1], BLOCK):
        for d in range(population.shape[0]):
            p, q, lo, start, span = place[d], -1 - place[d], table.lo[d], origin[d], width[d]
            entries = population[d, first : first + BLOCK]
            if p < 0 and table.kind[d] > 1:
                for c in range(entries.shape[0]):
                    entry = entries[c]
                    categories[first + c, q] = int64(entry if entry == entry else -1.0)
            elif p < 0:
                for c in range(entries.shape[0]):
                    entry = entries[c]
                    upper = 1.0 if entry > lo else 0.0
                    categories[first + c, q] = int64(upper if entry == entry else -1.0)
            elif p < n:
                # Side by side first: a loop that writes a column does not become vectors, and would divide one by one.
                for c in range(entries.shape[0]):
                    quotients[c] = (entries[c] - start) / span
                for c in range(entries.shape[0]):
                    latents[first + c, p] = quotients[c]


@kernel(exact=True)
def whiten(
    factor: NDArray[np.float64],
    longest: float,
    seed: int,
    numbers: NDArray[np.int64],
    steps: NDArray[np.float64],
    whitened: NDArray[np.float64],
) -> None:
    """Solve L z = y for every step y; a step longer than allowed is shortened.

    An inactive coordinate did not influence the loss. It gets the z that its candidate was drawn with, so that in
    expectation it changes neither the distribution nor the step size.

    Args:
        factor: (n, n) float64, L transposed.
        longest: Largest length of z.
        seed: Key of the random numbers.
        numbers: What `draw_latents` drew each candidate as, (N,) int64.
        steps: (N, n) float64, NaN where inactive; filled and shortened in place.
        whitened: (N, n) float64, overwritten.

    Source: Hansen (2011), arXiv:1110.4181, eq. 6, for the length.
    """
    n = factor.shape[0]
    for i in range(steps.shape[0]):
        for j in range(n):
            whitened[i, j] = steps[i, j] if steps[i, j] == steps[i, j] else 0.0
        total = 0.0
        for k in range(n):
            if steps[i, k] == steps[i, k]:
                z = whitened[i, k] / factor[k, k]
            else:
                z = normal_quantile(uniform(seed, numbers[i], int64(_GAUSS), k) + _HALF)
                steps[i, k] = factor[k, k] * z - whitened[i, k]
            whitened[i, k] = z
            total += z * z
            tail, rest = factor[k, k + 1 :], whitened[i, k + 1 :]
            for j in range(tail.shape[0]):
                rest[j] -= z * tail[j]
        if total > longest * longest:
            share = longest / math.sqrt(total)
            for j in range(n):
                steps[i, j] *= share
                whitened[i, j] *= share


@kernel(exact=True)
def weigh(losses: NDArray[np.float64], table: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Recombination weights by rank; equal losses share the mean of their ranks' weights, failures are the last.

    Args:
        losses: (N,) float64, lower is better; NaN = failed.
        table: Weight of each rank, best first, (N,) float64.
        weights: (N,) float64, overwritten.
    """
    n = losses.shape[0]
    for i in range(n):
        below, equal = 0, 0
        failed = losses[i] != losses[i]
        for j in range(n):
            if losses[j] < losses[i] or (failed and losses[j] == losses[j]):
                below += 1
            elif losses[j] == losses[i] or (failed and losses[j] != losses[j]):
                equal += 1
        total = 0.0
        for k in range(below, below + equal):
            total += table[k]
        weights[i] = total / equal


@kernel(exact=True)
def move(
    steps: NDArray[np.float64],
    whitened: NDArray[np.float64],
    weights: NDArray[np.float64],
    rates: NDArray[np.float64],
    held: NDArray[np.uint8],
    sigma: float,
    generation: int,
    mean: NDArray[np.float64],
    path_sigma: NDArray[np.float64],
    path: NDArray[np.float64],
) -> float:
    """Recombination of the mean inside the unit box, both evolution paths, and the cumulative step-size rule.

    Args:
        steps: Steps from the mean in units of sigma, (N, n) float64.
        whitened: The same, multiplied by the inverse of L, (N, n) float64.
        weights: (N,) float64, not negative; they sum to 1.
        rates: c_sigma, d_sigma, c_c, (3,) float64.
        held: From `keep_margin`, (n,) uint8: 1 where a coordinate is to have no say in the step size.
        sigma: Step size.
        generation: Updates before this one.
        mean: (n,) float64, moved in place.
        path_sigma: (n,) float64, changed in place.
        path: Evolution path of the covariance, (n,) float64, changed in place.

    Returns:
        The new step size.
    """
    count, n = steps.shape
    rate, damping, rate_path = rates[0], rates[1], rates[2]
    squares = 0.0
    for i in range(count):
        squares += weights[i] * weights[i]
    mass = 1.0 / squares
    for j in range(n):
        path_sigma[j] *= 1.0 - rate
        path[j] *= 1.0 - rate_path
    push = math.sqrt(rate * (2.0 - rate) * mass)
    for i in range(count):
        if weights[i] > 0.0:
            for j in range(n):
                path_sigma[j] += push * weights[i] * whitened[i, j]
                mean[j] += sigma * weights[i] * steps[i, j]
    length, m = 0.0, 0.0
    for j in range(n):
        # Nothing holds the mean of a row that is seldom active.
        mean[j] = min(max(mean[j], 0.0), 1.0)
        if held[j] == 0:
            length += path_sigma[j] * path_sigma[j]
            m += 1.0
    length, expected = math.sqrt(length), 1.0
    if m > 0.0:
        expected = math.sqrt(m) * (1.0 - 1.0 / (4.0 * m) + 1.0 / (21.0 * m * m))
    else:
        length = expected
    # A path that grows long fast says that the step size is too small; the covariance need not learn it as well.
    begun = 1.0 - exp(2.0 * (generation + 1.0) * log(1.0 - rate))
    settled = length < (1.4 + 2.0 / (m + 1.0)) * expected * math.sqrt(begun)
    if settled:
        push = math.sqrt(rate_path * (2.0 - rate_path) * mass)
        for i in range(count):
            if weights[i] > 0.0:
                for j in range(n):
                    path[j] += push * weights[i] * steps[i, j]
    return sigma * exp(min(1.0, rate / damping * (length / expected - 1.0)))


@kernel(exact=True)
def add_outer(coefficient: float, vector: NDArray[np.float64], factor: NDArray[np.float64]) -> None:
    """Add `coefficient` times the outer product of `vector` to the covariance, by plane rotations.

    Args:
        coefficient: May be negative as far as the sum stays positive definite.
        vector: (n,) float64, scratch afterwards.
        factor: (n, n) float64, L transposed, changed in place.

    Source: Gill, Golub, Murray & Saunders (1974), method C1.
    """
    n = factor.shape[0]
    sign = 1.0 if coefficient >= 0.0 else -1.0
    root = math.sqrt(abs(coefficient))
    for j in range(n):
        vector[j] *= root
    for k in range(n):
        pivot, entry = factor[k, k], vector[k]
        # Learning rates keep a negative sum far from 0; the bound is against rounding.
        new = math.sqrt(max(pivot * pivot + sign * entry * entry, 1e-12 * pivot * pivot))
        cosine, sine, secant = new / pivot, entry / pivot, pivot / new
        factor[k, k] = new
        tail, rest = factor[k, k + 1 :], vector[k + 1 :]
        for j in range(tail.shape[0]):
            turned = (tail[j] + sign * sine * rest[j]) * secant
            rest[j] = cosine * rest[j] - sine * turned
            tail[j] = turned


@kernel(exact=True)
def adapt(
    steps: NDArray[np.float64],
    whitened: NDArray[np.float64],
    weights: NDArray[np.float64],
    path: NDArray[np.float64],
    rate_one: float,
    rate_mu: float,
    scratch: NDArray[np.float64],
    factor: NDArray[np.float64],
) -> None:
    """Rank-one and rank-mu update of the covariance, with negative weights.

    Args:
        steps: From `whiten`, (N, n) float64.
        whitened: From `whiten`, (N, n) float64.
        weights: (N,) float64; a negative one is divided by the squared length of its whitened step.
        path: From `move`, (n,) float64.
        rate_one: Learning rate of the path.
        rate_mu: Learning rate of the steps.
        scratch: (n,) float64.
        factor: (n, n) float64, L transposed, changed in place.
    """
    count, n = steps.shape
    total = 0.0
    for i in range(count):
        total += weights[i]
    root = math.sqrt(1.0 - rate_one - rate_mu * total)
    for k in range(n):
        scratch[k] = path[k]
        row = factor[k]
        for j in range(n):
            row[j] *= root
    add_outer(rate_one, scratch, factor)
    for sign in (1.0, -1.0):
        for i in range(count):
            weight = rate_mu * weights[i]
            if sign * weight > 0.0:
                if sign < 0.0:
                    length = 0.0
                    for j in range(n):
                        length += whitened[i, j] * whitened[i, j]
                    weight *= n / max(length, 1e-300)
                for j in range(n):
                    scratch[j] = steps[i, j]
                add_outer(weight, scratch, factor)


@kernel(exact=True)
def measure(sigma: float, factor: NDArray[np.float64], spreads: NDArray[np.float64]) -> None:
    """Standard deviation of each coordinate.

    Args:
        sigma: Step size.
        factor: (n, n) float64, L transposed.
        spreads: (n,) float64, overwritten.
    """
    n = factor.shape[0]
    for j in range(n):
        spreads[j] = 0.0
    for k in range(n):
        row = factor[k]  # 0 before k
        for j in range(n):
            spreads[j] += row[j] * row[j]
    for j in range(n):
        spreads[j] = sigma * math.sqrt(spreads[j])


@kernel(exact=True)
def keep_margin(
    table: ParamTable,
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    rows: NDArray[np.int64],
    alpha: float,
    spreads: NDArray[np.float64],
    mean: NDArray[np.float64],
    path: NDArray[np.float64],
    factor: NDArray[np.float64],
    held: NDArray[np.uint8],
) -> None:
    """Move and widen the marginals of grid rows until values beside the mean's keep a probability.

    An inner value leaves alpha / 2 at least to the values on each side, an outermost one alpha to those inside.

    Args:
        table: The parameter table.
        origin: From `sampling.frame`.
        width: From `sampling.frame`.
        rows: Row of each coordinate, (n,) int64.
        alpha: Least probability of another value.
        spreads: From `measure`, (n,) float64, changed in place.
        mean: (n,) float64, changed in place.
        path: (n,) float64, changed in place.
        factor: (n, n) float64, L transposed, changed in place.
        held: (n,) uint8, overwritten: 1 where one value can have more than half of the probability: selection among
            copies of a value says nothing about the step size.

    Source: Hamano et al. (2022), arXiv:2205.13482, eq. 14 to 21; at an end of the grid the marginal is widened rather
    than the mean moved.
    """
    n, least = mean.shape[0], 0.5 * alpha
    outer, inner = -normal_quantile(alpha), -normal_quantile(least)
    for p in range(n):
        d = int64(rows[p])
        held[p] = 0
        kind, log_flag = int64(table.kind[d]), int64(table.log_flag[d])
        lo, hi, pace = table.lo[d], table.hi[d], table.step[d]
        if pace <= 0.0:
            continue
        entry = snap(kind, log_flag, lo, hi, pace, origin[d] + mean[p] * width[d])
        value = natural(kind, log_flag, entry)
        first, last = entry <= lo, snap(kind, log_flag, lo, hi, pace, hi) <= entry
        low = 0.0 if first else (transformed(kind, log_flag, value - 0.5 * pace) - origin[d]) / width[d]
        high = 1.0 if last else (transformed(kind, log_flag, value + 0.5 * pace) - origin[d]) / width[d]
        if not high - low > 1e-12:
            continue  # a grid this fine is a continuum
        spread = spreads[p]
        new = spread
        if first or last:
            centre = (entry - origin[d]) / width[d]
            mean[p] = max(mean[p], centre) if first else min(mean[p], centre)
            gap = high - mean[p] if first else mean[p] - low
            if gap > outer * spread:
                new = gap / outer
        else:
            near, far = mean[p] - low, high - mean[p]
            towards_low = near <= far
            if not towards_low:
                near, far = far, near
            if near > inner * spread:
                mean[p] = 0.5 * (low + high)
                new = (high - low) / (2.0 * inner)
            elif far > inner * spread:
                # What the far side gets is taken from the other two, in proportion to what they have above the least.
                beyond = normal_cdf(-near / spread)
                inside = max(1.0 - beyond - normal_cdf(-far / spread), least)
                missing = beyond + inside + least - 1.0
                beyond -= missing * (beyond - least) / (beyond + inside - 2.0 * least)
                reach = -normal_quantile(beyond)
                new = (high - low) / (inner + reach)
                mean[p] = low + new * reach if towards_low else high - new * reach
        held[p] = high - low > 1.35 * new
        if new > spread > 0.0:
            share = new / spread
            spreads[p] = new
            path[p] *= share
            for k in range(p + 1):
                factor[k, p] *= share


@kernel(exact=True)
def shift_categories(
    categories: NDArray[np.int64],
    weights: NDArray[np.float64],
    offsets: NDArray[np.int64],
    floor: NDArray[np.float64],
    gradient: NDArray[np.float64],
    direction: NDArray[np.float64],
    trust: NDArray[np.float64],
    probabilities: NDArray[np.float64],
) -> None:
    """One natural-gradient step of every categorical distribution, its length adapted to the signal in it.

    Args:
        categories: (N, c) int64; -1 = inactive, which pulls nowhere.
        weights: (N,) float64, not negative; they sum to 1.
        offsets: (c + 1,) int64.
        floor: Least probability of each category, (K,) float64; 0 for one that is never drawn.
        gradient: (K,) float64, scratch.
        direction: Accumulated direction, (K,) float64, changed in place.
        trust: Length of a step, and the weight that `direction` has accumulated, (2,) float64, changed in place.
        probabilities: (K,) float64, changed in place.

    Source: Akimoto et al. (2019), algorithm 1, with alpha 1.5; the margin of Hamano et al. (2024), eq. 17 and 18.
    """
    rows = categories.shape[1]
    norm, freedom = 0.0, 0
    for j in range(rows):
        begin, end = offsets[j], offsets[j + 1]
        for k in range(begin, end):
            gradient[k] = 0.0
        for i in range(categories.shape[0]):
            if categories[i, j] >= 0 and weights[i] > 0.0:
                for k in range(begin, end):
                    gradient[k] -= weights[i] * probabilities[k]
                gradient[begin + categories[i, j]] += weights[i]
        freedom -= 1
        for k in range(begin, end):
            if probabilities[k] > 0.0:
                norm += gradient[k] * gradient[k] / probabilities[k]
                freedom += 1
    norm = math.sqrt(norm)
    if not (norm > 1e-12 and freedom > 0):
        return
    delta = trust[0]
    beta = min(delta / math.sqrt(float(freedom)), 1.0)
    push, length = math.sqrt(beta * (2.0 - beta)), 0.0
    for k in range(probabilities.shape[0]):
        direction[k] *= 1.0 - beta
        if probabilities[k] > 0.0:
            direction[k] += push * gradient[k] / (math.sqrt(probabilities[k]) * norm)
        length += direction[k] * direction[k]
    trust[1] = (1.0 - beta) ** 2 * trust[1] + beta * (2.0 - beta)
    trust[0] = delta * exp(beta * (length / 1.5 - trust[1]))
    rate = delta / norm
    for j in range(rows):
        begin, end = offsets[j], offsets[j + 1]
        total, excess = 0.0, 0.0
        for k in range(begin, end):
            probabilities[k] = max(probabilities[k] + rate * gradient[k], floor[k])
            total += probabilities[k]
            excess += probabilities[k] - floor[k]
        if excess > 0.0:
            share = (1.0 - total) / excess
            for k in range(begin, end):
                probabilities[k] += share * (probabilities[k] - floor[k])
